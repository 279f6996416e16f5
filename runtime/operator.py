"""`fusecade::call`: the one operator that stands for a kernel in an ATen graph.

    fusecade::call(str kernel, Tensor[] inputs, SymInt[] sizes) -> Tensor[]

It is pure, and known to fake tensors, so that Inductor and other compilers take it as it stands.  `kernel` is a key of
the table of this process; `register` fills it.  An entry is also a plain function of the same arguments, for graphs
that nobody compiles further.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.autograd import profiler
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import FallbackWarning, InternalCompilerError, InvalidArgument, SourceLine
from .loaded import LoadedKernel, device_of
from .own_memory import own_memory

Fallback = Callable[..., Sequence[torch.Tensor]]
# Told what failed, on which tensors and sizes; None for these where the call was refused.  Gives what to do next, or None.
Failure = Callable[[str, Sequence[torch.Tensor] | None, Sequence[int]], str | None]


class Entry:
    """A kernel in its place in a graph.

    fallback: what the kernel replaced, as a function of all inputs, then all sizes; None where that cannot be said.
    It may take more of both than the kernel, which takes the first ones.
    title: what profilers show.
    """

    def __init__(
        self,
        key: str,
        kernel: LoadedKernel,
        fallback: Fallback | None,
        device: torch.device,
        strict: bool = False,
        source: SourceLine | None = None,
        on_failure: Failure = lambda *_: None,
        title: str = "",
    ) -> None:
        self.key, self.kernel, self.fallback, self.device = key, kernel, fallback, device
        self.strict, self.source, self.on_failure = strict, source, on_failure
        self.title = f"fusecade::{title or kernel.artifact.name}"
        self.failed: str | None = None
        self._refused: set[str] = set()
        self._inputs, self._sizes = len(kernel.artifact.inputs), len(kernel.artifact.sizes)
        # What torch.fx needs to write a call of it in generated code.
        self.__name__ = self.__qualname__ = kernel.artifact.name
        self.__module__ = __name__

    def __call__(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        if profiler._is_profiler_enabled:
            with profiler.record_function(self.title):
                return self._run(inputs, sizes)
        return self._run(inputs, sizes)

    def _run(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        if any(type(t) not in _PLAIN for t in inputs):
            inputs = _plain(inputs)
        if self.failed is None and not (self.fallback is not None and _any_empty(inputs[: self._inputs])):
            try:
                return self.kernel.run(inputs[: self._inputs], sizes[: self._sizes], self.device)
            except (torch.OutOfMemoryError, MemoryError):
                raise  # running the parts one by one takes more memory, not less
            except IndexError as error:  # an index out of range: PyTorch says which operator met it
                if self.strict or self.fallback is None:
                    raise
                results = self._run_fallback(inputs, sizes)
                self._fail(error, inputs, sizes)  # it found nothing wrong
                return results
            except Exception as error:
                refusal = error if isinstance(error, InvalidArgument) else self._misfit(inputs, sizes)
                if refusal is not None:
                    self._refuse(refusal)
                else:
                    self._fail(error, inputs, sizes)
        return self._run_fallback(inputs, sizes)

    def empty(self, inputs: Sequence[torch.Tensor], sizes: Sequence[Any]) -> list[torch.Tensor]:
        """Outputs without values: what the operator is to fake tensors."""
        return self.kernel.outputs_like(sizes[: self._sizes], device_of(inputs) or self.device)

    def _misfit(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> InvalidArgument | None:
        """What is wrong with the arguments, when it is they that are wrong."""
        inputs, sizes = inputs[: self._inputs], sizes[: self._sizes]
        try:
            self.kernel.check(inputs, sizes)
        except InvalidArgument as error:
            return error
        wanted = self.device.type
        elsewhere = next((t.device for t in inputs if t.dim() and t.device.type != wanted), None)
        if elsewhere is None:
            return None
        return InvalidArgument(
            f"kernel {self.kernel.artifact.name} was compiled for tensors on {wanted}, and one is on {elsewhere}",
            next_step=f"move the tensors to {wanted}, or compile again for {elsewhere.type}",
        )

    def _refuse(self, error: InvalidArgument) -> None:
        """This call is none that the kernel takes; it stays for others."""
        if self.strict or self.fallback is None:
            raise error
        if error.message not in self._refused:
            self._refused.add(error.message)
            self.on_failure(error.message, None, ())
            name = self.kernel.artifact.name
            warnings.warn(FallbackWarning(f"kernel {name}", error.message, self.source, error.next_step), stacklevel=5)

    def _fail(self, error: Exception, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        name, what = self.kernel.artifact.name, f"{type(error).__name__}: {_first_line(error)}"
        failed = f"its kernel failed: {what}"
        step = self.on_failure(failed, inputs, sizes)
        if self.strict or self.fallback is None:
            raise InternalCompilerError(
                f"kernel {name} for {self.kernel.artifact.target} failed: {what}", stage="emit", dump=self.kernel.path
            ) from error
        self.failed = failed
        warnings.warn(FallbackWarning(f"kernel {name}", f"it failed: {what}", self.source, step), stacklevel=5)

    def _run_fallback(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        assert self.fallback is not None
        with torch.no_grad():
            results = self.fallback(*inputs, *sizes)
        return self.kernel.fit_outputs(list(own_memory(results, inputs)), sizes[: self._sizes])


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _plain(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Classes of users that hold their elements themselves: modes that PyTorch runs us in may not know them."""
    with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass():
        return [t if type(t) in _PLAIN else t.as_subclass(torch.Tensor) for t in tensors]


def _any_empty(tensors: Sequence[torch.Tensor]) -> bool:
    """Over nothing, what a sum is divided by is zero too: PyTorch's own operators know what comes out of that."""
    return any(not t.numel() for t in tensors)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


# What a graph that was compiled calls stays as long as that graph does.
_TABLE: MutableMapping[str, Entry] = WeakValueDictionary()


def register(entry: Entry) -> Entry:
    """Put an entry into the table of this process; one that is there under the same key stays."""
    return _TABLE.setdefault(entry.key, entry)


def _find(key: str) -> Entry:
    try:
        return _TABLE[key]
    except KeyError:
        raise InternalCompilerError(
            f"a compiled graph calls kernel {key[:20]}, which this process has not loaded; packages of AOTInductor are "
            "loaded with `fusecade.load_aot_inductor`"
        ) from None


def _call(kernel: str, inputs: list[torch.Tensor], sizes: list[int] | None) -> list[torch.Tensor]:
    return _find(kernel)(inputs, sizes or ())  # AOTInductor gives None for an empty list


def _fake_call(kernel: str, inputs: list[torch.Tensor], sizes: list[Any]) -> list[torch.Tensor]:
    return _find(kernel).empty(inputs, sizes)


_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_LIBRARY = torch.library.Library("fusecade", "FRAGMENT")
_LIBRARY.define("call(str kernel, Tensor[] inputs, SymInt[] sizes) -> Tensor[]", tags=_TAGS)
_LIBRARY.impl("call", _call, "CompositeExplicitAutograd")
torch.library.register_fake("fusecade::call", _fake_call, lib=_LIBRARY)

OPERATOR = torch.ops.fusecade.call.default
