"""The table of docs/models.md, from the snapshots in goldens/models/."""

from __future__ import annotations

import re
from pathlib import Path

from data.models import MODELS

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "models.md"
GOLDENS = ROOT / "tests" / "goldens"
BEGIN, END = "<!-- table: written by the tests -->", "<!-- end of table -->"


def golden_name(name: str, attention: str, fuse: str) -> str:
    return f"models/{name}-{attention}-{fuse}.txt"


def written(page: str) -> str:
    """The page with its table as the snapshots have it."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def table() -> str:
    rows = [
        "| model | attention | kernels, forward and backward | by cost | what stays with PyTorch |",
        "|---|---|---|---|---|",
    ]
    reasons: dict[str, int] = {}
    for model in MODELS.values():
        for attention in model.attentions:
            always, by_cost = (_read(model.name, attention, fuse) for fuse in ("always", "by_cost"))
            notes = [f"{op} ({reasons.setdefault(why, len(reasons) + 1)})" for op, why in _externs(always)]
            rows.append(
                f"| {model.name} | {attention} | {_kernels(always)} | {_kernels(by_cost)} | {', '.join(notes) or 'nothing'} |"
            )
    return "\n".join([*rows, "", *(f"{n}. {why}" for why, n in reasons.items())])


def _read(name: str, attention: str, fuse: str) -> str:
    path = GOLDENS / golden_name(name, attention, fuse)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _kernels(text: str) -> str:
    return " + ".join(re.findall(r"^(?:forward|backward): (\d+) kernels", text, re.MULTILINE))


def _externs(text: str) -> list[tuple[str, str]]:
    found = re.findall(r"^  extern \d+ x aten\.(\w+)\.\w+: (.*)$", text, re.MULTILINE)
    found += re.findall(r"^  extern \d+ x (?!aten\.)(\S+): (.*)$", text, re.MULTILINE)
    return list(dict.fromkeys((f"`{op}`", why) for op, why in found))
