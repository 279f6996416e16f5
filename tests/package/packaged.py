"""Functions that the tests of packages export, and what they are called with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fusecade.runtime.package import archive


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def mixed(x, w, scale=2.0):
    """A kernel, operators around it, a view of an argument, a constant, a list: a bit of everything."""
    best, where = (torch.softmax(x @ w, dim=-1) * torch.arange(w.shape[1])).sort(-1)
    return {"best": [best[:, -1], where[:, -1]], "same": x.t(), "scale": scale}, torch.softmax(x @ w, -1) @ w.t()


def qkv(*shape: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(3)]


def manifest_of(members: Mapping[str, bytes]) -> dict[str, Any]:
    return json.loads(members[archive.MANIFEST])


def repacked(members: Mapping[str, bytes], edit: Callable[[dict[str, Any]], object] = lambda manifest: None) -> bytes:
    """The members as a package again, after an edit of the manifest, with all hashes as they have to be."""
    found, manifest = dict(members), manifest_of(members)
    edit(manifest)
    if isinstance(manifest.get("members"), dict):
        for name, about in manifest["members"].items():
            if name in found and isinstance(about, dict):
                about |= {"bytes": len(found[name]), "sha256": archive.digest(found[name])}
    found[archive.MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    return archive.write(found)


def remembering(q, keys, state, scale=1.0):
    """Two kernels, a constant, a part of an argument, one that changes, views for results: a bit of what C has a form for."""
    found = torch.softmax(q @ keys[4:].transpose(-1, -2) * scale, dim=-1) @ keys[4:]
    state.add_(torch.softmax(found @ TABLE, dim=-1) @ TABLE.t())
    return {"turned": found.t(), "half": found[:, 16:], "same": keys.t()}


TABLE = torch.linspace(-1, 1, 32 * 48).view(32, 48)
REMEMBERING = (torch.empty(100, 32), torch.empty(70, 32), torch.empty(100, 32))
REMEMBERING_SIZES = {0: {0: "n"}, 1: {0: "m"}, 2: {0: "n"}}
