"""Whatever fails, and whoever dies, at whichever call: the fleet ends whole, and says why.

The real engine, planning and verdicts run on a simulated world whose time is virtual. After
every effect the world checks the invariants S1 to S4, S6 and S8 to S12, and at the end that
there was one, that nobody waited for a successor for longer than 15 s, and that a wish was
acted on. S5 and S7 are the database's own and are tested on it. `python -m tests.simulation`
runs more of the same.
"""

import random
from itertools import islice

import pytest

from rollouts.states import TargetStatus
from tests.simulation.checks import Violation
from tests.simulation.faults import FLEETS, pairs, run_seed, simulate, singles
from tests.simulation.loop import run
from tests.simulation.process import Fault
from tests.simulation.world import World

PARTS = 8  # so that several processes share the work
SEEDS = 250  # in each part
SMALL = 60  # calls of a run without faults
LARGE = 500  # single faults of a fleet, of which half are tried here
# They do what another does, or little else: what is before a call is after the one before, and
# one way to ask for the end with everything back is enough. Small runs try them all.
TWINS = {"crash_before", "freeze_before", "roll_back"}
# On a fleet of one, too, a balancer's restart is one whatever it remembers.
TWINS_OF_ONE = TWINS | {"rollback", "recall"}


@pytest.mark.parametrize("fleet", FLEETS)
def test_any_single_fault_leaves_the_fleet_whole(fleet: str) -> None:
    """Every fault at every call: the invariants hold, and it comes to its end.

    Of a large fleet it is every other fault by chance, the same each time; `python -m
    tests.simulation` tries them all.
    """
    faults_of_all = list(singles(fleet, TWINS, SMALL))
    if len(faults_of_all) > LARGE:
        faults_of_all = random.Random(fleet).sample(faults_of_all, len(faults_of_all) // 2)
    assert sum(1 for faults in faults_of_all if simulate(fleet, faults)) > 200


@pytest.mark.parametrize("part", range(PARTS))
def test_any_two_faults_leave_the_fleet_whole(part: int) -> None:
    """Every fault at every call after every other fault, on a fleet of one.

    It is every other pair here; `python -m tests.simulation` tries them all.
    """
    faults_of_all = islice(pairs("one", TWINS_OF_ONE, part, PARTS), part % 2, None, 2)
    assert sum(1 for faults in faults_of_all if simulate("one", faults)) > 500


@pytest.mark.parametrize("part", range(PARTS))
def test_faults_by_chance_leave_the_fleet_whole(part: int) -> None:
    """One to five faults at any calls of any fleet; the seed is named where one is too many."""
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        run_seed(seed)


def test_a_server_that_the_balancer_loses_meanwhile_is_held_out() -> None:
    """It is named, whatever steps are left, and nothing waits for it for ever."""
    for strategy in ("rolling", "canary"):
        world = World(3, strategy=strategy, batch_size=1, max_unavailable=2)
        world.on_effect = lambda effect, world=world: (
            world.unknown.add("web-02") if effect == "target web-01 healthy" else None
        )
        world.rate = 500
        end = run(world.deploy())
        assert end.target("web-02").status is TargetStatus.FAILED
        assert "no such server: web-02" in end.reason


def test_a_world_without_faults_is_as_good_as_the_real_one() -> None:
    """What the fleets are there for happens on them: each end is met by one at least."""
    ends = {simulate(fleet, {}).rollout.status.value for fleet in FLEETS}
    assert ends == {"completed", "rolled_back", "failed"}


def test_a_violation_names_what_led_to_it() -> None:
    """The fleet, the fault, the call and what does not hold, so that one can run it again."""
    world = FLEETS["two"]()
    world.checks.ready = lambda *_: world.checks.that(False, "S4: planted")  # type: ignore[method-assign]
    with pytest.raises(Violation, match=r"S4: planted; fleet 'two', slow at 4 \(prepare web-01\)"):
        simulate("two", {4: Fault("slow", 1.0)}, world)
