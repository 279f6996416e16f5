"""Results of an operator: PyTorch wants memory of its own for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def own_memory(results: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The results, copied where they lie in the memory of an input or of an earlier result: those are views."""
    taken = {t.untyped_storage().data_ptr() for t in inputs}
    for result in results:
        owned = result.clone() if result.untyped_storage().data_ptr() in taken else result
        taken.add(owned.untyped_storage().data_ptr())
        yield owned
