"""Scratch tensors of a printed torch function."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ..ir import tile
from .text import hint
from .torch_indices import Indices
from .torch_layouts import Layout, Scope, Slot, Value, align, held, names_of


class Scratch(Indices):
    """Scratch tensors and the values that lie in them: taken, reused in place, given back."""

    def __init__(self, kernel: tile.KernelOp):
        super().__init__(kernel)
        self.values: dict[SSAValue, Value] = {}
        self.roots: dict[SSAValue, SSAValue] = {}  # a value that is another's storage under a new name -> that one
        self.owner: dict[int, SSAValue] = {}  # id of a slot -> the value that lies in it
        self.free: dict[tuple[tuple[str, ...], str], list[Slot]] = {}
        self.program = Scope(2)
        self.scopes: list[Scope] = [self.program]
        self.counter = 0

    def scratch(self, names: tuple[str, ...], dtype_: str) -> Slot:
        """A slot that is not in use."""
        pool = self.free.setdefault((names, dtype_), [])
        if pool:
            return self.touch(pool.pop(0))
        var = self.names.fresh(f"t{self.counter}")
        self.counter += 1
        base = var if all(self.even(self.ranks[n]) for n in names) else self.names.fresh(f"whole_{var}")
        slot = Slot(names, dtype_, var, base)
        dims = ", ".join("1" if d is None else self.most(d) for d in self.layouts[names])
        dims = f"({dims},)" if len(self.layouts[names]) == 1 else f"({dims})"
        self.head.add(f"{base} = torch.empty({dims}, dtype={dtype_})")
        return self.touch(slot)

    def touch(self, slot: Slot) -> Slot:
        """Note that a slot is used here, so that it is cut where the lengths of its ranks are known."""
        if slot.var != slot.base:
            names = {*slot.names, *(s.name for n in slot.names for s in self.ranks.sides(self.ranks[n]))}
            scope = next((s for s in reversed(self.scopes) if s.rank in names), self.program)
            scope.slots.setdefault(slot.var, slot)
        return slot

    def opening(self, scope: Scope) -> list[str]:
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

    def give(self, slot: Slot) -> None:
        pool = self.free.setdefault((slot.names, slot.dtype), [])
        if slot not in pool:
            pool.append(slot)
            pool.sort(key=lambda s: s.var)

    def define(self, op: Operation, scope: Scope, text: str, slot: Slot | None, layout: Layout) -> None:
        name = self.names.fresh(hint(op))
        self.values[op.results[0]] = Value(name, layout, tile.tile_type(op.results[0]).element_type, slot)
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
        want = [d if d in names_of(known.layout) else None for d in order]
        while want and want[0] is None:
            del want[0]
        return align(known.text, known.layout, tuple(want))
