"""Tile sizes for a kernel whose programs have equal shares of the steps of all tiles, each with its price."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir import tile
from ..ir.attributes import AccessMap
from ..ir.cascade import KernelOp
from .algebra.forms import Refused
from .census import Census, Work
from .closed_tiles import ALL, NEVER
from .cost import Price, price
from .emit_tiles import emit_tiles
from .kernel_shape import KernelShape, parameter
from .share_of_steps import most_pieces, shares_of
from .walk import LoopOptions, Shares, Walk

BINDINGS = 64  # tile sizes that are priced, of each walk
TILES = 1 << 16  # tiles of a grid whose shares are counted one by one
LONGEST_ROW = 4096  # tiles whose steps a program counts to find its own


@dataclass(frozen=True)
class ShareBinding:
    """One binding of a walk's parameters.  kernel: with other parameters yet, one for all bindings of a walk.

    pieces: into how many a tile is cut at most.
    """

    kernel: tile.KernelOp
    walk: Walk
    params: tuple[tuple[str, int], ...]
    work: Work
    price: Price
    pieces: int
    roles: tuple[tuple[str, str], ...]


def share_bindings(
    kernel: KernelOp,
    shape: KernelShape,
    shares: Shares,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    programs: int,
    options: LoopOptions,
    shortest: int,
) -> list[ShareBinding] | Refused:
    """Bindings that fit, for at most so many programs with at least `shortest` elements of the streamed rank each.

    kernel: the half of a split that computes the states of parts; shape: what its walks may be.
    """
    if shape.cpu:
        return Refused("a program on the CPU is one tile: its workers take the next one when they are free")
    if not all(e.is_Integer for r, e in shape.extents.items() if r != shares.part):
        return Refused("equal shares of steps need sizes that are known")
    found: list[ShareBinding] = []
    reasons: list[str] = []
    if shape.bands:
        return Refused("a band of rows follows from where a program is, and shares begin anywhere")
    pinned = options.pinned
    for roles in shape.variants():
        if pinned is not None and dict(pinned.roles) != roles:
            continue
        names = [*shape.parameters(roles), shares.count, shares.each]
        skip = ALL if options.skip == "always" else NEVER
        walk = Walk(
            shape.table(roles),
            shape.grid(roles),
            dict.fromkeys(names, 1) | {"num_warps": 4, "num_stages": 2},
            parts=shares,
            vector_dots=shape.vectors,
            skip=skip,
            lazy=options.lazy,
        )
        emitted = emit_tiles(kernel, walk, inputs, outputs)
        if isinstance(emitted, Refused) or emitted.share is None:
            reasons.append(emitted.reason if isinstance(emitted, Refused) else f"{shares.rank} is not streamed")
            continue
        choices = shape.choices(roles)
        if pinned is not None:
            choices = pinned.narrow(choices)
            if choices is None:
                return Refused("a value is none that its parameter may take")
        tiles = {n: v for n, v in choices.items() if n in names}
        launches = {n: v for n, v in choices.items() if n not in names}
        counted: dict[int, Census] = {}
        for values in itertools.islice(itertools.product(*tiles.values()), BINDINGS):
            sizes = {**walk.params, **dict(zip(tiles, values, strict=True))}
            cut = shares_of(emitted, {**shape.sizes, **sizes})
            each = max(1, -(-cut.steps // programs))
            pieces = most_pieces(replace(cut, each=each))
            if cut.tiles > TILES or len(cut.row) > LONGEST_ROW or each * sizes[parameter(shares.rank)] < shortest:
                reasons.append("shares are too many, or too short")
                continue
            if pieces not in counted:
                counted[pieces] = Census(emitted, {**shape.sizes, shares.count: pieces}, 2 * shape.target.sms)
            sizes |= {shares.count: pieces, shares.each: each}
            work = counted[pieces].count(sizes)
            for launch in itertools.product(*launches.values()):
                params = {**sizes, **dict(zip(launches, launch, strict=True))}
                p = price(work, shape.target, params["num_warps"], params["num_stages"])
                if p.fits:
                    found.append(
                        ShareBinding(
                            emitted, walk, tuple(sorted(params.items())), work, p, pieces, tuple(roles.items())
                        )
                    )
    return found or Refused("; ".join(dict.fromkeys(reasons)) or "no tile sizes fit the target's registers and memory")
