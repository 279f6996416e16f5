"""Order of operations in a block: definition before use, which rewriting does not keep by itself."""

from __future__ import annotations

from xdsl.ir import Block, Operation


def sort_block(block: Block) -> None:
    """Restore definition before use, keeping the order otherwise."""
    placed: set[Operation] = set()
    order: list[Operation] = []

    def visit(op: Operation) -> None:
        stack = [(op, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                order.append(current)
                continue
            if current in placed or current.parent_block() is not block:
                continue
            placed.add(current)
            stack.append((current, True))
            stack.extend((o.owner, False) for o in reversed(current.operands) if isinstance(o.owner, Operation))

    for op in list(block.ops):
        visit(op)
    for op in order:
        op.detach()
    block.add_ops(order)
