"""What may be chosen of a package: for which targets and sizes, and how its kernels are made; checked when it is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..driver import Options, check_parameters
from ..errors import InvalidArgument
from ..ir.target import get_target
from .package import EXTRAS

REMAINDERS = ("eager", "kernels")  # where a package runs there is no Inductor


@dataclass(frozen=True)
class Choices:
    """Those arguments of `fusecade.export` that change a package.  Raises InvalidArgument for values that there are not."""

    targets: Sequence[str] = ("cpu",)
    dynamic: Mapping[Any, Mapping[int, str]] | None = None
    buckets: Sequence[Mapping[str, int]] = ()
    keep: Sequence[str] = ()
    tune: str = "off"
    fuse: str = "by_cost"
    remainder: str = "eager"
    skip: str = "by_cost"
    lazy: str = "off"
    parameters: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise InvalidArgument("a package needs a target", next_step="name one: targets=['cpu']")
        for name in self.keep:
            if name not in EXTRAS:
                raise InvalidArgument.choice("keep", name, EXTRAS)
        if self.remainder not in REMAINDERS:
            raise InvalidArgument.choice("remainder", self.remainder, REMAINDERS)
        bounds_of(self.buckets, self.names)
        for name in self.target_names:
            check_parameters(self.options(name), get_target(name))

    @property
    def target_names(self) -> list[str]:
        """Of the targets, each once."""
        return list(dict.fromkeys(get_target(name).name for name in self.targets))

    @property
    def names(self) -> set[str]:
        """Of the dynamic sizes."""
        return {name for sizes in (self.dynamic or {}).values() for name in sizes.values()}

    @property
    def bounds(self) -> list[dict[str, int]]:
        """Of each bucket."""
        return bounds_of(self.buckets, self.names)

    def options(self, target: str) -> Options:
        """Of the compiler, for one of the targets."""
        return Options(
            target,
            self.remainder,
            self.tune,
            self.fuse,
            skip=self.skip,
            lazy=self.lazy,
            parameters=self.parameters or {},
        )

    def to_json(self) -> dict[str, Any]:
        """All that decides what is built, but for what a function that is captured with them says itself: `dynamic`."""
        return {
            "targets": self.target_names, "buckets": self.bounds, "keep": sorted(set(self.keep)), "tune": self.tune,
            "fuse": self.fuse, "remainder": self.remainder, "skip": self.skip, "lazy": self.lazy,
            "parameters": dict(self.parameters or {}),
        }  # fmt: skip


def bounds_of(buckets: Sequence[Mapping[str, int]], names: set[str]) -> list[dict[str, int]]:
    """The bounds of each bucket; without buckets, one for all sizes.  Raises InvalidArgument."""
    found: list[dict[str, int]] = []
    for bucket in buckets:
        for name, size in bucket.items():
            if name not in names:
                raise InvalidArgument.choice("a size of a bucket", name, sorted(names))
            if isinstance(size, bool) or not isinstance(size, int) or size < 2:
                raise InvalidArgument(f"the size {name} of a bucket is {size!r}, and has to be an integer of 2 or more")
        bounds = {name: bucket[name] for name in sorted(bucket)}
        if found and any(bounds.get(n, 0) < most for n, most in found[-1].items()):
            raise InvalidArgument(
                f"the bucket {bounds} does not cover the one before it, {found[-1]}",
                next_step="give buckets from small to large, each with all the sizes",
            )
        found.append(bounds)
    return found or [{}]


__all__ = ["Choices", "bounds_of"]
