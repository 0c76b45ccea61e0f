"""Shares of the traffic as weights: exact for any mix, never more than was asked for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts import planning, weights
from rollouts.facts import Change, Instance, Rollout, Shift, Target
from rollouts.policy import parse
from rollouts.states import DeploymentStatus, TargetStatus
from rollouts.strategies import Observed

T = TargetStatus
FULL = st.dictionaries(
    st.integers(0, 200).map("web-{}".format), st.integers(1, 256), min_size=2, max_size=40
)


def share_of(new: set[str], set_to: dict[str, int]) -> float:
    return 100 * sum(set_to[name] for name in new) / sum(set_to.values())


@pytest.mark.parametrize("share", [1, 5, 10, 25, 50, 75, 90, 99])
def test_one_of_twenty_gets_the_share_that_is_asked_for(share: float) -> None:
    """Within a tenth of the share, or a half of a percent."""
    full = {f"web-{n:02}": 100 for n in range(20)}
    count = max(1, share * 20 // 100)
    new = dict(list(full.items())[:count])
    old = dict(list(full.items())[count:])
    set_to = weights.split(new, old, share, weights.scale_of(full.values()))
    assert share_of(set(new), set_to) == pytest.approx(share, abs=0.5)
    assert max(set_to.values()) == 100


@given(full=FULL, share=st.floats(1, 99), part=st.floats(0.05, 0.95))
def test_any_mix_of_weights_can_be_parted(full: dict[str, int], share: float, part: float) -> None:
    """Weights stay whole and from 1 to 256, and add up to the share as exactly as they can."""
    names = sorted(full)
    count = min(len(names) - 1, max(1, int(part * len(names))))
    new = {name: full[name] for name in names[:count]}
    old = {name: full[name] for name in names[count:]}
    set_to = weights.split(new, old, share, weights.scale_of(full.values()))
    assert set_to.keys() == full.keys()
    assert all(1 <= weight <= weights.MOST for weight in set_to.values())
    # One of weight 1 can be turned down no more, and one unit is what rounding may take.
    least = 100 * len(full) / sum(set_to.values())
    assert abs(share_of(set(new), set_to) - share) <= least + 0.01


def test_small_weights_are_put_on_a_finer_scale() -> None:
    """Twenty servers of weight 1 could be parted into twentieths alone."""
    full = {f"web-{n:02}": 1 for n in range(20)}
    new, old = {"web-00": 1}, {name: 1 for name in full if name != "web-00"}
    set_to = weights.split(new, old, 1, weights.scale_of(full.values()))
    assert share_of({"web-00"}, set_to) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("share", [0, 100])
def test_all_or_nothing_leaves_the_others_with_no_weight(share: float) -> None:
    """Whoever has everything has it with the weights of normal service."""
    set_to = weights.split({"new": 40}, {"old": 100}, share, 1)
    assert set_to == ({"new": 0, "old": 100} if share == 0 else {"new": 40, "old": 0})


def test_a_side_of_nobody_leaves_everything_to_the_other() -> None:
    """At the end of a canary there is no old side any more, and it must not stand at 0."""
    assert weights.split({}, {"old": 100}, 5, 1) == {"old": 100}
    assert weights.split({"new": 100}, {}, 5, 1) == {"new": 100}


def canary(count: int = 20, **policy: object) -> Rollout:
    """Return a canary of `count` instances before its start."""
    frozen = parse({"strategy": "canary", "batch_pause": 0, **policy}, total=count)
    observed = [
        Observed(Instance(f"web-{n:02}", "127.0.0.1", 80, f"web-{n:02}"), "v1", True, True)
        for n in range(1, count + 1)
    ]
    made = planning.plan("v2", observed, frozen)
    targets = tuple(
        Target(one.instance, batch, T.PENDING, "v1", "v2")
        for batch, members in enumerate(made.batches, 1)
        for one in members
    )
    return Rollout(
        "deploy-000000000001", "shop", "v2", frozen, DeploymentStatus.IN_PROGRESS, made.steps,
        targets,
    )  # fmt: skip


def at(rollout: Rollout, cursor: int, healthy: int) -> Rollout:
    """Return `rollout` at a step, with so many targets on the new version."""
    targets = tuple(
        replace(one, status=T.HEALTHY, touched=True) if place < healthy else one
        for place, one in enumerate(rollout.targets)
    )
    return replace(rollout, cursor=cursor, targets=targets)


FULL_WEIGHTS = {f"web-{n:02}": 100 for n in range(1, 21)}


def test_the_first_one_enters_with_no_more_than_the_first_share() -> None:
    """Its weight is small from the first moment on, not turned down afterwards."""
    rollout = canary(canary_steps=[{"share": 1, "bake": 60}, {"share": 100}])
    change = rollout.plan[2]
    assert isinstance(change, Change)
    weight = weights.entering(at(rollout, 2, 0), change, "web-01", FULL_WEIGHTS)
    assert share_of({"web-01"}, {**FULL_WEIGHTS, "web-01": weight}) <= 1.05


def test_who_comes_later_finds_the_weights_that_were_set() -> None:
    """Between two steps, and while instances of the next share are being changed."""
    rollout = canary(canary_steps=[{"share": 5, "bake": 60}, {"share": 25}, {"share": 100}])
    assert weights.wanted(at(rollout, 1, 0), FULL_WEIGHTS) == {}
    after = [n for n, step in enumerate(rollout.plan) if isinstance(step, Shift)][1] + 1
    wanted = weights.wanted(at(rollout, after, 1), FULL_WEIGHTS)
    assert share_of({"web-01"}, wanted) == pytest.approx(5, abs=0.1)
    changing = after + 1
    assert isinstance(rollout.plan[changing], Change)
    held = at(rollout, changing, 1)
    drained = replace(held.targets[1], status=T.DRAINING)
    held = replace(held, targets=(held.targets[0], drained, *held.targets[2:]))
    assert "web-02" not in weights.wanted(held, FULL_WEIGHTS)
    assert weights.wanted(held, FULL_WEIGHTS)["web-01"] == wanted["web-01"]


def test_in_a_rolling_deployment_weights_are_the_configured_ones() -> None:
    """Of who has entered, and of who enters; of those that wait nothing is wanted."""
    rollout = canary(strategy="rolling")
    assert not weights.steered(rollout)
    assert weights.wanted(at(rollout, 2, 2), FULL_WEIGHTS) == {"web-01": 100, "web-02": 100}
    change = rollout.plan[1]
    assert isinstance(change, Change)
    assert weights.entering(rollout, change, "web-01", {"web-01": 37}) == 37
