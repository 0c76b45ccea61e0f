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
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

PATIENCE = 120.0  # seconds for one mutant
PAIRED = {"crash_after", "forget"}  # pairs of these are tried on the first fleet
SEEDS = 4_000  # tried after all single faults


@dataclass(frozen=True)
class Mutant:
    """A bug: in `module` each `old` becomes `new`. `fleet` is where it is looked for first."""

    name: str
    module: str
    fleet: str
    edits: Sequence[tuple[str, str]]


def _mutant(name: str, module: str, fleet: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, f"rollouts.{module}", fleet, edits)


MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "acts on the balancer without the lease",
        "change",
        "two",
        ("await self._lease.hold(BALANCER_DEADLINE)", "pass"),
    ),
    _mutant(
        "takes the lease for longer than it was granted",
        "lease",
        "two",
        ("return 0.0 if self._lost else self._until - self._clock()", "return SECONDS"),
    ),
    _mutant(
        "lets a driver go on though the lease is over",
        "change",
        "long updates",
        (
            "lambda output: driver.update(instance, version, output, left)",
            "lambda output: driver.update(instance, version, output, lambda: 60.0)",
        ),
        ("(spare := ports.lease.left() - DRIVER_ENDS_BELOW) > 0", "(spare := 60.0) > 0"),
    ),
    _mutant(
        "plans the batches anew",
        "engine",
        "mixed",
        ("for name in step.targets\n", "for name in [t.instance.name for t in rollout.targets]\n"),
    ),
    _mutant(
        "passes the gate before the batch is verified",
        "engine",
        "two",
        (
            '        tasks: Tasks = {}\n        told = ""\n',
            '        tasks: Tasks = {}\n        told = ""\n'
            '        await self._journal.step(cursor + 1, None, "done, surely")\n',
        ),
    ),
    _mutant(
        "enables before it verifies",
        "change",
        "two",
        (
            "await self._put_back(await self._verify())",
            'await self._put_back("surely well"); await self._verify()',
        ),
    ),
    _mutant(
        "drains beyond the limit on the way back",
        "verdicts",
        "bad in the end",
        (
            "    limit = planning.limit_of(rollout.policy, len(rollout.targets))\n    admitted",
            "    limit = len(rollout.targets) if rollout.going_back else "
            "planning.limit_of(rollout.policy, len(rollout.targets))\n    admitted",
        ),
    ),
    _mutant(
        "forgets the cancel",
        "verdicts",
        "two",
        ("if rollout.wish is not None and rollout.wish.ends:", "if False:"),
    ),
    _mutant(
        "counts a lost answer as a failure",
        "change",
        "two",
        (
            "        except BalancerUnreachable:\n            away_since",
            "        except BalancerUnreachable:\n            raise\n            away_since",
        ),
    ),
    _mutant(
        "believes the driver",
        "change",
        "lying driver",
        ("wanted = self._version if checks else None", "wanted = None"),
    ),
    _mutant(
        "updates with sessions open",
        "change",
        "stubborn sessions",
        ("is ServerState.READY or server.sessions > 0:", "is ServerState.READY:"),
    ),
    _mutant(
        "never cuts a session",
        "change",
        "stubborn sessions",
        ("elif loop.time() >= deadline:", "elif False:"),
        ("left = max(0.0, deadline - loop.time())", "left = 1.0"),
    ),
    _mutant(
        "leaves the balancer with what it forgot",
        "change",
        "no way back",
        ("if server in wanted and", "if server in wanted - self._out and"),
    ),
    _mutant(
        "leaves drained what an older state of the balancer drained",
        "change",
        "two",
        ("if server in wanted and", "if server in wanted - self._in and"),
    ),
    _mutant(
        "forgets whom its predecessor held out",
        "engine",
        "bad host first",
        ("if target.kept_out:", "if False:"),
    ),
    _mutant(
        "counts only what is drained, not what is sick",
        "planning",
        "sick meanwhile",
        ("down = set(unhealthy)", "down = set()"),
    ),
    _mutant(
        "takes all back to one version",
        "facts",
        "mixed",
        ("return target.old_version if", "return self.targets[0].old_version if"),
    ),
    _mutant(
        "trusts an update whose end nobody saw",
        "change",
        "two",
        (
            "checked = self._target.status is TargetStatus.HEALTH_CHECKING",
            "checked = self._target.status is not TargetStatus.PENDING",
        ),
    ),
    _mutant(
        "is content with one good answer",
        "verdicts",
        "healthy for long",
        ("if last.at - run[0].at >= policy.min_healthy_time:", "if True:"),
    ),
    _mutant(
        "leaves a driver running after a cancel",
        "change",
        "two",
        (
            "            task.cancel()\n            await asyncio.wait({task})\n",
            "            pass\n",
        ),
        (
            "        else:\n            task.exception()",
            "        elif task.done():\n            task.exception()",
        ),
    ),
    _mutant(
        "acts first and writes it down later",
        "change",
        "two",
        ("checking = self._ports.journal.target(", "checking = (lambda *_: asyncio.sleep(0))("),
    ),
    _mutant(
        "ends with an instance half done",
        "engine",
        "stuck",
        (
            "            if target.status in IN_FLIGHT:\n                name",
            "            if False:\n                name",
        ),
    ),
    _mutant(
        "parks and is never woken",
        "engine",
        "parks",
        (
            "return await self._journal.park(until, rollout.wish)",
            "return await self._journal.park(None, rollout.wish)",
        ),
    ),
    _mutant(
        "leaves the weight short of the whole",
        "change",
        "ramps",
        ("range(1, SLOW_START_STEPS + 1)", "range(1, SLOW_START_STEPS)"),
    ),
    _mutant(
        "rolls a rollback back",
        "verdicts",
        "old version sick",
        ("    if rollout.going_back:\n        return _stuck_back(rollout, now)\n", ""),
    ),
    _mutant(
        "gives the new version on after a failure",
        "verdicts",
        "bad",
        ("    reason = trouble(rollout, now)\n", "    reason = None\n"),
    ),
)
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
    from tests.simulation.world import Violation  # noqa: PLC0415

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
