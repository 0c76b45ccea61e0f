"""Which faults there are, at which calls, and the fleets that they are tried on."""

import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from rollouts.facts import ServerState
from tests.simulation.checks import Violation
from tests.simulation.loop import run
from tests.simulation.process import BALANCER, Fault
from tests.simulation.world import World

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
# Where a person could promote.
PROMOTIONS = (Fault("promote"), Fault("promote_all"))
# While nobody drives it, because it waits for a time or for a person.
PARKED = tuple(
    Fault(f"{kind} later", 1.0)
    for kind in ("stop", "rollback", "pause", "promote", "promote_all", "forget", "recall")
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
    "park": PARKED,
}
EVERY = (*ANYWHERE, *PROMOTIONS, *PARKED, *BALANCER, *DRIVER, *PROBE)
KINDS = frozenset(fault.kind for fault in EVERY)


def faults_of(world: World, number: int) -> tuple[Fault, ...]:
    """Return all that can go wrong at a call of a run."""
    promotions = PROMOTIONS if number in world.waits_at else ()
    return ANYWHERE + promotions + OF_CALLS.get(world.calls[number].split()[0], ())


Fleet = Callable[[], World]
Step = Mapping[str, Any]
STEPS = ({"share": 10, "bake": 8}, {"approve": True}, {"share": 40}, {"share": 100})
RISING = [{"share": 30}, {"share": 70, "bake": 6}, {"share": 100}]


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


def _uncounted() -> World:
    world = World(1, allow_downtime=True, drain_timeout=2)
    world.counts_sessions = False
    world.machines["web-01"].sessions = 1
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


def _bad_hosts_in_zones() -> World:
    zones = {"zones": ("a", "a", "b"), "by_zone": True, "zone_bake": 3}
    world = World(4, **zones, rollback_threshold=40)
    world.bad_on = {("web-03", "v2"), ("web-04", "v2")}
    return world


def _some_alone() -> World:
    world = World(4, only={"web-02", "web-03"})
    for name in ("web-03", "web-04"):
        world.machines[name].state = ServerState.DRAIN
    world.machines["web-03"].sick = True
    world.rollout = world.plan()
    return world


def _canary(count: int = 3, steps: Sequence[Step] = STEPS, **more: Any) -> World:
    """A canary; its deadline for progress is short, so that a pause of a minute is longer."""
    short = {"batch_size": 1, "max_unavailable": 1, "progress_deadline": 40, "update_timeout": 25}
    policy = {**short, "healthy_deadline": 20, "strategy": "canary", "canary_steps": list(steps)}
    return World(count, **{**policy, **more})


def _canary_with_errors() -> World:
    world = _canary(2, [{"share": 20, "bake": 12}, {"share": 100}])
    world.errors_of = {"v2": 0.3}
    return world


def _bad_canary() -> World:
    world = _canary(2, [{"share": 20, "bake": 12}, {"share": 100}])
    world.bad = {"v2"}
    return world


def _canary_with_a_bad_host() -> World:
    world = _canary(3, [{"share": 30}, {"share": 100}], rollback_threshold=60)
    world.bad_on = {("web-02", "v2")}
    return world


def _canary_bad_later() -> World:
    world = _canary(4, [{"share": 25}, {"share": 100}], max_unavailable=2, batch_size=2)
    world.bad_on = {("web-02", "v2")}
    return world


def _canary_without_traffic() -> World:
    world = _canary(2, [{"share": 30, "bake": 6}, {"share": 100}])
    world.rate = 0.0
    return world


def _zones_of_a_canary() -> World:
    zones = {"zones": ("a", "b"), "by_zone": True, "zone_bake": 3}
    world = _canary(3, [{"share": 30}, {"share": 100}], **zones)
    world.bad_on = {("web-02", "v2")}
    return world


def _slots(count: int = 4, **more: Any) -> World:
    short = {"batch_size": 2, "max_unavailable": 2, "progress_deadline": 40, "update_timeout": 25}
    policy = {**short, "healthy_deadline": 20, "keep_old": 6}
    return World(count, slots=True, **{**policy, **more})


def _bad_slot() -> World:
    world = _slots(batch_size=1)
    world.bad_on = {("web-04", "v2")}
    return world


def _slot_with_errors() -> World:
    steps = [{"share": 20, "bake": 12}, {"share": 100}]
    world = _slots(2, shift_steps=steps)
    world.errors_of = {"v2": 0.3}
    return world


def _swap() -> World:
    world = World(4, slots=True, swaps=True)
    for name in ("web-03", "web-04"):
        world.machines[name].runs = "v2"
    world.rollout = world.plan(live="blue")
    return world


ROLLING: Mapping[str, Fleet] = {
    "one": lambda: World(1, allow_downtime=True, update_timeout=25, health_check_timeout=2),
    "two": lambda: World(2, batch_size=1),
    "three": lambda: World(3, batch_size=1, max_unavailable=1, preflight=True),
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
    "uncounted sessions": _uncounted,
    "mixed": _mixed,
    "old version sick": _old_version_sick,
    "lying driver": _lying_driver,
    "long updates": _long_updates,
    "stuck": _stuck,
    "sick meanwhile": _sick_meanwhile,
    "bad hosts in zones": _bad_hosts_in_zones,
    "some alone": _some_alone,
}
STEERED: Mapping[str, Fleet] = {
    "canary": _canary,
    "canary with errors": _canary_with_errors,
    "bad canary": _bad_canary,
    "canary with a bad host": _canary_with_a_bad_host,
    "canary bad later": _canary_bad_later,
    "zones of a canary": _zones_of_a_canary,
    "canary without traffic": _canary_without_traffic,
    "canary of unequals": lambda: _canary(
        3, [{"share": 20}, {"share": 45}, {"share": 100}], weights=(10, 20, 30)
    ),
    "canary ramps": lambda: _canary(2, [{"share": 40}, {"share": 100}], slow_start=1),
    "blue and green": lambda: _slots(approve=True),
    "bad slot": _bad_slot,
    "slot with errors": _slot_with_errors,
    "retired slot": lambda: _slots(2, retire_old=True, shift_steps=RISING),
    "swap": _swap,
}
FLEETS: Mapping[str, Fleet] = {**ROLLING, **STEERED}


def simulate(fleet: str, faults: Mapping[int, Fault], world: World | None = None) -> World:
    """Run a deployment of `fleet` with `faults` by the number of the call; raise Violation."""
    world = world or FLEETS[fleet]()
    world.faults = dict(faults)
    try:
        run(world.deploy())
        world.checks.converged()
    except Exception as error:
        told = ", ".join(
            f"{fault.kind} at {number} ({''.join(world.calls[number : number + 1])})"
            for number, fault in sorted(faults.items())
        )
        raise Violation(f"{error}; fleet {fleet!r}, {told or 'no fault'}") from error
    return world


def singles(fleet: str, without: Container[str] = (), small: int = 0) -> Iterator[dict[int, Fault]]:
    """Yield every fault at every call of a run that meets no other.

    Leaves out the kinds of faults in `without`, unless the run has `small` calls at most.
    """
    world = simulate(fleet, {})
    everything = len(world.calls) <= small
    for number in range(len(world.calls)):
        for fault in faults_of(world, number):
            if everything or fault.kind not in without:
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
        world = simulate(fleet, single)
        for number in range(first + 1, len(world.calls)):
            for second in faults_of(world, number):
                if second.kind not in without:
                    yield {**single, number: second}


def by_chance(seed: int) -> tuple[str, dict[int, Fault]]:
    """Return a fleet and one to five faults, the same for the same seed."""
    chance = random.Random(seed)
    fleet = chance.choice(sorted(FLEETS))
    kinds = [*ANYWHERE, *PROMOTIONS, *PARKED, *BALANCER, *DRIVER]
    faults: dict[int, Fault] = {}
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
