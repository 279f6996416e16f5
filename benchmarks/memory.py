"""Arenas for the intermediates of whole models: this planner, the published heuristics, and what no plan goes under.

    python benchmarks/memory.py                  # BERT, GPT-2, Llama; weights are never loaded
    python benchmarks/memory.py --model bert --target sm_90

What is planned is the graph that is left when its kernels are in place. "apart" is the sum of all intermediates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from run import RESULTS, versions

import fusecade
from fusecade.passes.arena import PUBLISHED


def bert():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(num_hidden_layers=12), add_pooling_layer=False), (8, 512)


def gpt2():
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(n_layer=12, use_cache=False)), (8, 1024)


def llama():
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(num_hidden_layers=4, hidden_size=2048, intermediate_size=5632, num_attention_heads=16,
                         num_key_value_heads=4, use_cache=False)  # fmt: skip
    return LlamaModel(config), (2, 2048)


MODELS: dict[str, Callable] = {"bert": bert, "gpt2": gpt2, "llama": llama}


def measure(name: str, target: str) -> dict:
    """The report's figures for one model, in bytes."""
    with torch.device("meta"):
        model, shape = MODELS[name]()
        ids = torch.zeros(shape, dtype=torch.int64)
    model = model.eval().requires_grad_(False)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids).last_hidden_state

    report = fusecade.explain(forward, ids, target=target, compile_binaries=False)
    return {
        "model": name,
        "tokens": list(shape),
        "target": target,
        "kernels": sum(k.calls for k in report.kernels),
        "bytes": report.peak_intermediate_bytes,
        "bound": report.intermediate_bytes_bound,
        "published": {method: report.arena_bytes[method] for method in PUBLISHED},
        "fallbacks": [list(pair) for pair in report.fallbacks],
    }


def table(rows: list[dict]) -> Table:
    made = Table(title="MiB of the arena for intermediates", box=box.SIMPLE_HEAD)
    for heading in ("model", "target", "kernels", "this plan", "over the bound", *PUBLISHED):
        made.add_column(heading, justify="left" if heading in ("model", "target") else "right")
    for row in rows:
        over = f"{100 * (row['bytes'] / max(row['bound'], 1) - 1):.1f} %"
        made.add_row(row["model"], row["target"], str(row["kernels"]), _mib(row["bytes"]), over,
                     *(_mib(row["published"][m]) for m in PUBLISHED))  # fmt: skip
    return made


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plan the memory of whole models, beside the published heuristics.")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; may be repeated")
    parser.add_argument("--target", action="append", help="default: cpu and sm_90")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{date.today().isoformat()}-memory.json")
    chosen = parser.parse_args(arguments)
    rows = [measure(m, t) for m in chosen.model or MODELS for t in chosen.target or ("cpu", "sm_90")]
    chosen.json.write_text(json.dumps({"versions": versions(), "results": rows}, indent=2) + "\n", encoding="utf-8")
    console = Console(width=160)
    console.print(table(rows))
    console.print(f"written to {chosen.json}", highlight=False)
    worse = [row["model"] for row in rows if row["bytes"] > min(row["published"].values())]
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
