"""What each of two processes over gloo does.  A module by itself: the processes that are started look it up by its name."""

from __future__ import annotations

import copy
import os

import torch
import torch.distributed as dist
from programs import Block, compiled
from torch import nn


def wrap(kind: str, model: nn.Module, remainder: str) -> nn.Module:
    if kind == "ddp":
        return compiled(nn.parallel.DistributedDataParallel(model), remainder)
    if kind == "ddp around":
        return nn.parallel.DistributedDataParallel(compiled(model, remainder))
    if kind.startswith("fsdp2"):
        from torch.distributed.fsdp import fully_shard

        for block in model.children():
            if kind == "fsdp2 by block":
                block.compile(backend="fusecade", options={"fuse": "always", "remainder": remainder})
            fully_shard(block)
        fully_shard(model)
        return model if kind == "fsdp2 by block" else compiled(model, remainder)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    for block in model.children():
        columns = ColwiseParallel(output_layouts=Replicate())
        parallelize_module(block, init_device_mesh("cpu", (2,)), {"up": columns})
    return compiled(model, remainder)


def work(rank: int, port: int, kind: str, remainder: str, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), FUSECADE_CACHE_DIR=folder)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    other, batch = copy.deepcopy(model), torch.randn(2, 2, 32, 32)
    for part in range(2):
        # With tensor parallelism all processes see the same part.
        other(batch[0 if kind == "tensor parallel" else part]).square().mean().div(2).backward()
    run = wrap(kind, model, remainder)
    for _ in range(2):
        model.zero_grad()
        run(batch[0 if kind == "tensor parallel" else rank]).square().mean().backward()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        gradient = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
        torch.testing.assert_close(gradient, theirs.grad, atol=1e-5, rtol=1e-4)
    import fusecade

    reports = fusecade.reports()
    assert any(report.kernels for report in reports)
    assert not any(report.fallbacks for report in reports)
    dist.destroy_process_group()
