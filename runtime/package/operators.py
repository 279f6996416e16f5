"""The operators of PyTorch that a package may name: functional ones, by their names, and a few functions of numbers.

A package says "aten.add.Tensor", never where a function lies.  What is not in this table is refused when a package is
written, and again when it is loaded: no operator here reads or writes a file, changes its arguments, or calls anything
that it is given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

# Besides the operators that PyTorch tags as core, in any form: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html
_ATEN = set(
    "_unsafe_view view_as t transpose expand_as reshape flatten squeeze unbind split split_with_sizes "
    "chunk narrow movedim unflatten alias detach clone contiguous lift_fresh lift_fresh_copy lift sym_size "
    "matmul linear baddbmm dot mv vdot outer einsum inner ger kron bilinear addmv addr "
    "silu mish softplus hardtanh hardswish hardsigmoid relu6 celu selu log_sigmoid_forward threshold rsub true_divide "
    "square sgn deg2rad rad2deg logit xlogy hypot copysign logaddexp logaddexp2 heaviside lerp addcmul addcdiv "
    "exp2 expm1 log2 special_erfcx special_i0e special_i1 special_i1e special_ndtri special_log_ndtr erfc erfinv "
    "lgamma digamma polygamma i0 sinc frac nan_to_num nextafter gcd lcm "
    "softmax log_softmax logsumexp std std_mean var_mean norm linalg_vector_norm count_nonzero nansum nanmean "
    "cumprod cummax cummin logcumsumexp aminmax max min median nanmedian mode kthvalue msort argsort searchsorted "
    "bucketize bincount histc unique_dim one_hot isin tril triu tril_indices triu_indices diag_embed diagonal trace "
    "roll rot90 flip fliplr flipud repeat_interleave tile stack hstack vstack cat pad constant_pad_nd "
    "index_add index_copy index_fill index_reduce take take_along_dim masked_fill masked_scatter masked_select "
    "scatter scatter_add scatter_reduce gather embedding index_put _unsafe_index _unsafe_index_put slice_scatter "
    "select_scatter diagonal_scatter as_strided_scatter as_strided_copy view_copy new_zeros new_ones new_full "
    "new_empty new_empty_strided zeros_like ones_like zeros ones linspace logspace eye complex polar real imag "
    "view_as_complex view_as_real angle conj _conj conj_physical _to_copy "
    "native_batch_norm _native_batch_norm_legit_no_training _fused_rms_norm "
    "rms_norm layer_norm group_norm _safe_softmax _masked_softmax "
    "rand rand_like randn randn_like randint randint_like randperm bernoulli multinomial native_dropout "
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math "
    "scaled_dot_product_attention linalg_inv_ex linalg_solve_triangular linalg_cholesky_ex linalg_qr "
    "convolution fmod remainder floor_divide "
    "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__".split()
)
_PRIMS = set(
    "convert_element_type iota broadcast_in_dim sum amax amin prod var where "
    "add sub mul div maximum minimum exp log sqrt rsqrt squeeze transpose collapse_view split_dim cat rev".split()
)
_NEVER = {"_local_scalar_dense", "resize", "as_strided_"}  # of the core operators

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in "add sub mul truediv floordiv mod neg pos abs".split()},
    **{name: getattr(operator, name) for name in "lt le gt ge eq ne not_".split()},
    **{name: getattr(math, name) for name in "sqrt exp log log2 floor ceil trunc".split()},
    "pow": lambda a, b: _power(a, b),
    "sym_float": torch.sym_float,
    "sym_int": torch.sym_int,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_not": torch.sym_not,
}
_NAMES: dict[Any, str] = {f: name for name, f in FUNCTIONS.items()} | {
    operator.pow: "pow",
    getattr(torch, "_sym_sqrt", math.sqrt): "sqrt",
}


def _power(base: float, exponent: float) -> float:
    """Raises OverflowError where Python would go on for long: only what fits in a float is a number of a program."""
    return math.pow(base, exponent) if isinstance(base, float) or isinstance(exponent, float) or exponent < 0 else (
        base**exponent if abs(base) < 1 << 31 and exponent <= 2 else _too_large()
    )  # fmt: skip


def _too_large() -> int:
    raise OverflowError("a power of sizes")


def problem_of(op: Any) -> str | None:
    """Why a package cannot name this operator; None where it can."""
    if not isinstance(op, torch._ops.OpOverload):
        return None if _function_name(op) is not None else "it is no operator of PyTorch's registry"
    name = op._schema.name.partition("::")[2]
    if op.namespace not in ("aten", "prims"):
        return f"only operators of aten and prims are kept in packages, and it is one of {op.namespace}"
    if op._schema.is_mutable:
        return "it changes its arguments"
    known = _PRIMS if op.namespace == "prims" else _ATEN
    if name in _NEVER or not (name in known or _is_core(op)):
        return "it is not in the table of operators that packages keep (`runtime/package/operators.py`)"
    return None


def _is_core(op: torch._ops.OpOverload) -> bool:
    """Whether PyTorch tags the operator as core, in any of its forms: `sum` of all elements as `sum` over dimensions."""
    packet = op.overloadpacket
    return any(torch.Tag.core in getattr(packet, form).tags for form in packet.overloads())


def name_of(op: Any) -> str:
    """`aten.add.Tensor`, or `number.sqrt` for a function of numbers."""
    if isinstance(op, torch._ops.OpOverload):
        return str(op)
    return f"number.{_function_name(op)}"


def _function_name(op: Any) -> str | None:
    try:
        return _NAMES.get(op)
    except TypeError:
        return None


@cache
def find(name: str) -> Any:
    """The operator or function of that name.  Raises ValueError with the reason why there is none."""
    parts = name.split(".")
    if len(parts) == 2 and parts[0] == "number":
        if parts[1] not in FUNCTIONS:
            raise ValueError(f"there is no function of numbers {parts[1][:80]!r}")
        return FUNCTIONS[parts[1]]
    if len(parts) != 3 or parts[0] not in ("aten", "prims") or not all(_is_plain(p) for p in parts):
        raise ValueError(f"{name[:80]!r} is no operator that packages keep")
    try:
        op = getattr(getattr(getattr(torch.ops, parts[0]), parts[1]), parts[2])
    except AttributeError:
        raise ValueError(f"this PyTorch ({torch.__version__}) has no operator {name[:80]!r}") from None
    if (wrong := problem_of(op)) is not None or not isinstance(op, torch._ops.OpOverload):
        raise ValueError(f"{name[:80]!r} cannot be run from a package: {wrong}")
    return op


def _is_plain(part: str) -> bool:
    return part.isidentifier() and (not part.startswith("__") or part in ("__lshift__", "__rshift__"))
