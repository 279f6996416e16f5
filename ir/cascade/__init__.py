"""The `cascade` dialect: the algorithm, as a DAG of extended Einsums over named ranks, with no schedule.

cascade.program @attention(%q : !cascade.tensor<[n, 64], f32>, ...) {
  %s = cascade.einsum [i = n, j = m, d = 64]
         ins(%q[i, d] : !cascade.tensor<[n, 64], f32>, %k[j, d] : !cascade.tensor<[m, 64], f32>)
         outs(sum [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a : f32, %b : f32):
    %p = arith.mulf %a, %b : f32
    cascade.yield %p : f32
  }
  cascade.return %s : !cascade.tensor<[n, m], f32>
}
"""

from __future__ import annotations

from xdsl.ir import Dialect

from ..attributes import AccessMap, RankSpace, TensorType
from .coordinates import SCATTERS, GatherOp, ScatterOp, slot
from .einsum import EinsumOp
from .extern import ExternOp
from .online import OnlineOp
from .program import KernelOp, ProgramOp, ReturnOp
from .region import IndexOp, YieldOp, verify_scalar_region
from .scan import LINEAR, SCANS, ScanOp
from .structured import COMBINERS, MAP, REDUCTIONS

__all__ = [
    "COMBINERS",
    "LINEAR",
    "MAP",
    "REDUCTIONS",
    "SCANS",
    "SCATTERS",
    "Cascade",
    "EinsumOp",
    "ExternOp",
    "GatherOp",
    "IndexOp",
    "KernelOp",
    "OnlineOp",
    "ProgramOp",
    "ReturnOp",
    "ScanOp",
    "ScatterOp",
    "YieldOp",
    "slot",
    "verify_scalar_region",
]

Cascade = Dialect(
    "cascade",
    [YieldOp, ReturnOp, IndexOp, EinsumOp, OnlineOp, ScanOp, GatherOp, ScatterOp, ExternOp, ProgramOp, KernelOp],
    [RankSpace, AccessMap, TensorType],
)
