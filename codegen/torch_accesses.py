"""Loads and stores of a printed torch function."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import sympy
from xdsl.ir import Operation, SSAValue

from ..ir import symbols, tile
from .text import NotPrintable
from .torch_layouts import Layout, Scope, Slot, dtype, held, names_of, stored_directly
from .torch_scratch import Scratch


class Accesses(Scratch):
    """Buffers seen through views whose dimensions are ranks."""

    def __init__(self, kernel: tile.KernelOp):
        super().__init__(kernel)
        self.elsewhere: dict[SSAValue, tile.StoreOp] = stored_directly(kernel, self.layouts)
        self.views: dict[str, str] = {}

    def load(self, op: tile.LoadOp, scope: Scope) -> None:
        kind = tile.tile_type(op.result)
        layout = self.layouts[kind.names]
        text = self.gathered(op, layout) if op.checked is not None or not self.is_affine(op) else self.piece(op, layout)
        if held(kind.element_type) == dtype(kind.element_type):
            return self.define(op, scope, text, None, layout)
        out, slot, layout = self.target(op)
        return self.define(op, scope, f"{out}.copy_({text})", slot, layout)

    def store(self, op: tile.StoreOp, scope: Scope) -> None:
        if op.value in self.elsewhere:
            return
        names = self.ranks.ordered(op.access.ranks)
        layout: Layout = self.layouts[tile.tile_type(op.value).names]
        if set(names) != set(names_of(layout)):
            layout = names
        known = self.values[op.value]
        place, flips = self.forward_piece(op, layout)
        if known.number:
            scope.add(f"{place}.fill_({known.text})")
            return
        value = self.aligned(op.value, layout)
        if flips:  # a flipped view is a copy: what is stored is flipped, not where
            value = f"{value}.expand({place}.shape).flip({flips})"
        scope.add(f"{place}.copy_({value})")

    def offset(self, op: tile.LoadOp | tile.StoreOp) -> sympy.Expr:
        kind = cast(tile.BufferType, op.buffer.type)
        return sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )

    def is_affine(self, op: tile.LoadOp | tile.StoreOp) -> bool:
        return symbols.affine(self.offset(op), self.ranks.names) is not None

    def piece(self, op: tile.LoadOp | tile.StoreOp, layout: Layout) -> str:
        """The elements that an access touches in this program, as a tensor whose dimensions are `layout`.

        Of an access that walks backwards it is a copy, else a view.
        """
        view, flips = self.forward_piece(op, layout)
        return f"{view}.flip({flips})" if flips else view

    def forward_piece(self, op: tile.LoadOp | tile.StoreOp, layout: Layout) -> tuple[str, str]:
        """The same as a view in the order of addresses, and the dimensions along which the access walks backwards."""
        linear = symbols.affine(self.offset(op), self.ranks.names)
        if linear is None:
            raise NotPrintable(f"the access {op.access.text()} is not affine")
        coefficients, constant = linear
        walked = [r.name for r in self.ranks.data if r.name not in self.kernel.grid_ranks]
        units = [n for n in (*self.kernel.grid_ranks, *walked) if self.ranks[n].role == "unit" and n in coefficients]
        dims: list[str | None] = [*units, *layout]
        sizes, strides, index, flips = [], [], [], []
        for place, d in enumerate(dims):
            c = coefficients.get(d, sympy.Integer(0)) if d is not None else sympy.Integer(0)
            extent = self.ranks[d].extent if d is not None else sympy.Integer(1)
            backwards = c.could_extract_minus_sign()
            if backwards:  # strides are not negative: count from the other end, and flip
                constant = sympy.expand(constant + c * (extent - 1))
            sizes.append(self.expression(extent))
            strides.append(self.expression(-c if backwards else c))
            if d is None:
                index.append(":")
            elif d in units:
                index.append(self.expression(extent - 1 - symbols.symbol(d) if backwards else symbols.symbol(d)))
            elif self.ranks[d].role == "band":
                if backwards:
                    raise NotPrintable("a band is read backwards")
                index.append(":")
            elif not backwards:
                index.append(self.span(d))
            else:
                last = self.expression(extent, 1)
                span = self.span(d)
                index.append(
                    ":" if span == ":" else f"{last} - {self.use('stop', d)} : {last} - {self.use('start', d)}"
                )
                flips.append(place - len(units))
        view = self.view(op, sizes, strides, constant)
        while index and index[-1] == ":":
            index.pop()
        text = f"{view}[{', '.join(index)}]" if index else view
        for place, d in enumerate(layout):
            if d is not None and self.ranks[d].role == "band":
                self.helpers.add("stretch")
                text = f"stretch({text}, {place}, {self.use('start', d)}, {self.use('stop', d)})"
        return text, ", ".join(map(str, flips))

    def view(self, op: tile.LoadOp | tile.StoreOp, sizes: list[str], strides: list[str], constant: sympy.Expr) -> str:
        buffer = self.buffers[op.buffer]
        offset = f"{buffer}.storage_offset()" + (f" + {self.expression(constant)}" if constant != 0 else "")
        shape, steps = (f"({', '.join(x)}{',' if len(x) == 1 else ''})" for x in (sizes, strides))
        text = f"{buffer}.as_strided({shape}, {steps}, {offset})"
        if text not in self.views:
            self.views[text] = self.names.fresh(f"{buffer}_view")
            self.head.add(f"{self.views[text]} = {text}")
        return self.views[text]

    def gathered(self, op: tile.LoadOp, layout: Layout) -> str:
        """The elements of an access that may leave the buffer, or that is not affine, by index."""
        kind = cast(tile.BufferType, op.buffer.type)
        sizes, strides = ([self.expression(e) for e in x.data] for x in (kind.shape, kind.strides))
        view = self.view(op, sizes, strides, sympy.Integer(0))
        self.helpers.add("gathered")
        return f"gathered({', '.join([view, *(self.tensor_expression(e, layout) for e in op.access.data)])})"

    def target(self, op: Operation, n: int = 0, operands: Iterable[SSAValue] = ()) -> tuple[str, Slot | None, Layout]:
        """Where the n-th result goes: to where it is stored, in place of an operand that dies, or into free scratch."""
        result = op.results[n]
        kind = tile.tile_type(result)
        store = self.elsewhere.get(result)
        if store is not None:
            layout = self.layouts[kind.names]
            return self.piece(store, layout), None, layout
        key = (kind.names, held(kind.element_type))
        for operand in operands:
            known = self.values[operand]
            slot = known.slot
            if slot is None or (slot.names, slot.dtype) != key or known.layout != self.layouts[kind.names]:
                continue
            if self.owner.get(id(slot)) is self.root(operand) and self.dies(operand, op):
                self.owner[id(slot)] = result
                return known.text, self.touch(slot), known.layout
        slot = self.scratch(*key)
        self.owner[id(slot)] = result
        return slot.var, slot, self.layouts[kind.names]
