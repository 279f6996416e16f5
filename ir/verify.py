"""Verification after every pass: what each op checks of itself, and that values are defined before they are used.

xDSL checks the first, not the second.
"""

from __future__ import annotations

from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsolatedFromAbove
from xdsl.utils.exceptions import VerifyException


def verify(op: Operation) -> None:
    """Raise VerifyException when `op`, or anything nested in it, is not a valid program."""
    op.verify()
    for region in op.regions:
        for block in region.blocks:
            _check_block(block, set())


def _check_block(block: Block, visible: set[SSAValue]) -> None:
    visible = visible | set(block.args)
    for op in block.ops:
        for operand in op.operands:
            if operand not in visible:
                name = f"%{operand.name_hint}" if operand.name_hint else "a value"
                raise VerifyException(f"{op.name} uses {name} before it is defined, or from outside its scope")
        inner = set() if op.has_trait(IsolatedFromAbove) else visible
        for region in op.regions:
            for nested in region.blocks:
                _check_block(nested, inner)
        visible.update(op.results)
