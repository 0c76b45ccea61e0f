"""How soon a bad version is found by its errors, and how often a good one is condemned.

`python -m tests.bench.verdicts [--runs 1000] [--seed 1] [--processes 2]` simulates a canary with
180 requests/s on the old side and 20 on the new one, looked at once a second for 10 minutes,
with the engine's own test (`rollouts.analysis.bet`). A version that is no worse must be
condemned in at most alpha (1 %) of the runs, however often one looks.
"""

import argparse
import bisect
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context

from rollouts import analysis
from rollouts.analysis import Block, Evidence

OLD_RATE, NEW_RATE = 180, 20  # requests a second
LOOKS = 600  # one a second
ALPHA = 0.01
CHUNK = 50  # runs that a process does at a time
# Error rates of the old and the new version; the first three are identical versions.
PAIRS = (
    (0.001, 0.001),
    (0.005, 0.005),
    (0.05, 0.05),
    (0.01, 0.005),
    (0.005, 0.01),
    (0.005, 0.05),
    (0.001, 0.01),
)


def binomial(count: int, rate: float, chance: random.Random) -> Callable[[], int]:
    """Return a sampler of how many of `count` are errors, by its table of sums."""
    sums = list(
        itertools.accumulate(
            math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)
        )
    )
    # The sums end a little beside 1, by rounding.
    return lambda: min(count, bisect.bisect_right(sums, chance.random()))


def seconds_until_found(old: float, new: float, seed: str) -> int | None:
    """Return after how many looks a version is condemned; None if it never is."""
    chance = random.Random(seed)
    old_errors, new_errors = (
        binomial(OLD_RATE, old, chance),
        binomial(NEW_RATE, new, chance),
    )
    logs, past = Evidence().logs, Block()
    for look in range(1, LOOKS + 1):
        block = Block(OLD_RATE, old_errors(), NEW_RATE, new_errors())
        logs = analysis.bet(logs, block, past)
        past = past.plus(block)
        if analysis.log_sum(logs) > -math.log(ALPHA):
            return look
    return None


@dataclass(frozen=True)
class Work:
    """Some runs with one pair of error rates."""

    old: float
    new: float
    seed: int
    first: int
    runs: int


def work(part: Work) -> list[int | None]:
    """Do these runs; each has its own seed, so that one of them can be repeated."""
    return [
        seconds_until_found(part.old, part.new, f"{part.seed}/{part.old}/{part.new}/{number}")
        for number in range(part.first, part.first + part.runs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    print(
        f"{chosen.runs} runs of {LOOKS} looks, {OLD_RATE} and {NEW_RATE} requests/s, "
        f"alpha {ALPHA}, seed {chosen.seed}"
    )
    print("old     new     condemned  median s  95th percentile s")
    began = time.monotonic()
    with get_context("spawn").Pool(chosen.processes) as pool:
        for old, new in PAIRS:
            parts = [
                Work(old, new, chosen.seed, first, min(CHUNK, chosen.runs - first))
                for first in range(0, chosen.runs, CHUNK)
            ]
            report(old, new, [found for part in pool.map(work, parts, 1) for found in part])
    print(f"took {time.monotonic() - began:.0f} s")


def report(old: float, new: float, found: list[int | None]) -> None:
    """Print one line; the seconds are of those that were condemned."""
    seconds = sorted(one for one in found if one is not None)
    times = ""
    if seconds and new > old:
        late = seconds[math.ceil(0.95 * len(seconds)) - 1]
        times = f"{statistics.median(seconds):8.0f}  {late:8}"
    share = 100 * len(seconds) / len(found)
    print(f"{100 * old:<4g} %  {100 * new:<4g} %  {share:7.1f} %  {times}", flush=True)


if __name__ == "__main__":
    main()
