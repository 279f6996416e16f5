"""Whole models: a forward pass and a training step, eager, by Inductor and by Fusecade, in turns in one process.

    python benchmarks/models.py                        # all models, both; about a quarter of an hour on two cores
    python benchmarks/models.py --model gpt2 --what forward
    python benchmarks/models.py --quick                # small ones: does it run at all?

Attention is written in plain PyTorch (`attn_implementation="eager"`), or calls `scaled_dot_product_attention` ("sdpa"): then
eager already has a fused kernel.  Weights are random, from configurations; each contender has a copy of them.  Each model
with each attention has a process of its own, in which the contenders take turns: what one model leaves in the heap decides
how soon eager finds room for large tensors of the next.  A training step is the loss, its gradients of all parameters, and
nothing else: the optimiser is the same for all.  Times and memory as in `run.py`; the difference is that of the last hidden
state, and of the largest gradient of the embedding.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich.console import Console
from rich.progress import Progress
from run import RESULTS, Contender, Result, Spread, difference, interleave, measure_memory, tables, versions

import fusecade

WANTED = {"gpt2 forward": {"eager": 1.3}, "llama forward": {"eager": 1.3}}  # and none slower than Inductor by 5 %
ATTENTION = ("eager", "sdpa")


def bert(quick: bool, attention: str):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(num_hidden_layers=2 if quick else 12, attn_implementation=attention)
    return BertForMaskedLM(config), (1, 64 if quick else 512)


def gpt2(quick: bool, attention: str):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2 if quick else 12, use_cache=False, attn_implementation=attention)
    return GPT2LMHeadModel(config), (1, 64 if quick else 1024)


def llama(quick: bool, attention: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(num_hidden_layers=1 if quick else 4, hidden_size=1024, intermediate_size=2816,
                         num_attention_heads=16, num_key_value_heads=4, use_cache=False,
                         attn_implementation=attention)  # fmt: skip
    return LlamaForCausalLM(config), (1, 64 if quick else 2048)


MODELS: dict[str, Callable[[bool, str], Any]] = {"bert": bert, "gpt2": gpt2, "llama": llama}
COMPILERS: dict[str, Callable[[torch.nn.Module], Callable[..., Any]]] = {
    "eager": lambda model: model,
    "inductor": lambda model: torch.compile(model),
    "fusecade": lambda model: torch.compile(model, backend="fusecade"),
}


def forward(model: torch.nn.Module, called: Callable[..., Any], ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return called(input_ids=ids).logits


def step(model: torch.nn.Module, called: Callable[..., Any], ids: torch.Tensor) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    logits = called(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    return gradient


KINDS = {"forward": forward, "step": step}


def run_model(name: str, attention: str, kind: str, *, quick: bool, rounds: int, tick: Callable[[str], None]) -> Result:
    torch.manual_seed(0)
    torch.compiler.reset()
    made, shape = MODELS[name](quick, attention)
    made = made.eval()  # without dropout, so that results can be compared
    ids = torch.randint(0, made.config.vocab_size, shape)
    calls: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    outputs: dict[str, torch.Tensor] = {}
    for contender, compiler in COMPILERS.items():
        tick(f"{name} {kind}: {contender}, first call")
        model = copy.deepcopy(made)
        start = time.perf_counter()
        called = compiler(model)
        outputs[contender] = KINDS[kind](model, called, ids).detach().clone()
        first[contender] = time.perf_counter() - start
        calls[contender] = lambda model=model, called=called: KINDS[kind](model, called, ids)
    tick(f"{name} {kind}: {rounds} rounds")
    seconds = interleave(calls, rounds)
    tick(f"{name} {kind}: memory")
    contenders = {
        c: Contender(Spread.of(seconds[c]), first[c], measure_memory(call), difference(outputs["eager"], outputs[c]))
        for c, call in calls.items()
    }
    speedup = {
        c: Spread.of(other / ours for other, ours in zip(seconds[c], seconds["fusecade"], strict=True))
        for c in calls
        if c != "fusecade"
    }
    case = f"{name} {kind}"
    wanted = {**WANTED.get(case, {}), "inductor": 0.95}
    program = f"{type(made).__name__}, {shape[0]} × {shape[1]} tokens, {attention}"
    return Result(f"{case}, {attention}", program, quick, contenders, speedup, wanted)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time whole models, eager and compiled, side by side.")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="only this one; may be repeated")
    parser.add_argument("--what", action="append", choices=list(KINDS), help="only this; may be repeated")
    parser.add_argument("--attention", action="append", choices=ATTENTION, help="only this; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small models and few rounds")
    parser.add_argument("--rounds", type=int, help="rounds of one call each (default 7, with --quick 2)")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (2 if chosen.quick else 7)
    path = chosen.json or RESULTS / f"models-cpu-{date.today().isoformat()}{'-quick' if chosen.quick else ''}.json"
    console = Console()
    cases = list(itertools.product(chosen.model or MODELS, chosen.attention or ATTENTION))
    if len(cases) > 1:
        return apart(cases, chosen.what or list(KINDS), rounds, chosen.quick, path)
    results, kernels = [], {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        for name, attention in cases:
            for kind in chosen.what or KINDS:
                before = len(fusecade.reports())
                tick = lambda text: progress.update(task, description=text)  # noqa: E731
                results.append(run_model(name, attention, kind, quick=chosen.quick, rounds=rounds, tick=tick))
                graphs = fusecade.reports()[before:]
                kernels[results[-1].case] = [sum(k.calls for k in graph.kernels) for graph in graphs]
                body = {
                    "versions": versions(), "rounds": rounds, "kernels": kernels, "results": [asdict(r) for r in results],
                }  # fmt: skip
                path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for table in tables(results):
        console.print(table)
    for case, counts in kernels.items():
        console.print(f"{case}: kernels in each graph: {counts}", highlight=False)
    console.print(f"written to {path}")
    return 0


def apart(cases: list[tuple[str, str]], kinds: list[str], rounds: int, quick: bool, path: Path) -> int:
    """Each case in a process of its own, which prints its tables; all results in one file.  Returns the worst exit status."""
    body: dict[str, Any] = {"versions": versions(), "rounds": rounds, "kernels": {}, "results": []}
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, attention in cases:
            part = Path(folder) / f"{name}-{attention}.json"
            command = [sys.executable, __file__, "--model", name, "--attention", attention, "--rounds", str(rounds)]
            command += [f"--what={kind}" for kind in kinds] + ["--quick"] * quick + ["--json", str(part)]
            worst = max(worst, abs(subprocess.run(command, check=False).returncode))
            if part.exists():
                found = json.loads(part.read_text(encoding="utf-8"))
                body["kernels"] |= found["kernels"]
                body["results"] += found["results"]
                path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"all written to {path}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
