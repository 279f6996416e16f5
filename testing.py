"""`fusecade.testing`: count the bytes that a Triton kernel really moves, by running it under Triton's interpreter.

    count = fusecade.testing.count_io(kernel, *args)          # a kernel made by fusecade.compile
    count = count_io_of_launch(lambda: my_kernel[grid](...))  # any Triton kernel
    count = count_io_of_launch(launch, programs=64)           # an estimate, for grids of millions
    count.load_bytes, count.loads_by_pointer_arg["k_ptr"], count.passes("k_ptr")

A byte counts once for each load of a tile that has it in an active lane (mask true), and for each active lane of a store
or an atomic: what goes between L2 and the SMs if no load is merged with another one, which is what the cost model predicts.

Triton decides when it is imported whether kernels are interpreted: set TRITON_INTERPRET=1 before that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Protocol

import numpy as np

from .errors import InvalidArgument, UserError
from .runtime.interpreted import quick_reductions

OUTSIDE = "(outside)"  # the name of the bytes that lie in no tensor which was passed: an access out of bounds

Program = tuple[int, int, int]


@dataclass
class LaunchIO:
    """One launch. Names are those of the kernel's pointer arguments; "a|b" where two of them are the same memory.

    programs_run: how many programs of the grid were run. Where these are fewer than the grid has, the loads and stores
    by pointer argument are those of the programs that ran, scaled to the grid; all else is of the programs that ran.
    """

    kernel: str
    grid: Program = (0, 0, 0)
    programs_run: int = 0
    loads_by_pointer_arg: Counter[str] = field(default_factory=Counter)
    stores_by_pointer_arg: Counter[str] = field(default_factory=Counter)
    loads_by_program: Counter[Program] = field(default_factory=Counter)
    stores_by_program: Counter[Program] = field(default_factory=Counter)
    distinct_loads_by_pointer_arg: Counter[str] = field(default_factory=Counter)
    distinct_stores_by_pointer_arg: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class IOCount:
    """The bytes that were moved, in all launches and in each."""

    launches: tuple[LaunchIO, ...]

    @property
    def load_bytes(self) -> int:
        return sum(self.loads_by_pointer_arg.values())

    @property
    def store_bytes(self) -> int:
        return sum(self.stores_by_pointer_arg.values())

    @property
    def loads_by_pointer_arg(self) -> Mapping[str, int]:
        return _total(launch.loads_by_pointer_arg for launch in self.launches)

    @property
    def stores_by_pointer_arg(self) -> Mapping[str, int]:
        return _total(launch.stores_by_pointer_arg for launch in self.launches)

    @property
    def distinct_loads_by_pointer_arg(self) -> Mapping[str, int]:
        """Bytes that were read at least once, per launch: what a perfect cache would bring in."""
        return _total(launch.distinct_loads_by_pointer_arg for launch in self.launches)

    @property
    def distinct_stores_by_pointer_arg(self) -> Mapping[str, int]:
        return _total(launch.distinct_stores_by_pointer_arg for launch in self.launches)

    def passes(self, pointer_arg: str) -> float:
        """How often, on average, a byte that was read through this argument was read; of a count of all programs."""
        distinct = self.distinct_loads_by_pointer_arg.get(pointer_arg, 0)
        return self.loads_by_pointer_arg[pointer_arg] / distinct if distinct else 0.0


def _total(counters: Iterable[Counter[str]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


class LaunchableForTesting(Protocol):
    def launch_for_testing(self, *args: Any, **kwargs: Any) -> Callable[[], object]: ...


def count_io(kernel: LaunchableForTesting, *args: object) -> IOCount:
    """Run a compiled Fusecade kernel on the arguments under Triton's interpreter, and count.

    The kernel object gives `launch_for_testing(*args)`: a closure without arguments that allocates outputs and
    workspaces as the kernel's own launcher does, and launches every Triton kernel of the program once.
    """
    return count_io_of_launch(kernel.launch_for_testing(*args))


def count_io_of_launch(launch: Callable[[], object], *, programs: int | None = None) -> IOCount:
    """Call `launch()`, which launches one or more interpreted Triton kernels, and count what they moved.

    programs: run at most so many of each grid, spread evenly over it, and scale the counts. Exact where all programs
    move the same, close where they do not; what the kernels compute is then incomplete.
    """
    with counting_io(programs) as launches:
        launch()
    if not launches:
        raise UserError(
            "the function launched no Triton kernel that the interpreter ran",
            next_step="set TRITON_INTERPRET=1 before Triton and the kernels are imported, and launch one in it",
        )
    return IOCount(tuple(launches))


@contextmanager
def counting_io(programs: int | None = None) -> Iterator[list[LaunchIO]]:
    """As a context manager: the list grows by one `LaunchIO` with each launch inside the block."""
    if programs is not None and programs < 1:
        raise InvalidArgument(f"programs must be at least 1, not {programs}")
    interpreter = _interpreter()
    builder = interpreter.interpreter_builder
    recorder = _Recorder(builder)
    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store
    atomic_rmw, atomic_cas = builder.create_atomic_rmw, builder.create_atomic_cas
    prepare_arguments = interpreter.GridExecutor._init_args_hst
    set_grid_dim, set_grid_idx = builder.set_grid_dim, builder.set_grid_idx
    grid = _Grid(programs)

    # All other accesses (unmasked, block pointers, descriptors, atomic loads) end in one of these four. What follows
    # the mask differs between Triton's versions, and is passed on as it is.
    def create_masked_load(ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        recorder.load(ptrs, mask)
        return masked_load(ptrs, mask, *rest, **named)

    def create_masked_store(ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        recorder.store(ptrs, mask)
        return masked_store(ptrs, value, mask, *rest, **named)

    def create_atomic_rmw(op: Any, ptr: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        recorder.load(ptr, mask)
        recorder.store(ptr, mask)
        return atomic_rmw(op, ptr, value, mask, *rest, **named)

    def create_atomic_cas(ptr: Any, *rest: Any, **named: Any) -> Any:
        recorder.load(ptr, None)
        recorder.store(ptr, None)  # also where the comparison fails: the unit writes the old value back
        return atomic_cas(ptr, *rest, **named)

    def init_args_hst(executor: Any, args: Any, kwargs: Any) -> Any:
        """Every launch starts here: the tensors are copied to the host, and their addresses are known."""
        host_args, host_kwargs = prepare_arguments(executor, args, kwargs)
        recorder.begin(executor.fn.__name__, dict(zip(executor.arg_names, host_args, strict=False)) | host_kwargs)
        executor.grid = grid.of(executor.grid)
        return host_args, host_kwargs

    def replaced_set_grid_dim(*_: int) -> None:
        """The executor walks over the programs that are to run; they see the whole grid."""
        set_grid_dim(*grid.shape)
        recorder.set_grid(grid)

    def replaced_set_grid_idx(position: int, *_: int) -> None:
        set_grid_idx(*grid.program(position))

    with ExitStack() as replaced:
        replaced.enter_context(quick_reductions())
        for function in (create_masked_load, create_masked_store, create_atomic_rmw, create_atomic_cas):
            replaced.enter_context(_attribute(builder, function.__name__, function))
        replaced.enter_context(_attribute(builder, "set_grid_dim", replaced_set_grid_dim))
        replaced.enter_context(_attribute(builder, "set_grid_idx", replaced_set_grid_idx))
        replaced.enter_context(_attribute(interpreter.GridExecutor, "_init_args_hst", init_args_hst))
        try:
            yield recorder.launches
        finally:
            recorder.finish()


def _interpreter() -> Any:
    """Triton's interpreter module, if it is what runs kernels in this process."""
    try:
        import triton.language
        from triton.runtime import interpreter
    except ImportError as error:
        raise UserError(
            f"counting bytes needs Triton, which cannot be imported: {error}", next_step="pip install triton"
        ) from error
    if not isinstance(triton.language.sum, interpreter.InterpretedFunction):
        raise UserError(
            "counting bytes needs Triton's interpreter, which is off in this process",
            next_step="set TRITON_INTERPRET=1 in the environment before anything imports Triton, and run again",
        )
    return interpreter


@contextmanager
def _attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """The attribute has this value inside the block; afterwards the owner is as it was."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


class _Grid:
    """The grid of the launch under way, and which of its programs run: all, or as many as are wanted."""

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted
        self.shape: Program = (0, 0, 0)
        self.size = self.run = 0
        self._step = 1

    def of(self, grid: Any) -> Callable[[Any], tuple[int]]:
        """In place of a launch's grid: one axis with the programs that are to run."""

        def chosen(args: Any) -> tuple[int]:
            extents: Any = grid(args) if callable(grid) else grid
            x, y, z = (*extents, 1, 1)[:3]
            self.shape, self.size = (x, y, z), x * y * z
            self.run = self.size if self._wanted is None else min(self._wanted, self.size)
            self._step = _spreading_step(self.size // self.run) if self.run else 1
            return (self.run,)

        return chosen

    def program(self, position: int) -> Program:
        """One program of each of as many equal parts of the grid, each time elsewhere in its part."""
        start, end = (at * self.size // self.run for at in (position, position + 1))
        at, z = divmod(start + position * self._step % (end - start), self.shape[2])
        return (*divmod(at, self.shape[1]), z)


def _spreading_step(size: int) -> int:
    """A step without a common factor with the size, near the golden section of it: however many of its multiples one
    takes, they lie evenly, also modulo the extent of an inner axis."""
    step = max(1, round(size * (5**0.5 - 1) / 2))
    while gcd(step, size) > 1:
        step += 1
    return step


class _Recorder:
    """Sorts the addresses of each access by the tensors of the launch in which it happens."""

    def __init__(self, builder: Any) -> None:
        self.launches: list[LaunchIO] = []
        self._builder = builder
        self._scale = 1.0
        self._spans: list[_Span] = []

    def begin(self, kernel: str, args: Mapping[str, object]) -> None:
        self.finish()
        self.launches.append(LaunchIO(kernel))
        self._spans = [span for name, arg in args.items() for span in _spans(name, arg)]

    def set_grid(self, grid: _Grid) -> None:
        launch = self.launches[-1]
        launch.grid, launch.programs_run = grid.shape, grid.run
        self._scale = grid.size / grid.run if grid.run else 1.0

    def finish(self) -> None:
        """Close the launch that is under way: how much of each tensor was touched is known only now."""
        if self._scale != 1:
            for counter in (self.launches[-1].loads_by_pointer_arg, self.launches[-1].stores_by_pointer_arg):
                counter.update({name: round(bytes_ * self._scale) - bytes_ for name, bytes_ in counter.items()})
            self._scale = 1.0
        for span in self._spans:
            launch = self.launches[-1]
            for touched, distinct in (
                (span.loaded, launch.distinct_loads_by_pointer_arg),
                (span.stored, launch.distinct_stores_by_pointer_arg),
            ):
                if touched is not None:
                    distinct[span.name] += int(touched.sum()) * span.item_bytes
        self._spans = []

    def load(self, ptrs: Any, mask: Any) -> None:
        launch = self.launches[-1]
        self._record(ptrs, mask, launch.loads_by_pointer_arg, launch.loads_by_program, _Span.load, once=True)

    def store(self, ptrs: Any, mask: Any) -> None:
        launch = self.launches[-1]
        self._record(ptrs, mask, launch.stores_by_pointer_arg, launch.stores_by_program, _Span.store)

    def _record(
        self,
        ptrs: Any,
        mask: Any,
        by_arg: Counter[str],
        by_program: Counter[Program],
        touch: Callable[[_Span, np.ndarray], None],
        once: bool = False,
    ) -> None:
        """once: what several lanes of a tile ask for is counted once, as it comes once."""
        addresses = np.asarray(ptrs.data).astype(np.int64).reshape(-1)
        if mask is not None:
            # a block pointer's mask is a bare array in Triton 3.6
            active = mask if isinstance(mask, np.ndarray) else np.asarray(mask.data)
            addresses = addresses[np.broadcast_to(active, np.shape(ptrs.data)).reshape(-1).astype(bool)]
        if once:
            addresses = np.unique(addresses)
        lane_bytes = max(8, ptrs.get_element_ty().primitive_bitwidth) // 8
        by_program[tuple(self._builder.grid_idx)] += addresses.size * lane_bytes
        for owners, part in self._by_owner(addresses):
            by_arg["|".join(span.name for span in owners) or OUTSIDE] += part.size * lane_bytes
            for span in owners:
                touch(span, part)

    def _by_owner(self, addresses: np.ndarray) -> Iterator[tuple[list[_Span], np.ndarray]]:
        """The addresses in groups, each with the tensors that they lie in: one, or none, or several that overlap."""
        if not addresses.size:
            return
        low, high = addresses.min(), addresses.max()
        near = [span for span in self._spans if span.start <= high and low < span.end]
        if len(near) == 1 and near[0].start <= low and high < near[0].end:
            yield near, addresses
            return
        inside = np.zeros((len(near), addresses.size), bool)
        for row, span in zip(inside, near, strict=True):
            row[:] = (span.start <= addresses) & (addresses < span.end)
        shared = inside.sum(0) > 1  # interleaved views of one storage: look which of them has the element
        for row, span in zip(inside, near, strict=True):
            row[shared] &= span.has(addresses[shared])
        patterns, group = np.unique(inside, axis=1, return_inverse=True)
        for i, pattern in enumerate(patterns.T):
            owners = [span for span, owns in zip(near, pattern, strict=True) if owns]
            yield owners, addresses[group.reshape(-1) == i]


class _Span:
    """The memory of one tensor argument."""

    def __init__(self, name: str, tensor: Any) -> None:
        self.name = name
        self.item_bytes = tensor.element_size()
        self._dims = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
        self._items = sum((size - 1) * stride for size, stride in self._dims) + 1
        self.start = tensor.data_ptr()
        self.end = self.start + self._items * self.item_bytes
        self._elements: np.ndarray | None = None
        self.loaded: np.ndarray | None = None
        self.stored: np.ndarray | None = None

    def has(self, addresses: np.ndarray) -> np.ndarray:
        """Which of the addresses are those of an element, not of a gap between strides."""
        if self._elements is None:
            elements = np.zeros((), np.int64)
            for size, stride in self._dims:
                elements = elements[..., None] + np.arange(size, dtype=np.int64) * stride
            self._elements = np.zeros(self._items, bool)
            self._elements[elements.reshape(-1)] = True
        return self._elements[(addresses - self.start) // self.item_bytes] if addresses.size else np.zeros(0, bool)

    def load(self, addresses: np.ndarray) -> None:
        self.loaded = self._touch(self.loaded, addresses)

    def store(self, addresses: np.ndarray) -> None:
        self.stored = self._touch(self.stored, addresses)

    def _touch(self, touched: np.ndarray | None, addresses: np.ndarray) -> np.ndarray:
        if touched is None:
            touched = np.zeros(self._items, bool)
        touched[(addresses - self.start) // self.item_bytes] = True
        return touched


def _spans(name: str, arg: object) -> Iterator[_Span]:
    """The tensors in one argument: itself, those of a tuple, the one under a descriptor or a reinterpreted tensor."""
    if isinstance(arg, tuple):
        for i, part in enumerate(arg):
            yield from _spans(f"{name}[{i}]", part)
        return
    tensor: Any = getattr(arg, "base", arg)
    if hasattr(tensor, "data_ptr") and tensor.numel():
        yield _Span(name, tensor)


def reproduce(
    graph: Any, inputs: Sequence[Any], options: Mapping[str, Any], *, dynamic: bool = False, smaller: bool = False
) -> None:
    """What the scripts call that `FUSECADE_REPRO_DIR` asks for: `assembly/reproduce.py`."""
    from .assembly.reproduce import reproduce

    reproduce(graph, inputs, options, dynamic=dynamic, smaller=smaller)
