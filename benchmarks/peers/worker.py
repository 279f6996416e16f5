"""Measure kernels in a process of their own; the answers are lines of JSON.

    python -m peers.worker binaries|bytes ARCHITECTURE PROGRAMS CASE...     # from benchmarks/; 0 programs: the case's own

Two kinds of processes, because Triton decides at its import whether it compiles kernels or interprets them: "binaries"
compiles every launch of ours and theirs, "bytes" (with TRITON_INTERPRET=1) runs some of the programs of each and counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

OURS = "fusecade"


def main(arguments: list[str]) -> int:
    what, arch, programs, *names = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # launchers and packages may print
    os.environ["GEMS_VENDOR"] = "nvidia"  # flag-gems looks for the tools of every vendor otherwise

    import torch
    from peers.functions import CASES

    if what == "bytes":
        stand_in_for_libdevice()
    torch.set_grad_enabled(False)
    for case in (case for case in CASES if case.name in names):
        for size in case.shapes:
            for answer in measure(what, case, size, int(arch), int(programs) or case.programs):
                print(json.dumps(answer, default=str), file=answers, flush=True)
    return 0


def measure(what: str, case: Any, size: str, arch: int, programs: int) -> Iterator[dict[str, Any]]:
    """Of one function at one size: ours, then each package's; a failure is an answer with a "reason"."""
    ours, theirs = (our_binaries, their_binaries) if what == "binaries" else (our_bytes, their_bytes)
    head = {"what": what, "case": case.name, "size": size, "arch": arch}
    for peer in (None, *(peer for peer in case.peers if not peer.sizes or size in peer.sizes)):
        whose = {**head, "whose": peer.package if peer else OURS}
        try:
            yield whose | (theirs(case, size, arch, peer, programs) if peer else ours(case, size, arch, programs))
        except importlib.metadata.PackageNotFoundError:
            yield {**whose, "reason": "not installed", "missing": True}
        except (Exception, SystemExit) as error:  # of other people's code, whatever it is
            yield {**whose, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def our_binaries(case: Any, size: str, arch: int, _: int) -> dict[str, Any]:
    """The plan's kernels, compiled; and what the model says that they move."""
    import fusecade

    report = fusecade.explain(case.fn, *case.inputs(size, "meta"), target=f"sm_{arch}", fuse="always")
    if not report.kernels:
        return {"reason": _nothing_made(report)}
    failed = [k.not_compiled for k in report.kernels if k.not_compiled]
    launches = [
        {
            "kernel": k.name,
            "programs": k.grid,
            "constants": dict(k.params),
            "registers": k.registers,
            "spills": k.spills,
            "shared": k.shared_bytes,
            "tensor_cores": {name: n for name, n in (k.tensor_cores or {}).items() if n},
        }
        for k in report.kernels
    ]
    return {
        "launches": launches,
        "left_to_pytorch": [name for name, _ in report.externs],
        "predicted": sum(k.calls * (k.sram_load_bytes + k.sram_store_bytes) for k in report.kernels),
        **({"reason": "; ".join(failed)} if failed else {}),
    }


def _nothing_made(report: Any) -> str:
    why = "; ".join(why for _, why in (*report.refusals, *report.externs))
    return "no kernel: " + (why or "there is nothing to fuse, PyTorch runs it")


def their_binaries(case: Any, size: str, arch: int, peer: Any, _: int) -> dict[str, Any]:
    importlib.metadata.version(peer.package)
    from peers.paper_gpu import DEVICES, paper_gpu

    with paper_gpu(arch, peer.wanted, interpreted=False) as record:
        peer.call(*case.inputs(size))
    launches = [
        {
            "kernel": launch.kernel,
            "programs": launch.programs,
            "constants": dict(launch.constants) | {"num_warps": launch.num_warps, "num_stages": launch.num_stages},
            "registers": launch.resources.registers,
            "spills": launch.resources.spills_bytes,
            "shared": launch.resources.shared_bytes,
            "tensor_cores": {k: n for k, n in launch.resources.tensor_core_instructions.items() if n},
        }
        for launch in record.launches
    ]
    found = {"launches": launches, "chosen": record.chosen}
    if not launches:
        return {"reason": "launched no kernel"}
    if any(launch["shared"] > DEVICES[arch].shared for launch in launches):
        return found | {"reason": f"does not fit: there are {DEVICES[arch].shared} bytes of shared memory"}
    return found


def our_bytes(case: Any, size: str, arch: int, programs: int) -> dict[str, Any]:
    import fusecade
    from fusecade.testing import count_io_of_launch

    args = case.inputs(size)
    kernel = fusecade.compile(case.fn, args, target=f"sm_{arch}", fuse="always", remainder="eager")
    report = kernel.report
    if not report.kernels:
        return {"reason": _nothing_made(report)}
    if report.externs:  # what PyTorch moves is not counted
        return {"reason": "a part is left to PyTorch: " + ", ".join(name for name, _ in report.externs)}
    with no_arithmetic():
        return _bytes(count_io_of_launch(kernel.launch_for_testing(*args), programs=programs))


def their_bytes(case: Any, size: str, arch: int, peer: Any, programs: int) -> dict[str, Any]:
    importlib.metadata.version(peer.package)
    from peers.paper_gpu import paper_gpu

    from fusecade.testing import count_io_of_launch

    args = case.inputs(size)
    with paper_gpu(arch, peer.wanted, interpreted=True), no_arithmetic():
        return _bytes(count_io_of_launch(lambda: peer.call(*args), programs=programs))


def stand_in_for_libdevice() -> None:
    """The interpreter knows none of the device's library: whatever is called gives its first argument."""
    from triton.language.extra import libdevice

    for name, function in vars(libdevice).items():
        if callable(function) and not name.startswith("_"):
            setattr(libdevice, name, lambda x, *_, **__: x)


@contextmanager
def no_arithmetic() -> Iterator[None]:
    """Reductions and matrix products under the interpreter give any value of the right shape, a hundred times faster,
    and sums of integers are not checked for overflow.

    What the kernels of the comparison load and store depends on no value that they compute. Numbers that are passed as
    float32 become what kernels expect, which the interpreter does for integers alone.
    """
    import numpy as np
    import triton.language as tl
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def converted(arg: Any) -> Any:
        if isinstance(arg, float):
            return tl.tensor(interpreter.TensorHandle(np.array([arg], np.float32), tl.float32), tl.float32)
        return convert(arg)

    def reduced(ops: Any, inputs: Any) -> list[Any]:
        inputs, axis = ops.unravel(inputs, ops.axis)
        found = []
        for x in inputs:
            data = np.take(x.handle.data, 0, axis)
            if ops.keep_dims:
                data = data.reshape([1] * x.handle.data.ndim) if ops.axis is None else np.expand_dims(data, axis)
            found.append(ops.to_tensor(data, x.dtype))
        return found

    with (
        patch.object(interpreter, "_implicit_cvt", converted),
        patch.object(TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *_: None),
        patch.object(interpreter.ReduceOps, "apply_impl", reduced),
        patch.object(interpreter.ScanOps, "apply_impl", lambda _, inputs: list(inputs)),
        patch.object(interpreter.InterpreterBuilder, "create_dot", lambda _, a, b, d, *rest: d),
    ):
        yield


def _bytes(count: Any) -> dict[str, Any]:
    return {
        "loads": count.load_bytes,
        "stores": count.store_bytes,
        "outside": count.loads_by_pointer_arg.get("(outside)", 0),
        "by_launch": [
            {k: v for k, v in asdict(launch).items() if k in ("kernel", "grid", "programs_run")}
            | {"loads": dict(launch.loads_by_pointer_arg), "stores": dict(launch.stores_by_pointer_arg)}
            for launch in count.launches
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
