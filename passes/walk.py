"""How a kernel's ranks are walked: the record that scheduling decides and lowering obeys."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.tile import TileRanks


@dataclass(frozen=True)
class Walk:
    """Roles of all ranks, the grid order (outermost first), and the binding of the tile parameters.

    low_precision_dots: multiply 16-bit operands as they are (tensor cores), accumulating in fp32; otherwise widen first.
    """

    table: TileRanks
    grid: tuple[str, ...]
    params: dict[str, int]
    low_precision_dots: bool = True
