"""What the process was started with.  It imports nothing, so that what needs no compiler starts at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """What the process was started with; read once, here."""

    cache_dir: Path
    interpret: bool
    cache_url: str | None = None  # of a team's tuning cache
    threads: str | None = None  # of kernels on a CPU, where that is said
    reproductions: Path | None = None  # where scripts go that show what failed

    @staticmethod
    def read() -> Environment:
        """FUSECADE_CACHE_DIR (default: the user's cache folder), FUSECADE_REPRO_DIR, FUSECADE_CACHE_URL, TRITON_INTERPRET,
        OMP_NUM_THREADS.
        """
        base = os.environ.get("FUSECADE_CACHE_DIR")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(base) if base else home / "fusecade"
        interpret, url = os.environ.get("TRITON_INTERPRET") == "1", os.environ.get("FUSECADE_CACHE_URL") or None
        scripts = os.environ.get("FUSECADE_REPRO_DIR")
        threads = os.environ.get("OMP_NUM_THREADS") or None
        return Environment(folder, interpret, url, threads, Path(scripts) if scripts else None)

    @staticmethod
    def keep_ray_quiet() -> None:
        """A Ray cluster that this process starts sends nobody figures of its use, unless it is asked to."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
