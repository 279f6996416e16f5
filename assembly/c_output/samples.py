"""Sizes to try a package at: those of its example, and others that show whether two expressions are one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ...errors import InvalidArgument, UnsupportedProgram
from ...runtime.package.manifest import Package
from ...runtime.package.signature import COMPARISONS, LEAST, Signature
from ...runtime.package.values import expression

_CANDIDATES = (96, 64, 128, 32, 48, 100, 33, 16, 17, 8, 256, 512, 1000, 1024, 2048, 4096, 7, 5, 4, 3, 2)
_MOST_TRIED = 20_000
_MOST_SAMPLES = 4


def samples(package: Package, example: Mapping[str, int] | None = None) -> list[tuple[int, ...]]:
    """A few assignments of the dynamic sizes, in their order, for which the function was compiled; the example's first.

    Raises InvalidArgument for an example that does not fit, UnsupportedProgram where none is found.
    """
    signature = package.signature
    names, holds = signature.sizes, _Holds(signature)
    found: list[tuple[int, ...]] = []
    if example is not None:
        if set(example) != set(names):
            raise InvalidArgument(f"the example has the sizes {sorted(example)}, and the function {sorted(names)}")
        found.append(tuple(example[name] for name in names))
        if not holds(found[0]):
            raise InvalidArgument(f"the function was not compiled for the sizes of the example, {dict(example)}")
    most = {name: min(b.upto.get(name, 4096) for b in _last_buckets(package)) for name in names}
    choices = [[n for n in _CANDIDATES if n <= most[name]] or [most[name]] for name in names]
    equal = (tuple(n for _ in names) for n in _CANDIDATES if all(n <= most[name] for name in names))
    for sizes in itertools.islice(itertools.chain(equal, itertools.product(*choices)), _MOST_TRIED):
        if len(found) == _MOST_SAMPLES:
            break
        if sizes not in found and holds(sizes):
            found.append(sizes)
    if not found:
        raise UnsupportedProgram(
            "no sizes were found for which the function was compiled: the example needs some",
            next_step=f"name them: example={{{', '.join(f'{name!r}: ...' for name in names)}}}",
        )
    return found


def _last_buckets(package: Package):
    return [target.buckets[-1] for target in package.targets.values()]


class _Holds:
    """Whether the function was compiled for some sizes."""

    def __init__(self, signature: Signature) -> None:
        names = signature.sizes
        self._relations = [
            (COMPARISONS[sign], expression((left, right), names, text))
            for text, sign, left, right in signature.relations
        ]

    def __call__(self, sizes: tuple[int, ...]) -> bool:
        return all(n >= LEAST for n in sizes) and all(sign(*sides(sizes)) for sign, sides in self._relations)
