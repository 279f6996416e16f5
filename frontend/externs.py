"""Why an ATen operator stays opaque: one row a reason; operators without a row get the general one."""

from __future__ import annotations

import torch

_REASONS: dict[str, str] = {
    "it is random": (
        "rand randn rand_like randn_like randint randint_like randperm normal bernoulli uniform multinomial "
        "native_dropout exponential poisson binomial rrelu_with_noise normal_functional _fused_dropout "
        "dropout"
    ),
    "it sorts, and order statistics are not reductions": (
        "sort argsort topk kthvalue median nanmedian mode msort quantile searchsorted bucketize"
    ),
    "the size of its result depends on data": (
        "nonzero masked_select unique _unique2 unique_dim unique_consecutive _local_scalar_dense item "
        "repeat_interleave nonzero_static bincount histc"
    ),
    "it is a scan: each element needs the one before": (
        "cumsum cumprod cummax cummin logcumsumexp _cummax_helper _cummin_helper"
    ),
    "it writes to coordinates that are data": (
        "scatter scatter_add scatter_reduce index_put _unsafe_index_put index_add index_copy index_fill "
        "index_reduce embedding_dense_backward masked_scatter put"
    ),
    "it writes a part of a tensor": "slice_scatter diagonal_scatter as_strided_scatter",
    "it is a convolution or a pooling, which has no cascade form yet": (
        "convolution max_pool2d_with_indices avg_pool2d avg_pool1d avg_pool3d _adaptive_avg_pool2d "
        "max_pool3d_with_indices upsample_nearest2d upsample_bilinear2d grid_sampler_2d convolution_backward"
    ),
    "it is linear algebra beyond contraction": (
        "linalg_inv_ex linalg_lu_factor_ex linalg_qr _linalg_svd _linalg_eigh linalg_cholesky_ex "
        "linalg_solve_triangular _linalg_det _linalg_slogdet _linalg_solve_ex triangular_solve"
    ),
    "complex numbers are not in the scalar table": (
        "complex polar view_as_complex view_as_real real imag conj _conj angle _fft_c2c _fft_r2c _fft_c2r"
    ),
    "it looks at strides": "as_strided",
    "it looks at bits": "view",
    "a function of the scalar table is missing": (
        "erfc erfinv asin acos atan atan2 asinh acosh atanh lgamma digamma polygamma i0 tan sinh cosh hypot "
        "nextafter gcd lcm igamma igammac copysign frexp ldexp"
    ),
    "it is the backward of the library's own attention": "_scaled_dot_product_flash_attention_for_cpu_backward",
    "it is attention with a kernel of its own; trace under sdpa_kernel(SDPBackend.MATH) to see its definition": (
        "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_cudnn_attention "
        "scaled_dot_product_attention"
    ),
}

REASONS: dict[str, str] = {f"aten.{name}": reason for reason, names in _REASONS.items() for name in names.split()}


def reason_of(target: torch._ops.OpOverload) -> str:
    """Why `target` is opaque."""
    name = str(target.overloadpacket)
    if name in REASONS:
        return REASONS[name]
    if torch.Tag.nondeterministic_seeded in target.tags:
        return "it is random"
    if target.namespace != "aten":
        return f"{target.namespace} operators are opaque"
    return f"{name} has no cascade form yet"
