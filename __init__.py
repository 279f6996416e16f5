"""Fusecade: a compiler for fused memory-bound operations.

torch.compile(model, backend="fusecade")
kernel = fusecade.compile(fn, (q, k, v), target="cpu")
print(fusecade.explain(fn, q, k, v, target="sm_90"))
fusecade.export(fn, (q, k, v), "fn.fcade", targets=["cpu", "sm_90"]);  fn = fusecade.load("fn.fcade")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, testing
    from .aot import export, export_c
    from .aot_inductor import aot_inductor, load_aot_inductor
    from .api import CompiledFunction, compile, explain
    from .errors import (
        FallbackWarning,
        InternalCompilerError,
        InvalidArgument,
        InvalidPackage,
        MissingTool,
        UnsupportedProgram,
        UserError,
    )
    from .report import KernelReport, Report
    from .runtime.package.library import Library, load_library
    from .runtime.package.load import LoadedFunction, load
    from .torch_backend import reports

__version__ = "0.1.0"

# Name -> module.  Nothing is imported before it is asked for: `import fusecade` does not import PyTorch.
_WHERE = {
    **dict.fromkeys(("CompiledFunction", "compile", "explain"), "api"),
    **dict.fromkeys(("KernelReport", "Report"), "report"),
    **dict.fromkeys(
        (
            "FallbackWarning",
            "InternalCompilerError",
            "InvalidArgument",
            "InvalidPackage",
            "MissingTool",
            "UnsupportedProgram",
            "UserError",
        ),
        "errors",
    ),
    **dict.fromkeys(("export", "export_c"), "aot"),
    **dict.fromkeys(("aot_inductor", "load_aot_inductor"), "aot_inductor"),
    **dict.fromkeys(("Library", "load_library"), "runtime.package.library"),
    **dict.fromkeys(("LoadedFunction", "load"), "runtime.package.load"),
    "reports": "torch_backend",
    "errors": "",
    "testing": "",
}

__all__ = [
    "CompiledFunction",
    "FallbackWarning",
    "InternalCompilerError",
    "InvalidArgument",
    "InvalidPackage",
    "KernelReport",
    "Library",
    "LoadedFunction",
    "MissingTool",
    "Report",
    "UnsupportedProgram",
    "UserError",
    "aot_inductor",
    "compile",
    "errors",
    "explain",
    "export",
    "export_c",
    "load",
    "load_aot_inductor",
    "load_library",
    "reports",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fusecade' has no attribute {name!r}")
    module = importlib.import_module(f".{_WHERE[name] or name}", __name__)
    value = getattr(module, name) if _WHERE[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
