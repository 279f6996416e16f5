"""docs/comparison.md from the JSON of benchmarks/handwritten.py; tests hold the two against each other.

python benchmarks/handwritten_table.py benchmarks/results/handwritten-2026-11-21.json > docs/comparison.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """# Comparison with hand-written kernels

Bytes between the SMs and L2 of one call, counted under Triton's interpreter for both sides; registers of a thread, bytes
of spills and matrix instructions from the binaries (of all kernels of a call; the most of any kernel for registers and
spills). Nothing was timed and no GPU is needed: `make bench-handwritten`. A ratio under 1 means that Fusecade moves less.
Made from `benchmarks/results/{name}` by `benchmarks/handwritten_table.py`.
{note}
| function | size | sm | whose | MB | ours/theirs | registers | spills | tensor cores |
|---|---|---|---|---|---|---|---|---|
"""


def document(body: dict[str, Any], name: str) -> str:
    """The page as Markdown.  body: the JSON; name: of its file."""
    ours = {(r["case"], r["size"], r["arch"]): r for r in body["rows"] if r["whose"] == "fusecade"}
    note = f"\n{body['note']}\n" if body.get("note") else ""
    return HEAD.format(name=name, note=note) + "".join(
        _line(row, ours[row["case"], row["size"], row["arch"]]) for row in body["rows"] if not row["missing"]
    )


def _line(row: dict[str, Any], mine: dict[str, Any]) -> str:
    moved = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.1f}"
    ratio = ""
    if row is not mine and row["bytes"] and mine["bytes"]:
        ratio = f"{mine['bytes'] / row['bytes']:.2f}"
    cores = " ".join(f"{name} {n}" for name, n in row["tensor_cores"].items())
    numbers = ["" if row[n] is None else str(row[n]) for n in ("registers", "spills")]
    cells = [row["case"], row["size"], str(row["arch"]), row["whose"], moved, ratio, *numbers, cores]
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    sys.stdout.write(document(json.loads(path.read_text(encoding="utf-8")), path.name))
