"""Whatever fails, and whoever dies, at whichever call: the fleet ends whole, and says why.

The real engine, planning and verdicts run on a simulated world whose time is virtual. After
every effect the world checks the invariants S1 to S9 and S12, and at the end that there was
one, that nobody waited for a successor for longer than 15 s, and that a wish was acted on.
S5 and S7 are the database's own and are tested on it; S10 and S11 belong to strategies that
shift traffic. `python -m tests.simulation` runs more of the same.
"""

import pytest

from tests.simulation.faults import FLEETS, pairs, run_seed, simulate, singles
from tests.simulation.world import Fault, Violation

PARTS = 8  # so that several processes share the work
SEEDS = 300  # in each part
# On a fleet of one they do what another does: what is before a call is after the one before,
# and of the three ways to ask for the end one is enough. The singles try them all.
TWINS = {"crash_before", "freeze_before", "roll_back", "rollback"}


@pytest.mark.parametrize("fleet", FLEETS)
def test_any_single_fault_leaves_the_fleet_whole(fleet: str) -> None:
    """Every fault at every call: the invariants hold, and it comes to its end."""
    assert sum(1 for faults in singles(fleet) if simulate(fleet, faults)) > 200


@pytest.mark.parametrize("part", range(PARTS))
def test_any_two_faults_leave_the_fleet_whole(part: int) -> None:
    """Every fault at every call after every other fault, on a fleet of one."""
    faults_of_all = pairs("one", TWINS, part, PARTS)
    assert sum(1 for faults in faults_of_all if simulate("one", faults)) > 1_000


@pytest.mark.parametrize("part", range(PARTS))
def test_faults_by_chance_leave_the_fleet_whole(part: int) -> None:
    """One to five faults at any calls of any fleet; the seed is named where one is too many."""
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        run_seed(seed)


def test_a_world_without_faults_is_as_good_as_the_real_one() -> None:
    """What the fleets are there for happens on them: each end is met by one at least."""
    ends = {simulate(fleet, {}).rollout.status.value for fleet in FLEETS}
    assert ends == {"completed", "rolled_back", "failed"}


def test_a_violation_names_what_led_to_it() -> None:
    """The fleet, the fault, the call and what does not hold, so that one can run it again."""
    world = FLEETS["two"]()
    world.check_ready = lambda *_: world.check(False, "S4: planted")  # type: ignore[method-assign]
    with pytest.raises(Violation, match=r"S4: planted; fleet 'two', slow at 4 \(prepare web-01\)"):
        simulate("two", {4: Fault("slow", 1.0)}, world)
