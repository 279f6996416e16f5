"""Addresses and masks in a printed Triton function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sympy

from ..ir import symbols, tile
from .text import NotPrintable, in_order, is_even
from .triton_indices import Indices, Lines, fits_in_32


class Addresses(Indices):
    """The addresses of tiles and the masks under which they are valid."""

    def mask(self, ranks: Sequence[str], order: Sequence[str]) -> str:
        parts = []
        for r in ranks:
            if r not in order:
                raise NotPrintable(f"a tile over {list(order)} is guarded along {r}")
            if self.ranks[r].role == "band":
                parts += self.within_band(r, order)
                continue
            parts.append(
                f"{self.at(self.part('offs', r), [r], order)} < {self.expression(self.ranks[r].extent, None, 1)}"
            )
        return parts[0] if len(parts) == 1 else " & ".join(f"({p})" for p in parts)

    def within_band(self, name: str, order: Sequence[str]) -> list[str]:
        """The conditions under which a lane of a band is read by a point of the tile, and within the rank."""
        rank = self.ranks[name]
        start = self.band_end(rank, False, False)
        lane = self.at(self.part("lane", name), [name], order)
        least = [sympy.Integer(0), self.band_end(rank, False, True)]
        beyond = [rank.extent, self.band_end(rank, True, True) + 1]
        first = sympy.Max(*(sympy.expand(e - start) for e in least))
        end = sympy.Min(*(sympy.expand(e - start) for e in beyond))
        whole = all(is_even(self.kernel, s.name) for s in self.ranks.sides(rank))
        bounds = self.bound(rank.of or sympy.Integer(0))
        found = (
            [] if whole and bounds and bounds[0].is_nonnegative else [f"{lane} >= {self.expression(first, None, 1)}"]
        )
        return [*found, f"{lane} < {self.expression(end, None, 1)}"]

    def address(self, op: tile.LoadOp | tile.StoreOp, names: Sequence[str], out: Lines) -> tuple[str, str]:
        """The text of a tile's addresses and of the mask under which they are valid."""
        kind = cast(tile.BufferType, op.buffer.type)
        total = sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )
        inner = self.inner_ranks(op, total)
        conditions = [self.mask([r], names) for r in op.guards if r not in inner]
        if isinstance(op, tile.LoadOp) and op.checked is not None:
            conditions += self.checks(op, kind.shape.data, names)
        mask = conditions[0] if len(conditions) == 1 else " & ".join(f"({c})" for c in conditions)
        present = [r for r in names if symbols.symbol(r) in total.free_symbols]
        split = self.split(total, names, inner)
        if split is None:
            lanes, scalars = self.expression(total, names) if self.fits(total) else self.widened(total, names), []
        else:
            lane_terms, scalars = split
            lanes = self.sum(lane_terms, names)
        steps = {f"start_{r.name}" for r in self.ranks.data if r.role == "loop"}
        steps |= {r.name for r in self.ranks.data if r.role == "unit" and r.name not in self.kernel.grid_ranks}
        fixed = [t for t in scalars if not symbols.names(t) & steps]
        moving = [t for t in scalars if symbols.names(t) & steps]
        base = self.pointers[op.buffer]
        if fixed:
            base = f"{base} + {' + '.join(self.scalar(t) for t in fixed)}"
            if self.before is not None:
                base = self.hoist(base, f"{op.buffer.name_hint or 'buffer'}_base")
        if lanes and split is not None and self.before is not None and ("[" in lanes or " " in lanes):
            lanes = self.hoist(lanes, f"{op.buffer.name_hint or 'buffer'}_lanes")
        text = " + ".join([base, *(self.scalar(t) for t in moving)])
        if lanes:
            text = f"{text} + {lanes}" if lanes.isidentifier() else f"{text} + ({lanes})"
        if names and not present:
            text = f"{text} + tl.zeros({self.shape(names)}, tl.int32)"
        elif len(present) < len(names):
            text = f"tl.broadcast_to({text}, {self.shape(names)})"
        return text, mask if mask else ""

    def inner_ranks(self, op: tile.LoadOp | tile.StoreOp, total: sympy.Expr) -> set[str]:
        """The ranks whose lanes beyond the end load the last element again, instead of being masked.

        Each lane of a grid rank is a result of its own, and none beyond the end is stored: it does not matter what it is
        computed from, and a load without a mask takes fewer registers.  Not in a loop, or in front of loops in loops, where
        each row would keep an address of its own (seen to spill), not the rank along which a tile lies together, or its
        loads would no longer be wide, and not where a tile is wider than the rank.
        """
        if not isinstance(op, tile.LoadOp) or op.checked is not None or self.before is not None or self.nested:
            return set()
        linear = symbols.affine(total, self.ranks.names)
        if linear is None or 1 not in linear[0].values():
            return set()
        cut = [r for r in op.guards if self.ranks[r].role == "grid" and linear[0].get(r, 1) != 1]
        tiles = {r: self.params[self.ranks[r].tile or ""] for r in cut}
        return {r for r in cut if not (self.ranks[r].extent - tiles[r]).is_negative}

    def hoist(self, text: str, name: str) -> str:
        """`text` computed in front of the outermost loop, once."""
        assert self.before is not None
        if text not in self.hoisted:
            self.hoisted[text] = self.names.fresh(name)
            self.before.add(f"{self.hoisted[text]} = {text}")
        return self.hoisted[text]

    def split(
        self, total: sympy.Expr, names: Sequence[str], inner: set[str]
    ) -> tuple[list[sympy.Expr], list[sympy.Expr]] | None:
        """An affine offset as terms over lanes and terms that are one number a program (or a step of a loop)."""
        linear = symbols.affine(total, self.ranks.names)
        if linear is None:
            return None
        lanes, scalars = [], [linear[1]]
        for r, c in linear[0].items():
            rank = self.ranks[r]
            if rank.role == "unit":
                scalars.append(c * symbols.symbol(r))
                continue
            if r not in names:
                raise NotPrintable(f"an access over {r}, which its tile does not have")
            if rank.role == "band":
                lanes.append(c * symbols.symbol(f"lane_{r}"))
                scalars.append(sympy.expand(c * self.band_end(rank, False, False)))
                continue
            part = "offs" if rank.role == "whole" else "inner" if r in inner else "lane"
            lanes.append(c * symbols.symbol(f"{part}_{r}"))
            if rank.role != "whole":
                scalars.append(c * symbols.symbol(f"start_{r}"))
        place = {r: n for n, r in enumerate(names)}
        lanes.sort(
            key=lambda t: min(place[n.partition("_")[2]] for n in symbols.names(t) if n.partition("_")[2] in place)
        )
        terms = [t for s in scalars for t in sympy.Add.make_args(sympy.expand(s)) if t != 0]
        return lanes, in_order(terms)

    def extent_of(self, symbol: str) -> sympy.Expr | None:
        part, _, rank = symbol.partition("_")
        if symbol in self.ranks.names:
            return self.ranks[symbol].extent
        if rank not in self.ranks.names:
            return None
        found = self.ranks[rank]
        if part == "lane" and found.role == "band":
            return sympy.Integer(int(self.lanes(found)))
        if part in ("lane", "inner") and found.tile:
            return sympy.Integer(self.params[found.tile])
        return found.extent

    def small(self, term: sympy.Expr) -> bool:
        """Whether a term of an offset is known to fit in 32 bits."""
        if self.wide:
            return False
        return fits_in_32(sympy.expand(self.limit(term)))

    def scalar(self, term: sympy.Expr) -> str:
        """One term of an offset, in 64 bits unless it is known to fit in 32: its rank first, so that none overflows."""
        if self.small(term):
            return self.expression(term, None, 2 if term.could_extract_minus_sign() else 0)
        number, rest = term.as_coeff_Mul()
        factors = in_order(sympy.Mul.make_args(rest))
        ours = [f for f in factors if isinstance(f, sympy.Symbol) and self.extent_of(f.name) is not None]
        first = ours[0] if ours else factors[0]
        texts = [f"tl.cast({self.expression(first, None)}, tl.int64)"]
        texts += [self.expression(f, None, 2) for f in factors if f != first]
        if number != 1:
            texts.append(self.expression(number, None, 2))
        return " * ".join(texts)

    def sum(self, terms: Sequence[sympy.Expr], names: Sequence[str]) -> str:
        """Terms over lanes, each broadcast over the tile."""
        narrow = not self.wide and fits_in_32(sympy.expand(sum((self.limit(t) for t in terms), sympy.Integer(0))))
        casts = [not narrow and not self.small(t) for t in terms]
        if not narrow and not any(casts):
            casts[0] = True
        texts = []
        for t, wide in zip(terms, casts, strict=True):
            if not wide:
                texts.append(self.expression(t, names, 1))
                continue
            lane = next(
                s for n in sorted(symbols.names(t)) if (s := symbols.symbol(n)) and n.partition("_")[2] in names
            )
            texts.append(f"{self.expression(lane, names)}.to(tl.int64)" + self.factor(sympy.cancel(t / lane)))
        return " + ".join(texts)

    def limit(self, term: sympy.Expr) -> sympy.Expr:
        """The greatest magnitude of a term of an offset, over sizes."""
        return sympy.Abs(
            term.subs({symbols.symbol(n): x for n in symbols.names(term) if (x := self.extent_of(n)) is not None})
        )

    def factor(self, c: sympy.Expr) -> str:
        return "" if c == 1 else f" * {self.expression(c, None, 2)}"

    def checks(self, op: tile.LoadOp, shape: Sequence[sympy.Expr], names: Sequence[str]) -> list[str]:
        """The conditions under which an access is within bounds, those left out that always hold."""
        found = []
        for e, size in zip(op.access.data, shape, strict=True):
            bounds = self.bound(e)
            lanes = [r for r in names if r in symbols.names(e)]
            ragged = any(r not in op.guards and not is_even(self.kernel, r) for r in lanes)
            if bounds is None or ragged or not bounds[0].is_nonnegative:
                found.append(f"{self.expression(e, names, 1)} >= 0")
            if bounds is None or ragged or not sympy.expand(size - 1 - bounds[1]).is_nonnegative:
                found.append(f"{self.expression(e, names, 1)} < {self.expression(size, None, 1)}")
        return found
