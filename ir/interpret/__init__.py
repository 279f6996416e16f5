"""The reference interpreter: what a program means, in float64 torch.  It is the oracle of every pass.

`run_program` runs the `cascade` dialect, `run_kernel` one kernel of the `tile` dialect.  All floats are float64, all
integers int64, booleans bool: nothing is rounded to a storage type.  Values inside a region are tensors with *named*
ranks that broadcast by name, so `x[i, d] * w[d]` never holds a rank that it does not depend on.
"""

from __future__ import annotations

from .access import apply, index_value, symbol_values
from .externs import call_extern
from .kernels import TileProgram, run_kernel
from .programs import Merge, ProgramRun, run_program
from .regions import evaluate_region, torch_function
from .values import Named, Space, infer_from, infer_sizes, reference_dtype, size_of, to_reference

__all__ = [
    "Merge",
    "Named",
    "ProgramRun",
    "Space",
    "TileProgram",
    "apply",
    "call_extern",
    "evaluate_region",
    "index_value",
    "infer_from",
    "infer_sizes",
    "reference_dtype",
    "run_kernel",
    "run_program",
    "size_of",
    "symbol_values",
    "to_reference",
    "torch_function",
]
