"""The engine on a world in memory: what a rolling deployment does, and how each trouble ends."""

import asyncio
from dataclasses import replace

import pytest

from rollouts import planning
from rollouts.facts import Bake, Retire, ServerState, Wish
from rollouts.states import DeploymentStatus, TargetStatus
from tests.simulation.faults import FLEETS
from tests.simulation.loop import START, run
from tests.simulation.process import Process
from tests.simulation.world import World

D = DeploymentStatus


def test_a_good_version_reaches_every_instance_within_the_limit() -> None:
    """All instances run the new version, and never more than max_unavailable were out."""
    world = World(7, batch_size=3, max_unavailable=3)
    end = run(world.deploy())
    assert end.status is D.COMPLETED
    assert end.reason == "All 7 instances run v2."
    assert world.versions() == ["v2"] * 7
    assert world.most_out == 3


def test_instances_of_a_batch_are_changed_at_the_same_time() -> None:
    """A batch of four takes the time of one update, not of four."""
    world = World(4, batch_size=2, max_unavailable=2)
    world.update_seconds = 10

    async def timed() -> float:
        began = asyncio.get_running_loop().time()
        await world.deploy()
        return asyncio.get_running_loop().time() - began

    assert 20 <= run(timed()) < 25


def test_everything_is_prepared_before_the_first_drain() -> None:
    """No instance is drained before the last one was prepared."""
    world = World(4)
    run(world.deploy())
    prepared = max(i for i, line in enumerate(world.log) if line.startswith("prepare"))
    drained = min(i for i, line in enumerate(world.log) if line.startswith("drain"))
    assert prepared < drained


def test_a_failure_to_prepare_touches_nothing() -> None:
    """The deployment fails with the instance and the cause named; nothing was drained."""
    world = World(4)
    world.prepare_fails = {"web-03"}
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert "Nothing was touched" in end.reason
    assert "web-03" in end.reason
    assert "no space left" in end.reason
    assert not any(line.startswith(("drain", "update")) for line in world.log)


def test_what_is_missed_before_the_start_touches_nothing() -> None:
    """Instance and cause are named; what could not be told (None) holds nobody back."""
    world = World(4, preflight=True)
    world.misses = {"web-03"}
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert end.reason == "Nothing was touched: web-03: not host reachable: no route."
    assert not any(line.startswith(("prepare", "drain", "update")) for line in world.log)


def test_the_look_before_the_start_can_be_switched_off() -> None:
    """For a fleet that a deployment is to cure."""
    world = World(4, preflight=False)
    world.misses = {"web-03"}
    assert run(world.deploy()).status is D.COMPLETED


def test_a_bad_version_is_caught_on_the_first_batch_and_rolled_back() -> None:
    """Two of twenty see the bad version; all twenty run the old one at the end."""
    world = World(20)
    world.bad = {"v2"}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert world.touched() == ["web-01", "web-02"]
    assert world.versions() == ["v1"] * 20
    assert "web-01 failed: check 3 of 3 failed: 500" in end.reason
    assert "2 instances are verified back" in end.reason


def test_each_instance_goes_back_to_its_own_old_version() -> None:
    """A fleet that was mixed before is mixed in the same way after a rollback."""
    world = World(4, batch_size=1)
    world.machines["web-02"].runs = "v0"
    world.rollout = world.plan()
    world.bad_on = {("web-03", "v2")}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert world.versions() == ["v1", "v0", "v1", "v1"]


def test_on_the_way_back_what_is_out_comes_first_and_the_limit_holds() -> None:
    """The failed instance is restored before healthy ones are drained again."""
    world = World(6, batch_size=2, max_unavailable=2)
    world.bad_on = {("web-05", "v2"), ("web-06", "v2")}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    back = world.log[world.log.index("status rolling_back") :]
    order = [line.split()[1] for line in back if line.startswith("update")]
    assert set(order[:2]) == {"web-05", "web-06"}
    assert len(order) == 6
    assert world.most_out <= 2


def test_one_bad_host_below_the_threshold_is_held_out_and_the_rest_goes_on() -> None:
    """One of ten failed is 10 %, not more than a threshold of 10: nine are updated."""
    world = World(10, batch_size=10, max_unavailable=10, allow_downtime=True)
    world.bad_on = {("web-04", "v2")}
    end = run(world.deploy())
    assert end.status is D.COMPLETED
    assert "9 of 10 instances run v2. Held out: web-04" in end.reason
    assert world.machines["web-04"].state is ServerState.DRAIN


def test_a_held_out_instance_takes_room_from_the_next_batches() -> None:
    """With one held out and a limit of two, later batches go one by one."""
    world = World(6, batch_size=2, max_unavailable=2, rollback_threshold=60)
    world.bad_on = {("web-01", "v2")}
    end = run(world.deploy())
    assert end.status is D.COMPLETED
    assert world.most_out == 2


def test_too_many_held_out_to_go_on_rolls_back() -> None:
    """Where those held out fill max_unavailable, waiting would never end: back."""
    world = World(6, batch_size=2, max_unavailable=2, rollback_threshold=100)
    world.bad_on = {("web-01", "v2"), ("web-02", "v2")}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert "no room within max_unavailable (2)" in end.reason


def test_rollback_switched_off_leaves_a_named_failure() -> None:
    """Without auto_rollback it fails, says what runs where, and touches nothing more."""
    world = World(4, auto_rollback=False)
    world.bad = {"v2"}
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert "Rollback is switched off" in end.reason
    assert "held out: web-01, web-02" in end.reason
    assert world.touched() == ["web-01", "web-02"]


def test_an_old_version_that_is_sick_too_is_tried_once_and_held_out() -> None:
    """The way back is never rolled back and never repeated."""
    world = World(4)
    world.bad = {"v2"}
    world.bad_on = {("web-01", "v1")}
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert "The way back failed. Held out: web-01" in end.reason
    assert world.machines["web-01"].updates == ["v2", "v1"]
    assert end.target("web-02").status is TargetStatus.ROLLED_BACK


def test_unhealthy_before_is_cured_first() -> None:
    """What is known to be unhealthy is in the first batch, and counts as out until cured."""
    world = World(6, batch_size=2, max_unavailable=2)
    world.machines["web-05"].sick = True
    world.rollout = world.plan()
    end = run(world.deploy())
    assert end.status is D.COMPLETED
    drained = [line.split()[1] for line in world.log if line.startswith("drain")]
    assert set(drained[:2]) == {"web-05", "web-01"}
    cured = world.log.index("target web-05 healthy")
    assert not any(line == "drain web-02" for line in world.log[:cured])


@pytest.mark.parametrize("wish", [Wish.CANCEL_STOP, Wish.CANCEL_ROLL_BACK])
@pytest.mark.parametrize(
    "moment",
    [
        "status in_progress",
        "prepare web-04",
        "target web-03 draining",
        "drain web-03",
        "target web-03 updating",
        "output web-03 installing v2",
        "update web-03 v2",
        "target web-03 health_checking",
        "check web-03",
        "ready web-03",
        "target web-04 healthy",
        "step 2",
    ],
)
def test_a_cancel_at_any_moment_leaves_no_instance_half_done(moment: str, wish: Wish) -> None:
    """Stop keeps what was done, roll back undoes it; nobody else gets the new version."""
    world = World(6)
    at: list[float] = []
    had: list[str] = []

    def cancel(effect: str) -> None:
        if effect == moment and not at:
            world.wish(wish)
            at.append(world.now())
            had.extend(world.touched())

    world.on_effect = cancel
    end = run(world.deploy())
    assert end.status is D.CANCELLED
    assert at, f"{moment} never came"
    assert "Stopped by ada" in end.reason
    new = [machine.name for machine in world.machines.values() if machine.runs == "v2"]
    if wish is Wish.CANCEL_ROLL_BACK:
        assert new == []
    else:
        assert set(new) <= {*had, "web-03", "web-04"}
    assert "web-05" not in world.touched()


def test_a_cancel_is_acted_on_within_two_seconds_even_in_a_driver_that_hangs() -> None:
    """The driver's call is ended, and the way back begins."""
    world = World(4)
    world.driver_hangs = {"v2"}
    at: list[float] = []
    acted: list[float] = []

    def watch(effect: str) -> None:
        if effect == "output web-01 installing v2" and not at:
            world.wish(Wish.CANCEL_STOP)
            at.append(world.now())
        if effect == "status rolling_back":
            acted.append(world.now())

    world.on_effect = watch
    end = run(world.deploy())
    assert end.status is D.CANCELLED
    assert acted[0] - at[0] <= 2
    assert world.versions() == ["v1"] * 4


def test_a_cancel_on_the_way_back_has_no_effect() -> None:
    """A rollback under way goes on to its own end."""
    world = World(4)
    world.bad = {"v2"}
    world.on_effect = lambda effect: (
        world.wish(Wish.CANCEL_STOP) if effect == "status rolling_back" else None
    )
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert world.versions() == ["v1"] * 4


def test_a_wish_to_roll_back_ends_rolled_back() -> None:
    """All that was updated goes back, and the reason names who asked."""
    world = World(6)
    world.on_effect = lambda effect: (
        world.wish(Wish.ROLL_BACK) if effect == "target web-04 healthy" else None
    )
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert "Rolled back by ada" in end.reason
    assert world.versions() == ["v1"] * 6


def test_a_pause_waits_between_batches_and_goes_on_when_resumed() -> None:
    """While paused nothing is drained, however long; progress_deadline does not run."""
    world = World(6, progress_deadline=100, healthy_deadline=60)
    paused: list[float] = []

    async def scenario() -> None:
        deployment = asyncio.create_task(world.deploy())
        async with asyncio.timeout(5_000):
            while world.rollout.status is not D.PAUSED:  # noqa: ASYNC110 - time is virtual
                await asyncio.sleep(0.1)
            before = len([line for line in world.log if line.startswith("drain")])
            await asyncio.sleep(1_000)
            assert len([line for line in world.log if line.startswith("drain")]) == before
            paused.append(before)
            world.wish(Wish.RESUME)
            await deployment

    world.on_effect = lambda effect: world.wish(Wish.PAUSE) if effect == "drain web-01" else None
    run(scenario())
    assert paused == [2]
    assert world.rollout.status is D.COMPLETED


def test_a_pause_asked_for_before_the_start_holds_before_anything_is_drained() -> None:
    """The wish outlives the start; the deployment pauses with nothing touched."""
    world = World(4)

    async def scenario() -> None:
        world.wish(Wish.PAUSE)
        deployment = asyncio.create_task(world.deploy())
        async with asyncio.timeout(100):
            while world.rollout.status is not D.PAUSED:  # noqa: ASYNC110 - time is virtual
                await asyncio.sleep(0.1)
        assert not any(line.startswith("drain") for line in world.log)
        world.wish(Wish.RESUME)
        await deployment

    run(scenario())
    assert world.rollout.status is D.COMPLETED
    assert world.rollout.wish is None


def test_the_pause_between_batches_is_kept() -> None:
    """Three batches with a pause of 30 s take more than a minute."""
    world = World(6, batch_pause=30)

    async def timed() -> float:
        await world.deploy()
        return world.now() - START

    assert 60 <= run(timed()) < 75


def test_a_drain_that_never_ends_is_cut_at_its_deadline_and_recorded() -> None:
    """The sessions are cut at drain_timeout, an event says so, and the update goes on."""
    world = World(4, drain_timeout=20)
    world.machines["web-01"].sessions = 3
    world.stubborn = {"web-01"}
    end = run(world.deploy())
    assert end.status is D.COMPLETED
    assert "cut web-01" in world.log
    assert any("3 sessions still open after 20 s" in line for line in world.log)


def test_a_driver_that_hangs_fails_at_update_timeout() -> None:
    """It is ended at its deadline, the instance is asked what it runs, and all goes back."""
    world = World(4, update_timeout=30)
    world.driver_hangs = {"v2"}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert "longer than 30 s (update_timeout); it reports v1" in end.reason


def test_a_driver_that_fails_names_its_error() -> None:
    """The cause stands in the reason of the deployment."""
    world = World(4)
    world.driver_fails = {("web-01", "v2")}
    end = run(world.deploy())
    assert end.status is D.ROLLED_BACK
    assert "exit status 3: broken pipe" in end.reason


def test_no_progress_for_too_long_fails() -> None:
    """An instance that stays out elsewhere leaves no room, forward or back: named, and ended."""
    world = World(4, batch_size=1, max_unavailable=1, progress_deadline=90)
    world.on_effect = lambda effect: (
        setattr(world.machines["web-04"], "state", ServerState.MAINT)
        if effect == "target web-01 healthy"
        else None
    )

    run(world.drive())
    assert "(progress_deadline)" in world.rollout.reason
    assert world.rollout.status is D.FAILED
    assert "not back: web-01" in world.rollout.reason
    assert any("Waiting for room: web-04 out" in line for line in world.log)


def test_a_balancer_away_for_a_while_is_asked_again() -> None:
    """Twenty seconds without a balancer delay the deployment and fail nothing."""
    world = World(4)
    world.on_effect = lambda effect: (
        setattr(world, "balancer_away_until", world.now() + 20)
        if effect == "target web-01 updating" and world.balancer_away_until == 0
        else None
    )
    assert run(world.deploy()).status is D.COMPLETED


def test_a_balancer_away_at_the_start_fails_with_nothing_touched() -> None:
    """After half a minute of asking it ends, saying that nothing was touched."""
    world = World(4)
    world.balancer_away_until = START + 3_600
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert end.reason.startswith("Nothing was touched: the balancer did not answer")


def test_a_balancer_that_lacks_a_server_fails_with_nothing_touched() -> None:
    """Inventory and balancer disagree: named, and nothing is drained."""
    world = World(4)
    world.unknown = {"web-02"}
    end = run(world.deploy())
    assert end.status is D.FAILED
    assert "does not know web-02" in end.reason
    assert not any(line.startswith("drain") for line in world.log)


def test_the_weight_is_ramped_where_slow_start_asks_for_it() -> None:
    """It enters with a small weight and ends with the whole."""
    world = World(2, batch_size=1, slow_start=10)
    assert run(world.deploy()).status is D.COMPLETED
    weights = [line for line in world.log if line.startswith("weight web-01")]
    assert weights[0] == "weight web-01 1"
    assert weights[-1] == "weight web-01 100"
    assert len(weights) > 5


def test_no_traffic_goes_back_to_a_slot_that_is_down() -> None:
    """A shift back waits, and says why, until somebody of the old slot is up again."""
    world = World(4, slots=True, keep_old=600)
    old = [world.machines[name] for name in ("web-01", "web-02")]
    asked: list[float] = []

    def seen(effect: str) -> None:
        if not asked and isinstance(world.rollout.step, Bake):
            asked.append(world.now())
            old[0].up = old[1].up = False
            world.wish(Wish.ROLL_BACK)
            asyncio.get_running_loop().call_later(20, setattr, old[0], "up", True)
        if asked and not old[0].up:
            assert old[0].weight + old[1].weight == 0

    world.on_effect = seen
    assert run(world.deploy()).status is D.ROLLED_BACK
    assert any("Waiting for the old slot" in line for line in world.log)


def test_a_deployment_that_has_ended_is_left_alone() -> None:
    """A job that comes twice does nothing the second time."""
    world = World(4)
    run(world.deploy())
    done = list(world.log)

    async def again() -> None:
        assert world.claim() is None
        await Process(world, world.store.epoch).run()

    run(again())
    assert world.log == done


def test_whoever_takes_over_knows_that_the_old_slot_is_retired() -> None:
    """Its servers are wanted out from the step that took them out, unless it all goes back."""
    world = FLEETS["retired slot"]()
    rollout = world.rollout
    [step] = [place for place, one in enumerate(rollout.plan) if isinstance(one, Retire)]
    assert planning.retired(replace(rollout, cursor=step)) == ()
    after = replace(rollout, cursor=step + 1)
    assert planning.retired(after) == ("web-01",)
    assert planning.retired(replace(after, way_back=())) == ()
