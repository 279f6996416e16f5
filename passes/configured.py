"""configured: the walks and parameters that a tuner may choose of a kernel, and the kernel in any of these points.

    space = tuning_space(kernel, target, inputs, outputs, sizes, options)     # names, values, prices
    scheduled_as(kernel, target, inputs, outputs, sizes, options, variant, values) -> Scheduled | Refused

A *variant* is a walk that scheduling looks at, and its name says everything about it: the roles of ranks, and into how many
parts or shares the streamed rank is cut.  Each has parameters (sizes of tiles, warps, stages, switches) with a few values.

A configured kernel is scheduled anew with all choices taken but one: loops that tile sizes leave idle, masks and bounds
follow from the parameters, and so do the prices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import InvalidArgument
from ..ir import tile
from ..ir.attributes import AccessMap
from ..ir.cascade import KernelOp
from ..ir.launch import LAUNCH_PARAMETERS, available, checked
from ..ir.target import Target
from .algebra.forms import Refused
from .census import Census, Work
from .cost import Price, price_with
from .emit_tiles import emit_tiles
from .kernel_shape import KernelShape
from .schedule import (
    MOST_PARTS,
    PRICED,
    SHORTEST_PART,
    part_counts,
    schedule_kernel,
    schedule_parts,
    schedule_shares,
    schedule_whole,
    share_counts,
    single_steps,
)
from .scheduled import Scheduled
from .walk import LoopOptions, Pinned, Shares

Outputs = Sequence[tuple[tile.BufferType, AccessMap]]
Choices = Mapping[str, Sequence[int]]
_PARTS = re.compile(r"(?P<roles>.*), (?P<rank>\w+) in (?P<count>\d{1,4}) parts")
_SHARES = re.compile(r"(?P<roles>.*), (?P<count>\d{1,5}) shares of (?P<rank>\w+)")


def _choices_of(scheduled: Scheduled) -> Choices:
    return dict(scheduled.choices)


@dataclass(frozen=True)
class _Way:
    """A walk by its name: roles, and how the streamed rank is cut, if it is."""

    roles: tuple[tuple[str, str], ...]
    rank: str = ""
    parts: int = 0
    shares: int = 0

    @property
    def name(self) -> str:
        roles = ", ".join(f"{rank} {role}" for rank, role in self.roles)
        if self.shares:
            return f"{roles}, {self.shares} shares of {self.rank}"
        return f"{roles}, {self.rank} in {self.parts} parts" if self.parts else roles

    @staticmethod
    def read(name: str) -> _Way | Refused:
        found = _PARTS.fullmatch(name) or _SHARES.fullmatch(name)
        pairs = [tuple(pair.split(" ")) for pair in (found["roles"] if found else name).split(", ")]
        if not all(len(pair) == 2 for pair in pairs):
            return Refused(f"{name!r} is no walk")
        roles = tuple((rank, role) for rank, role in pairs)
        if found is None:
            return _Way(roles)
        count = int(found["count"])
        return _Way(roles, found["rank"], **{"parts" if found.re is _PARTS else "shares": count})


def name_of(scheduled: Scheduled, shares: int = 0) -> str:
    """The name of a schedule's walk.  shares: for how many programs it was asked, where steps are in equal shares."""
    merge = scheduled.merge
    if merge is None:
        return _Way(scheduled.roles).name
    rank = merge.split.rank
    return (_Way(scheduled.roles, rank, shares=shares) if merge.each else _Way(scheduled.roles, rank, merge.parts)).name


def scheduled_as(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Outputs,
    sizes: Mapping[str, int] | None,
    options: LoopOptions | None,
    variant: str,
    values: Mapping[str, int],
) -> Scheduled | Refused:
    """The kernel with exactly this walk and these parameters.  Refused, with the reason, where they are none of its own."""
    options = options or LoopOptions()
    way = _Way.read(variant)
    if isinstance(way, Refused):
        return way
    given = dict(options.launch)
    for name, value in values.items():
        if name in LAUNCH_PARAMETERS and name not in available(target):
            return Refused(f"{target.name} has no launch parameter {name}")
        if name in given and given[name] != value:
            return Refused(f"{name} is {value}, and the caller chose {given[name]}")
    switches = {n: v for n, v in values.items() if n in LAUNCH_PARAMETERS and n not in PRICED and (v or n in given)}
    try:
        launch = checked({**given, **switches})
    except InvalidArgument as error:
        return Refused(error.message)
    pinned = Pinned(way.roles, tuple((n, v) for n, v in values.items() if n not in switches))
    found = _schedule(kernel, target, inputs, outputs, sizes, replace(options, launch=launch, pinned=pinned), way)
    if isinstance(found, Refused):
        return Refused(f"{variant} with {dict(values)}: {found.reason}")
    unknown = [n for n in values if n not in found.kernel.parameters and n not in LAUNCH_PARAMETERS]
    if unknown:
        return Refused(f"the walk {variant} has no parameter {unknown[0]}")
    if values.get("persistent", 0) > found.work.programs:
        return Refused(f"persistent is {values['persistent']}, and there are {found.work.programs} programs")
    return found


def _schedule(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Outputs,
    sizes: Mapping[str, int] | None,
    options: LoopOptions,
    way: _Way,
) -> Scheduled | Refused:
    if not way.rank:
        return schedule_whole(kernel, target, inputs, outputs, sizes, options=options)
    if way.rank != kernel.streamed:
        return Refused(f"{way.rank} is not the rank that is streamed")
    if way.parts:
        if not 1 < way.parts <= MOST_PARTS:
            return Refused(f"{way.parts} parts")
        return schedule_parts(kernel, target, inputs, outputs, sizes, way.parts, options)
    if way.shares not in (target.sms, 2 * target.sms):
        return Refused(f"{way.shares} shares for {target.sms} multiprocessors")
    return schedule_shares(kernel, target, inputs, outputs, sizes, way.shares, options, SHORTEST_PART)


# --- the space ------------------------------------------------------------------------------------------------------


@dataclass
class TuningSpace:
    """Walks by name, the default first, each with its parameters and their values, the default ones first."""

    target: Target
    variants: dict[str, dict[str, tuple[int, ...]]]
    ways: dict[str, _Priced]

    def predict(self, variant: str, values: Mapping[str, int]) -> Price | None:
        """Of the whole call; None where the parameters do not fit the target."""
        return self.ways[variant].price(values)


def tuning_space(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Outputs,
    sizes: Mapping[str, int] | None,
    options: LoopOptions | None = None,
    choices_of: Callable[[Scheduled], Choices] = _choices_of,
    default: Scheduled | None = None,
) -> TuningSpace | Refused:
    """What may be chosen of a kernel.

    choices_of: the choices of a schedule, where a printer knows of more than scheduling does.  default: the
    kernel as scheduled without a tuner, if it is.  Launch parameters that the options give are not to be chosen.
    """
    options = options or LoopOptions()
    made = default or schedule_kernel(kernel, target, inputs, outputs, sizes, options=options)
    if isinstance(made, Refused):
        return made
    default = made
    whole = schedule_whole(kernel, target, inputs, outputs, sizes, options=options)
    if isinstance(whole, Refused):
        return whole
    found: dict[str, Scheduled] = {}
    if default.merge is None or not default.merge.each:
        found[name_of(default)] = default
    found.setdefault(name_of(whole), whole)
    for roles in KernelShape(kernel, target, dict(sizes or {})).variants():
        pinned = Pinned(tuple(roles.items()))
        if _Way(pinned.roles).name not in found:
            _add(
                found,
                schedule_whole(kernel, target, inputs, outputs, sizes, options=replace(options, pinned=pinned)),
            )
    for count in (*part_counts(kernel, target, whole, sizes), *single_steps(kernel, target, whole, sizes)):
        _add(found, schedule_parts(kernel, target, inputs, outputs, sizes, count, options))
    if not options.launch and whole.before is None:
        for count in share_counts(target, whole):
            _add(
                found,
                schedule_shares(kernel, target, inputs, outputs, sizes, count, options, SHORTEST_PART),
                count,
            )
    first = name_of(default)
    if default.merge is not None and default.merge.each:  # for which of the counts, its parameters tell
        first = next((n for n, s in found.items() if s.space[:1] == default.space[:1]), first)
    names = [first, *(n for n in found if n != first)] if first in found else list(found)
    ways = {n: _Priced.of(found[n], kernel, target, inputs, dict(sizes or {})) for n in names}
    given = {n for n, _ in options.launch}
    variants: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in names:
        chosen = found[name].kernel.parameters
        choices = choices_of(found[name]) if found[name].choices else ways[name].values
        variants[name] = {
            n: tuple(dict.fromkeys((chosen.get(n, values[0]), *values)))
            for n, values in choices.items()
            if n not in given
        }
    return TuningSpace(target, variants, ways)


def _add(found: dict[str, Scheduled], scheduled: Scheduled | Refused, shares: int = 0) -> None:
    if isinstance(scheduled, Scheduled):
        found.setdefault(name_of(scheduled, shares), scheduled)


@dataclass
class _Priced:
    """The prices of a walk's bindings.

    more_us: of the kernels around it.  rows: of equal shares, where a binding changes what is cut, the prices that
    scheduling has found.
    """

    scheduled: Scheduled
    target: Target
    shape: KernelShape
    emitted: tile.KernelOp | None
    more_us: float
    rows: dict[tuple[tuple[str, int], ...], float]
    counted: dict[tuple[tuple[str, int], ...], Work] = field(default_factory=dict)
    census: Census | None = None

    @staticmethod
    def of(
        s: Scheduled, kernel: KernelOp, target: Target, inputs: Sequence[tile.BufferType], sizes: dict[str, int]
    ) -> _Priced:
        cascade, given, parts = kernel, list(inputs), s.walk.parts
        if s.merge is not None:
            cascade, given = s.merge.split.partial, [inputs[n] for n in s.merge.split.reads]
        if s.before is not None:
            cascade, given = s.before.found.walk, [*given, *s.before.states]
        counts = (parts, s.merge.parts) if parts is not None and s.merge is not None else None
        shape = KernelShape(cascade, target, sizes, counts)
        if isinstance(parts, Shares):
            fixed = {parts.count, parts.each}
            rows = {tuple((n, v) for n, v in row if n not in fixed): us for row, us in s.space}
            return _Priced(s, target, shape, None, 0.0, rows)
        emitted = emit_tiles(cascade, s.walk, given, s.outputs)
        kept = emitted if not isinstance(emitted, Refused) else s.kernel
        return _Priced(s, target, shape, kept, s.us - s.price.us, {})

    @property
    def values(self) -> dict[str, list[int]]:
        """Of each parameter the values that some priced binding has."""
        found: dict[str, list[int]] = {}
        for row in self.rows:
            for name, value in row:
                if value not in found.setdefault(name, []):
                    found[name].append(value)
        return found

    def price(self, values: Mapping[str, int]) -> Price | None:
        if self.emitted is None:
            us = self.rows.get(tuple(sorted(values.items())))
            return None if us is None else replace(self.scheduled.price, us=us)
        params = {**self.scheduled.kernel.parameters, **values}
        key = tuple((n, v) for n, v in sorted(values.items()) if n not in LAUNCH_PARAMETERS)
        if key not in self.counted:
            if self.census is None:
                self.census = Census(self.emitted, self.shape.sizes, 2 * self.target.sms)
            self.counted[key] = self.census.count(params)
        p = price_with(self.counted[key], self.target, params)
        if not p.fits:
            return None
        return replace(p, us=p.us * self.shape.unevenness(params, self.shape.sizes) + self.more_us)


__all__ = ["TuningSpace", "name_of", "scheduled_as", "tuning_space"]
