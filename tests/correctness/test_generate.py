"""`model.generate` of transformers with a compiled forward: greedy tokens are eager's, with each kind of cache."""

from __future__ import annotations

import copy

import pytest
import torch
from data.models import MODELS, WORDS

from fusecade import torch_backend

pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.slow
@pytest.mark.filterwarnings("error::fusecade.errors.FallbackWarning")
@pytest.mark.parametrize("fuse", ["by_cost", "always"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_greedy_tokens(name: str, attention: str, cache: str, fuse: str) -> None:
    """Two prompts of different lengths, padded on the left; twelve tokens each."""
    model = MODELS[name].built(attention)
    model.config.use_cache = model.generation_config.use_cache = True
    other = copy.deepcopy(model)
    ids = torch.randint(3, WORDS, (2, 9), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    ids[1, :3], mask[1, :3] = 0, 0

    def tokens(model: torch.nn.Module) -> torch.Tensor:
        return model.generate(  # pyright: ignore[reportCallIssue]
            ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False, cache_implementation=cache,
            pad_token_id=0, disable_compile=True,
        )  # fmt: skip

    model.forward = torch.compile(  # pyright: ignore[reportAttributeAccessIssue]
        model.forward, backend="fusecade", options={"fuse": fuse, "remainder": "eager"}
    )
    found = tokens(model)
    assert torch.equal(found, tokens(other))
    assert not any(built.fallbacks for built in torch_backend.compiled)
    assert any(built.plan.calls for built in torch_backend.compiled) or fuse == "by_cost"
    # The prompt, and a token at a time: no more programs for more tokens (a growing cache is told from a full one once).
    assert len(torch_backend.compiled) <= (3 if cache == "dynamic" else 2)
