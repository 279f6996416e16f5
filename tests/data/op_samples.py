"""PyTorch's own samples of its operators (`OpInfo`), run through the backend and held against eager.

A run is one sample in one mode (`by_cost` or `always`, with or without gradients).  Its outcome is one of

    right    dtypes, shapes, NaN and infinities are eager's, numbers are within the tolerance of PyTorch's own tests, or their
             error against float64 is at most twice eager's plus one ulp of the scale of the result
    wrong    anything else
    failed   the backend raised, or gave a warning and ran as eager ran
    untaken  eager refuses the sample, or Dynamo does not trace it whole: the backend never saw it
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from fusecade import torch_backend
from fusecade.errors import FallbackWarning

SEED = 7


@cache
def op_infos() -> dict[str, Any]:
    """Every OpInfo by its full name, as `norm.fro`.  Importing them locks PyTorch's global flags; they are unlocked again."""
    before = torch.backends.flags_frozen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_methods_invocations as invocations
    # Samples that draw random numbers are wrapped in a function that Dynamo does not trace; `_call` sets the seed.
    invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
    if not before:
        setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
    return {o.name + (f".{o.variant_test_name}" if o.variant_test_name else ""): o for o in invocations.op_db}


@dataclass(frozen=True)
class Mode:
    """What is asked of the backend: `fuse`, and whether gradients are computed as well."""

    fuse: str
    gradients: bool

    def __str__(self) -> str:
        return f"fuse={self.fuse}{', gradients' if self.gradients else ''}"


@dataclass
class Sample:
    """One call of an operator: `function(*args, **kwargs)`."""

    operator: str
    dtype: torch.dtype
    number: int
    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    process: Callable[[Any], Any] = lambda y: y

    def __str__(self) -> str:
        return f"{self.operator} {str(self.dtype).removeprefix('torch.')} sample {self.number}"

    def arguments(self) -> str:
        words = [_short(x) for x in self.args] + [f"{k}={_short(v)}" for k, v in self.kwargs.items()]
        return ", ".join(words)


@dataclass(frozen=True)
class Outcome:
    """kind: right, wrong, failed or untaken, with the reason unless right.  kernels: of ours that ran."""

    sample: Sample
    mode: Mode
    kind: str
    reason: str = ""
    kernels: int = 0

    def __str__(self) -> str:
        return f"{self.kind}: {self.sample} ({self.sample.arguments()}), {self.mode}: {self.reason}"


def samples(name: str, dtype: torch.dtype, gradients: bool, most: int | None = None) -> Iterator[Sample]:
    """The samples of an operator, evenly thinned to at most so many."""
    info = op_infos()[name]
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(info.sample_inputs("cpu", dtype, requires_grad=gradients))
    for number in _spread(len(found), most):
        x = found[number]
        process = x.output_process_fn_grad
        yield Sample(name, dtype, number, info.op, (x.input, *x.args), dict(x.kwargs), process)


def _spread(count: int, most: int | None) -> list[int]:
    if most is None or count <= most:
        return list(range(count))
    return sorted({n * count // most for n in range(most)})


# --- one run ------------------------------------------------------------------------------------------------------


class Untaken(Exception):
    """Not a case for the backend."""


def run(sample: Sample, mode: Mode) -> Outcome:
    """Compile the sample as a function of its tensors, call it, and hold it against eager."""
    torch._dynamo.reset()
    torch_backend.compiled.clear()
    try:
        usual = _expected(sample, mode.gradients)
    except Exception as error:
        return Outcome(sample, mode, "untaken", f"eager: {_first_line(error)}")
    options = {"remainder": "eager", "fuse": mode.fuse}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", FallbackWarning)
            found = _call(sample, mode.gradients, lambda f: torch.compile(
                f, backend="fusecade", fullgraph=True, dynamic=False, options=options
            ))  # fmt: skip
    except Exception as error:
        if not torch_backend.compiled and (refusal := _refused_by_others(sample, mode)):
            return Outcome(sample, mode, "untaken", refusal)
        return Outcome(sample, mode, "failed", _first_line(error))
    kernels = sum(len(b.plan.calls) for b in torch_backend.compiled)
    fallbacks = [f"{part}: {why}" for b in torch_backend.compiled for part, why in b.fallbacks]
    if fallbacks:
        return Outcome(sample, mode, "failed", fallbacks[0], kernels)
    if problem := _difference(found, usual, lambda: _exact(sample, mode.gradients)):
        if _differs_without_us(sample, mode, usual):
            return Outcome(sample, mode, "untaken", f"PyTorch's aot_eager differs as well: {problem}", kernels)
        return Outcome(sample, mode, "wrong", problem, kernels)
    return Outcome(sample, mode, "right", "", kernels)


def _expected(sample: Sample, gradients: bool) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _call(sample, gradients, lambda f: f)


def _call(sample: Sample, gradients: bool, compiled: Callable[[Callable], Callable]) -> list[Any]:
    """Results, and gradients under fixed weights, of the sample's own copy of its tensors."""
    args, kwargs = tree_map(_own, (sample.args, sample.kwargs))
    leaves, spec = tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]

    def function(*given: Tensor) -> Any:
        rest = iter(given)
        a, k = spec.unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves])
        return sample.function(*a, **k)

    torch.manual_seed(SEED)
    result = compiled(function)(*tensors)
    found = [x for x in tree_leaves(result) if x is not None]
    outputs = [x.detach() if isinstance(x, Tensor) else x for x in found]
    if gradients:
        wanted = [x for x in tensors if x.requires_grad]
        differentiable = [x for x in tree_leaves(sample.process(result)) if isinstance(x, Tensor) and x.requires_grad]
        if not wanted or not differentiable:
            raise Untaken("nothing to differentiate")
        weights = [_weight(x) for x in differentiable]
        outputs += [g for g in torch.autograd.grad(differentiable, wanted, weights, allow_unused=True) if g is not None]
    return outputs + [x.detach() for x, given in zip(tensors, _tensors(sample), strict=True) if _changed(x, given)]


def _tensors(sample: Sample) -> list[Tensor]:
    return [x for x in tree_leaves((sample.args, sample.kwargs)) if isinstance(x, Tensor)]


def _changed(mine: Tensor, given: Tensor) -> bool:
    """Whether the operator wrote to its argument (running statistics)."""
    return mine._version > 0 and not mine.requires_grad


def _own(x: Any) -> Any:
    """A copy with the same strides."""
    if not isinstance(x, Tensor):
        return x
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if x.layout == torch.strided else x
    with torch.no_grad():
        copy = copy.copy_(x) if 0 not in x.stride() else x.detach().clone()
    copy = copy.detach()
    return copy.requires_grad_(x.requires_grad)


def _weight(y: Tensor) -> Tensor:
    made = torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return made.to(y.dtype)


def _exact(sample: Sample, gradients: bool) -> list[Any] | None:
    """The same in float64; None where the operator does not take it."""

    def widen(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.detach().double().requires_grad_(x.requires_grad)
        return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x

    args, kwargs = tree_map(widen, (sample.args, sample.kwargs))
    try:
        return _expected(dataclasses.replace(sample, args=args, kwargs=kwargs), gradients)
    except Exception:
        return None


def _refused_by_others(sample: Sample, mode: Mode) -> str | None:
    """Why a backend that does nothing cannot take it either."""
    torch._dynamo.reset()
    try:
        _call(sample, mode.gradients, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True, dynamic=False))
    except Exception as error:
        return f"PyTorch's aot_eager: {_first_line(error)}"
    return None


def _differs_without_us(sample: Sample, mode: Mode, usual: list[Any]) -> bool:
    torch._dynamo.reset()
    decomposed = "aot_eager_decomp_partition"
    for backend in ("aot_eager", decomposed):
        found = _call(sample, mode.gradients, lambda f, b=backend: torch.compile(f, backend=b, dynamic=False))
        if _difference(found, usual, lambda: None):
            return True
        torch._dynamo.reset()
    return False


# --- comparison ---------------------------------------------------------------------------------------------------


def _difference(found: list[Any], usual: list[Any], exact: Callable[[], list[Any] | None]) -> str | None:
    """What is wrong with what was found; None where nothing is."""
    if len(found) != len(usual):
        return f"{len(found)} results in place of {len(usual)}"
    wide: list[Any] | None = None
    for n, (mine, theirs) in enumerate(zip(found, usual, strict=True)):
        try:
            torch.testing.assert_close(mine, theirs, equal_nan=True, check_stride=False)
            continue
        except AssertionError as error:
            words = " ".join(str(error).split())
        if not (isinstance(theirs, Tensor) and isinstance(mine, Tensor) and theirs.is_floating_point()):
            return f"result {n}: {words}"
        if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
            return f"result {n}: {words}"
        wide = wide or exact()
        if wide is None or len(wide) != len(usual) or not within_rule(mine, theirs, wide[n]):
            return f"result {n}: {words}"
    return None


def within_rule(mine: Tensor, theirs: Tensor, exact: Tensor) -> bool:
    """Error at most twice eager's, plus one ulp of the scale of the result; NaN and infinities where eager has them."""
    if not torch.equal(mine.isnan(), theirs.isnan()) or exact.shape != theirs.shape:
        return False
    infinite = theirs.isinf() | mine.isinf()
    if not torch.equal(mine[infinite], theirs[infinite]):
        return False
    left = ~(infinite | theirs.isnan())
    if not left.any():
        return True
    right = exact[left].double()
    ulp = right.abs().max() * torch.finfo(mine.dtype).eps
    usual, own = ((x[left].double() - right).abs().max() for x in (theirs, mine))
    return bool(own <= 2 * usual + ulp)


def _first_line(error: BaseException) -> str:
    if isinstance(error, BackendCompilerFailed):
        error = error.inner_exception
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _short(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    return repr(x)[:60]
