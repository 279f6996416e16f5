"""Kernels that fail on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusecade.assembly import build


def break_kernels(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Every kernel has this source from now on."""
    real = build.cached_plan

    def plan(*arguments, **named):
        made = real(*arguments, **named)
        for call in made.calls:
            call.artifact = replace(call.artifact, source=source.format(function=call.artifact.function))
        return made

    monkeypatch.setattr(build, "cached_plan", plan)
