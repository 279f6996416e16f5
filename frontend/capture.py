"""A Python function or module as an ATen graph, without running it: real, fake and meta tensors alike.

captured = capture(fn, args, kwargs, dynamic={0: {0: "n"}})
imported = import_graph(captured.gm, size_names=captured.size_names)
"""

from __future__ import annotations

import inspect
import linecache
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, GuardOnDataDependentSymNode, ShapeEnv
from torch.fx.traceback import preserve_node_meta, set_stack_trace
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import InvalidArgument, SourceLine, UnsupportedProgram
from .decompositions import Definitions, by_definition, decompositions
from .one_at_a_time import compiling

_OF_VALUES = (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)
_TORCH: Any = torch  # functionalization is reached through functions that torch does not declare

Dynamic = Mapping[int | str, Mapping[int, str]]


@dataclass
class Captured:
    """A function as a functional ATen graph.

    gm: takes the parameters and buffers of the module first (when it is one), then the tensors among the arguments, in
    `inputs` order; returns the outputs of the function, flat, then new values of the inputs in `mutated`.
    inputs: for each placeholder, ("parameter", name) or ("argument", position in the flattened arguments).
    example: the placeholders' fake tensors.  constants: the flattened arguments that are no tensors, by position.
    size_names: torch's symbols -> the names given in `dynamic`.
    """

    gm: fx.GraphModule
    inputs: list[tuple[str, str | int]]
    example: list[torch.Tensor]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    mutated: list[int]
    size_names: dict[str, str]
    constants: dict[int, Any]
    parameters: dict[str, torch.Tensor]

    def tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[torch.Tensor]:
        """What the graph takes for one call of the function.  Raises InvalidArgument for a call of another form."""
        flat, spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
        if spec != self.in_spec:
            raise InvalidArgument(
                "the arguments do not have the structure that was compiled",
                next_step="call with as many arguments, and the same keywords, as when it was compiled",
            )
        return [self.parameters[str(key)] if kind == "parameter" else flat[int(key)] for kind, key in self.inputs]


def capture(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Dynamic | None = None,
) -> Captured:
    """Trace `fn` to a functional ATen graph on fake tensors; nothing of the arguments' size is allocated.

    dynamic: {argument's position or name: {dimension: size name}}; equal names are equal sizes.
    Raises UnsupportedProgram when the function cannot be traced, or fixes a size that was to be dynamic;
    InvalidArgument for arguments that the function does not take.
    """
    kwargs = dict(kwargs or {})
    _check_call(fn, args, kwargs)
    flat, in_spec = pytree.tree_flatten((tuple(args), kwargs))
    named = _dynamic_by_leaf(fn, args, kwargs, dynamic or {})
    parameters: dict[str, torch.Tensor] = {}
    if isinstance(fn, torch.nn.Module):
        parameters = {
            **dict(fn.named_parameters(remove_duplicate=False)),
            **dict(fn.named_buffers(remove_duplicate=False)),
        }
        parameters = _without_aliases(parameters)
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    sizes = _Sizes(shapes, mode)
    tensors = [k for k, x in enumerate(flat) if isinstance(x, torch.Tensor)]
    inputs: list[tuple[str, str | int]] = [*(("parameter", n) for n in parameters), *(("argument", k) for k in tensors)]
    example = [sizes.fake(p, {}) for p in parameters.values()] + [
        sizes.fake(flat[k], named.get(k, {})) for k in tensors
    ]
    out_spec: list[pytree.TreeSpec] = []
    mutated: list[int] = []

    def functional(*given: torch.Tensor) -> list[Any]:
        wrapped = [_TORCH._to_functional_tensor(x) for x in given]
        for w, x in zip(wrapped, given, strict=True):
            _TORCH._mirror_autograd_meta_to(x, w)
        _TORCH._enable_functionalization(reapply_views=True)
        try:
            leaves = list(flat)
            for (kind, key), w in zip(inputs, wrapped, strict=True):
                if kind == "argument":
                    leaves[int(key)] = w
            call_args, call_kwargs = pytree.tree_unflatten(leaves, in_spec)
            if isinstance(fn, torch.nn.Module):
                weights = {str(key): w for (kind, key), w in zip(inputs, wrapped, strict=True) if kind == "parameter"}
                result = torch.func.functional_call(fn, weights, call_args, call_kwargs, tie_weights=True)
            else:
                result = fn(*call_args, **call_kwargs)
            outs, spec = pytree.tree_flatten(result)
        finally:
            _TORCH._disable_functionalization()
        out_spec[:] = [spec]
        mutated.clear()
        news = []
        for n, (w, x) in enumerate(zip(wrapped, given, strict=True)):
            _TORCH._sync(w)
            new = _TORCH._from_functional_tensor(w)
            if new is not x:
                mutated.append(n)
                news.append(new)
        return [_plain(o) for o in outs] + news

    try:
        with (
            compiling(), mode, torch.no_grad(), by_definition(), _compiling(), _quiet(), preserve_node_meta(),
            Definitions(), _Lines(), _no_dlpack(),
        ):  # fmt: skip
            gm = make_fx(
                functional, decomposition_table=decompositions(), tracing_mode="real", _allow_non_fake_inputs=True
            )(*example)  # fmt: skip
    except (UnsupportedProgram, InvalidArgument):
        raise
    except Exception as error:
        raise UnsupportedProgram(
            f"tracing {_name(fn)} failed: {_what(error)}", source=_user_line(error),
            next_step=REWRITE if isinstance(error, _OF_VALUES) else f"call {_name(fn)} itself with these arguments: "
            f"if that fails too, mend it; otherwise, {REWRITE}",
        ) from error  # fmt: skip
    gm.graph.eliminate_dead_code()
    _lift_constants(gm, sizes, inputs, example, parameters)
    gm.recompile()
    sizes.check()
    return Captured(
        gm, inputs, example, in_spec, out_spec[0], mutated, sizes.names(),
        {k: x for k, x in enumerate(flat) if not isinstance(x, torch.Tensor)}, parameters,
    )  # fmt: skip


REWRITE = (
    "write this line in operations on tensors (`torch.where` instead of a branch on a value), or keep it outside of the "
    'function; `torch.compile(fn, backend="fusecade")` runs such lines in Python, and compiles what is between them'
)
_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


# What gives a tensor's memory away: while tracing, nothing has been written to it.
_MEMORY = {getattr(torch.Tensor, name) for name in ("numpy", "__array__", "__dlpack__", "tolist", "data_ptr")}
_DLPACK = ((torch._C, "_to_dlpack"), (torch, "to_dlpack"), (torch.utils.dlpack, "to_dlpack"))


class _Lines(TorchFunctionMode):
    """Keeps, for every node, the line of the program that made it: `node.meta["stack_trace"]`.

    Raises UnsupportedProgram where the program leaves PyTorch with a tensor that is only traced.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _MEMORY:
            if _TORCH._is_functional_tensor(args[0]) or isinstance(args[0], FakeTensor):
                raise _without_values(f"Tensor.{func.__name__}")
            with (
                _disable_current_modes()
            ):  # under a FakeTensorMode, the real tensor would show memory that is not its own
                return func(*args, **(kwargs or {}))
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
            frame = frame.f_back
        if frame is not None:
            file, line, name = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
            code = linecache.getline(file, line).strip()
            set_stack_trace([f'  File "{file}", line {line}, in {name}\n    {code}\n'])
        return func(*args, **(kwargs or {}))


@contextmanager
def _no_dlpack() -> Iterator[None]:
    """`to_dlpack` is no function that a mode of torch sees: its names in torch are replaced, for tensors that are traced."""
    real = torch._C._to_dlpack

    def to_dlpack(data, *args, **kwargs):
        if isinstance(data, torch.Tensor) and (_TORCH._is_functional_tensor(data) or isinstance(data, FakeTensor)):
            raise _without_values("to_dlpack")
        return real(data, *args, **kwargs)

    places = [(m, n) for m, n in _DLPACK if getattr(m, n, None) is real]
    for module, name in places:
        setattr(module, name, to_dlpack)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, real)


def _without_values(name: str) -> UnsupportedProgram:
    return UnsupportedProgram(
        f"{name} reads the values of a tensor, and while a function is compiled there are none",
        source=_innermost(traceback.extract_stack()),
        next_step=REWRITE,
    )


@contextmanager
def _compiling() -> Iterator[None]:
    """What torch.export tells the program while it traces: `torch.compiler.is_compiling()`, so that it asks no data."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs about an operator that fails on fake tensors, the error says as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _plain(x: Any) -> Any:
    if isinstance(x, torch.Tensor) and _TORCH._is_functional_tensor(x):
        _TORCH._sync(x)
        return _TORCH._from_functional_tensor(x)
    return x


def _lift_constants(
    gm: fx.GraphModule,
    sizes: _Sizes,
    inputs: list[tuple[str, str | int]],
    example: list[torch.Tensor],
    parameters: dict[str, torch.Tensor],
) -> None:
    """Tensors that the function closes over become placeholders after the others; numbers stay in the graph."""
    last = [n for n in gm.graph.nodes if n.op == "placeholder"]
    first = next(n for n in gm.graph.nodes if n.op != "placeholder")
    lifted: dict[int, fx.Node] = {}
    for node in [n for n in gm.graph.nodes if n.op == "get_attr"]:
        value = getattr(gm, str(node.target), None)
        if not isinstance(value, torch.Tensor) or (value.dim() == 0 and not value.is_meta):
            continue
        if id(value) not in lifted:
            with gm.graph.inserting_before(first):
                made = gm.graph.placeholder(f"constant{len(lifted)}")
            made.meta["val"] = sizes.fake(value, {})
            lifted[id(value)] = made
            name = f"constant {len(lifted) - 1}"
            parameters[name] = value
            inputs.append(("parameter", name))
            example.append(made.meta["val"])
        node.replace_all_uses_with(lifted[id(value)])
    for node in [n for n in gm.graph.nodes if n.op == "get_attr" and not n.users]:
        gm.graph.erase_node(node)
    assert len(last) + len(lifted) == len(inputs)


def _without_aliases(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied parameters once, by their first name; `functional_call` ties the others to it."""
    seen: set[int] = set()
    found = {}
    for name, p in parameters.items():
        if id(p) not in seen:
            seen.add(id(p))
            found[name] = p
    return found


def callable_of(fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> tuple[Any, Any, Any]:
    """What to trace, and with which arguments: of a program of `torch.export` its module, and its own if none are given."""
    if not isinstance(fn, torch.export.ExportedProgram):
        return fn, args, kwargs
    if not args and not kwargs and fn.example_inputs is not None:
        args, kwargs = fn.example_inputs
    return fn.module(), args, kwargs


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """How `fn` is called; None for what does not say so, such as functions in C."""
    try:
        return inspect.signature(fn.forward if isinstance(fn, torch.nn.Module) else fn)
    except (TypeError, ValueError):
        return None


def _check_call(fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> None:
    """Raises InvalidArgument where `fn(*args, **kwargs)` is no call of `fn`."""
    if isinstance(args, torch.Tensor | str) or not isinstance(args, Sequence):
        raise InvalidArgument(
            f"args is {type(args).__name__}, and has to be a tuple of the arguments of {_name(fn)}",
            next_step="for one argument, write a tuple of one: (x,)",
        )
    signature = signature_of(fn)
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgument(
            f"{_name(fn)}{_parameters(signature)} cannot be called with these arguments: {error}",
            next_step="give an example for each parameter that has no default",
        ) from error


def _parameters(signature: inspect.Signature | None) -> str:
    return f"({', '.join(signature.parameters)})" if signature is not None else ""


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _dynamic_by_leaf(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Dynamic
) -> dict[int, Mapping[int, str]]:
    """The dimension names of each tensor leaf of the flattened arguments."""
    signature = signature_of(fn)
    positions = {name: n for n, name in enumerate(signature.parameters) if n < len(args)} if signature else {}
    wanted = {key if key in kwargs else positions.get(str(key), key): names for key, names in dynamic.items()}
    found: dict[int, Mapping[int, str]] = {}
    position = 0
    for key, value in [*enumerate(args), *kwargs.items()]:
        leaves = pytree.tree_leaves(value)
        if key in wanted:
            if len(leaves) != 1 or not isinstance(leaves[0], torch.Tensor):
                raise InvalidArgument(f"dynamic names dimensions of argument {key!r}, which is not a tensor")
            found[position] = _dimensions(key, wanted[key], leaves[0].dim())
        position += len(leaves)
    unknown = set(wanted) - set(range(len(args))) - set(kwargs)
    if unknown:
        there = ", ".join(map(str, [*range(len(args)), *positions, *kwargs])) or "none"
        raise InvalidArgument(
            f"dynamic names argument {sorted(map(str, unknown))[0]}, and there is no such argument",
            next_step=f"name an argument by its position or its name: {there}",
        )
    return found


def _dimensions(argument: int | str, names: Mapping[int, str], rank: int) -> dict[int, str]:
    """Dimensions counted from the front.  Raises InvalidArgument for one that the argument does not have."""
    for d in names:
        if not -rank <= d < rank:
            raise InvalidArgument(
                f"dynamic names dimension {d} of argument {argument}, which has {rank} dimensions",
                next_step=f"name a dimension from 0 to {rank - 1}, or from -{rank} to -1"
                if rank else f"leave argument {argument} out of `dynamic`",
            )  # fmt: skip
    return {d % rank: name for d, name in names.items()}


class _Sizes:
    """The named sizes of one capture, as symbols of a ShapeEnv."""

    def __init__(self, shapes: ShapeEnv, mode: FakeTensorMode):
        self.shapes, self.mode = shapes, mode
        self.symints: dict[str, torch.SymInt] = {}
        self.symbols: dict[str, sympy.Symbol] = {}

    def fake(self, x: torch.Tensor, named: Mapping[int, str]) -> torch.Tensor:
        """A fake tensor like `x`; a meta tensor is taken as one on the CPU, so that it mixes with what `fn` makes."""
        device = torch.device("cpu") if x.is_meta else x.device
        if not named:
            sizes: list[Any] = list(x.shape)
            strides: list[Any] = list(x.stride())
        else:
            sizes = [self.size(named[k], int(n)) if k in named else n for k, n in enumerate(x.shape)]
            strides = _strides(sizes, x)
        with self.mode:
            return torch.empty_strided(sizes, strides, dtype=x.dtype, device=device)

    def size(self, name: str, hint: int) -> torch.SymInt:
        if (
            not name.isidentifier()
            or (name[0] in "dv" and name[1:].isdigit())
            or (name.startswith("at") and name[2:].isdigit())
        ):
            raise InvalidArgument(f"a size cannot be called {name!r}", next_step="use a word such as 'n' or 'seq'")
        if name not in self.symints:
            if hint < 2:
                raise InvalidArgument(
                    f"the dynamic size {name} is {hint} in the example",
                    next_step="give an example of size 2 or more: sizes 0 and 1 broadcast, and are compiled apart",
                )
            from torch._dynamo.source import ConstantSource  # imports all of dynamo, about a second

            source = ConstantSource(name)
            symbol = self.shapes.create_symbol(hint, source, DimDynamic.DYNAMIC, None)
            self.symbols[name] = symbol  # type: ignore[assignment]
            made = self.shapes.create_symintnode(symbol, hint=hint, source=source)
            assert isinstance(made, torch.SymInt)
            self.symints[name] = made
        elif self.symints[name].node.hint != hint:
            raise InvalidArgument(
                f"the dynamic size {name} is {self.symints[name].node.hint} and {hint} in the example"
            )
        return self.symints[name]

    def names(self) -> dict[str, str]:
        return {s.name: n for n, s in self.symbols.items()}

    def check(self) -> None:
        """Tracing may have fixed a size, or made two equal."""
        for name, symbol in self.symbols.items():
            fixed = self.shapes.replacements.get(symbol)
            if fixed is not None:
                other = {s.name: n for n, s in self.symbols.items()}.get(str(fixed), str(fixed))
                raise UnsupportedProgram(
                    f"the dynamic size {name} has to be {other} for this program",
                    next_step=f"take {name} out of `dynamic`, or give it the name of the size that it equals",
                )


def _strides(sizes: Sequence[Any], x: torch.Tensor) -> list[Any]:
    """Strides for symbolic sizes in the order of those of `x`; a stride of 0 stays."""
    order = sorted(range(x.dim()), key=lambda k: (x.stride(k), -k))
    strides: list[Any] = [0] * x.dim()
    step: Any = 1
    for k in order:
        if x.stride(k) == 0 and x.shape[k] > 1:
            continue
        strides[k] = step
        step = step * sizes[k]
    return strides


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else ""


def _what(error: Exception) -> str:
    """An error of the trace in a line; a question that only values answer, in words."""
    if isinstance(error, _OF_VALUES):
        return "the program branches on a value of a tensor, or takes a size from it, and tracing knows no values"
    return f"{type(error).__name__}: {_first_line(error)}"


def _user_line(error: Exception) -> SourceLine | None:
    """The innermost frame of a traceback that lies outside of torch and of this package."""
    return _innermost(traceback.extract_tb(error.__traceback__))


def _innermost(stack: traceback.StackSummary) -> SourceLine | None:
    frames = [f for f in stack if not f.filename.startswith((*_INSIDE, "<"))]
    return SourceLine(frames[-1].filename, frames[-1].lineno or 0, frames[-1].line or "") if frames else None
