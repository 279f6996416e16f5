"""A process that tunes, for the fault tests: `python tuner_process.py endless|shared|open FOLDER|URL [number]`.

endless: records samples one after another and says each number once it is kept, until it is killed.
shared: claims candidates out of a common list, "measures" and records each that it gets, and prints their numbers.
open: opens the cache and records one sample.
Further words: migrated: with one migration more than there is.  nolog: SQLite without its write-ahead log.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from fusecade.autotune.cache import TuningCache, open_cache, schema, sqlite_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.tuning import configuration, decision, key, sample

CANDIDATES = 48


def endless(cache: TuningCache) -> None:
    first = 1 + max((s.configuration.values[1][1] - 16 for s in cache.samples(key())), default=-1)
    for number in range(first, 1_000_000):
        lease = cache.claim(key(), configuration(number), 60)
        assert lease is not None
        with lease:
            assert cache.record(key(), sample(number))
            assert cache.decide(key(number), decision(key(number), number))
            print(number, flush=True)


def shared(cache: TuningCache, seed: int) -> None:
    done = []
    for number in range(CANDIDATES):
        number = (number * 7 + seed * 5) % CANDIDATES
        lease = cache.claim(key(), configuration(number), 60)
        if lease is None:
            continue
        with lease:
            time.sleep(0.002)
            assert cache.record(key(), sample(number, note=f"by {seed}"))
            done.append(number)
        found = cache.lookup(key())
        assert found is None or found.configuration == configuration(found.configuration.values[1][1] - 16)
        assert cache.decide(key(), decision(key(), number))
    print(*done)


def main() -> None:
    what, where, *numbers = sys.argv[1:]
    warnings.simplefilter("error")
    place = (Path("unused"), where) if "://" in where else (Path(where), None)
    number = int(numbers[0]) if numbers else 0
    if "migrated" in numbers:
        schema.STEPS = (*schema.STEPS, ("ALTER TABLE tuned_samples ADD COLUMN more TEXT",))
    if "nolog" in numbers:
        sqlite_file.journal_for = lambda folder: "delete"
        warnings.filterwarnings("ignore", ".*is not asked: another process has it locked")  # a lookup does not wait
    with open_cache(*place) as cache:
        if what == "endless":
            endless(cache)
        elif what == "shared":
            shared(cache, number)
        else:
            assert cache.record(key(), sample(number))


if __name__ == "__main__":
    main()
