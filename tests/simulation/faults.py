"""Which faults there are, at which calls, and the fleets that they are tried on."""

import random
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from tests.simulation.world import BALANCER, Fault, Violation, World, run

PAUSE = 1_000.0  # seconds; longer than progress_deadline
ABSENT = 12.0  # seconds; long enough for another to take over
ANYWHERE = tuple(
    Fault(kind, PAUSE if kind == "pause" else ABSENT)
    for kind in (
        "crash_before",
        "crash_after",
        "freeze_before",
        "freeze_after",
        "database_away",
        "forget",
        "recall",
        "stop",
        "roll_back",
        "rollback",
        "pause",
    )
)
DRIVER = (Fault("fail"), Fault("lost"), Fault("hang"), Fault("slow", 20.0), Fault("crash_within"))
PROBE = (Fault("fail"), Fault("hang"))
OF_CALLS: Mapping[str, tuple[Fault, ...]] = {
    "report": tuple(fault for fault in BALANCER if fault.kind != "lost"),  # it changes nothing
    "drain": BALANCER,
    "ready": BALANCER,
    "weight": BALANCER,
    "cut": BALANCER,
    "prepare": DRIVER[:4],
    "update": DRIVER,
    "ask": PROBE,
}


def faults_of(call: str) -> tuple[Fault, ...]:
    """Return all that can go wrong at a call."""
    return ANYWHERE + OF_CALLS.get(call.split()[0], ())


KINDS = frozenset(fault.kind for fault in (*ANYWHERE, *BALANCER, *DRIVER, *PROBE))


Fleet = Callable[[], World]


def _bad() -> World:
    world = World(3, batch_size=1, max_unavailable=1)
    world.bad = {"v2"}
    return world


def _one_bad_host() -> World:
    world = World(4, rollback_threshold=30)
    world.bad_on = {("web-04", "v2")}
    return world


def _bad_host_first() -> World:
    world = World(3, batch_size=1, rollback_threshold=100)
    world.bad_on = {("web-01", "v2")}
    return world


def _bad_in_the_end() -> World:
    world = World(4)
    world.bad_on = {("web-03", "v2"), ("web-04", "v2")}
    return world


def _sick_before() -> World:
    world = World(3, batch_size=1, max_unavailable=1)
    world.machines["web-02"].sick = True
    world.rollout = world.plan()
    return world


def _stubborn() -> World:
    world = World(2, batch_size=1, drain_timeout=5)
    world.machines["web-01"].sessions = 2
    world.stubborn = {"web-01"}
    return world


def _mixed() -> World:
    world = World(3, batch_size=1)
    world.machines["web-02"].runs = "v0"
    world.rollout = world.plan()
    world.bad_on = {("web-03", "v2")}
    return world


def _old_version_sick() -> World:
    world = World(2, batch_size=1)
    world.bad = {"v2"}
    world.bad_on = {("web-01", "v1")}
    return world


def _lying_driver() -> World:
    world = World(2, batch_size=1)
    world.driver_lies = {"v2"}
    return world


def _long_updates() -> World:
    world = World(2, batch_size=1, batch_pause=2)
    world.update_seconds = 13.0  # more than a lease
    return world


def _without_rollback() -> World:
    world = World(2, batch_size=1, auto_rollback=False)
    world.bad = {"v2"}
    return world


def _stuck() -> World:
    world = World(2, batch_size=1, auto_rollback=False, progress_deadline=12, healthy_deadline=10)
    world.driver_hangs = {"v2"}
    return world


def _sick_meanwhile() -> World:
    world = World(3, batch_size=1, max_unavailable=1, progress_deadline=12, healthy_deadline=10)
    world.machines["web-03"].sick = True  # after the plan was made
    return world


FLEETS: Mapping[str, Fleet] = {
    "one": lambda: World(1, allow_downtime=True, update_timeout=25, health_check_timeout=2),
    "two": lambda: World(2, batch_size=1),
    "three": lambda: World(3, batch_size=1, max_unavailable=1),
    "five": lambda: World(5),
    "parks": lambda: World(2, batch_size=1, batch_pause=60),
    "ramps": lambda: World(2, batch_size=1, slow_start=2),
    "healthy for long": lambda: World(2, batch_size=1, min_healthy_time=3),
    "no way back": _without_rollback,
    "bad": _bad,
    "one bad host": _one_bad_host,
    "bad host first": _bad_host_first,
    "bad in the end": _bad_in_the_end,
    "sick before": _sick_before,
    "stubborn sessions": _stubborn,
    "mixed": _mixed,
    "old version sick": _old_version_sick,
    "lying driver": _lying_driver,
    "long updates": _long_updates,
    "stuck": _stuck,
    "sick meanwhile": _sick_meanwhile,
}


def simulate(fleet: str, faults: Mapping[int, Fault], world: World | None = None) -> World:
    """Run a deployment of `fleet` with `faults` by the number of the call; raise Violation."""
    world = world or FLEETS[fleet]()
    world.faults = dict(faults)
    try:
        run(world.deploy())
        world.check_converged()
    except Exception as error:
        told = ", ".join(
            f"{fault.kind} at {number} ({''.join(world.calls[number : number + 1])})"
            for number, fault in sorted(faults.items())
        )
        raise Violation(f"{error}; fleet {fleet!r}, {told or 'no fault'}") from error
    return world


def singles(fleet: str) -> Iterator[dict[int, Fault]]:
    """Yield every fault at every call of a run that meets no other."""
    for number, call in enumerate(simulate(fleet, {}).calls):
        for fault in faults_of(call):
            yield {number: fault}


def pairs(
    fleet: str, without: Container[str] = (), part: int = 0, parts: int = 1
) -> Iterator[dict[int, Fault]]:
    """Yield every fault at every call that follows one in a run with that one, of all of those.

    Leaves out the kinds of faults in `without`. Of `parts` of about the same size it yields
    the one with the number `part`.
    """
    for single in islice(singles(fleet), part, None, parts):
        [(first, fault)] = single.items()
        if fault.kind in without:
            continue
        calls = simulate(fleet, single).calls
        for number in range(first + 1, len(calls)):
            for second in faults_of(calls[number]):
                if second.kind not in without:
                    yield {**single, number: second}


def by_chance(seed: int) -> tuple[str, dict[int, Fault]]:
    """Return a fleet and one to five faults, the same for the same seed."""
    chance = random.Random(seed)
    fleet = chance.choice(sorted(FLEETS))
    kinds = [*ANYWHERE, *BALANCER, *DRIVER]
    faults = {}
    for _ in range(chance.randrange(1, 6)):
        fault = chance.choice(kinds)
        if fault.seconds == ABSENT:
            fault = replace(fault, seconds=chance.choice((1.0, 5.0, 12.0, ABSENT, 40.0)))
        faults[chance.randrange(150)] = fault
    return fleet, faults


def run_seed(seed: int) -> World:
    """Run what a seed stands for; raise Violation, which names the seed."""
    fleet, faults = by_chance(seed)
    try:
        return simulate(fleet, faults)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}") from violation
