"""What one call of `fusecade tune` is to tune: programs, each for some sets of shapes and some targets, as plain data.

fusecade tune model.py:attend --case "8,1024,64 8,1024,64 8,1024,64" --case "8,4096,64 8,4096,64 8,4096,64"
fusecade tune programs.toml

[[program]]                             # programs.toml
function = "model.py:attend"            # a file is looked for beside this one
cases = ["8,1024,64 8,1024,64 8,1024,64", "8,4096,64 8,4096,64 8,4096,64"]
dtype = "f16"                           # these are optional: what the command line says goes for the others
factory = false
fuse = "by_cost"
parameters = { num_warps = 8 }
targets = ["sm_90"]
"""

from __future__ import annotations

import tomllib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, UserError
from ..ir.target import get_target
from .program import Shape, arguments, check_arguments, dtype_name, find_function, parameters, shapes_of

if TYPE_CHECKING:
    from ..api import Tuning
    from ..environment import Environment

FUSING = ("by_cost", "always")
SEARCH = ("mode", "sampler", "trials", "seconds", "seed", "offline", "resume")


@dataclass(frozen=True)
class Job:
    """One program for one set of shapes on one target.

    program: `module:function` or `file.py:function`.  shapes: as `Shape.read` has them.  parameters: of all launches.
    target: None for what is in the machine.  search: the arguments of `api.tune` that say how to search.
    """

    program: str
    shapes: tuple[str, ...] = ()
    dtype: str = "f32"
    factory: bool = False
    fuse: str = "by_cost"
    parameters: tuple[tuple[str, int], ...] = ()
    target: str | None = None
    search: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.program, *self.shapes, self.dtype, *([self.target] if self.target else [])])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        pairs = {name: tuple((str(n), v) for n, v in data[name]) for name in ("parameters", "search")}
        return cls(**{**data, **pairs, "shapes": tuple(data["shapes"])})

    def resolved(self) -> tuple[Callable[..., Any], list[Any], dict[int | str, dict[int, str]]]:
        """The function, meta tensors for its arguments, and what is dynamic about them.  Raises InvalidArgument."""
        function = _function(self.program, self.factory)
        tensors, dynamic = arguments([Shape.read(text, self.dtype) for text in self.shapes])
        check_arguments(function, self.program, tensors)
        return function, tensors, dynamic

    def check(self) -> None:
        """Raises InvalidArgument for what need not be built to be seen wrong."""
        if self.factory:
            find_function(self.program)
        else:
            self.resolved()

    def tune(self, environment: Environment | None = None, **callbacks: Any) -> Tuning:
        """Raises as `api.tune` does."""
        from .. import api

        function, tensors, dynamic = self.resolved()
        return api.tune(
            function, *tensors, target=self.target, dynamic=dynamic or None, fuse=self.fuse,
            parameters=dict(self.parameters), environment=environment, **dict(self.search), **callbacks,
        )  # fmt: skip

    @property
    def place(self) -> Path | None:
        """The file that the program is in; None for a module."""
        path = Path(self.program.rpartition(":")[0])
        return path if path.suffix == ".py" or "/" in str(path) else None

    def at(self, path: Path) -> Job:
        """The same with its program's file named in another way."""
        return replace(self, program=f"{path}:{self.program.rpartition(':')[2]}")


@lru_cache(maxsize=1)  # the cases of a program come one after another, and a model may be large
def _function(program: str, factory: bool) -> Callable[..., Any]:
    return find_function(program, factory)


def jobs_of(chosen: Namespace) -> list[Job]:
    """All of a command line, in order.  Raises InvalidArgument."""
    search = tuple((name, getattr(chosen, "budget" if name == "seconds" else name)) for name in SEARCH)
    usual = Job(
        chosen.program, (), chosen.dtype, chosen.factory, chosen.fuse, tuple(parameters(chosen.parameter).items()),
        None, search,
    )  # fmt: skip
    targets = tuple(chosen.target or ())
    if chosen.program.endswith(".toml"):
        if chosen.shape or chosen.case:
            raise InvalidArgument(
                f"{chosen.program} says which shapes its programs take", next_step="leave out --shape and --case"
            )
        return read_jobs(Path(chosen.program), usual, targets)
    cases = [tuple(chosen.shape)] if chosen.shape or not chosen.case else []
    return _product(usual, [*cases, *map(shapes_of, chosen.case)], targets)


def read_jobs(path: Path, usual: Job, targets: tuple[str, ...] = ()) -> list[Job]:
    """The programs of a TOML file.  usual, targets: what goes where it says nothing.  Raises InvalidArgument."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be read: {error.strerror}", next_step="give a file that is there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} is no TOML: {error}", next_step="correct that line") from error
    programs = data.get("program")
    if set(data) != {"program"} or not isinstance(programs, list) or not programs:
        raise InvalidArgument(
            f"{path} has {', '.join(sorted(data)) or 'nothing'} where it should have programs, and nothing else",
            next_step="write each program as a table [[program]] with function = ... and cases = [...]",
        )
    return [job for n, entry in enumerate(programs) for job in _entry(path, n, entry, usual, targets)]


def _entry(path: Path, n: int, entry: Any, usual: Job, targets: tuple[str, ...]) -> list[Job]:
    def wrong(what: str) -> InvalidArgument:
        return InvalidArgument(
            f"{path}, program {n + 1}: {what}", next_step="correct it; `docs/tuning.md` has an example"
        )

    if not isinstance(entry, dict) or not isinstance(entry.get("function"), str):
        raise wrong("it names no function")
    kinds = {
        "function": str, "cases": list, "dtype": str, "factory": bool, "fuse": str, "parameters": dict, "targets": list,
    }  # fmt: skip
    for name, value in entry.items():
        if name not in kinds:
            raise InvalidArgument.choice(f"{path}, program {n + 1}: a key", name, kinds)
        if not isinstance(value, kinds[name]):
            raise wrong(f"{name} = {value!r} is of another kind than {kinds[name].__name__}")
    cases, own = entry.get("cases", [""]), entry.get("targets", list(targets))
    if not cases or not all(isinstance(text, str) for text in [*cases, *own]):
        raise wrong("cases and targets are lists of texts")
    if entry.get("fuse", usual.fuse) not in FUSING:
        raise wrong(f"fuse is {entry['fuse']!r}, which is not one of: {', '.join(FUSING)}")
    given = entry.get("parameters", {})
    if any(type(value) not in (int, bool) for value in given.values()):
        raise wrong(f"parameters = {given} are not all numbers, true or false")
    program = entry["function"]
    if (place := Job(program).place) is not None and not place.is_absolute():
        program = f"{path.parent / place}:{program.rpartition(':')[2]}"
    try:
        job = replace(
            usual, program=program, dtype=dtype_name(entry.get("dtype", usual.dtype)),
            factory=entry.get("factory", usual.factory), fuse=entry.get("fuse", usual.fuse),
            parameters=tuple(given.items()) or usual.parameters,
        )  # fmt: skip
        return _product(job, [shapes_of(text) for text in cases], tuple(get_target(text).name for text in own))
    except UserError as error:
        raise wrong(error.message) from error


def _product(job: Job, cases: list[tuple[str, ...]], targets: tuple[str, ...]) -> list[Job]:
    """Raises InvalidArgument for shapes that are none."""
    for case in cases:
        for text in case:
            Shape.read(text, job.dtype)
    return [replace(job, shapes=case, target=target) for target in targets or (None,) for case in cases]
