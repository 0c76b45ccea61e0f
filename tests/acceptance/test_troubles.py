"""Every trouble of the demo application, on the whole real system, ends as it must."""

from typing import Any

import pytest

from tests.acceptance.running import Demo, until

# Quick enough for a test; the waits of the demo's own policy are longer.
QUICK: dict[str, Any] = {
    "batch_pause": 0,
    "health_check_timeout": 1,
    "health_check_interval": 0.3,
    "min_healthy_time": 0.7,
    "healthy_deadline": 5,
    "drain_timeout": 3,
}
INSTANCES = 6
fresh = iter(range(1, 1000))


@pytest.fixture
def before(demo: Demo) -> str:
    """The one version that every instance runs, with all of them in rotation."""
    until(lambda: demo.serving() == INSTANCES, 20, "all instances in rotation")
    versions = demo.versions()
    assert len(versions) == 1
    return versions.pop()


def named(suffix: str) -> str:
    return f"t{next(fresh)}{suffix}"


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("-unhealthy", "check 3 of 3 failed: /health answered 500"),
        ("-crash", "healthy_deadline"),
        ("-hang", "no answer within 1 s"),
        ("-liar", "instead of"),
        ("-flap", "healthy_deadline"),
    ],
)
def test_a_bad_version_is_rolled_back_from_the_first_batch(
    demo: Demo, before: str, suffix: str, words: str
) -> None:
    """Two instances saw it at most, all run the old version again, and the reason says why."""
    end = demo.ended(demo.start(named(suffix), **QUICK))
    assert end["status"] == "rolled_back", end["reason"]
    assert words in end["reason"]
    assert sum(target["touched"] for target in end["targets"]) <= 2
    assert end["traffic"]["failed_requests"] == 0
    assert demo.versions() == {before}
    assert demo.serving() == INSTANCES
    assert len({event["seq"] for event in demo.events(end["id"])}) == end["seq"]


def test_a_slow_start_is_waited_for(demo: Demo, before: str) -> None:
    """Three seconds in which nothing listens are no failure."""
    version = named("-slow")
    half = {"batch_size": 3, "max_unavailable": 3, "healthy_deadline": 15}
    end = demo.ended(demo.start(version, **{**QUICK, **half}))
    assert end["status"] == "completed", end["reason"]
    assert demo.versions() == {version}
    assert end["traffic"]["failed_requests"] == 0


@pytest.mark.parametrize(
    ("suffix", "words"), [("-errors", "answers with errors"), ("-sluggish", "is slower")]
)
def test_what_health_does_not_show_is_found_in_the_traffic(
    demo: Demo, before: str, suffix: str, words: str
) -> None:
    """Of a rolling deployment too: before the last batch at the latest, and all goes back."""
    policy = {**QUICK, "batch_pause": 5, "analysis": {"min_requests": 20}}
    end = demo.ended(demo.start(named(suffix), **policy))
    assert end["status"] == "rolled_back", end["reason"]
    assert words in end["reason"]
    assert 2 <= sum(target["touched"] for target in end["targets"]) <= INSTANCES - 2
    assert demo.versions() == {before}
    assert demo.serving() == INSTANCES


def test_a_request_that_never_ends_is_cut_at_the_deadline(demo: Demo, before: str) -> None:
    """The drain of -sticky lasts drain_timeout, an event says so, and the update goes on."""
    first = demo.ended(demo.start(named("-sticky"), **QUICK))
    assert first["status"] == "completed", first["reason"]
    second = demo.ended(demo.start(named(""), **QUICK))
    assert second["status"] == "completed", second["reason"]
    cuts = [event for event in demo.events(second["id"]) if "drain_timeout" in event["message"]]
    assert cuts


def test_a_driver_that_can_not_run_touches_no_version(demo: Demo, before: str) -> None:
    """The reason names the exit of the program, and all goes back."""
    # The update command refuses an instance that is not in its folder.
    broken = demo.data / "fleet" / "web-01"
    hidden = broken.rename(broken.with_name("hidden"))
    try:
        end = demo.ended(demo.start(named(""), **QUICK))
    finally:
        hidden.rename(broken)
    assert end["status"] == "failed"
    assert "exit status 1" in end["reason"]
    assert "web-01" in end["reason"]
    # The way back could not run the driver either: held out, until the next deployment.
    cure = demo.ended(demo.start(named(""), **QUICK))
    assert cure["status"] == "completed", cure["reason"]


@pytest.mark.parametrize("mode", ["stop", "roll_back"])
def test_a_cancel_is_acted_on_within_two_seconds(demo: Demo, before: str, mode: str) -> None:
    """In the middle of a version that hangs, and no instance is left half done."""
    deployment = demo.start(named("-hang"), **{**QUICK, "healthy_deadline": 60})

    def checking() -> bool:
        return any(t["status"] == "health_checking" for t in demo.get(deployment)["targets"])

    until(checking, 30, "an instance is being checked")
    assert demo.act(deployment, "cancel", mode=mode).status_code == 202
    until(lambda: demo.get(deployment)["status"] != "in_progress", 2, "acted on")
    end = demo.ended(deployment)
    assert end["status"] == "cancelled", end["reason"]
    assert demo.versions() == {before}
    assert demo.serving() == INSTANCES
    assert end["traffic"]["failed_requests"] == 0
    assert demo.act(deployment, "cancel", mode=mode).status_code == 409


def test_stopping_between_batches_leaves_a_mixed_fleet_and_says_so(demo: Demo, before: str) -> None:
    """What was done stays; what was not begun is left alone; the next deployment mends it."""
    version = named("")
    deployment = demo.start(version, **{**QUICK, "batch_pause": 30})
    until(lambda: demo.get(deployment)["waiting_until"], 30, "the pause after the first batch")
    demo.act(deployment, "cancel", mode="stop")
    end = demo.ended(deployment, within=5)
    assert end["status"] == "cancelled"
    assert f"2 of {INSTANCES} run {version}" in end["reason"]
    assert demo.versions() == {before, version}
    assert demo.ended(demo.start(named(""), **QUICK))["status"] == "completed"


def test_pause_and_resume(demo: Demo, before: str) -> None:
    """Paused it waits between batches; resumed it goes on to the end."""
    deployment = demo.start(named(""), **{**QUICK, "batch_pause": 1})
    until(lambda: demo.get(deployment)["progress"]["healthy"], 30, "one instance is healthy")
    assert demo.act(deployment, "pause").status_code == 202
    until(lambda: demo.get(deployment)["status"] == "paused", 15, "paused")
    assert demo.act(deployment, "resume").status_code == 202
    assert demo.ended(deployment)["status"] == "completed"
