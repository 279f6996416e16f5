"""The nearest of k centres for each point, without the matrix of distances; ‖x‖² falls out, since it moves no argmin.

    python examples/gallery/nearest_centre.py

The assignment step of Flash-KMeans.
"""

import torch

import fusecade


def assign(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """x [points, d], c [centres, d] -> [points], indices."""
    return (x.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * x @ c.T).argmin(1)


if __name__ == "__main__":
    x, c = torch.randn(16384, 64), torch.randn(1024, 64)
    kernel = fusecade.compile(assign, (x, c), fuse="always")
    assert (kernel(x, c) == assign(x, c)).float().mean() > 0.999  # two centres may be equally near, up to rounding

    on_gpu = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in ((1_000_000, 128), (1024, 128))]
    print(fusecade.explain(assign, *on_gpu, target="sm_90"))
