"""What comes with the package: decisions for each target in `autotune/defaults/TARGET.jsonl`, files that `export` wrote.

They are asked for after the user's own cache: the same kernel on such a device, then for near sizes, then on the nearest
other device of the same maker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import FusecadeError
from ..records import Key, Place, Versions
from .contents import Contents, read_file
from .decision import Decision
from .nearest import WITHIN, device_distance, distance, nearest

FOLDER = Path(__file__).parent.parent / "defaults"
Report = Callable[[str], None]


class Packaged:
    """The files of a folder, each read when it is first needed.  report: is told of a file that cannot be used."""

    def __init__(self, folder: Path = FOLDER, report: Report = lambda what: None) -> None:
        self.folder, self._report = folder, report
        self._read: dict[str, Contents] = {}
        self._families: dict[str, dict[str, list[Decision]]] = {}

    def targets(self) -> list[str]:
        try:
            return sorted(path.stem for path in self.folder.glob("*.jsonl"))
        except OSError:
            return []

    def lookup(self, key: Key, versions: Versions, within: float = WITHIN) -> Decision | None:
        mine = self._family(key.place.target, key.family)
        for decision in mine:
            if decision.key == key:
                return decision.seen_from("packaged", versions)
        if found := nearest(key, mine, within):
            return found[1].seen_from("packaged", versions, found[0])
        return self._other_device(key, versions, within)

    def _other_device(self, key: Key, versions: Versions, within: float) -> Decision | None:
        """The decision of the nearest device; of equally near ones, that for the nearest sizes."""
        near: list[tuple[tuple[float, ...], Decision]] = []
        for target in self.targets():
            if device_distance(key.place, replace(key.place, target=target)) is None:
                continue
            for place in self._places(target):
                apart = device_distance(key.place, place)
                if place == key.place or apart is None:
                    continue
                for decision in self._family(target, replace(key, place=place).family):
                    far = distance(key.sizes, decision.key.sizes)
                    if far == 0 or (far <= within and decision.kind == "measured"):
                        near.append(((apart[0], far, *apart[1:]), decision))
        if not near:
            return None
        (_, far, *_), decision = min(near, key=lambda entry: (entry[0], entry[1].key.sizes, entry[1].key.digest))
        return decision.seen_from("packaged", versions, far, _named(decision.key.place))

    def _places(self, target: str) -> list[Place]:
        contents = self._contents(target)
        return sorted({d.key.place for d in contents.decisions.values()}, key=repr)

    def _family(self, target: str, family: str) -> list[Decision]:
        self._contents(target)
        return self._families.get(target, {}).get(family, [])

    def _contents(self, target: str) -> Contents:
        if target not in self._read:
            self._read[target] = self._load(target)
            families: dict[str, list[Decision]] = {}
            for decision in self._read[target].decisions.values():
                families.setdefault(decision.key.family, []).append(decision)
            self._families[target] = families
        return self._read[target]

    def _load(self, target: str) -> Contents:
        path = self.folder / f"{target}.jsonl"
        if "/" in target or not path.is_file():
            return Contents()
        try:
            return read_file(path)
        except FusecadeError as error:
            self._report(f"the packaged defaults {path} are left out: {error.message}")
            return Contents()


def _named(place: Place) -> str:
    return f"{place.target} with {place.sms} SMs and {place.memory_bytes / 1e9:.0f} GB"
