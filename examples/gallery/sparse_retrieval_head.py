"""max over a text of log(1 + relu(h Eᵀ + b)): the vocabulary's logits of a text are never written.

    python examples/gallery/sparse_retrieval_head.py

Sparton, and SPLADE (arXiv:2107.05720). The maps behind the maximum run once for each word, not for each token and word.
"""

import torch

import fusecade


def head(h: torch.Tensor, e: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """h [texts, tokens, d], e [words, d], b [words], mask [texts, tokens, 1] -> [texts, words]."""
    return torch.log1p(torch.relu((h @ e.T + b) * mask)).amax(1)


def inputs_of(texts: int, tokens: int, d: int, words: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    sizes = [(texts, tokens, d), (words, d), (words,)]
    mask = torch.ones(texts, tokens, 1, device=device, dtype=dtype)
    return [*(torch.randn(s, device=device, dtype=dtype) for s in sizes), mask]


if __name__ == "__main__":
    inputs = inputs_of(4, 256, 64, 8192, "cpu", torch.float32)
    kernel = fusecade.compile(head, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), head(*inputs), rtol=1e-4, atol=1e-5)

    on_gpu = inputs_of(32, 512, 768, 30522, "meta", torch.bfloat16)
    print(fusecade.explain(head, *on_gpu, target="sm_90"))
