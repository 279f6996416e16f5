"""The `tile` dialect as torch calls on tiles that stay in cache: one op, one line; nothing is decided here.

A tile is a tensor cut at the extents of its ranks, so guards and pads print nothing.  Every input and output is seen
through one view per access, whose dimensions are ranks.  Results are written in place of an operand that is needed no
more, or into scratch (`t0`, `t1`, ...), which is allocated once a call; a result that is only stored is computed where
it is stored.  Floats below 64 bits are held in f32; they round when they are stored, or cast on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, IntegerType, Signedness
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue

from ..ir import symbols, tile
from ..ir.attributes import is_float
from .text import (
    PYTHON,
    Names,
    NotPrintable,
    hint,
    index_text,
    is_multiple,
    literal,
    loads_and_stores,
    multiples,
    programs,
    size_names,
    summary,
    tiles_of,
)
from .torch_functions import (
    CLAMPS,
    COMMUTES,
    HELPERS,
    MAPS,
    OF_NOTHING,
    REDUCTIONS,
    TAKES_NUMBER,
    TENSORS,
)

Layout = tuple[str | None, ...]  # what a tensor's dimensions are: ranks, or dimensions of length 1


@dataclass(frozen=True)
class TorchSource:
    """One kernel as a Python module with two functions.

    `NAME_programs(*arguments, start, stop)` runs the programs `start` to `stop` of the grid; calls for disjoint ranges
    may run at once in several threads.  `NAME(*arguments, programs=None)` runs a range, or all.
    arguments: buffers in order, then sizes by name.  grid: how many programs there are, over sizes.
    """

    name: str
    text: str
    arguments: tuple[str, ...]
    buffers: tuple[str, ...]
    sizes: tuple[str, ...]
    grid: str

    def programs(self, sizes: Mapping[str, int]) -> int:
        """How many programs there are."""
        return symbols.evaluate(symbols.from_text(self.grid), sizes)


def print_torch(kernel: tile.KernelOp) -> TorchSource:
    """The kernel as a torch module.  Raises NotPrintable where it has none."""
    return _Printer(kernel).source()


def dtype(element: Attribute) -> str:
    """torch's name of an element type."""
    if isinstance(element, IntegerType):
        if element.width.data == 1:
            return "torch.bool"
        return f"torch.{'u' if element.signedness.data == Signedness.UNSIGNED else ''}int{element.width.data}"
    names = {Float16Type: "float16", BFloat16Type: "bfloat16", Float32Type: "float32", Float64Type: "float64"}
    return f"torch.{names[type(element)]}"  # pyright: ignore[reportArgumentType]


def held(element: Attribute) -> str:
    """The dtype that a tile of this element type has."""
    return "torch.float32" if is_float(element) and not isinstance(element, Float64Type) else dtype(element)


# --- the printer --------------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """One scratch tensor.  var: its name, cut to the present tile.  base: the whole one, where they differ."""

    names: tuple[str, ...]
    dtype: str
    var: str
    base: str


@dataclass(frozen=True)
class _Value:
    """A tile: its text, what its dimensions are, the scratch that it lies in.  number: it is a Python number."""

    text: str
    layout: Layout
    element: Attribute
    slot: _Slot | None = None
    number: bool = False
    constant: float | int | bool | None = None


@dataclass
class _Scope:
    """A block of lines: the function's, a program's, or a loop's body."""

    depth: int
    rank: str | None = None
    lines: list[str] = field(default_factory=list)
    slots: dict[str, _Slot] = field(default_factory=dict)  # that are to be cut when the block begins

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)


class _Printer:
    def __init__(self, kernel: tile.KernelOp):
        self.kernel = kernel
        self.ranks = kernel.ranks
        self.params = kernel.parameters
        self.sizes = size_names(kernel)
        self.names = Names()
        for name in ("torch", "math", "start", "stop", "program", *HELPERS, *self.sizes):
            self.names.reserve(name)
        self.rank_names = {
            f"{part}_{r.name}": self.names.fresh(f"{part}_{r.name}")
            for r in self.ranks.data
            for part in ("start", "stop", "size", "tiles", "index")
            if r.role != "unit"
        } | {r.name: self.names.fresh(r.name) for r in self.ranks.data if r.role == "unit"}
        self.buffers = {a: self.names.fresh(a.name_hint or "buffer") for a in kernel.arguments}
        self.layouts = _layouts(kernel)
        self.values: dict[SSAValue, _Value] = {}
        self.roots: dict[SSAValue, SSAValue] = {}  # a value that is another's storage under a new name -> that one
        self.owner: dict[int, SSAValue] = {}  # id of a slot -> the value that lies in it
        self.free: dict[tuple[tuple[str, ...], str], list[_Slot]] = {}
        self.helpers: set[str] = set()
        self.head = _Scope(1)
        self.program = _Scope(2)
        self.scopes: list[_Scope] = [self.program]
        self.views: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.counter = 0
        self.elsewhere: dict[SSAValue, tile.StoreOp] = _stored_directly(kernel, self.layouts)
        self.used_names: set[str] = set()

    def source(self) -> TorchSource:
        self.block(self.kernel.body.block, self.program)
        name, buffers = self.kernel.sym_name.data, tuple(self.buffers.values())
        arguments = (*buffers, *self.sizes)
        grid = programs(self.kernel)
        opening = self.opening(self.program)
        body = self.decode() + opening + self.program.lines
        for n in self.kernel.grid_ranks:
            if f"tiles_{n}" in self.used_names:
                self.head.add(
                    f"{self.rank_names[f'tiles_{n}']} = {self.expression(tiles_of(self.kernel, self.ranks[n]))}"
                )
        if not body:
            body = ["        pass"]
        helpers = [
            line for n, text in HELPERS.items() if n in self.helpers for line in [*text.strip().splitlines(), "", ""]
        ]
        lines = [
            f'"""Kernel {name}, generated by Fusecade.',
            "",
            *summary(self.kernel),
            '"""',
            "",
            *(["import math", ""] if "cut" in self.helpers else []),
            "import torch",
            "",
            "",
            *helpers,
            "@torch.no_grad()",
            f"def {name}_programs({', '.join([*arguments, 'start', 'stop'])}):",
            *self.head.lines,
            "    for program in range(start, stop):",
            *body,
            "",
            "",
            f"def {name}({', '.join([*arguments, 'programs=None'])}):",
            f"    programs = range({self.expression(grid)}) if programs is None else programs",
            f"    {name}_programs({', '.join([*arguments, 'programs.start', 'programs.stop'])})",
        ]
        return TorchSource(name, "\n".join(lines) + "\n", arguments, buffers, self.sizes, symbols.to_text(grid))

    # Ranks and index expressions.

    def use(self, part: str, rank: str) -> str:
        """The name of a rank's first element, its end, its number of elements; noted where it is defined."""
        self.used_names.add(f"{part}_{rank}")
        return self.rank_names[f"{part}_{rank}"]

    def expression(self, e: sympy.Expr | int, level: int = 0) -> str:
        """An index expression over sizes, unit ranks and the first elements of tiles."""

        def name_of(symbol: str) -> str:
            if symbol in self.params:
                return str(self.params[symbol])
            if symbol not in self.ranks.names:
                return symbol
            role = self.ranks[symbol].role
            if role == "unit":
                self.used_names.add(symbol)
                return self.rank_names[symbol]
            return "0" if role == "whole" else self.use("start", symbol)

        return index_text(e, name_of, PYTHON, level)

    def even(self, rank: tile.TileRank) -> bool:
        """Whether every tile of a rank has the same length."""
        if rank.tile is None:
            return True
        return is_multiple(rank.extent, self.params[rank.tile], multiples(self.kernel)) or self.single(rank)

    def single(self, rank: tile.TileRank) -> bool:
        """Whether a rank is known to be one tile, cut at its extent."""
        return bool(rank.tile and rank.extent.is_Integer and 0 < int(rank.extent) <= self.params[rank.tile])

    def most(self, name: str) -> str:
        """The text of a tile's greatest length along a rank."""
        rank = self.ranks[name]
        if rank.tile is None:
            return self.expression(rank.extent)
        return str(min(self.params[rank.tile], int(rank.extent)) if rank.extent.is_Integer else self.params[rank.tile])

    def length(self, name: str) -> str:
        """The text of the present tile's length along a rank."""
        return self.most(name) if self.even(self.ranks[name]) else self.use("size", name)

    def span(self, name: str) -> str:
        """The text of the present tile's slice of a rank."""
        rank = self.ranks[name]
        if rank.role == "whole" or self.single(rank):
            return ":"
        return f"{self.use('start', name)}:{self.use('stop', name)}"

    def offsets(self, name: str, order: Layout) -> str:
        """The present tile's indices along a rank, as a tensor with these dimensions."""
        base = self.rank_names[f"index_{name}"]
        if f"index_{name}" not in self.constants:
            self.constants[f"index_{name}"] = base
            self.head.add(f"{base} = torch.arange({self.expression(self.ranks[name].extent)})")
        items = [self.span(name)]
        place = order.index(name)
        items += ["None"] * (len(order) - place - 1)
        return base if items == [":"] else f"{base}[{', '.join(items)}]"

    def tensor_expression(self, e: sympy.Expr, order: Layout) -> str:
        """An index expression over whole offsets; its text is a tensor, or a number when it has no such rank."""

        def name_of(symbol: str) -> str:
            if symbol in order:
                return self.offsets(symbol, order)
            return self.expression(symbols.symbol(symbol))

        spelling = TENSORS if symbols.names(e) & {n for n in order if n} else PYTHON
        return index_text(e, name_of, spelling)

    def decode(self) -> list[str]:
        lines, rest = [], "program"
        for n, name in reversed(list(enumerate(self.kernel.grid_ranks))):
            rank = self.ranks[name]
            count = self.count(rank) if n else ""
            own = f"{rest} % {count}" if n else rest
            if count == "1":
                own = "0"
            if rank.role == "unit":
                if name in self.used_names:
                    lines.append(f"        {self.rank_names[name]} = {own}")
            elif any(f"{part}_{name}" in self.used_names for part in ("start", "stop", "size")):
                lines += self.bounds(rank, f"{own} * {self.params[rank.tile or '']}", 2)
            if count != "1":
                rest = f"{rest} // {count}"
        return lines

    def count(self, rank: tile.TileRank) -> str:
        tiles = tiles_of(self.kernel, rank)
        if tiles.is_Integer or rank.role == "unit":
            return self.expression(tiles, 2)
        self.used_names.add(f"tiles_{rank.name}")
        return self.rank_names[f"tiles_{rank.name}"]

    def bounds(self, rank: tile.TileRank, first: str | None, depth: int) -> list[str]:
        """The lines that say where a tile begins (`first`, unless a loop said it), where it ends, how long it is."""
        start, stop, size = (self.rank_names[f"{p}_{rank.name}"] for p in ("start", "stop", "size"))
        length, indent = self.params[rank.tile or ""], "    " * depth
        lines = [f"{indent}{start} = {first}"] if first is not None else []
        needs_size = f"size_{rank.name}" in self.used_names
        if f"stop_{rank.name}" in self.used_names or needs_size:
            ends = f"{start} + {length}"
            if not is_multiple(rank.extent, length, multiples(self.kernel)):
                ends = f"min({ends}, {self.expression(rank.extent)})"
            lines.append(f"{indent}{stop} = {ends}")
        if needs_size:
            lines.append(f"{indent}{size} = {stop} - {start}")
        return lines

    # Scratch.

    def scratch(self, names: tuple[str, ...], dtype_: str) -> _Slot:
        """A slot that is not in use."""
        pool = self.free.setdefault((names, dtype_), [])
        if pool:
            return self.touch(pool.pop(0))
        var = self.names.fresh(f"t{self.counter}")
        self.counter += 1
        base = var if all(self.even(self.ranks[n]) for n in names) else self.names.fresh(f"whole_{var}")
        slot = _Slot(names, dtype_, var, base)
        dims = ", ".join("1" if d is None else self.most(d) for d in self.layouts[names])
        dims = f"({dims},)" if len(self.layouts[names]) == 1 else f"({dims})"
        self.head.add(f"{base} = torch.empty({dims}, dtype={dtype_})")
        return self.touch(slot)

    def touch(self, slot: _Slot) -> _Slot:
        """Note that a slot is used here, so that it is cut where the lengths of its ranks are known."""
        if slot.var != slot.base:
            scope = next((s for s in reversed(self.scopes) if s.rank in slot.names), self.program)
            scope.slots.setdefault(slot.var, slot)
        return slot

    def opening(self, scope: _Scope) -> list[str]:
        """The lines at the head of a block that cut its scratch to the present tile."""
        lines = []
        for slot in scope.slots.values():
            ragged = [n for n in slot.names if not self.even(self.ranks[n])]
            full = " and ".join(f"{self.use('size', n)} == {self.most(n)}" for n in ragged)
            dims = ", ".join("1" if d is None else self.length(d) for d in self.layouts[slot.names])
            self.helpers.add("cut")
            lines.append("    " * scope.depth + f"{slot.var} = {slot.base} if {full} else cut({slot.base}, {dims})")
        return lines

    def root(self, value: SSAValue) -> SSAValue:
        while value in self.roots:
            value = self.roots[value]
        return value

    def dies(self, value: SSAValue, op: Operation) -> bool:
        """Whether what a value lies in is needed no more after `op`."""
        root = self.root(value)
        block = root.owner if isinstance(root, BlockArgument) else cast(Operation, root.owner).parent
        return block is op.parent and self.last_use(root, cast(Block, block)) in (None, op)

    def last_use(self, root: SSAValue, block: Block) -> Operation | None:
        """The last operation of a block that uses a value, under any of its names."""
        found, place = None, -1
        names = [root, *(v for v in self.roots if self.root(v) is root)]
        for name in names:
            for use in name.uses:
                op: Operation | None = use.operation
                while op is not None and op.parent is not block:
                    op = op.parent_op()
                if op is not None and (index := block.get_operation_index(op)) > place:
                    found, place = op, index
        return found

    def release(self, op: Operation) -> None:
        """After an operation: the scratch of values that it used last, or that nobody uses, is free again."""
        for value in dict.fromkeys([*op.operands, *op.results]):
            known = self.values.get(value)
            if known is None or known.slot is None or not self.dies(value, op):
                continue
            slot = known.slot
            if self.owner.get(id(slot)) is self.root(value):
                del self.owner[id(slot)]
                self.give(slot)

    def give(self, slot: _Slot) -> None:
        pool = self.free.setdefault((slot.names, slot.dtype), [])
        if slot not in pool:
            pool.append(slot)
            pool.sort(key=lambda s: s.var)

    def target(self, op: Operation, n: int = 0, operands: Iterable[SSAValue] = ()) -> tuple[str, _Slot | None, Layout]:
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

    # Values.

    def define(self, op: Operation, scope: _Scope, text: str, slot: _Slot | None, layout: Layout) -> None:
        name = self.names.fresh(hint(op))
        self.values[op.results[0]] = _Value(name, layout, tile.tile_type(op.results[0]).element_type, slot)
        scope.add(f"{name} = {text}")

    def alias(self, result: SSAValue, value: SSAValue) -> None:
        """`result` is `value`, under its own type."""
        self.roots[result] = value
        self.values[result] = replace(self.values[value], element=tile.tile_type(result).element_type)

    def tensor(self, value: SSAValue) -> str:
        """A value as a tensor; numbers become tensors, constants once."""
        known = self.values[value]
        if not known.number:
            return known.text
        kind = held(known.element)
        if known.constant is None:
            return f"torch.tensor({known.text}, dtype={kind})"
        text = f"torch.tensor({known.text}, dtype={kind})"
        if text not in self.constants:
            self.constants[text] = self.names.fresh(value.name_hint or "constant")
            self.head.add(f"{self.constants[text]} = {text}")
        return self.constants[text]

    def aligned(self, value: SSAValue, order: Layout) -> str:
        """A value, so that it broadcasts against a tensor with these dimensions."""
        known = self.values[value]
        if known.number:
            return known.text
        want = [d if d in _names(known.layout) else None for d in order]
        while want and want[0] is None:
            del want[0]
        return _align(known.text, known.layout, tuple(want))

    # Operations.

    def block(self, block: Block, scope: _Scope) -> None:
        for op in block.ops:
            if isinstance(op, tile.ReturnOp | tile.YieldOp):
                return
            self.operation(op, scope)
            self.release(op)

    def operation(self, op: Operation, scope: _Scope) -> None:
        match op:
            case tile.LoadOp():
                self.load(op, scope)
            case tile.StoreOp():
                self.store(op, scope)
            case tile.IndexOp():
                self.index(op, scope)
            case tile.FillOp():
                kind, value = tile.tile_type(op.result), op.python_value
                if not kind.names:
                    self.values[op.result] = _Value(literal(value), (), kind.element_type, number=True, constant=value)
                    return
                out, slot, layout = self.target(op)
                self.define(op, scope, f"{out}.fill_({literal(value)})", slot, layout)
            case tile.MapOp():
                self.map(op, scope)
            case tile.CastOp():
                self.cast(op, scope)
            case tile.PadOp():
                self.alias(op.result, op.value)
            case tile.DotOp():
                self.dot(op, scope)
            case tile.ReduceOp():
                self.reduce(op, scope)
            case tile.ForOp():
                self.loop(op, scope)
            case _:
                raise NotPrintable(f"{op.name} has no text in torch")

    def map(self, op: tile.MapOp, scope: _Scope) -> None:
        function = op.function.data
        row = MAPS.get(function)
        if row is None:
            raise NotPrintable(f"the function {function} has no text in torch")
        kind = tile.tile_type(op.result)
        operands = list(op.operands)
        if function == "widen" and held(kind.element_type) == held(self.values[operands[0]].element):
            return self.alias(op.result, operands[0])
        if len(operands) == 2 and function in COMMUTES and self.values[operands[0]].number:
            operands.reverse()
        out, slot, layout = self.target(op, operands=operands)
        texts = [self.aligned(o, layout) for o in operands]
        numbers = [n for n, o in enumerate(operands) if self.values[o].number]
        if numbers == [1] and function in CLAMPS:
            row = f"torch.clamp({{0}}, {CLAMPS[function]}={{1}}, out={{out}})"
        elif numbers and not (numbers == [1] and function in TAKES_NUMBER):
            texts = [self.tensor(o) if n in numbers else texts[n] for n, o in enumerate(operands)]
        rounded = "" if held(kind.element_type) == dtype(kind.element_type) else f".to({dtype(kind.element_type)})"
        self.define(op, scope, row.format(*texts, out=out, rounded=rounded), slot, layout)
        return None

    def cast(self, op: tile.CastOp, scope: _Scope) -> None:
        element, before = tile.tile_type(op.result).element_type, self.values[op.value]
        same = held(element) == held(before.element)
        rounds = (
            same and is_float(element) and dtype(element) != held(element) and dtype(before.element) != dtype(element)
        )
        if before.number:
            value = before.constant
            if value is None:
                raise NotPrintable("a cast of an index")
            value = float(value) if is_float(element) else int(value) if not isinstance(value, bool) else value
            self.values[op.result] = _Value(literal(value), (), element, number=True, constant=value)
        elif same and not (rounds and not _rounds_anyway(op)):
            self.alias(op.result, op.value)
        else:
            out, slot, layout = self.target(op, operands=[op.value])
            rounded = f".to({dtype(element)})" if rounds else ""
            self.define(op, scope, f"{out}.copy_({self.aligned(op.value, layout)}{rounded})", slot, layout)

    def index(self, op: tile.IndexOp, scope: _Scope) -> None:
        kind = tile.tile_type(op.result)
        layout = self.layouts[kind.names]
        text = self.tensor_expression(op.expr, layout)
        present = [r for r in kind.names if r in symbols.names(op.expr)]
        if not kind.names:
            constant = int(op.expr) if op.expr.is_Integer else None
            text = literal(constant) if constant is not None else f"({text})"
            self.values[op.result] = _Value(text, (), kind.element_type, number=True, constant=constant)
            return
        if len(present) < len(kind.names):
            dims = ", ".join("1" if d is None else self.length(d) for d in layout)
            text = f"torch.as_tensor({text}).expand({dims})"
        self.define(op, scope, text, None, layout)

    def reduce(self, op: tile.ReduceOp, scope: _Scope) -> None:
        value = self.values[op.value]
        over, combiner = op.over.data, op.combiner.data
        dim = value.layout.index(over)
        kept = tile.tile_type(op.outs[0]).names
        keeping: Layout = tuple(None if d == over else d for d in value.layout)
        dropping: Layout = tuple(d for d in value.layout if d != over)
        natural, keepdim = (keeping, True) if keeping == self.layouts[kept] else (dropping, False)
        row = REDUCTIONS[combiner]
        rank = self.ranks[over]
        if rank.role == "whole" and not (rank.extent.is_positive or (rank.extent.is_Integer and int(rank.extent) > 0)):
            row = OF_NOTHING.get(combiner, row)
        for helper in ("first_extreme", "extreme"):
            if row.startswith(f"{helper}("):
                self.helpers.add(helper)
        unused = len(op.outs) > 1 and not op.outs[0].uses
        targets: list[tuple[str, _Slot | None, Layout]] = [
            ("None", None, natural) if unused and n == 0 else self.target(op, n) for n in range(len(op.outs))
        ]
        outs = [_align(text, layout, natural) for text, _, layout in targets]
        start = self.use("start", over) if rank.role in ("grid", "loop") else "0"
        least = 'float("-inf")' if combiner == "max" else 'float("inf")'
        if not is_float(value.element):
            bits = value.element.width.data if isinstance(value.element, IntegerType) else 64
            least = str(-(2 ** (bits - 1)) if combiner == "max" else 2 ** (bits - 1) - 1)
        text = row.format(value.text, dim=dim, keepdim=keepdim, out=outs[0], at=outs[-1], start=start, least=least)
        names = []
        for n, (_, slot, _) in enumerate(targets):
            names.append(self.names.fresh(hint(op, n)))
            element = tile.tile_type(op.outs[n]).element_type
            self.values[op.outs[n]] = _Value(names[-1], natural, element, slot)
        scope.add(f"{', '.join(names)} = {text}")

    def dot(self, op: tile.DotOp, scope: _Scope) -> None:
        """mm or bmm: [batch, M, K] and [batch, K, N], each group of ranks folded into one dimension."""
        k, batch = op.over.data, list(op.batch)
        lhs, rhs = op.lhs, op.rhs
        names = tile.tile_type(op.result).names
        rows = [r for r in names if r in tile.tile_type(lhs).names and r not in batch]
        cols = [r for r in names if r in tile.tile_type(rhs).names and r not in batch]
        if cols and rows and names.index(cols[0]) < names.index(rows[0]):
            lhs, rhs, rows, cols = rhs, lhs, cols, rows
        if not rows or not cols:
            raise NotPrintable("a dot needs a rank of its own in each operand")
        if held(self.values[lhs].element) != held(self.values[rhs].element):
            raise NotPrintable("a dot of two types; cast one of them")
        groups = [g for g in (batch, rows, cols) if g]
        folds = any(len(g) > 1 for g in groups)
        natural: Layout = tuple(r for g in groups for r in g)
        store = self.elsewhere.get(op.result)
        if store is not None and (folds or natural != names):
            del self.elsewhere[op.result]
        out, slot, layout = self.target(op, operands=[] if op.acc is None else [op.acc])
        a = self.folded(_align(self.values[lhs].text, self.values[lhs].layout, (*batch, *rows, k)), [batch, rows, [k]])
        b = self.folded(_align(self.values[rhs].text, self.values[rhs].layout, (*batch, k, *cols)), [batch, [k], cols])
        into = self.folded(_align(out, layout, natural), [batch, rows, cols], view=True)
        function = "bmm" if batch else "mm"
        if op.acc is None:
            text = f"torch.{function}({a}, {b}, out={into})"
        else:
            acc = self.values[op.acc]
            start = self.folded(_align(acc.text, acc.layout, natural), [batch, rows, cols])
            text = (
                f"torch.{'baddbmm' if batch else 'addmm'}({start if acc.text != out else into}, {a}, {b}, out={into})"
            )
        if into == out:
            self.define(op, scope, text, slot, layout)
        else:
            scope.add(text)
            self.define(op, scope, out, slot, layout)

    def folded(self, text: str, groups: list[list[str]], view: bool = False) -> str:
        """A tensor over the ranks of all groups, with one dimension a group."""
        groups = [g for g in groups if g]
        if all(len(g) == 1 for g in groups):
            return text
        dims = [" * ".join(self.length(r) for r in g) for g in groups]
        return f"{text}.{'view' if view else 'reshape'}({', '.join(dims)})"

    def loop(self, op: tile.ForOp, scope: _Scope) -> None:
        rank = self.ranks[op.rank.data]
        captured = {self.root(o) for inner in op.body.walk() for o in inner.operands if o in self.values}
        slots: list[_Slot] = []
        names: list[str] = []
        taken: set[int] = set()
        for argument, init in zip(op.body.block.args, op.init, strict=True):
            kind, value = tile.tile_type(argument), self.values[init]
            layout, root = self.layouts[kind.names], self.root(init)
            slot = value.slot
            name = self.names.fresh(argument.name_hint or "state")
            mine = slot is not None and self.owner.get(id(slot)) is root and self.dies(init, op)
            if slot is not None and mine and id(slot) not in taken and root not in captured and value.layout == layout:
                scope.add(f"{name} = {value.text}")
            else:
                slot = self.scratch(kind.names, held(kind.element_type))
                text = (
                    f"{slot.var}.fill_({value.text})"
                    if value.number
                    else f"{slot.var}.copy_({self.aligned(init, layout)})"
                )
                scope.add(f"{name} = {text}")
            taken.add(id(slot))
            self.owner[id(slot)] = argument
            self.values[argument] = _Value(name, layout, kind.element_type, slot)
            slots.append(slot)
            names.append(name)
        inner = _Scope(scope.depth + 1, rank.name)
        self.scopes.append(inner)
        self.block(op.body.block, inner)
        self.carry(cast(tile.YieldOp, op.body.block.last_op), slots, names, inner)
        opening = self.opening(inner)
        opening = self.bounds(rank, None, inner.depth) + opening
        self.scopes.pop()
        lower, upper = (self.expression(e) for e in op.bounds)
        start = self.rank_names[f"start_{rank.name}"]
        scope.add(f"for {start} in range({lower}, {upper}, {self.params[rank.tile or '']}):")
        scope.lines += (opening + inner.lines) or ["    " * inner.depth + "pass"]
        for result, argument, slot, name in zip(op.outs, op.body.block.args, slots, names, strict=True):
            self.values[result] = replace(self.values[argument], text=name)
            self.owner[id(slot)] = result

    def carry(self, op: tile.YieldOp, slots: list[_Slot], names: list[str], scope: _Scope) -> None:
        """The end of a loop's body: the state lies where the next step looks for it.

        A new state that was computed elsewhere stays there; its scratch and the old state's change names.
        """
        sources: list[_Slot] = []
        texts: list[str] = []
        for value, slot in zip(op.values, slots, strict=True):
            known = self.values[value]
            own = known.slot
            if (
                own is None
                or any(own is s for s in sources)
                or self.owner.get(id(own)) is not self.root(value)
                or (
                    isinstance(self.root(value).owner, Operation)
                    and cast(Operation, self.root(value).owner).parent is not op.parent
                )
            ):
                kind = tile.tile_type(value)
                own = self.scratch(kind.names, held(kind.element_type))
                self.owner[id(own)] = value
                text = (
                    f"{own.var}.fill_({known.text})"
                    if known.number
                    else f"{own.var}.copy_({self.aligned(value, self.layouts[kind.names])})"
                )
                scope.add(text)
                texts.append(own.var)
            else:
                texts.append(known.text if known.layout == self.layouts[slot.names] else own.var)
            sources.append(own)
        moved = [(s, f) for s, f in zip(slots, sources, strict=True) if s is not f]
        left, right = [], []
        for name, text, slot, own in zip(names, texts, slots, sources, strict=True):
            if slot is not own:
                left.append(name)
                right.append(text)
        vacated = [s for s, _ in moved if not any(s is f for _, f in moved)]
        for slot, own in moved:
            left.append(slot.var)
            right.append(own.var)
        for own in (f for _, f in moved if not any(f is s for s, _ in moved)):
            old = next(v for v in vacated if (v.names, v.dtype) == (own.names, own.dtype))
            vacated = [v for v in vacated if v is not old]
            left.append(own.var)
            right.append(old.var)
        if left:
            scope.add(f"{', '.join(left)} = {', '.join(right)}")
        for own in sources:
            self.owner.pop(id(own), None)
            self.touch(own)
        for slot in sources:
            if not any(slot is s for s in slots):
                self.give(slot)
        for slot in slots:
            pool = self.free.get((slot.names, slot.dtype), [])
            if slot in pool:
                pool.remove(slot)

    # Memory.

    def load(self, op: tile.LoadOp, scope: _Scope) -> None:
        kind = tile.tile_type(op.result)
        layout = self.layouts[kind.names]
        text = self.gathered(op, layout) if op.checked is not None or not self.is_affine(op) else self.piece(op, layout)
        if held(kind.element_type) == dtype(kind.element_type):
            return self.define(op, scope, text, None, layout)
        out, slot, layout = self.target(op)
        return self.define(op, scope, f"{out}.copy_({text})", slot, layout)

    def store(self, op: tile.StoreOp, scope: _Scope) -> None:
        if op.value in self.elsewhere:
            return
        names = self.ranks.ordered(op.access.ranks)
        layout: Layout = self.layouts[tile.tile_type(op.value).names]
        if set(names) != set(_names(layout)):
            layout = names
        known = self.values[op.value]
        scope.add(
            f"{self.piece(op, layout)}"
            + (f".fill_({known.text})" if known.number else f".copy_({self.aligned(op.value, layout)})")
        )

    def offset(self, op: tile.LoadOp | tile.StoreOp) -> sympy.Expr:
        kind = cast(tile.BufferType, op.buffer.type)
        return sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )

    def is_affine(self, op: tile.LoadOp | tile.StoreOp) -> bool:
        return symbols.affine(self.offset(op), self.ranks.names) is not None

    def piece(self, op: tile.LoadOp | tile.StoreOp, layout: Layout) -> str:
        """The elements that an access touches in this program, as a view whose dimensions are `layout`."""
        linear = symbols.affine(self.offset(op), self.ranks.names)
        if linear is None:
            raise NotPrintable(f"the access {op.access.text()} is not affine")
        coefficients, constant = linear
        units = [n for n in self.kernel.grid_ranks if self.ranks[n].role == "unit" and n in coefficients]
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
        return f"{text}.flip({', '.join(str(f) for f in flips)})" if flips else text

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


# --- layouts ------------------------------------------------------------------------------------------------------


def _names(layout: Layout) -> tuple[str, ...]:
    return tuple(d for d in layout if d is not None)


def _layouts(kernel: tile.KernelOp) -> dict[tuple[str, ...], Layout]:
    """The dimensions that tiles over some ranks have: with those of length 1 with which they broadcast most often.

    A row maximum over [i] that meets tiles over [i, j] is a column, [i, 1].
    """
    votes: dict[tuple[str, ...], dict[Layout, int]] = {}
    order: list[tuple[str, ...]] = []
    for op in kernel.body.walk():
        for value in (*op.operands, *op.results, *(a for r in op.regions for b in r.blocks for a in b.args)):
            if isinstance(value.type, tile.TileType):
                order.append(value.type.names)
        if not isinstance(op, tile.MapOp):
            continue
        names = tile.tile_type(op.result).names
        for operand in op.operands:
            own = tile.tile_type(operand).names
            if not own or own == names or [r for r in names if r in own] != list(own):
                continue
            wanted: Layout = tuple(r if r in own else None for r in names)
            while wanted[0] is None:
                wanted = wanted[1:]
            counts = votes.setdefault(own, {})
            counts[wanted] = counts.get(wanted, 0) + 1
    found: dict[tuple[str, ...], Layout] = {}
    for names in order:
        counts = votes.get(names, {})
        best = max(counts, key=lambda w: (counts[w], -len(w)), default=names)
        found[names] = best
    return found


def _align(text: str, have: Layout, want: Layout) -> str:
    """A tensor whose dimensions are `have`, as one whose dimensions are `want`; the same ranks in both."""
    if have == want:
        return text
    if _names(have) != _names(want):
        bare = _names(have)
        text = _align(text, have, bare)
        places = [bare.index(n) for n in _names(want)]
        text = f"{text}.t()" if places == [1, 0] else f"{text}.permute({', '.join(str(p) for p in places)})"
        have = _names(want)
        if have == want:
            return text
    index, rest = [], list(have)
    for d in want:
        if d is not None:
            while rest[0] is None:
                index.append("0")
                del rest[0]
            index.append(":")
            del rest[0]
        elif rest and rest[0] is None:
            index.append(":")
            del rest[0]
        else:
            index.append("None")
    index += ["0"] * len(rest)
    while index and index[-1] == ":":
        index.pop()
    return f"{text}[{', '.join(index)}]" if index else text


def _rounds_anyway(op: tile.CastOp) -> bool:
    """Whether a cast to a narrow float may be left out: it only feeds dots, or a store of that type."""

    def fits(user: Operation) -> bool:
        if isinstance(user, tile.StoreOp):
            return cast(tile.BufferType, user.buffer.type).element_type == tile.tile_type(op.result).element_type
        return isinstance(user, tile.DotOp)

    return all(fits(use.operation) for use in op.result.uses)


def _stored_directly(kernel: tile.KernelOp, layouts: Mapping[tuple[str, ...], Layout]) -> dict[SSAValue, tile.StoreOp]:
    """The values computed where they are stored: used once, in their own type, in a buffer that is not read."""
    read = {op.buffer for op in loads_and_stores(kernel) if isinstance(op, tile.LoadOp)}
    found: dict[SSAValue, tile.StoreOp] = {}
    for op in loads_and_stores(kernel):
        if not isinstance(op, tile.StoreOp) or op.buffer in read:
            continue
        value, kind = op.value, cast(tile.BufferType, op.buffer.type)
        maker = value.owner
        if not isinstance(maker, tile.MapOp | tile.ReduceOp | tile.DotOp) or maker.parent is not op.parent:
            continue
        total = sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )
        linear = symbols.affine(total, kernel.ranks.names)
        if linear is None or any(c.could_extract_minus_sign() for c in linear[0].values()):
            continue
        names = tile.tile_type(value).names
        lanes = kernel.ranks.ordered(op.access.ranks)
        same = held(tile.tile_type(value).element_type) == dtype(kind.element_type)
        if value.uses.get_length() == 1 and same and set(lanes) == set(names) and names:
            found[value] = op
    return found
