"""A Python function or module as an ATen graph, without running it: real, fake and meta tensors alike.

captured = capture(fn, args, kwargs, dynamic={0: {0: "n"}})
imported = import_graph(captured.gm, size_names=captured.size_names)
"""

from __future__ import annotations

import linecache
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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.fx.traceback import preserve_node_meta, set_stack_trace
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import InvalidArgument, SourceLine, UnsupportedProgram
from .decompositions import by_definition, decompositions

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

    dynamic: {argument position or keyword: {dimension: size name}}; equal names are equal sizes.
    Raises UnsupportedProgram when the function cannot be traced, or fixes a size that was to be dynamic.
    """
    kwargs = dict(kwargs or {})
    flat, in_spec = pytree.tree_flatten((tuple(args), kwargs))
    named = _dynamic_by_leaf(args, kwargs, dynamic or {})
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
        with mode, torch.no_grad(), by_definition(), _compiling(), preserve_node_meta(), _Lines():
            gm = make_fx(
                functional, decomposition_table=decompositions(), tracing_mode="real", _allow_non_fake_inputs=True
            )(*example)  # fmt: skip
    except (UnsupportedProgram, InvalidArgument):
        raise
    except Exception as error:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise UnsupportedProgram(
            f"tracing {name} failed: {type(error).__name__}: {_first_line(error)}",
            source=_user_line(error),
        ) from error
    gm.graph.eliminate_dead_code()
    _lift_constants(gm, sizes, inputs, example, parameters)
    gm.recompile()
    sizes.check()
    return Captured(
        gm, inputs, example, in_spec, out_spec[0], mutated, sizes.names(),
        {k: x for k, x in enumerate(flat) if not isinstance(x, torch.Tensor)}, parameters,
    )  # fmt: skip


_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class _Lines(TorchFunctionMode):
    """Keeps, for every node, the line of the program that made it: `node.meta["stack_trace"]`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
            frame = frame.f_back
        if frame is not None:
            file, line, name = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
            code = linecache.getline(file, line).strip()
            set_stack_trace([f'  File "{file}", line {line}, in {name}\n    {code}\n'])
        return func(*args, **(kwargs or {}))


@contextmanager
def _compiling() -> Iterator[None]:
    """What torch.export tells the program while it traces: `torch.compiler.is_compiling()`, so that it asks no data."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


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


def _dynamic_by_leaf(args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Dynamic) -> dict[int, Mapping[int, str]]:
    """The dimension names of each tensor leaf of the flattened arguments."""
    found: dict[int, Mapping[int, str]] = {}
    position = 0
    for key, value in [*enumerate(args), *sorted(kwargs.items())]:
        leaves = pytree.tree_leaves(value)
        if key in dynamic:
            if len(leaves) != 1 or not isinstance(leaves[0], torch.Tensor):
                raise InvalidArgument(f"dynamic names dimensions of argument {key!r}, which is not a tensor")
            found[position] = {d % leaves[0].dim(): n for d, n in dynamic[key].items()}
        position += len(leaves)
    unknown = set(dynamic) - set(range(len(args))) - set(kwargs)
    if unknown:
        raise InvalidArgument(f"dynamic names argument {sorted(map(str, unknown))[0]}, and there is no such argument")
    return found


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


def _user_line(error: Exception) -> SourceLine | None:
    """The innermost frame of a traceback that lies outside of torch and of this package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_INSIDE)]
    return SourceLine(frames[-1].filename, frames[-1].lineno or 0, frames[-1].line or "") if frames else None
