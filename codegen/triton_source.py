"""The `tile` dialect as Triton source: one op, one line; nothing is decided here.

Blocks have fixed shapes, powers of two.  Of each rank there are up to four names:

    b                        the element of a unit rank
    start_i, offs_i, lane_i  a tile's first element; all its elements; those counted from the first

An address is `buffer + scalars + lanes`: the scalars are 64-bit where the buffer may need it, the lanes 32-bit unless a
stride is unknown.  What does not change in a loop is computed before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, IntegerType, Signedness, i1, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from ..ir import symbols, tile
from ..ir.attributes import is_float
from .text import (
    Names,
    NotPrintable,
    dot_ranks,
    hint,
    in_order,
    index_text,
    is_even,
    literal,
    multiples,
    programs,
    size_names,
    summary,
    tiles_of,
    whole_lanes,
)
from .triton_functions import (
    GROWS,
    HELPERS,
    INTEGER_REDUCTIONS,
    KEEPS,
    MAPS,
    NEEDS,
    POWERS,
    REDUCTIONS,
    SINGLE_PRECISION,
    SPELLING,
)

NARROW = 2**31


@dataclass(frozen=True)
class TritonSource:
    """One kernel as a Triton module.

    arguments: the function's arguments in order, constants excepted: buffers, then sizes by name.
    signature: argument -> "*fp16", "i32", "i64".
    constexprs: the `tl.constexpr` arguments.  whole: more of them, whose value is the least power of two not below an
    extent (its text over sizes) and not below a number of lanes.
    divisible_by_16: the arguments of which that is known; of pointers it is asked.
    grid: how many programs there are, an index expression over sizes.
    """

    name: str
    text: str
    arguments: tuple[str, ...]
    buffers: tuple[str, ...]
    sizes: tuple[str, ...]
    signature: Mapping[str, str]
    constexprs: Mapping[str, int]
    whole: Mapping[str, tuple[str, int]]
    divisible_by_16: tuple[str, ...]
    grid: str
    num_warps: int
    num_stages: int

    def programs(self, sizes: Mapping[str, int]) -> int:
        """How many programs a launch has."""
        return symbols.evaluate(symbols.from_text(self.grid), sizes)

    def constants(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The values of all `tl.constexpr` arguments."""
        found = dict(self.constexprs)
        for name, (extent, least) in self.whole.items():
            found[name] = whole_lanes(max(least, symbols.evaluate(symbols.from_text(extent), sizes)), False)
        return found


def print_triton(kernel: tile.KernelOp, *, wide: bool = False) -> TritonSource:
    """The kernel as a Triton module.

    `wide` is for sizes that do not fit in 32 bits.  Raises NotPrintable where Triton has no such program.
    """
    return _Printer(kernel, wide).source()


def dtype(element: Attribute, prefix: str = "tl.") -> str:
    """Triton's name of an element type; in a signature, floats are fp32 and booleans i1."""
    floats = {Float16Type: 16, Float32Type: 32, Float64Type: 64}
    if isinstance(element, BFloat16Type):
        return "tl.bfloat16" if prefix else "bf16"
    if type(element) in floats:
        return f"tl.float{floats[type(element)]}" if prefix else f"fp{floats[type(element)]}"
    assert isinstance(element, IntegerType)
    bits = element.width.data
    letter = "u" if element.signedness.data == Signedness.UNSIGNED else ""
    if prefix:
        return f"tl.{letter}int{bits}"
    return f"{letter or 'i'}{bits}"


# --- the printer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """How a tile is referred to.  number: it is a constant, not yet in a register.  narrow: i64, held in 32 bits."""

    text: str
    names: tuple[str, ...]
    element: Attribute
    number: float | int | bool | None = None
    narrow: bool = False


@dataclass
class _Lines:
    """The lines of one block of the program, and which offsets they use."""

    depth: int
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)


class _Printer:
    def __init__(self, kernel: tile.KernelOp, wide: bool):
        self.kernel = kernel
        self.wide = wide
        self.ranks = kernel.ranks
        self.params = kernel.parameters
        self.sizes = size_names(kernel)
        self.dots = dot_ranks(kernel)
        self.names = Names()
        self.values: dict[SSAValue, _Value] = {}
        self.helpers: set[str] = set()
        self.used: set[str] = set()  # names of offsets, lanes and the like that some line reads
        self.whole: dict[str, tuple[str, int]] = {}
        self.hoisted: dict[str, str] = {}  # text computed before a loop -> its name
        self.before: _Lines | None = None  # where such text goes: in front of the outermost loop
        for name in ("tl", "triton", *HELPERS, *self.sizes, *(n for n in self.params)):
            self.names.reserve(name)
        for extra in ("num_warps", "num_stages", "pid"):
            self.names.taken.add(extra)
        self.rank_names = self._rank_names()
        self.pointers = {a: self.names.fresh(f"{a.name_hint or 'buffer'}_ptr") for a in kernel.arguments}

    def _rank_names(self) -> dict[str, str]:
        """The names of what is known of each rank, by the symbol that stands for it: `start_i`, `offs_i`, `lane_i`."""
        table = {}
        for rank in self.ranks.data:
            if rank.role == "unit":
                table[rank.name] = self.names.fresh(rank.name)
                continue
            for part in ("start", "offs", "lane", "tiles"):
                table[f"{part}_{rank.name}"] = self.names.fresh(f"{part}_{rank.name}")
        return table

    def source(self) -> TritonSource:
        body = _Lines(1)
        self.block(self.kernel.body.block, body)
        prologue = self.prologue()
        constexprs = self.constexprs()
        name = self.kernel.sym_name.data
        parameters = [
            *(f"    {p}," for p in self.pointers.values()),
            *(f"    {s}," for s in self.sizes),
            *(f"    {c}: tl.constexpr," for c in (*constexprs, *self.whole)),
        ]
        needed = {*self.helpers, *(n for h in self.helpers for n in NEEDS.get(h, ()))}
        helpers = [
            line
            for n, text in HELPERS.items()
            if n in needed
            for line in ["", "@triton.jit", *text.strip().splitlines(), ""]
        ]
        lines = [
            f'"""Kernel {name}, generated by Fusecade.',
            "",
            *summary(self.kernel),
            '"""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            *helpers,
            "",
            "@triton.jit",
            f"def {name}(",
            *parameters,
            "):",
            *prologue,
            *body.lines,
        ]
        known = multiples(self.kernel)
        buffers = tuple(self.pointers.values())
        return TritonSource(
            name=name,
            text="\n".join(lines) + "\n",
            arguments=(*buffers, *self.sizes),
            buffers=buffers,
            sizes=self.sizes,
            signature={
                **{p: f"*{dtype(cast(tile.BufferType, a.type).element_type, '')}" for a, p in self.pointers.items()},
                **dict.fromkeys(self.sizes, "i64" if self.wide else "i32"),
            },
            constexprs=constexprs,
            whole=self.whole,
            divisible_by_16=(*buffers, *(s for s in self.sizes if known.get(s, 1) % 16 == 0)),
            grid=symbols.to_text(programs(self.kernel)),
            num_warps=self.params.get("num_warps", 4),
            num_stages=self.params.get("num_stages", 3),
        )

    def constexprs(self) -> dict[str, int]:
        """Tile sizes and the like; `num_warps` and an unused `num_stages` are the launch's business."""
        launch = {"num_warps"} | ({"num_stages"} if "num_stages" not in self.used else set())
        found = {k: v for k, v in self.params.items() if k not in launch}
        if "num_stages" in self.used:
            found["num_stages"] = self.params.get("num_stages", 3)
        for rank in self.ranks.data:
            if rank.tile and self.params[rank.tile] & (self.params[rank.tile] - 1):
                raise NotPrintable(f"{rank.tile} = {self.params[rank.tile]} is not a power of two")
        return found

    # Ranks and index expressions.

    def part(self, part: str, rank: str) -> str:
        self.used.add(f"{part}_{rank}")
        return self.rank_names[f"{part}_{rank}"]

    def lanes(self, rank: tile.TileRank) -> str:
        """How many lanes a tile has along a rank."""
        if rank.tile:
            return rank.tile
        in_dot = rank.name in self.dots
        if rank.extent.is_Integer:
            return str(whole_lanes(int(rank.extent), in_dot))
        name = f"LANES_{rank.name}"
        if name not in self.whole:
            self.names.reserve(name)
            self.whole[name] = (symbols.to_text(rank.extent), 16 if in_dot else 1)
        return name

    def shape(self, names: Sequence[str]) -> str:
        return "[" + ", ".join(self.lanes(self.ranks[n]) for n in names) + "]"

    def at(self, text: str, names: Sequence[str], order: Sequence[str]) -> str:
        """A tile over `names`, ready to be broadcast over `order`."""
        present = [r for r in order if r in names]
        if list(names) != present:
            places = ", ".join(str(names.index(r)) for r in present)
            text = f"tl.trans({text})" if len(names) == 2 else f"tl.permute({text}, ({places}))"
        if not names or len(present) == len(order):
            return text
        return f"{text}[{', '.join(':' if r in names else 'None' for r in order)}]"

    def expression(self, e: sympy.Expr, order: Sequence[str] | None, level: int = 0) -> str:
        """An index expression over whole offsets (`order` given), or over the first elements of tiles."""

        def name_of(symbol: str) -> str:
            if symbol in self.rank_names and symbol not in self.ranks.names:
                part, _, rank = symbol.partition("_")
                text = self.part(part, rank)
                return self.at(text, [rank], order) if part != "start" and order is not None else text
            if symbol not in self.ranks.names:
                return symbol
            if self.ranks[symbol].role == "unit":
                self.used.add(symbol)
                return self.rank_names[symbol]
            if order is None:
                return "0" if self.ranks[symbol].role == "whole" else self.part("start", symbol)
            return self.at(self.part("offs", symbol), [symbol], order)

        text = index_text(e, name_of, SPELLING, level)
        if "floordiv(" in text:
            self.helpers.add("floordiv")
        return text

    def bound(self, e: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr] | None:
        """The least and the greatest value of an affine expression, over sizes."""
        names = self.ranks.names
        linear = symbols.affine(e, names)
        if linear is None:
            return None
        low = high = linear[1]
        for r, c in linear[0].items():
            last = c * (self.ranks[r].extent - 1)
            if c.is_nonnegative:
                high = high + last
            elif c.is_nonpositive:
                low = low + last
            else:
                return None
        return sympy.expand(low), sympy.expand(high)

    def fits(self, e: sympy.Expr) -> bool:
        """Whether an index expression stays within 32 bits, given that sizes do."""
        if self.wide:
            return False
        bounds = self.bound(e)
        return bounds is not None and all(_fits(b) for b in bounds)

    # The head of the function.

    def prologue(self) -> list[str]:
        head = _Lines(1)
        if self.kernel.grid_ranks:
            head.add(f"pid = tl.program_id(0){'.to(tl.int64)' if self.wide else ''}")
        rest = "pid"
        decode = []
        for n, name in reversed(list(enumerate(self.kernel.grid_ranks))):
            rank = self.ranks[name]
            count = self.count(rank) if n else ""
            own = f"{rest} % {count}" if n else rest
            if rank.role == "unit":
                if name in self.used:
                    decode.append(f"{self.rank_names[name]} = {own}")
            elif self.used & {f"start_{name}", f"offs_{name}"}:
                decode.append(f"{self.part('start', name)} = {own} * {rank.tile}")
            if n and count != "1":
                rest = f"{rest} // {count}"
        for name in self.kernel.grid_ranks:
            if f"tiles_{name}" in self.used:
                rank = self.ranks[name]
                head.add(
                    f"{self.rank_names[f'tiles_{name}']} = tl.cdiv({self.expression(rank.extent, None)}, {rank.tile})"
                )
        for line in decode:
            head.add(line)
        for rank in self.ranks.data:
            used = {p for p in ("offs", "lane") if f"{p}_{rank.name}" in self.used}
            if rank.role == "whole" and used:
                head.add(f"{self.rank_names[f'offs_{rank.name}']} = tl.arange(0, {self.lanes(rank)})")
            elif used:
                if "lane" in used or rank.role == "loop":
                    head.add(f"{self.rank_names[f'lane_{rank.name}']} = tl.arange(0, {rank.tile})")
                if "offs" in used and rank.role == "grid":
                    lane = self.rank_names[f"lane_{rank.name}"] if "lane" in used else f"tl.arange(0, {rank.tile})"
                    head.add(
                        f"{self.rank_names[f'offs_{rank.name}']} = {self.rank_names[f'start_{rank.name}']} + {lane}"
                    )
        return head.lines

    def count(self, rank: tile.TileRank) -> str:
        """The text of how many tiles a rank has, as an atom."""
        tiles = tiles_of(self.kernel, rank)
        if tiles.is_Integer or rank.role == "unit":
            return self.expression(tiles, None, 2)
        return self.part("tiles", rank.name)

    # Operations.

    def block(self, block: Block, out: _Lines) -> None:
        for op in block.ops:
            if isinstance(op, tile.ReturnOp | tile.YieldOp):
                return
            self.operation(op, out)

    def operation(self, op: Operation, out: _Lines) -> None:
        match op:
            case tile.LoadOp():
                address, mask = self.address(op, tile.tile_type(op.result).names, out)
                other = literal(0.0 if is_float(tile.tile_type(op.result).element_type) else 0)
                self.define(op, f"tl.load({address}{f', mask={mask}, other={other}' if mask else ''})", out)
            case tile.StoreOp():
                self.store(op, out)
            case tile.IndexOp():
                self.index(op, out)
            case tile.FillOp():
                self.fill(op, out)
            case tile.MapOp():
                self.map(op, out)
            case tile.CastOp():
                element = tile.tile_type(op.result).element_type
                value = self.tensor(op.value)
                text = f"{value.text} != 0" if element == i1 else f"{value.text}.to({dtype(element)})"
                self.define(op, text, out)
            case tile.PadOp():
                value = self.tensor(op.value)
                mask = self.mask(op.over_ranks, value.names)
                self.define(op, f"tl.where({mask}, {value.text}, {literal(op.python_fill)})", out)
            case tile.DotOp():
                self.dot(op, out)
            case tile.ReduceOp():
                self.reduce(op, out)
            case tile.ForOp():
                self.loop(op, out)
            case _:
                raise NotPrintable(f"{op.name} has no text in Triton")

    def define(self, op: Operation, text: str, out: _Lines, narrow: bool = False) -> None:
        """`name = text`, for the results of `op`."""
        names = []
        for n, result in enumerate(op.results):
            kind = tile.tile_type(result)
            names.append(self.names.fresh(hint(op, n)))
            held = narrow or (n == 1 and isinstance(op, tile.ReduceOp) and not self.wide)
            self.values[result] = _Value(
                names[-1], kind.names, kind.element_type, narrow=held and kind.element_type == i64
            )
        out.add(f"{', '.join(names)} = {text}")

    def tensor(self, value: SSAValue) -> _Value:
        """A value as Triton has it in registers: constants become tensors."""
        known = self.values[value]
        if known.number is None:
            return known
        return _Value(f"tl.full([], {literal(known.number)}, {dtype(known.element)})", (), known.element)

    def full(self, value: SSAValue) -> str:
        """A value in exactly its own type: no constant, no narrow integer."""
        known = self.tensor(value)
        return f"{known.text}.to(tl.int64)" if known.narrow else known.text

    def fill(self, op: tile.FillOp, out: _Lines) -> None:
        kind = tile.tile_type(op.result)
        value = op.python_value
        if not kind.names:
            self.values[op.result] = _Value(literal(value), (), kind.element_type, number=value)
        elif value == 0 and not isinstance(value, bool):
            self.define(op, f"tl.zeros({self.shape(kind.names)}, {dtype(kind.element_type)})", out)
        else:
            self.define(op, f"tl.full({self.shape(kind.names)}, {literal(value)}, {dtype(kind.element_type)})", out)

    def index(self, op: tile.IndexOp, out: _Lines) -> None:
        names = tile.tile_type(op.result).names
        present = [r for r in names if r in symbols.names(op.expr)]
        narrow = self.fits(op.expr)
        if op.expr.is_Integer and not names:
            self.values[op.result] = _Value(literal(int(op.expr)), (), i64, number=int(op.expr))
            return
        text = self.expression(op.expr, names) if narrow else self.widened(op.expr, names)
        if len(present) < len(names):
            if not present:
                text = f"tl.full({self.shape(names)}, {text}, {'tl.int32' if narrow else 'tl.int64'})"
            else:
                text = f"tl.broadcast_to({text}, {self.shape(names)})"
        self.define(op, text, out, narrow)

    def widened(self, e: sympy.Expr, order: Sequence[str]) -> str:
        """An index expression in 64 bits: each rank and size is one."""

        def name_of(symbol: str) -> str:
            return f"tl.cast({self.expression(symbols.symbol(symbol), order)}, tl.int64)"

        text = index_text(e, name_of, SPELLING)
        if "floordiv(" in text:
            self.helpers.add("floordiv")
        return text

    def map(self, op: tile.MapOp, out: _Lines) -> None:
        function = op.function.data
        kind = tile.tile_type(op.result)
        values = [self.values[o] for o in op.operands]
        row = MAPS.get(function)
        if row is None:
            raise NotPrintable(f"the function {function} has no text in Triton")
        if function == "pow" and values[1].number in POWERS:
            row, values = POWERS[float(cast(float, values[1].number))], values[:1]
        narrow = any(v.narrow for v in values) and all(
            v.narrow or v.number is not None or v.element == i1 for v in values
        )
        texts = [
            self.operand(o, v, n, values, function) for n, (o, v) in enumerate(zip(op.operands, values, strict=False))
        ]
        if function in GROWS and narrow:
            widest = max((n for n, v in enumerate(values) if v.narrow), key=lambda n: len(values[n].names))
            texts[widest] = f"{texts[widest]}.to(tl.int64)"
            narrow = False
        texts = [self.at(t, v.names, kind.names) if v.number is None else t for t, v in zip(texts, values, strict=True)]
        helper = row.partition("(")[0]
        if helper in HELPERS:
            if helper in SINGLE_PRECISION and isinstance(kind.element_type, Float64Type):
                raise NotPrintable(f"{function} of f64 has no text in Triton")
            self.helpers.add(helper)
        text = row.format(*texts, type=dtype(kind.element_type))
        self.define(op, text, out, narrow and function in KEEPS)

    def operand(self, operand: SSAValue, value: _Value, n: int, all_: Sequence[_Value], function: str) -> str:
        """An operand as an atom.  A constant stays a number where another operand says what type it is of."""
        if value.number is None:
            return value.text
        typed = any(v.number is None and v.element == value.element for v in all_)
        takes_numbers = function not in ("pow",) and not isinstance(value.element, Float64Type)
        return value.text if typed and takes_numbers else self.tensor(operand).text

    def reduce(self, op: tile.ReduceOp, out: _Lines) -> None:
        value = self.tensor(op.value)
        axis = value.names.index(op.over.data)
        row = REDUCTIONS[op.combiner.data]
        if not is_float(value.element):
            row = INTEGER_REDUCTIONS.get(op.combiner.data, row)
        for helper in ("nan_max", "nan_min", "product", "argmax", "argmin"):
            if f"{helper}(" in row or row.endswith(f" {helper})"):
                self.helpers.add(helper)
        index = self.at(self.part("offs", op.over.data), [op.over.data], value.names) if "{index}" in row else ""
        self.define(op, row.format(value.text, axis=axis, index=index), out, narrow=value.narrow)

    def dot(self, op: tile.DotOp, out: _Lines) -> None:
        """Operands as [batch, M, K] and [batch, K, N], each group of ranks folded into one dimension."""
        k, batch = op.over.data, op.batch
        lhs, rhs = self.tensor(op.lhs), self.tensor(op.rhs)
        names = tile.tile_type(op.result).names
        rows = [r for r in names if r in lhs.names and r not in batch]
        cols = [r for r in names if r in rhs.names and r not in batch]
        if cols and rows and names.index(cols[0]) < names.index(rows[0]):
            lhs, rhs, rows, cols = rhs, lhs, cols, rows
        if not rows or not cols:
            raise NotPrintable("a dot needs a rank of its own in each operand")
        if lhs.element != rhs.element:
            raise NotPrintable(f"a dot of {lhs.element} and {rhs.element}; cast one of them")
        a = self.folded(lhs, [list(batch), rows, [k]])
        b = self.folded(rhs, [list(batch), [k], cols])
        natural = [*batch, *rows, *cols]
        acc = ""
        if op.acc is not None:
            value = self.tensor(op.acc)
            acc = f", {self.folded(value, [list(batch), rows, cols])}"
        precision = f', input_precision="{op.precision.data}"' if isinstance(lhs.element, Float32Type) else ""
        text = f"tl.dot({a}, {b}{acc}{precision})"
        element = tile.tile_type(op.result).element_type
        if not isinstance(element, Float32Type):
            text = f"tl.dot({a}, {b}{acc}{precision}, out_dtype={dtype(element)})"
        if len(rows) > 1 or len(cols) > 1 or len(batch) > 1:
            text = f"tl.reshape({text}, {self.shape(natural)})"
        self.define(op, self.at(text, natural, names), out)

    def folded(self, value: _Value, groups: list[list[str]]) -> str:
        order = [r for g in groups for r in g]
        text = self.at(value.text, value.names, order)
        if all(len(g) <= 1 for g in groups):
            return text
        dims = [" * ".join(self.lanes(self.ranks[r]) for r in g) for g in groups if g]
        return f"tl.reshape({text}, [{', '.join(dims)}])"

    def loop(self, op: tile.ForOp, out: _Lines) -> None:
        rank = self.ranks[op.rank.data]
        outermost = self.before is None
        if outermost:
            self.before = out
        carried = []
        for argument, init in zip(op.body.block.args, op.init, strict=True):
            kind = tile.tile_type(argument)
            name = self.names.fresh(argument.name_hint or "state")
            out.add(f"{name} = {self.full(init)}")
            self.values[argument] = _Value(name, kind.names, kind.element_type)
            carried.append(name)
        inner = _Lines(out.depth + 1)
        offs, used_before = f"offs_{rank.name}", self.used
        self.used = used_before - {offs}
        self.block(op.body.block, inner)
        needs_offs = offs in self.used
        self.used = self.used | used_before
        yields = [self.full(v) for v in cast(tile.YieldOp, op.body.block.last_op).values]
        changed = [(c, y) for c, y in zip(carried, yields, strict=True) if c != y]
        if changed:
            inner.add(f"{', '.join(c for c, _ in changed)} = {', '.join(y for _, y in changed)}")
        if needs_offs:
            start = self.part("start", rank.name)
            inner.lines.insert(
                0, "    " * inner.depth + f"{self.rank_names[offs]} = {start} + {self.rank_names[f'lane_{rank.name}']}"
            )
            self.used.add(f"lane_{rank.name}")
        if not inner.lines:
            inner.add("pass")
        lower, upper = (self.expression(e, None) for e in op.bounds)
        innermost = not any(isinstance(o, tile.ForOp) for o in op.body.block.ops)
        loads = any(isinstance(o, tile.LoadOp) for o in op.body.block.ops)
        stages = ""
        if innermost and loads:
            self.used.add("num_stages")
            stages = ", num_stages=num_stages"
        out.add(f"for {self.rank_names[f'start_{rank.name}']} in tl.range({lower}, {upper}, {rank.tile}{stages}):")
        out.lines += inner.lines
        if outermost:
            self.before = None
            self.hoisted.clear()
        for result, name in zip(op.outs, carried, strict=True):
            kind = tile.tile_type(result)
            self.values[result] = _Value(name, kind.names, kind.element_type)

    def store(self, op: tile.StoreOp, out: _Lines) -> None:
        value = self.tensor(op.value)
        names = self.ranks.ordered(op.access.ranks)
        if set(names) == set(value.names):
            names = value.names
        address, mask = self.address(op, names, out)
        text = value.text if value.names == names or not value.names else self.at(value.text, value.names, names)
        out.add(f"tl.store({address}, {text}{f', mask={mask}' if mask else ''})")

    # Memory.

    def mask(self, ranks: Sequence[str], order: Sequence[str]) -> str:
        parts = []
        for r in ranks:
            if r not in order:
                raise NotPrintable(f"a tile over {list(order)} is guarded along {r}")
            parts.append(
                f"{self.at(self.part('offs', r), [r], order)} < {self.expression(self.ranks[r].extent, None, 1)}"
            )
        return parts[0] if len(parts) == 1 else " & ".join(f"({p})" for p in parts)

    def address(self, op: tile.LoadOp | tile.StoreOp, names: Sequence[str], out: _Lines) -> tuple[str, str]:
        """The text of a tile's addresses and of the mask under which they are valid."""
        kind = cast(tile.BufferType, op.buffer.type)
        conditions = [self.mask([r], names) for r in op.guards]
        if isinstance(op, tile.LoadOp) and op.checked is not None:
            conditions += self.checks(op, kind.shape.data, names)
        mask = conditions[0] if len(conditions) == 1 else " & ".join(f"({c})" for c in conditions)
        total = sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )
        present = [r for r in names if symbols.symbol(r) in total.free_symbols]
        split = self.split(total, names)
        if split is None:
            lanes, scalars = self.expression(total, names) if self.fits(total) else self.widened(total, names), []
        else:
            lane_terms, scalars = split
            lanes = self.sum(lane_terms, names)
        steps = {f"start_{r.name}" for r in self.ranks.data if r.role == "loop"}
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

    def hoist(self, text: str, name: str) -> str:
        """`text` computed in front of the outermost loop, once."""
        assert self.before is not None
        if text not in self.hoisted:
            self.hoisted[text] = self.names.fresh(name)
            self.before.add(f"{self.hoisted[text]} = {text}")
        return self.hoisted[text]

    def split(self, total: sympy.Expr, names: Sequence[str]) -> tuple[list[sympy.Expr], list[sympy.Expr]] | None:
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
            lanes.append(c * symbols.symbol(f"{'offs' if rank.role == 'whole' else 'lane'}_{r}"))
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
        if part == "lane" and found.tile:
            return sympy.Integer(self.params[found.tile])
        return found.extent

    def small(self, term: sympy.Expr) -> bool:
        """Whether a term of an offset is known to fit in 32 bits."""
        if self.wide:
            return False
        return _fits(sympy.expand(self.limit(term)))

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
        narrow = not self.wide and _fits(sympy.expand(sum((self.limit(t) for t in terms), sympy.Integer(0))))
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


def _fits(bound: sympy.Expr) -> bool:
    """Whether a bound over sizes (each below 2**31) fits in 32 bits."""
    low = high = sympy.Integer(0)
    for t in sympy.Add.make_args(bound):
        number, rest = t.as_coeff_Mul()
        if not number.is_Integer or not (rest == 1 or isinstance(rest, sympy.Symbol)):
            return False
        reach = number * (1 if rest == 1 else NARROW - 1)
        if rest == 1 or reach > 0:
            high += reach
        if rest == 1 or reach < 0:
            low += reach
    return bool(-NARROW <= low and high < NARROW)
