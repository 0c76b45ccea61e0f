"""The planner: who is changed together, in which order, and the way back."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts import planning
from rollouts.facts import Change, Instance, Pause, Prepare
from rollouts.planning import Refused, admit, plan
from rollouts.policy import parse
from rollouts.strategies import Observed


def fleet(count: int, **more: Any) -> list[Observed]:
    return [
        Observed(Instance(f"web-{n:02}", "127.0.0.1", 8000 + n, f"web-{n:02}"), "v1", **more)
        for n in range(1, count + 1)
    ]


def test_twenty_instances_by_two_are_ten_batches_with_pauses_between() -> None:
    """Prepare, then batches of two with a pause before each but the first."""
    made = plan("v2", fleet(20), parse())
    assert isinstance(made.steps[0], Prepare)
    assert sum(isinstance(step, Change) for step in made.steps) == 10
    assert sum(isinstance(step, Pause) for step in made.steps) == 9
    assert made.steps[1] == Change(1, ("web-01", "web-02"))
    assert (made.limit, made.total) == (2, 20)


def test_what_is_out_or_unhealthy_comes_first() -> None:
    """Curing those costs no capacity."""
    observed = fleet(6)
    observed[4] = Observed(observed[4].instance, "v1", healthy=False)
    observed[5] = Observed(observed[5].instance, "v1", healthy=True, serving=False)
    made = plan("v2", observed, parse())
    assert made.steps[1] == Change(1, ("web-05", "web-06"))
    assert any("web-05, web-06" in warning for warning in made.warnings)


def test_no_instance_is_refused() -> None:
    """There is nothing to deploy to."""
    with pytest.raises(Refused) as caught:
        plan("v2", [], parse())
    assert "no active instance" in caught.value.errors["instances"]


def test_a_single_instance_needs_the_explicit_allowance() -> None:
    """Downtime is never a surprise."""
    with pytest.raises(Refused) as caught:
        plan("v2", fleet(1), parse())
    assert "allow_downtime" in caught.value.errors
    assert plan("v2", fleet(1), parse({"allow_downtime": True})).limit >= 1


def test_the_whole_fleet_is_never_out_unasked() -> None:
    """Two instances with max_unavailable 2 are changed one by one, and a warning says so."""
    made = plan("v2", fleet(2), parse())
    assert made.limit == 1
    assert [step.targets for step in made.steps if isinstance(step, Change)] == [
        ("web-01",),
        ("web-02",),
    ]
    assert any("at most 1 at once" in warning for warning in made.warnings)


def test_the_same_version_everywhere_is_warned_of() -> None:
    """A plan can be looked at; the warning names the flag that a start needs."""
    made = plan("v1", fleet(4), parse())
    assert made.same_version
    assert any("allow_same_version must be true" in warning for warning in made.warnings)
    assert not plan("v2", fleet(4), parse()).same_version


def test_an_unknown_old_version_is_warned_of() -> None:
    """There would be no way back for it."""
    observed = [*fleet(3), Observed(Instance("web-04", "h", 1, "web-04"), "")]
    made = plan("v2", observed, parse())
    assert any("no way back: web-04" in warning for warning in made.warnings)


@given(
    total=st.integers(2, 60),
    batch=st.integers(1, 60),
    out=st.sets(st.integers(1, 60)),
)
def test_every_instance_is_in_one_batch_and_no_batch_exceeds_the_limit(
    total: int, batch: int, out: set[int]
) -> None:
    """For any fleet, any size and any set of unhealthy ones."""
    observed = [
        Observed(one.instance, "v1", healthy=number not in out)
        for number, one in enumerate(fleet(total), 1)
    ]
    made = plan("v2", observed, parse({"batch_size": batch, "max_unavailable": batch}))
    named = [name for step in made.steps if isinstance(step, Change) for name in step.targets]
    assert sorted(named) == [one.instance.name for one in observed]
    assert max(len(group) for group in made.batches) <= made.limit <= total


def test_who_is_out_serves_nobody_until_its_own_batch() -> None:
    """Of six two are out: both come back with the first batch, and then each batch costs two."""
    observed = [*fleet(4), *(replace(one, serving=False) for one in fleet(6)[4:])]
    made = plan("v2", observed, parse({"batch_size": 2, "max_unavailable": 2}))
    assert made.in_service == (4, 4, 4)
    alone = plan("v2", observed, parse({"batch_size": 2, "max_unavailable": 2}), only=["web-01"])
    assert alone.in_service == (4,)  # who is out and left so takes all that may be out
    one_out = [*fleet(4), *(replace(one, serving=False) for one in fleet(5)[4:])]
    assert plan("v2", one_out, parse({"batch_size": 2})).in_service == (3, 3, 4)


@given(count=st.integers(2, 40), out=st.integers(0, 6), size=st.integers(1, 5))
def test_the_least_in_rotation_is_that_of_the_worst_batch(count: int, out: int, size: int) -> None:
    """What is said of each batch and of the whole plan agrees."""
    down = min(out, count)
    observed = [replace(one, serving=number >= down) for number, one in enumerate(fleet(count))]
    made = plan("v2", observed, parse({"batch_size": size, "max_unavailable": size}))
    assert min(made.in_service) == made.least


@given(
    waiting=st.lists(st.sampled_from("abcdefgh"), unique=True),
    out=st.sets(st.sampled_from("abcdefgh")),
    down=st.sets(st.sampled_from("abcdefgh")),
    limit=st.integers(1, 8),
)
def test_admission_keeps_the_number_of_those_out_within_the_limit(
    waiting: list[str], out: set[str], down: set[str], limit: int
) -> None:
    """What serves nobody may always be changed; of the others none beyond the limit (S1)."""
    admitted = admit(waiting, out | down, down, limit)
    serving = set(admitted) - down
    assert not serving or len(out | down | serving) <= limit
    assert set(waiting) & down <= set(admitted)


def test_steps_survive_storage() -> None:
    """What is read back from JSON is what was planned."""
    steps = plan("v2", fleet(5), parse()).steps
    assert planning.steps_from_json(planning.steps_to_json(steps)) == steps


def test_long_lists_are_cut_for_a_sentence() -> None:
    """Five names and a number."""
    assert planning.names([str(n) for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"
