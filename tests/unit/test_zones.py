"""Zone after zone, on the way back too; and some instances of a fleet alone."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts import planning, verdicts
from rollouts.facts import (
    Bake,
    BalancerReport,
    Change,
    Finding,
    Instance,
    Judgement,
    Pause,
    Restore,
    Rollout,
    Server,
    ServerState,
    Shift,
    Step,
    Target,
)
from rollouts.planning import Plan, Refused, plan, way_back
from rollouts.policy import PolicyError, parse
from rollouts.states import DeploymentStatus, TargetStatus
from rollouts.strategies import Observed
from tests.simulation.faults import simulate
from tests.simulation.loop import run
from tests.simulation.world import World

T = TargetStatus


def fleet(zones: str, out: Collection[int] = ()) -> list[Observed]:
    """Return instances in these zones, one letter each, "-" for none."""
    return [
        Observed(
            Instance(f"web-{n:02}", "h", 8000 + n, f"web-{n:02}", zone=zone.strip("-")),
            "v1",
            healthy=True,
            serving=n not in out,
        )
        for n, zone in enumerate(zones, 1)
    ]


def zoned(zones: str, out: Collection[int] = (), **policy: Any) -> Plan:
    observed = fleet(zones, out)
    return plan("v2", observed, parse({"by_zone": True, **policy}, total=len(observed)))


def course(steps: tuple[Step, ...]) -> list[object]:
    """Return who is changed together and the seconds that are waited between, by b or p."""
    words: list[object] = []
    for step in steps:
        match step:
            case Change():
                words.append("+".join(name.removeprefix("web-0") for name in step.targets))
            case Bake(seconds):
                words.append(f"b{seconds:g}")
            case Pause(seconds):
                words.append(f"p{seconds:g}")
    return words


def test_a_zone_is_changed_once_the_one_before_has_baked() -> None:
    """Batches never hold instances of two zones; between zones is a bake, within them a pause."""
    made = zoned("abacb")
    assert course(made.steps) == ["1+3", "b60", "2+5", "b60", "4"]
    made = zoned("aaaab", zone_bake=5)
    assert course(made.steps) == ["1+2", "p10", "3+4", "b5", "5"]


def test_without_by_zone_zones_mean_nothing() -> None:
    """They are a word in the inventory."""
    assert course(plan("v2", fleet("abab"), parse()).steps) == ["1+2", "p10", "3+4"]


def test_zones_come_as_they_are_told_then_by_name_and_at_the_end_those_without() -> None:
    """The order is part of the plan."""
    assert course(zoned("-abcd", zone_order=["c", "b"], zone_bake=0).steps) == [
        *("4", "p10", "3", "p10", "2", "p10", "5", "p10", "1")
    ]


def test_a_zone_that_nobody_is_in_is_refused() -> None:
    """With the zones that there are; where zones are not kept apart it is not looked at."""
    with pytest.raises(Refused) as caught:
        zoned("ab", zone_order=["b", "x"])
    assert caught.value.errors == {"zone_order": "no active instance is in x; zones are: a, b"}
    assert zoned("ab", by_zone=False, zone_order=["x"])


@pytest.mark.parametrize("wrong", ["a", ["a", "a"], [1], ["a b"], [""], ["--x"], {"a": 1}])
def test_only_a_list_of_names_is_an_order(wrong: Any) -> None:
    """Each once."""
    with pytest.raises(PolicyError) as caught:
        parse({"zone_order": wrong})
    assert list(caught.value.errors) == ["zone_order"]


def test_what_is_out_comes_first_in_its_own_zone() -> None:
    """Not before another zone, for two would be touched then."""
    made = zoned("aaabbb", out={3, 6})
    assert course(made.steps) == ["3+1", "p10", "2", "b60", "6+4", "p10", "5"]
    assert "Out or unhealthy now, and changed first in its zone: web-03, web-06." in made.warnings


def test_who_is_out_in_a_later_zone_and_leaves_no_room_is_warned_of() -> None:
    """Nothing of the first zone could be taken out, and its turn would never come."""
    [warning] = [one for one in zoned("aabb", out={3, 4}).warnings if "zone_order" in one]
    assert warning.startswith("Out, and in a zone that comes after a: web-03, web-04.")
    assert not any("zone_order" in one for one in zoned("aabb", out={3}).warnings)
    cured = zoned("aabb", out={3, 4}, zone_order=["b"])
    assert not any("zone_order" in one for one in cured.warnings)


def test_one_zone_alone_makes_no_difference_and_the_plan_says_so() -> None:
    """Whoever forgot to name them is told."""
    assert "by_zone makes no difference: every instance is without a zone." in zoned("--").warnings
    assert "by_zone makes no difference: every instance is in zone a." in zoned("aa").warnings


def test_a_canary_begins_in_the_first_zone_and_crosses_none_in_a_batch() -> None:
    """Where its own steps wait already, nothing more is waited for between zones."""
    shares = [{"share": 25, "bake": 9}, {"share": 50}, {"share": 100}]
    made = zoned("abab", strategy="canary", canary_steps=shares, zone_bake=7, batch_pause=1)
    assert course(made.steps) == ["1", "b9", "p1", "3", "b7", "2+4"]
    one = {"batch_size": 1, "max_unavailable": 1, "batch_pause": 0, "zone_bake": 7}
    shares = [{"share": 60, "bake": 9}, {"share": 100}]
    made = zoned("abab", strategy="canary", canary_steps=shares, **one)
    assert course(made.steps) == ["1", "3", "b9", "2", "4"]


def test_an_idle_slot_is_changed_by_zone_without_waiting() -> None:
    """It has no traffic to judge by."""
    observed = [
        replace(one, instance=replace(one.instance, slot="blue" if n < 2 else "green"))
        for n, one in enumerate(fleet("ababab"))
    ]
    policy = parse({"by_zone": True, "strategy": "blue_green", "keep_old": 0}, total=6)
    made = plan("v2", observed, policy, "blue")
    assert course(made.steps) == ["3+5", "4+6"]


@given(
    zones=st.text("abc-", min_size=2, max_size=20),
    batch=st.integers(1, 4),
    order=st.lists(st.sampled_from("abc"), unique=True),
    out=st.sets(st.integers(1, 20)),
    strategy=st.sampled_from(["rolling", "canary"]),
)
def test_every_instance_is_changed_once_and_zones_follow_each_other(
    zones: str, batch: int, order: list[str], out: set[int], strategy: str
) -> None:
    """For any fleet, any order and whoever is out."""
    known = [zone for zone in order if zone in zones]
    sizes = {"batch_size": batch, "max_unavailable": batch}
    made = zoned(zones, out, zone_order=known, strategy=strategy, **sizes)
    named = [name for step in made.steps if isinstance(step, Change) for name in step.targets]
    assert sorted(named) == [one.instance.name for one in fleet(zones)]
    seen = [{one.instance.zone for one in group} for group in made.batches]
    assert all(len(those) == 1 for those in seen)
    order_seen = [zone for [zone] in seen]
    rest = sorted(set(zones) - {*known, "-"})
    wanted = [*known, *rest, *(("",) if "-" in zones else ())]
    assert list(dict.fromkeys(order_seen)) == wanted
    assert order_seen == sorted(order_seen, key=wanted.index)


# --- the way back


def rollout(zones: str, statuses: str, plan: tuple[Step, ...] = (), **policy: Any) -> Rollout:
    """Return a deployment whose targets are Healthy, Failed, Updating or Pending."""
    status_of = {"H": T.HEALTHY, "F": T.FAILED, "U": T.UPDATING, "P": T.PENDING}
    targets = tuple(
        Target(one.instance, n, status_of[letter], "v1", "v2", touched=letter != "P")
        for n, (one, letter) in enumerate(zip(fleet(zones), statuses, strict=True), 1)
    )
    frozen = parse({"by_zone": True, **policy}, total=len(zones))
    going = DeploymentStatus.IN_PROGRESS
    return Rollout("deploy-1", "shop", "v2", frozen, going, plan, targets, cursor=len(plan))


def test_the_way_back_keeps_zones_apart_and_begins_with_the_last() -> None:
    """What is out of rotation in any zone first, so that it leaves room for all that is well."""
    back = way_back(rollout("aaabbb", "HFHFHU"), everything=True)
    assert course(back) == ["4+6", "2", "5", "1+3"]
    assert [step.batch for step in back if isinstance(step, Change)] == [1, 2, 3, 4]


def test_without_by_zone_the_way_back_is_one_group_and_batches() -> None:
    """As it is for any fleet."""
    back = way_back(rollout("aaabbb", "HFHFHU", by_zone=False), everything=True)
    assert course(back) == ["2+4+6", "1+3", "5"]


def test_stopping_here_keeps_zones_apart_too() -> None:
    """What is under way first, then who was held out before."""
    assert course(way_back(rollout("aabb", "HFUP"), everything=False)) == ["3", "2"]


def test_a_canary_goes_back_zone_by_zone_off_traffic() -> None:
    """Those of a zone at once: none of them has any traffic by then."""
    back = way_back(rollout("aabbbb", "HHUPPP", (Shift(0), Shift(30))), everything=True)
    assert (back[0], back[-1]) == (Shift(0), Restore())
    assert course(back) == ["3", "1+2"]


# --- the bake between


def judged(finding: Finding, waiting_until: float | None = None) -> Rollout:
    held = rollout("ab", "HP", plan=(Bake(60),), strategy="rolling")
    judgement = Judgement(finding, "The traffic says so.")
    return replace(held, cursor=0, judgement=judgement, waiting_until=waiting_until)


def test_the_bake_between_zones_is_judged_like_any_other() -> None:
    """It begins, it waits for traffic, it ends; and a bad version goes back from it."""
    begun = verdicts.decide(judged(Finding.TOO_LITTLE), 0)
    assert begun == verdicts.Wait(60, "Baking for 60 s before the next zone.")
    assert isinstance(verdicts.decide(judged(Finding.TOO_LITTLE, 60), 61), verdicts.Hold)
    assert isinstance(verdicts.decide(judged(Finding.FINE, 60), 61), verdicts.Pass)
    assert isinstance(verdicts.decide(judged(Finding.OFF, 60), 61), verdicts.Pass)
    assert isinstance(verdicts.decide(judged(Finding.AGAINST, 60), 1), verdicts.GoBack)


def test_the_second_zone_is_not_touched_before_the_bake_is_over() -> None:
    """Whatever the first one looks like."""
    world = World(4, zones=("a", "b"), by_zone=True, zone_bake=40)
    seen: list[tuple[str, float]] = []
    world.on_effect = lambda effect: seen.append((effect, world.now()))
    assert run(world.deploy()).status is DeploymentStatus.COMPLETED
    first = max(at for what, at in seen if what in {"ready web-01", "ready web-03"})
    then = min(at for what, at in seen if what in {"drain web-02", "drain web-04"})
    assert then - first >= 40


def test_one_bad_zone_brings_back_both() -> None:
    """And nobody is left between."""
    end = simulate("bad hosts in zones", {}).rollout
    assert end.status is DeploymentStatus.ROLLED_BACK


# --- some instances alone


def alone(names: set[str], out: Collection[int] = (), count: int = 10, **policy: Any) -> Plan:
    observed = fleet("-" * count, out)
    return plan("v2", observed, parse(policy, total=count), only=names)


def test_some_are_changed_by_the_limits_of_the_whole_fleet() -> None:
    """A percentage is of all of it, and so is what stays in rotation."""
    made = alone({"web-01", "web-02", "web-03"}, batch_size="20%", max_unavailable="30%")
    assert course(made.steps) == ["1+2", "p10", "3"]
    assert (made.total, made.fleet, made.limit, made.least) == (3, 10, 3, 7)
    assert alone({"web-01"}, max_unavailable=3).least == 9


def test_who_is_out_and_left_so_takes_room() -> None:
    """It is told, and where it leaves none, that too."""
    made = alone({"web-01"}, out={9})
    assert "Out or unhealthy now, and left so: web-09." in made.warnings
    assert made.least == 8
    [told] = [one for one in alone({"web-01"}, out={8, 9}).warnings if "are out already" in one]
    assert told.startswith("2 are out already, as many as max_unavailable (2)")
    assert not any("are out already" in one for one in alone({"web-09"}, out={8, 9}).warnings)


def test_names_that_are_not_there_and_none_at_all_are_refused() -> None:
    """Each is named."""
    with pytest.raises(Refused) as caught:
        alone({"web-01", "web-99"})
    assert caught.value.errors["instances"] == "not among the active instances: web-99"
    with pytest.raises(Refused) as caught:
        alone(set())
    assert "name one" in caught.value.errors["instances"]


@pytest.mark.parametrize("strategy", ["canary", "blue_green"])
def test_only_rolling_changes_some_alone(strategy: str) -> None:
    """A share of the traffic, or a slot, is of the fleet as a whole."""
    with pytest.raises(Refused) as caught:
        alone({"web-01"}, strategy=strategy)
    assert "set strategy to rolling" in caught.value.errors["instances"]


def test_a_single_instance_that_serves_nobody_needs_no_allowance() -> None:
    """It can't be down for it."""
    assert alone({"web-01"}, out={1}, count=1)
    with pytest.raises(Refused) as caught:
        alone({"web-01"}, count=1)
    assert "allow_downtime" in caught.value.errors


def test_the_others_count_as_out_and_so_do_percentages_of_them() -> None:
    """S1 is of the fleet, whoever is a target."""
    others = tuple(one.instance for one in fleet("----")[2:])
    held = replace(
        rollout("--", "PP", by_zone=False, batch_size=1, max_unavailable="50%"), others=others
    )
    servers = {
        name: Server(name, state, up=True, sessions=0, weight=100)
        for name, state in {
            "web-01": ServerState.READY,
            "web-02": ServerState.READY,
            "web-03": ServerState.DRAIN,
            "web-04": ServerState.READY,
        }.items()
    }
    report = BalancerReport(servers)
    down = planning.down_now(held, report, {"web-04"})
    assert down == {"web-03", "web-04"}
    admitted, why = verdicts.room(held, ["web-01"], planning.out_now(held, down), down)
    assert admitted == ()
    assert why == "waiting for room: web-03, web-04 out, max_unavailable is 2"
    down = planning.down_now(held, report, ())
    assert verdicts.room(held, ["web-01"], down, down)[0] == ("web-01",)


def test_who_is_tried_alone_and_fails_is_no_success() -> None:
    """Completed means that the new version is somewhere."""
    world = World(3, only={"web-02"}, auto_rollback=False, rollback_threshold=100)
    world.bad_on = {("web-02", "v2")}
    end = run(world.deploy())
    assert end.status is DeploymentStatus.FAILED
    assert end.reason.startswith("0 of 1 instances run v2. Held out: web-02: check 3 of 3 failed")
    assert world.versions() == ["v1", "v2", "v1"]
