"""Compile generated Triton source for a GPU that need not be in this machine.

The compiler runs in a process of its own (`triton_compile_worker.py`), because under TRITON_INTERPRET=1 this one may be
unable to compile anything, and because a crash inside LLVM or ptxas must not end the user's program. The child's
environment is this one's without the variables that change what Triton produces, so that a result depends on nothing
but its request.

    compiled = compile_offline(path, "kernel", {"x_ptr": "*fp16", "n": "i32"}, {"BLOCK": 128},
                               divisible_by_16=["x_ptr"], target=target, num_warps=4, num_stages=3, cache_dir=folder)

Results are kept under `cache_dir`, keyed by everything that determines them. An entry is a manifest `<key>.json` and
one file for each artefact, named by the hash of its bytes and checked against it when it is read: no pickle, no lock,
and two writers of the same entry do not disturb each other.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import queue
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..errors import CacheWarning, InternalCompilerError, InvalidArgument, MissingTool, UserError
from .files import write_kept
from .resources import Resources, read_resources

Constant = int | float | bool | str | None

CACHE_FORMAT = 1  # raise it when an entry's contents change meaning
WORKER = Path(__file__).with_name("triton_compile_worker.py")
SUFFIXES = {"cuda": ("cubin", "ptx"), "hip": ("hsaco", "amdgcn")}
# Environment variables that change what Triton compiles, or where it writes; none of them reaches the worker.
COMPILER_VARIABLES = ("TRITON_", "MLIR_", "LLVM_", "AMDGCN_", "NVPTX_", "PTXAS_", "DISABLE_PTXAS_OPT", "USE_IR_LOC")


class TargetLike(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def arch(self) -> int | str: ...
    @property
    def warp_size(self) -> int: ...


@dataclass(frozen=True)
class CompileRequest:
    """One kernel, one set of parameters, one target."""

    source_path: Path
    kernel_name: str
    signature: Mapping[str, str]  # argument -> "*fp16", "i32", "fp32", ...; constants need not be listed
    constexprs: Mapping[str, Constant]
    target: TargetLike
    divisible_by_16: tuple[str, ...] = ()  # pointers aligned to 16 bytes, integers that are multiples of 16
    num_warps: int = 4
    num_stages: int = 3
    options: Mapping[str, Constant] = field(default_factory=dict)  # of Triton's backend: maxnreg, waves_per_eu, ...
    line_info: bool = False  # True: profilers can show source lines, and the binary depends on the source's path


@dataclass(frozen=True)
class Compiled:
    """What Triton made of one request."""

    kernel_name: str
    kind: str  # "cuda" or "hip"
    arch: int | str  # 90, "gfx942"
    binary: bytes  # cubin or hsaco
    assembly: str  # PTX or amdgcn
    ttir: str
    ttgir: str
    shared_bytes: int
    num_warps: int  # can exceed the request's, where the compiler specialises warps
    num_stages: int
    metadata: Mapping[str, Any]
    cache_key: str
    seconds: float  # that the compiler took, when it ran
    from_cache: bool = False

    @property
    def ok(self) -> bool:
        return True

    @cached_property
    def resources(self) -> Resources:
        """What the kernel uses: registers, spills, matrix instructions; the tools that say it take up to a second."""
        return read_resources(self)

    @property
    def ptx(self) -> str:
        return self._assembly_of("cuda")

    @property
    def amdgcn(self) -> str:
        return self._assembly_of("hip")

    def _assembly_of(self, kind: str) -> str:
        if self.kind != kind:
            raise AttributeError(f"a kernel for {self.kind} has no {SUFFIXES[kind][1]}")
        return self.assembly


@dataclass(frozen=True)
class CompileFailure:
    """Why there is no binary, as a value: a tuner drops the configuration and goes on."""

    kernel_name: str
    reason: str
    detail: str
    crashed: bool = False  # the compiler process died or ran out of time, rather than raising

    @property
    def ok(self) -> bool:
        return False


def compile_offline(
    source_path: Path,
    kernel_name: str,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Constant],
    *,
    target: TargetLike,
    divisible_by_16: Iterable[str] = (),
    num_warps: int = 4,
    num_stages: int = 3,
    options: Mapping[str, Constant] | None = None,
    line_info: bool = False,
    cache_dir: Path | None = None,
    timeout_s: float = 300.0,
) -> Compiled:
    """Compile one kernel, or take it from the cache; raise `InternalCompilerError` where the compiler refuses."""
    request = CompileRequest(
        source_path=Path(source_path),
        kernel_name=kernel_name,
        signature=signature,
        constexprs=constexprs,
        target=target,
        divisible_by_16=tuple(divisible_by_16),
        num_warps=num_warps,
        num_stages=num_stages,
        options=options or {},
        line_info=line_info,
    )
    [result] = compile_many([request], cache_dir=cache_dir, jobs=1, timeout_s=timeout_s)
    if isinstance(result, CompileFailure):
        raise InternalCompilerError(
            f"Triton did not compile {kernel_name} of {source_path} for {target.kind}:{target.arch}: "
            f"{result.reason}\n{result.detail}",
            stage="emit",
            dump=source_path,
        )
    return result


def compile_many(
    requests: Sequence[CompileRequest],
    *,
    cache_dir: Path | None = None,
    jobs: int = 2,
    timeout_s: float = 300.0,
) -> list[Compiled | CompileFailure]:
    """Compile several kernels over `jobs` processes; the results are in the order of the requests."""
    with CompilerPool(cache_dir=cache_dir, jobs=jobs, timeout_s=timeout_s) as pool:
        return pool.compile(requests)


class CompilerPool:
    """Up to `jobs` compiler processes, started when needed and kept until the end of the `with` block.

    A search that compiles a few configurations at a time keeps one pool: each process imports Triton once.
    """

    def __init__(self, *, cache_dir: Path | None = None, jobs: int = 2, timeout_s: float = 300.0) -> None:
        if jobs < 1:
            raise InvalidArgument(f"a compiler pool needs at least one job, not {jobs}")
        self._cache = DiskCache(Path(cache_dir)) if cache_dir is not None else None
        self._timeout_s = timeout_s
        self._workers = [_Worker() for _ in range(jobs)]

    def __enter__(self) -> CompilerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def compile(self, requests: Sequence[CompileRequest]) -> list[Compiled | CompileFailure]:
        """The results in the order of the requests; equal requests are compiled once."""
        messages = [_message(request) for request in requests]
        keys = [cache_key(message) for message in messages]
        results: dict[str, Compiled | CompileFailure] = {}
        todo: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        count = 0
        for key, message in dict(zip(keys, messages, strict=True)).items():
            kept = self._cache.read(key) if self._cache else None
            if kept is not None:
                results[key] = kept
            else:
                todo.put((key, message))
                count += 1

        def work(worker: _Worker) -> None:
            while True:
                try:
                    key, message = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    results[key] = _result(key, message, worker.ask(message, self._timeout_s))
                except OSError as error:  # no process, no pipe: a failure of this request, not of this thread
                    results[key] = CompileFailure(message["kernel_name"], str(error), "", crashed=True)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self._workers[:count]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._cache:
            for result in results.values():
                if isinstance(result, Compiled) and not result.from_cache:
                    self._cache.write(result)
        return [results[key] for key in keys]


class _Worker:
    """One compiler process: a line of JSON in, a line of JSON out. It is replaced when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.start()
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        code = process.wait()
        said = self._said()
        self.stop()
        why = f"took longer than {timeout_s:g} s" if expired.is_set() else f"died with exit status {code}"
        return {"ok": False, "crashed": True, "error": f"the compiler process {why}", "detail": said}

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):  # a worker that died has closed it
                process.stdin.close()  # the end of its input is the end of the worker
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._log = tempfile.TemporaryFile("w+", errors="replace")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env={k: v for k, v in os.environ.items() if not k.startswith(COMPILER_VARIABLES)},
            )
        return self._process

    def _said(self, last: int = 4000) -> str:
        self._log.seek(0)
        return self._log.read()[-last:]


def _message(request: CompileRequest) -> dict[str, Any]:
    """The request as the worker reads it."""
    target = request.target
    if target.kind not in SUFFIXES:
        raise InvalidArgument.choice("the kind of target that Triton compiles for", target.kind, SUFFIXES)
    path = Path(request.source_path).absolute()
    return {
        "source": path.read_text(encoding="utf-8"),
        "source_path": str(path),
        "kernel_name": request.kernel_name,
        "signature": dict(request.signature),
        "constexprs": dict(request.constexprs),
        "divisible_by_16": sorted(request.divisible_by_16),
        "target": {
            "kind": target.kind,
            "arch": triton_arch(target),
            "warp_size": getattr(target, "warp_size", None) or (64 if target.kind == "hip" else 32),
        },
        "num_warps": request.num_warps,
        "num_stages": request.num_stages,
        # Triton 3.9 warns, and may change its mind, where fusion of a * b + c is not asked for by name.
        "options": {"enable_fp_fusion": True, **request.options},
        "line_info": request.line_info,
    }


def triton_arch(target: TargetLike) -> int | str:
    """90 for 90, "90", "sm_90" and "sm_90a"; AMD's names are Triton's."""
    if target.kind == "hip" or isinstance(target.arch, int):
        return target.arch
    return int(target.arch.removeprefix("sm_").rstrip("af"))


def cache_key(message: Mapping[str, Any]) -> str:
    """Hash of all that determines the result; the path counts only where the binary mentions it."""
    parts = {key: value for key, value in message.items() if key != "source_path" or message["line_info"]}
    parts |= {"triton": triton_version(), "format": CACHE_FORMAT}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def triton_version() -> str:
    """The installed version, without importing Triton."""
    for distribution in ("triton", "pytorch-triton", "triton-rocm", "pytorch-triton-rocm"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingTool("Triton", needed_for="compiling for GPUs", install="pip install triton")


def _result(key: str, message: Mapping[str, Any], answer: Mapping[str, Any]) -> Compiled | CompileFailure:
    name = message["kernel_name"]
    if not answer["ok"]:
        return CompileFailure(name, answer["error"], answer["detail"], answer.get("crashed", False))
    metadata = answer["metadata"]
    return Compiled(
        kernel_name=name,
        kind=message["target"]["kind"],
        arch=message["target"]["arch"],
        binary=base64.b64decode(answer["binary"]),
        assembly=answer["assembly"],
        ttir=answer["ttir"],
        ttgir=answer["ttgir"],
        shared_bytes=metadata["shared"],
        num_warps=metadata["num_warps"],
        num_stages=metadata["num_stages"],
        metadata=metadata,
        cache_key=key,
        seconds=answer["seconds"],
    )


class DiskCache:
    """Compiled kernels in a folder that only its owner can read: `<cache_dir>/triton/`, mode 0700."""

    def __init__(self, cache_dir: Path) -> None:
        self.folder = cache_dir / "triton"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise UserError(
                f"the cache folder {self.folder} is not a folder of your own that nobody else can open",
                next_step=f"`chmod 700 {self.folder}` if it is yours, or choose another cache folder",
            )

    def read(self, key: str) -> Compiled | None:
        """The entry, or None where there is none or where a byte of it is not what was written."""
        try:
            manifest = json.loads((self.folder / f"{key}.json").read_text())
            body = manifest["body"]
            if manifest["sha256"] != _digest(_canonical(body)) or body["cache_key"] != key:
                return None
            blobs = {}
            for name, (file_name, digest) in body.pop("files").items():
                blobs[name] = (self.folder / Path(file_name).name).read_bytes()
                if _digest(blobs[name]) != digest:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        texts = {name: blob.decode() for name, blob in blobs.items() if name != "binary"}
        return Compiled(**body, **texts, binary=blobs["binary"], from_cache=True)

    def write(self, compiled: Compiled) -> None:
        """Artefacts first, the manifest that names them last.  A folder that cannot be written to costs time, not results."""
        try:
            self._write(compiled)
        except OSError as error:
            what = f"the cache folder {self.folder} cannot be written to ({error.strerror})"
            warnings.warn(CacheWarning(what, self.folder), stacklevel=3)

    def _write(self, compiled: Compiled) -> None:
        binary, assembly = SUFFIXES[compiled.kind]
        files = {}
        for name, suffix in (("binary", binary), ("assembly", assembly), ("ttir", "ttir"), ("ttgir", "ttgir")):
            value = getattr(compiled, name)
            blob = value if isinstance(value, bytes) else value.encode()
            file_name = f"{compiled.kernel_name[:100]}-{_digest(blob)[:16]}.{suffix}"
            self._put(file_name, blob)
            files[name] = [file_name, _digest(blob)]
        kept = replace(compiled, metadata=dict(compiled.metadata))
        body = {k: v for k, v in vars(kept).items() if k not in files and k != "from_cache"} | {"files": files}
        manifest = {"sha256": _digest(_canonical(body)), "body": body}
        self._put(f"{compiled.cache_key}.json", json.dumps(manifest, indent=1, sort_keys=True).encode())

    def _put(self, file_name: str, blob: bytes) -> None:
        """All of the file or none of it, whoever else is writing or deleting."""
        write_kept(self.folder / file_name, blob)


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
