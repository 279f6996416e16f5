"""PyTorch's own samples of attention, softmax, norms, losses, reductions and contractions, through the backend.

    pytest tests/correctness/test_opinfo.py -s                                # a few samples of some operators
    pytest tests/correctness/test_opinfo.py -s --slow                         # all operators; about an hour on a core
    pytest tests/correctness/test_opinfo.py -s --slow -k "softmax or norm"

The pass rate is printed at the end, and every sample that is not right, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import pytest
import torch

pytest.importorskip("expecttest", reason="PyTorch's OpInfo needs it")
from data import op_samples
from data.op_samples import Mode, Outcome, op_infos, run, samples

GROUPS = {
    "attention": "nn.functional.scaled_dot_product_attention nn.functional.multi_head_attention_forward",
    "softmax": """softmax softmax.with_dtype log_softmax log_softmax.with_dtype nn.functional.softmin
        nn.functional.softmin.with_dtype logsumexp logcumsumexp masked.softmax masked.log_softmax masked.softmin
        masked.logsumexp""",
    "norms": """nn.functional.layer_norm nn.functional.rms_norm nn.functional.group_norm nn.functional.instance_norm
        nn.functional.batch_norm nn.functional.normalize nn.functional.local_response_norm native_layer_norm
        masked.normalize renorm""",
    "losses": """nn.functional.cross_entropy nn.functional.linear_cross_entropy nn.functional.nll_loss nn.functional.kl_div
        nn.functional.mse_loss nn.functional.smooth_l1_loss nn.functional.huber_loss
        nn.functional.binary_cross_entropy_with_logits nn.functional.cosine_embedding_loss
        nn.functional.triplet_margin_loss""",
    "reductions": """sum prod nansum mean var var.unbiased std std.unbiased var_mean var_mean.unbiased std_mean
        std_mean.unbiased amax amin aminmax argmax argmin max.reduction_no_dim max.reduction_with_dim min.reduction_no_dim
        min.reduction_with_dim norm norm.fro norm.inf linalg.norm linalg.vector_norm linalg.matrix_norm count_nonzero all
        any trace dist cumsum cumprod cummax cummin median topk sort nn.functional.avg_pool1d masked.sum masked.prod
        masked.amax masked.amin masked.argmax masked.argmin masked.mean masked.norm masked.var masked.std""",
    "contractions": """matmul mm bmm mv dot vdot inner outer addmm addmm.decomposed addmv addbmm baddbmm addr einsum tensordot
        kron linalg.multi_dot linalg.matrix_power linalg.vecdot nn.functional.linear nn.functional.bilinear cdist
        nn.functional.pairwise_distance nn.functional.cosine_similarity nn.functional.embedding""",
}
OPERATORS = [name for names in GROUPS.values() for name in names.split()]
MODES = (Mode("by_cost", True), Mode("always", False), Mode("always", True))
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.uint8, torch.bool)
MOST = {torch.float32: 24}  # samples of an operator, evenly taken; of other dtypes:
FEW = 6
# Where eager is right by luck on one sample, and no worse than a kernel on samples like it (`test_luck_of_one_sample`).
LUCKY = {
    "nn.functional.pairwise_distance float16 sample 4, fuse=always, gradients":
        "x - y + eps lies midway between two numbers: rounding it once goes the wrong way, rounding twice the right way",
}  # fmt: skip
QUICK = {
    "nn.functional.scaled_dot_product_attention": 1, "softmax": 2, "nn.functional.layer_norm": 1, "logsumexp": 2,
    "nn.functional.cross_entropy": 1, "var": 2, "max.reduction_with_dim": 2, "masked.mean": 1, "baddbmm": 1, "einsum": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    """What came out; the summary is printed behind the last test of this file."""
    outcomes: list[Outcome] = []
    yield outcomes
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # pyright: ignore[reportOptionalMemberAccess]
        print("\n" + summary(outcomes))


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def summary(outcomes: list[Outcome]) -> str:
    """Counts by kind, the pass rate, and every reason with the number of runs it holds for."""
    kinds = Counter(o.kind for o in outcomes)
    taken = len(outcomes) - kinds["untaken"]
    right = kinds["right"]
    operators, kernels = len({o.sample.operator for o in outcomes}), sum(o.kernels for o in outcomes)
    lines = [
        f"OpInfo: {operators} operators, {len(outcomes)} runs; of {taken} that reach the backend {right} are right "
        f"({100 * right / max(taken, 1):.2f} %), {kernels} kernels; {dict(kinds)}"
    ]
    lines += [f"  {o}" for o in outcomes if o.kind in ("wrong", "failed")]
    reasons = Counter((o.kind, o.sample.operator, o.reason[:110]) for o in outcomes if o.kind == "untaken")
    lines += [f"  {kind}, {n} of {name}: {why}" for (kind, name, why), n in sorted(reasons.items())]
    return "\n".join(lines)


def check(outcomes: list[Outcome], tally: list[Outcome]) -> None:
    tally.extend(outcomes)
    assert outcomes, "no sample"
    off = {f"{o.sample}, {o.mode}": o for o in outcomes if o.kind in ("wrong", "failed")}
    bad = [str(o) for name, o in off.items() if name not in LUCKY or o.kind == "failed"]
    assert not bad, "\n".join(bad)
    there = {f"{o.sample}, {o.mode}" for o in outcomes}
    assert there & LUCKY.keys() <= off.keys(), "a sample of LUCKY is right: take it out"


def all_runs(name: str, dtype: torch.dtype, modes: tuple[Mode, ...], most: int) -> list[Outcome]:
    info = op_infos()[name]
    found: list[Outcome] = []
    for mode in modes:
        if mode.gradients and not (info.supports_autograd and dtype in info.supported_backward_dtypes("cpu")):
            mode = Mode(mode.fuse, False)
            if mode in modes:
                continue
        found += [run(sample, mode) for sample in samples(name, dtype, mode.gradients, most)]
    return found


@pytest.mark.parametrize("name", QUICK)
def test_some_samples(name: str, tally: list[Outcome]) -> None:
    check(all_runs(name, torch.float32, (Mode("always", name == "baddbmm"),), QUICK[name]), tally)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_samples(name: str, tally: list[Outcome]) -> None:
    dtypes = [d for d in (*FLOATS, *INTEGERS) if d in op_infos()[name].supported_dtypes("cpu")]
    check([o for d in dtypes for o in all_runs(name, d, MODES, MOST.get(d, FEW))], tally)


@pytest.mark.slow
@pytest.mark.parametrize("name", LUCKY)
def test_luck_of_one_sample(name: str) -> None:
    """Over many draws of the same shapes, a kernel's median error against float64 is at most twice eager's."""
    operator, _, number = name.partition(" float16 sample ")
    sample = next(s for s in samples(operator, torch.float16, True, FEW) if s.number == int(number.partition(",")[0]))
    options = {"remainder": "eager", "fuse": "always"}
    errors: list[tuple[float, float]] = []
    for seed in range(40):
        torch._dynamo.reset()
        draw = torch.Generator().manual_seed(seed)
        args = tuple(
            torch.randn(x.shape, generator=draw).to(x.dtype).requires_grad_(x.requires_grad)
            if isinstance(x, torch.Tensor) else x for x in sample.args
        )  # fmt: skip
        drawn = replace(sample, args=args)
        exact = op_samples._exact(drawn, True)
        assert exact is not None
        own = op_samples._call(drawn, True, lambda f: torch.compile(f, backend="fusecade", options=options))
        eager = op_samples._expected(drawn, True)
        worst = [max(float((a.double() - x).abs().max()) for a, x in zip(y, exact, strict=True)) for y in (own, eager)]
        errors.append((worst[0], worst[1]))
    ours, theirs = (median(e[n] for e in errors) for n in (0, 1))
    assert ours <= 2 * theirs, (ours, theirs)


def test_a_wrong_result_is_seen() -> None:
    """What this file rests on: the comparison finds an element that is off, a lost NaN, another dtype."""
    from data.op_samples import _difference

    right = torch.tensor([1.0, float("nan"), -2.0])
    assert _difference([right.clone()], [right], lambda: [right.double()]) is None
    for wrong in (torch.tensor([1.0, float("nan"), -2.001]), torch.tensor([1.0, 0.0, -2.0]), right.double(), right[:2]):
        assert _difference([wrong], [right], lambda: [right.double()])
