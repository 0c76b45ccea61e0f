"""Canary and blue/green as plans: what is changed for which share, and what is refused."""

from typing import Any

import pytest

from rollouts import planning
from rollouts.facts import (
    Approve,
    Bake,
    Change,
    Instance,
    Prepare,
    Restore,
    Retire,
    Shift,
    Step,
)
from rollouts.planning import Plan, Refused, plan, steps_from_json, steps_to_json
from rollouts.policy import PolicyError, parse
from rollouts.strategies import Observed, needed


def fleet(count: int, slots: bool = False, **more: Any) -> list[Observed]:
    """Return instances in rotation; with `slots` the second half is green and idle."""
    observed = []
    for n in range(1, count + 1):
        green = slots and n > count // 2
        slot = ("green" if green else "blue") if slots else ""
        where = Instance(f"web-{n:02}", "127.0.0.1", 8000 + n, f"web-{n:02}", slot)
        observed.append(Observed(where, "v1", True, not green, **more))
    return observed


def canary(count: int = 20, **policy: Any) -> Plan:
    steps = [{"share": 5, "bake": 60}, {"share": 25, "bake": 60}, {"approve": True}, {"share": 100}]
    chosen = {"strategy": "canary", "canary_steps": steps, "batch_pause": 0, **policy}
    return plan("v2", fleet(count), parse(chosen, total=count))


def changed_by(steps: tuple[Step, ...], share: float) -> int:
    """Return how many instances are changed until the traffic is shifted to `share`."""
    count = 0
    for step in steps:
        if isinstance(step, Change):
            count += len(step.targets)
        if isinstance(step, Shift) and step.share == share:
            return count
    raise AssertionError(f"never shifted to {share}")


def test_a_canary_changes_only_what_each_share_needs() -> None:
    """One of twenty carries 5 %, five carry 25 %, and the rest come after the approval."""
    steps = canary().steps
    assert changed_by(steps, 5) == 1
    assert changed_by(steps, 25) == 5
    assert changed_by(steps, 100) == 20
    place = steps.index(Approve())
    assert sum(len(step.targets) for step in steps[:place] if isinstance(step, Change)) == 5


def test_a_canary_begins_and_ends_with_known_weights() -> None:
    """The old side is given everything before the first drain, and configured weights after."""
    steps = canary().steps
    assert steps[:2] == (Prepare(), Shift(0))
    assert steps[-1] == Restore()
    assert [step.seconds for step in steps if isinstance(step, Bake)] == [60, 60]


def test_shares_never_fall_and_never_exceed_what_the_step_asks_for() -> None:
    """On the way from 5 to 25 % too, batch after batch."""
    steps = canary().steps
    shares = [step.share for step in steps if isinstance(step, Shift)]
    assert shares == sorted(shares)
    until = steps.index(Shift(25))
    entering = [step.share for step in steps[:until] if isinstance(step, Change)]
    assert all(share is not None and share <= 25 for share in entering)


def test_each_shift_follows_the_change_that_it_needs() -> None:
    """No traffic is given to a side that has not the instances for it."""
    policy = parse({"strategy": "canary"}, total=20)
    observed = fleet(20)
    done = 0
    for step in plan("v2", observed, policy).steps:
        if isinstance(step, Change):
            done += len(step.targets)
        if isinstance(step, Shift) and step.share:
            assert done >= needed(observed, step.share, policy)


def test_one_carries_what_it_has_to_carry_anyway() -> None:
    """With two of ten out, each of eight has an eighth: so much is no risk of a canary."""
    policy = parse({"max_unavailable": 2, "strategy": "canary"}, total=10)
    assert needed(fleet(10), 12.5, policy) == 1
    assert needed(fleet(10), 12.6, policy) == 2


def test_bigger_instances_carry_bigger_shares() -> None:
    """Capacity is weight, not number."""
    policy = parse({"strategy": "canary", "max_unavailable": 1, "batch_size": 1}, total=4)
    observed = fleet(4)
    uneven = [
        Observed(one.instance, "v1", True, True, weight)
        for one, weight in zip(observed, (100, 50, 25, 25), strict=True)
    ]
    assert needed(uneven, 50, policy) == 1
    assert needed(observed, 50, policy) == 2


def test_a_share_that_one_can_not_carry_says_how_many_are_needed() -> None:
    """A warning with the number, before anything starts."""
    made = canary(canary_steps=[{"share": 25, "bake": 60}, {"share": 100}])
    assert any(
        "One instance can't carry the first share of 25 %: 5 instances" in warning
        for warning in made.warnings
    )
    assert not any("can't carry" in warning for warning in canary().warnings)


def test_a_share_that_no_weight_can_express_says_what_it_will_be() -> None:
    """A tenth of a percent of two instances is less than one weight is worth."""
    steps = [{"share": 0.1, "bake": 1}, {"share": 100}]
    made = canary(2, canary_steps=steps, batch_size=1)
    assert any("it will be 0.99 %" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([{"share": 25}, {"share": 5}, {"share": 100}], "must rise"),
        ([{"share": 5}, {"share": 5}, {"share": 100}], "must rise"),
        ([{"share": -1}, {"share": 100}], "above 0 and up to 100"),
        ([{"share": 101}], "above 0 and up to 100"),
        ([{"share": "5"}], "above 0 and up to 100"),
        ([{"share": 5}], "the last share must be 100"),
        ([{"approve": True}], "the last share must be 100"),
        ([{"approve": False}, {"share": 100}], "approve must be true"),
        ([{"share": 100, "bake": -1}], "bake must be a number of seconds"),
        ([{"share": 100, "wait": 1}], "a share has no wait"),
        ([{"approve": True, "timeout": 0}, {"share": 100}], "timeout must be"),
        ([7], "step 1: must be"),
        ([], "must be a list of steps"),
        ("5,25,100", "must be a list of steps"),
    ],
)
@pytest.mark.parametrize("key", ["canary_steps", "shift_steps"])
def test_bad_steps_are_refused_by_name(key: str, steps: Any, complaint: str) -> None:
    """Each with what would be right, before anything starts."""
    with pytest.raises(PolicyError) as caught:
        parse({"strategy": "canary", key: steps})
    assert complaint in caught.value.errors[key]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"alpha": 0}, "alpha must be a probability"),
        ({"alpha": True}, "alpha must be a probability"),
        ({"min_requests": 0}, "min_requests must be a whole number"),
        ({"too_little": "pass"}, "too_little must be one of"),
        ({"beta": 1}, "beta is unknown"),
        (7, "must be settings"),
    ],
)
def test_bad_settings_of_the_analysis_are_refused_by_name(given: Any, complaint: str) -> None:
    """What is left out has its default."""
    with pytest.raises(PolicyError) as caught:
        parse({"analysis": given})
    assert complaint in caught.value.errors["analysis"]
    assert parse({"analysis": {"min_requests": 9}}).judging.alpha == 0.01


def blue_green(observed: list[Observed], live: str = "", **policy: Any) -> Plan:
    chosen = {"strategy": "blue_green", "keep_old": 600, **policy}
    return plan("v2", observed, parse(chosen, total=len(observed)), live)


def test_blue_green_changes_the_idle_slot_alone_and_shifts_at_the_end() -> None:
    """The live slot has all the traffic until then, and is in no batch."""
    made = blue_green(fleet(8, slots=True))
    old = ("web-01", "web-02", "web-03", "web-04")
    assert [one.instance.name for batch in made.batches for one in batch] == [
        "web-05", "web-06", "web-07", "web-08",
    ]  # fmt: skip
    assert made.steps == (
        Prepare(),
        Shift(0, old),
        Change(1, ("web-05", "web-06"), share=0),
        Change(2, ("web-07", "web-08"), share=0),
        Shift(100, old),
        Bake(600, keep=True),
    )
    assert (made.least, made.previous) == (4, "v1")


def test_blue_green_in_steps_after_an_approval_and_with_an_end_of_the_old_slot() -> None:
    """Each is asked for by a key of the policy."""
    made = blue_green(
        fleet(4, slots=True),
        approve=True,
        retire_old=True,
        shift_steps=[{"share": 10, "bake": 30}, {"share": 100}],
    )
    old = ("web-01", "web-02")
    assert made.steps[3:] == (
        Approve(),
        Shift(10, old),
        Bake(30),
        Shift(100, old),
        Bake(600, keep=True),
        Retire(old),
    )


def test_the_slot_that_is_known_to_be_live_is_left_alone() -> None:
    """Whatever the balancer shows, the inventory says which one was shifted to last."""
    made = blue_green(fleet(4, slots=True), live="green")
    assert {one.instance.slot for batch in made.batches for one in batch} == {"blue"}


@pytest.mark.parametrize(
    ("observed", "complaint"),
    [
        (fleet(4), "without a slot: web-01"),
        (fleet(4, slots=True)[:2], "green is empty"),
        (fleet(4, slots=True)[2:], "blue is empty"),
    ],
)
def test_blue_green_without_two_slots_is_refused_by_name(
    observed: list[Observed], complaint: str
) -> None:
    """It says which instances lack a slot, or which slot has none."""
    with pytest.raises(Refused) as caught:
        blue_green(observed)
    assert complaint in caught.value.errors["strategy"]


def test_unequal_slots_are_told_with_their_figures() -> None:
    """Three instances can't quietly take over from five."""
    made = blue_green(fleet(8, slots=True)[:7])
    assert any(
        "blue has 4 instances of weight 400 in all, green 3 of 300" in warning
        for warning in made.warnings
    )
    assert not any("unequal" in one for one in blue_green(fleet(8, slots=True)).warnings)


def test_both_slots_with_traffic_is_told_before_one_loses_it() -> None:
    """At the first blue/green deployment of a service that was rolling before."""
    observed = [Observed(one.instance, "v1", True, True) for one in fleet(4, slots=True)]
    made = blue_green(observed)
    assert made.steps[1] == Shift(0, ("web-01", "web-02"))
    assert any("green is taken off it first" in warning for warning in made.warnings)


def test_a_swap_verifies_the_idle_slot_and_updates_nothing() -> None:
    """Then it has everything, with the version that it runs."""
    policy = parse({"strategy": "blue_green"}, total=4)
    version, made = planning.swap(fleet(4, slots=True), policy, "blue")
    assert version == "v1"
    old = ("web-01", "web-02")
    verify = Change(1, ("web-03", "web-04"), share=0, update=False)
    assert made.steps == (Shift(0, old), verify, Shift(100, old))


def test_a_swap_to_a_mixed_slot_is_refused() -> None:
    """Nobody could say what would be live."""
    observed = fleet(4, slots=True)
    observed[3] = Observed(observed[3].instance, "v0", True, False)
    with pytest.raises(Refused) as caught:
        planning.swap(observed, parse({"strategy": "blue_green"}, total=4), "blue")
    assert "the idle slot runs v0, v1" in caught.value.errors["slots"]


def test_all_kinds_of_steps_are_stored_and_read_again() -> None:
    """A plan is the same after a restart, whatever its strategy."""
    for made in (canary(), blue_green(fleet(4, slots=True), approve=True, retire_old=True)):
        assert steps_from_json(steps_to_json(made.steps)) == made.steps
