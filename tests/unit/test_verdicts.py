"""Verdicts: from answers and the time to a decision with its reason."""

from dataclasses import replace

import pytest

from rollouts import verdicts
from rollouts.facts import Answer, Wish
from rollouts.policy import Policy, parse
from rollouts.states import DeploymentStatus, TargetStatus
from rollouts.verdicts import AskAgain, Finish, GoBack, Healthy, Unhealthy
from tests.simulation.loop import START
from tests.simulation.world import World

D, T = DeploymentStatus, TargetStatus


def good(at: float, version: str | None = None) -> Answer:
    return Answer(at, ok=True, code=200, latency_ms=3, version=version)


def bad(at: float) -> Answer:
    return Answer(at, ok=False, code=503, latency_ms=2100)


def silent(at: float) -> Answer:
    return Answer(at, ok=False, listening=False, error="nothing listens yet on 10.0.0.1:80")


@pytest.fixture
def policy() -> Policy:
    return parse({"healthy_deadline": 60, "health_check_retries": 3, "health_check_interval": 1})


def test_one_good_answer_is_enough_without_min_healthy_time(policy: Policy) -> None:
    """The run needs no length."""
    assert isinstance(verdicts.health([good(1)], 0, 1, policy), Healthy)


def test_the_run_of_good_answers_must_last_min_healthy_time() -> None:
    """Two good answers 4 s apart are not 5 s of health; 5 s are."""
    policy = parse({"min_healthy_time": 5})
    assert isinstance(verdicts.health([good(1), good(5)], 0, 5, policy), AskAgain)
    assert isinstance(verdicts.health([good(1), good(6)], 0, 6, policy), Healthy)


def test_a_bad_answer_starts_the_run_again() -> None:
    """Only an unbroken run counts."""
    policy = parse({"min_healthy_time": 5})
    answers = [good(1), bad(3), good(4), good(7)]
    assert isinstance(verdicts.health(answers, 0, 7, policy), AskAgain)


def test_three_bad_answers_in_a_row_are_failure(policy: Policy) -> None:
    """And the reason names the last of them."""
    verdict = verdicts.health([bad(1), bad(2), bad(3)], 0, 3, policy)
    assert verdict == Unhealthy("check 3 of 3 failed: 503 in 2100 ms")


def test_nothing_listening_is_no_bad_answer_until_the_deadline(policy: Policy) -> None:
    """A slow start is asked again soon; at healthy_deadline it is failure."""
    answers = [silent(n) for n in range(30)]
    early = verdicts.health(answers[:1], 0, 0.1, policy)
    assert isinstance(early, AskAgain)
    assert early.seconds < 0.1
    assert isinstance(verdicts.health(answers, 0, 30, policy), AskAgain)
    late = verdicts.health(answers, 0, 60, policy)
    assert isinstance(late, Unhealthy)
    assert "healthy_deadline" in late.reason


def test_flapping_ends_at_the_deadline() -> None:
    """Alternating answers are never three bad in a row, and never a run."""
    policy = parse({"min_healthy_time": 2, "healthy_deadline": 10})
    answers = [good(n) if n % 2 else bad(n) for n in range(10)]
    assert isinstance(verdicts.health(answers, 0, 9, policy), AskAgain)
    assert isinstance(verdicts.health(answers, 0, 10, policy), Unhealthy)


def test_another_version_with_200_is_a_bad_answer() -> None:
    """And a missing one too; without a wanted version anything goes."""
    assert "reports v1 instead of v2" in verdicts.judge(good(1, "v1"), "v2").error
    assert "reports no version" in verdicts.judge(good(1), "v2").error
    assert verdicts.judge(good(1, "v2"), "v2").ok
    assert verdicts.judge(good(1, "v1"), None).ok


def with_targets(world: World, statuses: list[TargetStatus], touched: int) -> None:
    """Give the first targets these statuses; the first `touched` were updated."""
    targets = [
        replace(target, status=status, touched=index < touched, error="500")
        for index, (target, status) in enumerate(zip(world.rollout.targets, statuses, strict=False))
    ]
    rest = world.rollout.targets[len(targets) :]
    world.rollout = replace(
        world.rollout, status=D.IN_PROGRESS, targets=(*targets, *rest), cursor=1
    )


@pytest.mark.parametrize(
    ("failed", "updated", "threshold", "back"),
    [(1, 10, 10, False), (1, 9, 10, True), (1, 2, 10, True), (0, 2, 0, False), (1, 20, 4, True)],
)
def test_the_threshold_is_a_strict_percentage_of_those_updated(
    failed: int, updated: int, threshold: float, back: bool
) -> None:
    """failed / updated x 100 must be greater than rollback_threshold."""
    world = World(20, rollback_threshold=threshold)
    with_targets(world, [T.FAILED] * failed + [T.HEALTHY] * (updated - failed), updated)
    decision = verdicts.interruption(world.rollout, START)
    assert isinstance(decision, GoBack) is back


@pytest.mark.parametrize(
    ("failed", "told"),
    [(1, "web-01 failed: 500. "), (3, "web-01 failed: 500; web-02, web-03 too. ")],
)
def test_of_several_failures_none_is_told_as_the_only_one(failed: int, told: str) -> None:
    """They stand in the order of the plan, and the one that a page pins came first in time."""
    world = World(20)
    with_targets(world, [T.FAILED] * failed, 4)
    decision = verdicts.interruption(world.rollout, START)
    assert isinstance(decision, GoBack)
    assert decision.reason.startswith(told)


def test_no_progress_is_not_counted_during_a_pause() -> None:
    """While it waits for a time that was planned, progress_deadline does not run."""
    world = World(4, batch_pause=200)
    with_targets(world, [T.HEALTHY, T.HEALTHY], 3)
    late = START + 700
    assert isinstance(verdicts.interruption(world.rollout, late), GoBack)
    waiting = replace(world.rollout, cursor=2, waiting_until=START + 900)
    assert verdicts.interruption(waiting, late) is None


def test_a_cancel_before_anything_was_touched_just_ends() -> None:
    """There is nothing to bring back."""
    rollout = replace(World(4).rollout, wish=Wish.CANCEL_ROLL_BACK, wish_by="ada")
    decision = verdicts.decide(rollout, START)
    assert decision == Finish(D.CANCELLED, "Stopped by ada before anything was touched.")


def test_stopping_says_how_mixed_the_fleet_is() -> None:
    """Who stops here is told what runs where."""
    world = World(4)
    with_targets(world, [T.HEALTHY, T.HEALTHY], 2)
    stopped = replace(world.rollout, wish=Wish.CANCEL_STOP, wish_by="ada")
    decision = verdicts.decide(stopped, START)
    assert decision == Finish(D.CANCELLED, "Stopped by ada. 2 of 4 run v2, 2 as before.")
