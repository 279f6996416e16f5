"""The process that runs Triton's compiler: JSON requests in, JSON answers out, one a line.

It stands alone: no import from the package, so that starting it costs an `import triton` (half a second) and not an
`import torch`. `runtime/triton_compile.py` starts it by path, without TRITON_INTERPRET in its environment; by hand:

    echo '{...}' | python -m fusecade.runtime.triton_compile_worker

Why a process of its own: under TRITON_INTERPRET=1 even `tl.sum` is an interpreted function, so a process in which the
interpreter runs can never compile; and a crash inside LLVM takes down the process that it happens in.
"""

from __future__ import annotations

import base64
import json
import linecache
import os
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

ASSEMBLY = {"cuda": "ptx", "hip": "amdgcn"}
BINARY = {"cuda": "cubin", "hip": "hsaco"}


def main() -> int:
    answers = _claim_stdout()
    for line in sys.stdin:
        if not line.strip():
            continue
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
    return 0


def _claim_stdout() -> TextIO:
    """The real stdout, for answers only; whatever the compiler prints to file descriptor 1 goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def answer(request: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        with _private_triton_cache(), _line_info(bool(request["line_info"])):
            result = _compile(request)
    except Exception as error:  # whatever the compiler raises is an answer, not the end of this process
        return {
            "ok": False,
            "error": f"{type(error).__name__}: {error}",
            "detail": traceback.format_exc(limit=-4),
        }
    return {"ok": True, "seconds": time.perf_counter() - start, **result}


def _compile(request: dict[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = _load_kernel(request["source"], request["source_path"], request["kernel_name"])
    constexprs = request["constexprs"]
    signature = _complete_signature(kernel.arg_names, request["signature"], constexprs)
    unknown = [name for name in request["divisible_by_16"] if name not in signature]
    if unknown:
        raise ValueError(f"divisible_by_16 names no argument of the kernel: {unknown}")
    attrs = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in request["divisible_by_16"]}
    target = request["target"]
    kind = target["kind"]
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs, attrs),
        target=GPUTarget(kind, target["arch"], target["warp_size"]),
        options={"num_warps": request["num_warps"], "num_stages": request["num_stages"], **request["options"]},
    )
    metadata = json.loads(json.dumps(compiled.metadata._asdict(), default=_plain))
    return {
        "binary": base64.b64encode(compiled.asm[BINARY[kind]]).decode(),
        "assembly": compiled.asm[ASSEMBLY[kind]],
        "ttir": compiled.asm["ttir"],
        "ttgir": compiled.asm["ttgir"],
        "metadata": metadata,
    }


def _plain(value: object) -> object:
    """What JSON has no word for (GPUTarget, enumerations) by its fields or its name."""
    return dict(vars(value)) if hasattr(value, "__dict__") else str(value)


def _load_kernel(source: str, path: str, name: str) -> Any:
    """Execute the source text as a module and return its kernel.

    `triton.jit` reads the source of its function back through `linecache`: an entry put there by hand (no time stamp)
    is what it gets, so that what is compiled is the text that was hashed, whatever happens to the file meanwhile.
    """
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    module = types.ModuleType("fusecade_generated")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(source, path, "exec"), module.__dict__)
    kernel = module.__dict__.get(name)
    if kernel is None:
        raise ValueError(f"{path} defines no kernel {name!r}")
    if not hasattr(kernel, "arg_names") or not hasattr(kernel, "cache_key"):
        raise ValueError(f"{name!r} in {path} is not a function under @triton.jit")
    return kernel


def _complete_signature(arg_names: list[str], signature: dict[str, str], constexprs: dict[str, Any]) -> dict[str, str]:
    """Every argument in the kernel's order; the ones with a value are "constexpr"."""
    known = set(arg_names)
    strangers = [name for name in [*signature, *constexprs] if name not in known]
    if strangers:
        raise ValueError(f"the kernel has no such arguments: {strangers}")
    missing = [name for name in arg_names if name not in signature and name not in constexprs]
    if missing:
        raise ValueError(f"neither a type nor a value is given for the kernel's arguments {missing}")
    return {name: "constexpr" if name in constexprs else signature[name] for name in arg_names}


@contextmanager
def _private_triton_cache() -> Iterator[None]:
    """Triton writes through a cache of its own; ours is the one that lasts, so give it a folder that does not.

    The key of a cache that nothing else reads need not hash all of libtriton.so (two seconds in every process).
    """
    import triton.runtime.cache

    triton.runtime.cache.triton_key = lambda: "private"
    with tempfile.TemporaryDirectory(prefix="fusecade-triton-", ignore_cleanup_errors=True) as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        yield


@contextmanager
def _line_info(wanted: bool) -> Iterator[None]:
    """Without line information a binary does not depend on the path of its source."""
    os.environ["TRITON_DISABLE_LINE_INFO"] = "0" if wanted else "1"
    yield


if __name__ == "__main__":
    sys.exit(main())
