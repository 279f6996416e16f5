"""Which results of a tile kernel may be written where one of its inputs stands.

When: both have one layout, and every load of the input and every store of the result go to the same elements.

Why legal: an access that names every grid rank gives each element to one program, and each step of a loop that it names
has elements of its own; what that program reads there, it reads before it writes, since each load comes before the store.
"""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from ..ir import tile


def in_place(kernel: tile.KernelOp) -> tuple[tuple[int, int], ...]:
    """(result, input) pairs, by position among the written and the read arguments."""
    order = {op: n for n, op in enumerate(kernel.walk())}
    return tuple(
        (r, n)
        for r, result in enumerate(kernel.written)
        for n, operand in enumerate(kernel.inputs)
        if operand.type == result.type and _same_elements(kernel, operand, result, order)
    )


def _same_elements(kernel: tile.KernelOp, operand: SSAValue, result: SSAValue, order: dict[Operation, int]) -> bool:
    loads, stores = ([use.operation for use in value.uses] for value in (operand, result))
    if len(stores) != 1 or not isinstance(stores[0], tile.StoreOp):
        return False
    (store,) = stores
    names = set(store.access.ranks)
    return (
        set(kernel.grid_ranks) <= names
        and _loops(store) <= names
        and all(
            isinstance(load, tile.LoadOp)
            and load.access == store.access
            and load.checked is None
            and order[load] < order[store]
            for load in loads
        )
    )


def _loops(op: Operation) -> set[str]:
    found, around = set(), op.parent_op()
    while around is not None:
        if isinstance(around, tile.ForOp):
            found.add(around.rank.data)
        around = around.parent_op()
    return found
