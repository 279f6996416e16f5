"""What was made of a graph, as lines of the log `fusecade`: `TORCH_LOGS="fusecade"`, and more with `"+fusecade"`.

They are written from the plan, so that one from the cache says the same as one made anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..frontend.importer import source_line
from .titles import title_of

if TYPE_CHECKING:
    from ..driver import Call
    from .build import Built

log = logging.getLogger("fusecade")


def log_built(built: Built, role: str) -> None:
    """role: "forward", "backward" or "inference"."""
    if log.isEnabledFor(logging.INFO):
        log.info("%s", "\n  ".join(_summary(built, role)))
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", "\n  ".join(_details(built)))


def _summary(built: Built, role: str) -> Iterator[str]:
    plan = built.plan
    rest = "Inductor" if built.remainder == "inductor" else "PyTorch"
    kernels = len({call.artifact.fingerprint for call in plan.calls})
    yield f"a graph ({role}) for {plan.target.name}: kernels {kernels}, calls {len(plan.calls)}, {rest} runs the rest"
    paths = {entry.kernel.artifact.fingerprint: entry.kernel.path for entry in built.entries}
    for call in plan.calls:
        yield f"{title_of(call)}: {_facts(call)}{_place(call)}"
        if (path := paths.pop(call.artifact.fingerprint, None)) is not None:
            yield f"    source: {path}"
    for (what, reason), times in _counted((", ".join(dict.fromkeys(r.what)), r.reason) for r in plan.refusals):
        yield f"not fused{times}: {what}: {reason}"
    for (operator, reason), times in _counted(plan.externs):
        yield f"no kernel{times}: {operator}: {reason}"
    for (name, reason), times in _counted(built.hidden if plan.target.kind != "cpu" else ()):
        yield f"not part of Inductor's program{times}: {name}: {reason}"
    for part, reason in built.fallbacks:
        yield f"runs eagerly: {part}: {reason}"


def _facts(call: Call) -> str:
    facts = [stage.facts for stage in call.artifact.kernels]
    moved, time = (sum(one[name] for one in facts) for name in ("hbm_bytes", "predicted_us"))
    return f"{moved / 2**20:.2f} MiB moved, {time:.0f} µs predicted"


def _place(call: Call) -> str:
    line = source_line(call.outputs[-1])
    return f"\n    at {line.file}:{line.line}: {line.code.strip()}" if line else ""


def _counted(found: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], str]]:
    return [(pair, f" ({n} times)" if n > 1 else "") for pair, n in Counter(found).items()]


def _details(built: Built) -> Iterator[str]:
    plan = built.plan
    yield "in detail:"
    for artifact in {c.artifact.fingerprint: c.artifact for c in plan.calls}.values():
        for kernel in artifact.kernels:
            yield f"{kernel.name}: {_parameters(kernel.params)}; {kernel.facts.get('parameters', 'cost model')}"
            yield from _indented(kernel.facts.get("derivation", ()))
            yield from _indented(f"visits {line}" for line in kernel.facts.get("visits", ()))
    for rule, what, certificate in plan.rewrites:
        yield f"rewritten by {rule}: {what}: {certificate}"
    if plan.program_text:
        yield "the program as imported:"
        yield from _indented(plan.program_text.splitlines())


def _parameters(params: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items()) or "no parameters"


def _indented(lines: Iterable[str] | Sequence[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


__all__ = ["log_built"]
