"""Kernels written by hand in the idiom that codegen should print: sizes and strides are constants.

`tests/correctness/test_offline_compile.py` compiles them for GPUs that are not there, `test_count_io.py` runs them
under the interpreter and compares the bytes they move with the cost model's formulas.
"""

# Kernels are Triton, which type checkers read as Python.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl


# `tl.max` and `tl.maximum` drop NaN, and which index `tl.argmin` gives for NaN depends on the order of the reduction
# (and on Triton's version, in the interpreter). torch propagates NaN, and takes its first index. These cost nothing:
# on NVIDIA they are one max.NaN instruction each.
@triton.jit
def nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def nan_min(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def softmax_weighted_sum(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    scale_log2,  # softmax scale times log2(e)
    Q: tl.constexpr,  # rows of q per head
    KV: tl.constexpr,  # rows of k and v per head
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out[h, m, :] = sum_n softmax_n(scale * q[h, m, :] . k[h, n, :]) v[h, n, :], one pass over k and v."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    n = tl.arange(0, BLOCK_N)
    q_ptrs = q_ptr + head * (Q * D) + rows[:, None] * D + d[None, :]
    if EVEN_M:
        q = tl.load(q_ptrs)
    else:
        q = tl.load(q_ptrs, mask=rows[:, None] < Q, other=0.0)
    k_head = k_ptr + head * (KV * D)
    v_head = v_ptr + head * (KV * D)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    for start in tl.range(0, KV, BLOCK_N, num_stages=STAGES):
        cols = start + n
        k_ptrs = k_head + cols[None, :] * D + d[:, None]  # read transposed
        v_ptrs = v_head + cols[:, None] * D + d[None, :]
        if EVEN_N:
            k = tl.load(k_ptrs)
            s = tl.dot(q, k)
        else:
            k = tl.load(k_ptrs, mask=cols[None, :] < KV, other=0.0)
            s = tl.dot(q, k)
            s = tl.where(cols[None, :] < KV, s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1) * scale_log2)
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        p = tl.exp2(s * scale_log2 - reference[:, None])
        decay = tl.exp2(top - reference)
        total = total * decay + tl.sum(p, 1)
        acc = acc * decay[:, None]
        if EVEN_N:
            v = tl.load(v_ptrs)
        else:
            v = tl.load(v_ptrs, mask=cols[:, None] < KV, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc)
        top = new_top
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    out_ptrs = out_ptr + head * (Q * D) + rows[:, None] * D + d[None, :]
    if EVEN_M:
        tl.store(out_ptrs, out)
    else:
        tl.store(out_ptrs, out, mask=rows[:, None] < Q)


@triton.jit
def nearest_centroid(
    x_ptr,
    c_ptr,
    c_norm_ptr,  # squared norm of each centroid, fp32
    out_ptr,  # int64
    N,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out[m] = argmin_k |c_k|^2 - 2 x_m . c_k, lowest k among equals, first NaN; K is a multiple of BLOCK_N."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    n = tl.arange(0, BLOCK_N)
    x_ptrs = x_ptr + rows[:, None].to(tl.int64) * D + d[None, :]
    if EVEN_M:
        x = tl.load(x_ptrs)
    else:
        x = tl.load(x_ptrs, mask=rows[:, None] < N, other=0.0)
    best = tl.full([BLOCK_M], float("inf"), tl.float32)
    best_at = tl.zeros([BLOCK_M], tl.int32)
    for start in tl.range(0, K, BLOCK_N, num_stages=STAGES):
        cols = start + n
        c = tl.load(c_ptr + cols[None, :] * D + d[:, None])
        norm = tl.load(c_norm_ptr + cols)
        distance = norm[None, :] - 2.0 * tl.dot(x, c)
        low = tl.reduce(distance, 1, nan_min)
        hit = (distance == low[:, None]) | (distance != distance)
        at = tl.min(tl.where(hit, n[None, :], BLOCK_N), 1)
        closer = (low < best) | ((low != low) & (best == best))
        best_at = tl.where(closer, start + at, best_at)
        best = tl.where(closer, low, best)
    if EVEN_M:
        tl.store(out_ptr + rows, best_at.to(tl.int64))
    else:
        tl.store(out_ptr + rows, best_at.to(tl.int64), mask=rows < N)


@triton.jit
def gemm_row_max(
    a_ptr,
    b_ptr,
    out_ptr,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """out[m] = max_n sum_k a[m, k] b[n, k]; the M x N product is never stored."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for start in tl.range(0, N, BLOCK_N, num_stages=1, flatten=FLATTEN):
        cols = start + n
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for inner in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            depth = inner + k
            a_ptrs = a_ptr + rows[:, None].to(tl.int64) * K + depth[None, :]
            b_ptrs = b_ptr + cols[None, :] * K + depth[:, None]
            if EVEN_M and EVEN_K:
                a = tl.load(a_ptrs)
            else:
                a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (depth[None, :] < K), other=0.0)
            if EVEN_N and EVEN_K:
                b = tl.load(b_ptrs)
            else:
                b = tl.load(b_ptrs, mask=(cols[None, :] < N) & (depth[:, None] < K), other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if not EVEN_N:
            acc = tl.where(cols[None, :] < N, acc, float("-inf"))
        top = nan_max(top, tl.reduce(acc, 1, nan_max))
    if EVEN_M:
        tl.store(out_ptr + rows, top)
    else:
        tl.store(out_ptr + rows, top, mask=rows < M)
