"""Planted bugs: wrong engines, each of which the simulation has to catch.

`python -m tests.simulation.mutants [NAME]` applies them one at a time, each in a process of its
own, and prints by what each was caught; with status 1 where one was not. A mutant is a piece of
the engine's source and what stands there instead, so that a change of the engine which leaves
nothing to replace is told too.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from tests.simulation.planted import MUTANTS, Mutant

PATIENCE = 120.0  # seconds for one mutant
PAIRED = {"crash_after", "forget"}  # pairs of these are tried on the first fleet
SEEDS = 4_000  # tried after all single faults


BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


class Planter(MetaPathFinder):
    """Imports one module with its bug in it."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Planted(fullname, spec.origin, self._mutant)
        return spec


class Planted(SourceFileLoader):
    """Compiles a module from its changed source."""

    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        for old, new in self._mutant.edits:
            if source.count(old) != 1:
                raise LookupError(f"{fullname} has this {source.count(old)} times, not once: {old}")
            source = source.replace(old, new)
        return compile(source, self.path, "exec")


def hunt(mutant: Mutant) -> str:
    """Return the violation by which the mutant is caught, nothing where it is not."""
    sys.meta_path.insert(0, Planter(mutant))
    from tests.simulation import faults  # noqa: PLC0415 - the engine comes with it, bug and all
    from tests.simulation.checks import Violation  # noqa: PLC0415

    fleets = sorted(faults.FLEETS, key=lambda fleet: fleet != mutant.fleet)
    try:
        for _ in _runs(faults, fleets):
            pass
    except Violation as violation:
        return str(violation)
    return ""


def _runs(faults: ModuleType, fleets: Sequence[str]) -> Iterator[None]:
    for fleet in fleets:
        yield faults.simulate(fleet, {})
        for one in faults.singles(fleet):
            yield faults.simulate(fleet, one)
        if fleet == fleets[0]:
            for two in faults.pairs(fleet, faults.KINDS - PAIRED):
                yield faults.simulate(fleet, two)
    for seed in range(SEEDS):
        yield faults.run_seed(seed)


def caught(name: str) -> str:
    """Return by what a mutant is caught, in a process of its own, and nothing where it is not.

    Raises CalledProcessError where it can't be planted, TimeoutExpired where it hangs.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutants", "--plant", name],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.mutants", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    parser.add_argument("--plant", metavar="NAME", help="plant one in this process, and hunt it")
    chosen = parser.parse_args()
    if chosen.plant:
        print(hunt(BY_NAME[chosen.plant]))
        return 0
    names = chosen.names or list(BY_NAME)
    escaped = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, violation in zip(names, pool.map(caught, names), strict=True):
            escaped += not violation
            print(f"{name}\n    {violation or 'NOT CAUGHT'}", flush=True)
    print(f"{len(names) - escaped} of {len(names)} planted bugs are caught.")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
