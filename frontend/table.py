"""The import table: which function imports which ATen operator."""

from __future__ import annotations

from . import attention, contractions, creation, indexing, norms, picks, pointwise, reductions, scans, scatters, views

TABLE = {
    **views.TABLE,
    **pointwise.TABLE,
    **creation.TABLE,
    **reductions.TABLE,
    **norms.TABLE,
    **contractions.TABLE,
    **attention.TABLE,
    **indexing.TABLE,
    **picks.TABLE,
    **scans.TABLE,
    **scatters.TABLE,
}
