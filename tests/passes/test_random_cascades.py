"""Random small cascades: whatever the passes make of a program, it computes what it computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import check
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

ROWS, COLUMNS, FEATURES = 5, 6, 3

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": lambda a: -a,
    "half": lambda a: a * 0.5,
    "shift": lambda a: a + 0.75,
    "abs": torch.abs,
    "square": lambda a: a * a,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gaussian": lambda a: torch.exp(-a.abs()),
    "above": lambda a: torch.where(a > 0.3, a, 0.1),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "ratio": lambda a, b: a / (1.5 + b.abs()),
    "max": torch.maximum,
    "min": torch.minimum,
    "weight": lambda a, b: torch.exp(-(a - b).abs()),
}
REDUCE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda a, d: a.sum(d, keepdim=True),
    "mean": lambda a, d: a.mean(d, keepdim=True),
    "max": lambda a, d: a.amax(d, keepdim=True),
    "min": lambda a, d: a.amin(d, keepdim=True),
    "softmax": lambda a, d: torch.softmax(a, d),
    "normed": lambda a, d: a / (a * a).sum(d, keepdim=True).add(0.5).sqrt(),
}


@dataclass(frozen=True)
class Step:
    """One step: what is done to which of the values so far (counted from the newest, modulo how many there are)."""

    kind: str
    name: str
    first: int
    second: int
    dim: int


@st.composite
def steps(draw) -> tuple[Step, ...]:
    def one() -> Step:
        kind = draw(st.sampled_from(["unary", "binary", "binary", "reduce", "reduce", "matmul"]))
        names = {"unary": UNARY, "binary": BINARY, "reduce": REDUCE, "matmul": {"matmul": None}}[kind]
        return Step(
            kind,
            draw(st.sampled_from(sorted(names))),
            draw(st.integers(0, 2)),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 1)),
        )

    return tuple(one() for _ in range(draw(st.integers(2, 6))))


def program(recipe: tuple[Step, ...], outputs: int) -> Callable[..., tuple[Tensor, ...]]:
    """The function that takes the steps; its results are the newest values."""

    def run(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        values = [y, x]
        for step in recipe:
            a = values[-1 - step.first % len(values)]
            b = values[-1 - step.second % len(values)]
            if step.kind == "unary":
                values.append(UNARY[step.name](a))
            elif step.kind == "reduce":
                values.append(REDUCE[step.name](a, step.dim))
            elif step.kind == "matmul":
                if a.shape[-1] == COLUMNS:
                    values.append(torch.tanh(a @ w) @ w.T * 0.2)
            elif all(p == q or 1 in (p, q) for p, q in zip(a.shape, b.shape, strict=True)):
                values.append(BINARY[step.name](a, b))
        return tuple(values[-outputs:])

    return run


@settings(max_examples=settings.default.max_examples // 2)  # type: ignore
@example(  # a monotone map whose constant is the result of an earlier reduction over the same rank
    (Step("reduce", "normed", 0, 0, 1), Step("unary", "above", 0, 0, 0), Step("reduce", "max", 0, 0, 1)), 1, 0, "cpu"
)
@given(steps(), st.integers(1, 2), st.integers(0, 3), st.sampled_from(["cpu", "sm_90"]))
def test_all_stages_agree(recipe: tuple[Step, ...], outputs: int, seed: int, target: str):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(ROWS, COLUMNS, generator=generator), torch.randn(ROWS, COLUMNS, generator=generator)]
    tensors.append(torch.randn(COLUMNS, FEATURES, generator=generator))
    check(program(recipe, outputs), tensors, target, walks=2, seed=seed)
