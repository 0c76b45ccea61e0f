"""More of the simulation than the tests have time for.

`python -m tests.simulation [--minutes 5] [--first SEED]` tries every fault on every fleet, every
two of them on fleets of one and two, then faults by chance, seed after seed, for so long (0: until
Ctrl-C), on all cores. It ends with status 1 at the first violation, and says the seed.

`python -m tests.simulation --seed SEED` runs one of them again and prints every effect.
"""

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console

from tests.simulation.checks import Violation
from tests.simulation.faults import FLEETS, by_chance, pairs, run_seed, simulate, singles
from tests.simulation.loop import START

PAIRED = {"one": 40, "two": 460}  # fleets, and the parts of all pairs; each some second's work
SEEDS = 250  # at a time

console = Console(highlight=False, soft_wrap=True)


def try_singles(fleet: str) -> int:
    """Try every fault at every call of a fleet; return how many there were, raise Violation."""
    return sum(1 for faults in singles(fleet) if simulate(fleet, faults))


def try_pairs(part: tuple[str, int]) -> int:
    """Run one part of all pairs of a fleet; return how many there were, raise Violation."""
    fleet, number = part
    return sum(1 for faults in pairs(fleet, (), number, PAIRED[fleet]) if simulate(fleet, faults))


def try_seeds(first: int) -> int:
    """Run the seeds from `first` on; return how many there were, raise Violation."""
    for seed in range(first, first + SEEDS):
        run_seed(seed)
    return SEEDS


def soak(minutes: float, first: int) -> None:
    """Run single faults, pairs, then seeds, on all cores; raise Violation."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    with multiprocessing.Pool() as pool, console.status("") as status:

        def follow(what: str, counts: Iterable[int]) -> int:
            total, began = 0, time.monotonic()
            for count in counts:
                total += count
                rate = total / (time.monotonic() - began)
                status.update(f"{total:,} {what}, {rate:.0f} a second")
            return total

        done = follow("single faults", pool.imap_unordered(try_singles, FLEETS))
        console.print(f"{done:,} single faults on {len(FLEETS)} fleets: no violation.")
        parts = [(fleet, part) for fleet, count in PAIRED.items() for part in range(count)]
        done = follow("pairs of faults", pool.imap_unordered(try_pairs, parts))
        console.print(f"{done:,} pairs of faults on fleets of one and two: no violation.")
        starts: Iterator[int] = itertools.takewhile(
            lambda _: time.monotonic() < end, itertools.count(first, SEEDS)
        )
        done = follow("seeds", _ahead(pool, starts))
        console.print(f"{done:,} seeds, from {first} on: no violation.")


def _ahead(pool: "multiprocessing.pool.Pool", starts: Iterator[int]) -> Iterator[int]:
    """Yield what `try_seeds` returns, with no more under way than keeps the cores busy."""
    while batch := list(itertools.islice(starts, 2 * multiprocessing.cpu_count())):
        yield from pool.imap_unordered(try_seeds, batch)


def show(seed: int) -> None:
    """Print every effect of one run; raise Violation."""
    fleet, faults = by_chance(seed)
    console.print(f"fleet {fleet!r}")
    for number, fault in sorted(faults.items()):
        console.print(f"at call {number}: {fault.kind} ({fault.seconds:g} s)")
    world = FLEETS[fleet]()
    world.on_effect = lambda effect: console.print(f"{world.now() - START:8.2f} s  {effect}")
    end = simulate(fleet, faults, world).rollout
    console.print(f"{end.status}: {end.reason}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=5, help="0: until Ctrl-C")
    parser.add_argument("--first", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone, and print every effect")
    chosen = parser.parse_args()
    try:
        if chosen.seed is not None:
            show(chosen.seed)
        else:
            soak(chosen.minutes, chosen.first)
    except Violation as violation:
        console.print(f"[bold red]{violation}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped: no violation so far.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
