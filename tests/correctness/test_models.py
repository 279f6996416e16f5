"""Architectures that people use through `torch.compile(backend="fusecade")`: right, whole, trained, and counted.

For each of `data/models.py`, with each attention and each `fuse`: one graph without a fallback; results and gradients against
float64; ten steps of AdamW against eager; the kernels and what stays with PyTorch against `goldens/models/`.  Everything
that fuses at these sizes is asked for with `fuse="always"`; by cost, such small models are left to PyTorch.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from data.models import CASES, MODELS, Model, import_timm
from data.models_table import DOCUMENT, golden_name, written
from torch import Tensor, nn

from fusecade import torch_backend

QUICK = {("sdpa", "sdpa", "always"), ("flex-softcap", "eager", "always")}
PARAMETERS = [
    pytest.param(*case, id="-".join(case), marks=[] if case in QUICK else [pytest.mark.slow])
    for case in ((name, attention, fuse) for name, attention in CASES for fuse in ("by_cost", "always"))
]


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def needed(model: Model) -> None:
    if model.needs == "timm":
        try:
            import_timm()
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"timm: {error}")
    elif model.needs != "torch":
        pytest.importorskip(model.needs)


@pytest.mark.filterwarnings("error::fusecade.errors.FallbackWarning")
@pytest.mark.parametrize(("name", "attention", "fuse"), PARAMETERS)
def test_model(name: str, attention: str, fuse: str, golden: Callable[[str, str], None]) -> None:
    model = MODELS[name]
    needed(model)
    module = model.built(attention)
    start = copy.deepcopy(module)
    called = torch.compile(
        module, backend="fusecade", fullgraph=True, dynamic=False, options={"fuse": fuse, "remainder": "eager"}
    )
    found = gradients(model, module, called)
    graphs = list(torch_backend.compiled)
    assert len(graphs) == 2 and not any(built.fallbacks for built in graphs)
    assert_right(model, start, found)
    golden(golden_name(name, attention, fuse), what_became_of(graphs))
    mine, theirs = losses(model, module, called), losses(model, start, start)
    assert mine == pytest.approx(theirs, rel=1e-3)
    assert mine[-1] < mine[0]
    assert len(torch_backend.compiled) == 2  # nothing was compiled again


def test_the_page_has_what_the_goldens_have(request: pytest.FixtureRequest) -> None:
    """docs/models.md is written from the goldens: `--update-goldens` writes it too."""
    page = DOCUMENT.read_text(encoding="utf-8")
    wanted = written(page)
    if request.config.getoption("--update-goldens"):
        DOCUMENT.write_text(wanted, encoding="utf-8")
    else:
        assert page == wanted


# --- results and gradients ----------------------------------------------------------------------------------------


def gradients(model: Model, module: nn.Module, called: Callable) -> dict[str, Tensor]:
    """The result, and the gradient of each parameter under a fixed weighting of it."""
    dtype = next(module.parameters()).dtype
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.inputs().items()}
    module.zero_grad(set_to_none=True)
    y = model.result(called(**inputs))
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    (y * weight).sum().backward()
    found = {f"gradient of {k}": p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return {"result": y.detach().clone(), **found}


def assert_right(model: Model, module: nn.Module, found: dict[str, Tensor]) -> None:
    """Errors against float64 at most twice eager's, and one ulp of the scale: of the result, or of all gradients."""
    usual = gradients(model, module, module)
    exact = gradients(model, wide := copy.deepcopy(module).double(), wide)
    assert found.keys() == usual.keys() == exact.keys()
    largest = max(x.abs().max().item() for k, x in exact.items() if k != "result")
    for name, right in exact.items():
        scale = right.abs().max().item() if name == "result" else largest
        own, eager = ((x[name].double() - right).abs().max().item() for x in (found, usual))
        assert own <= 2 * eager + scale * torch.finfo(found[name].dtype).eps, (name, own, eager, scale)


def losses(model: Model, module: nn.Module, called: Callable, steps: int = 10) -> list[float]:
    """Of training towards a fixed random result."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2)
    inputs, found = model.inputs(), []
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        y = model.result(called(**inputs))
        loss = (y - torch.randn(y.shape, generator=torch.Generator().manual_seed(5))).square().mean()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


# --- the snapshot -------------------------------------------------------------------------------------------------


def what_became_of(graphs: list[torch_backend.Built]) -> str:
    """Kernels by the operators they compute, and what no kernel can compute with the reason; forward, then backward."""
    lines: list[str] = []
    for role, built in zip(("forward", "backward"), graphs, strict=True):
        kernels = Counter(_operators(built, call.nodes) for call in built.plan.calls)
        lines.append(f"{role}: {sum(kernels.values())} kernels")
        lines += [f"  {count} x {what}" for what, count in sorted(kernels.items())]
        externs = Counter(built.plan.externs)
        lines += [f"  extern {count} x {op}: {why}" for (op, why), count in sorted(externs.items())]
    return "\n".join(lines)


def _operators(built: torch_backend.Built, nodes: tuple[str, ...]) -> str:
    """`bmm, _softmax, bmm` for nodes named `bmm_4 _softmax_2 bmm_5`."""
    targets = {n.name: str(n.target).split(".")[1] for n in built.plan.gm.graph.nodes if "." in str(n.target)}
    return ", ".join(targets.get(n, n) for n in dict.fromkeys(nodes))
