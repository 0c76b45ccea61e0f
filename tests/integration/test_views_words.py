"""What screens say: states, versions, times and what needs attention."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from dashboard import attention, screens, snapshots
from rollouts import actions, journal, ownership
from rollouts.facts import Waiting
from rollouts.models import Deployment, Event
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import make_service

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def target(status: str = "pending", **fields: Any) -> dict[str, Any]:
    return {
        "instance": "web-01",
        "batch": 1,
        "status": status,
        "old_version": "v1",
        "new_version": "v2",
        "touched": False,
        "sessions": None,
        "updated_at": "2026-01-02T11:59:50Z",
        "health_checks": [],
        **fields,
    }


@pytest.mark.parametrize("deployment", list(DeploymentStatus))
@pytest.mark.parametrize("status", list(TargetStatus))
def test_every_state_has_a_glyph_a_word_and_a_hue(
    status: TargetStatus, deployment: DeploymentStatus
) -> None:
    """And none is called unknown."""
    tile = screens.tile(target(status.value), deployment.value, NOW)
    assert tile["glyph"]
    assert tile["word"]
    assert tile["hue"] in {"wait", "active", "ok", "warn", "fail"}
    assert tile["state"] != "unknown"
    assert deployment.value in screens.DEPLOYMENTS


def test_glyphs_of_different_words_are_different() -> None:
    """A state must be known by its glyph alone; two that wait may share one."""
    looks = [look for key, look in screens.TILES.items() if key != "untouched"]
    assert len({look.glyph for look in looks}) == len(looks)


@pytest.mark.parametrize(
    ("status", "deployment", "state"),
    [
        ("failed", "in_progress", "failed"),
        ("failed", "failed", "held_out"),
        ("pending", "in_progress", "waiting"),
        ("pending", "cancelled", "untouched"),
        ("pending", "rolling_back", "untouched"),
        ("updating", "in_progress", "updating"),
        ("updating", "rolling_back", "rolling_back"),
        ("healthy", "completed", "serving"),
        ("rolled_back", "cancelled", "restored"),
        ("exploded", "in_progress", "unknown"),
    ],
)
def test_a_tile_depends_on_the_whole(status: str, deployment: str, state: str) -> None:
    """The same status means another thing on the way back, and after the end."""
    assert screens.tile_state(target(status), deployment) == state


@pytest.mark.parametrize(
    ("fields", "deployment", "words"),
    [
        ({"status": "pending"}, "in_progress", "v1"),
        ({"status": "draining"}, "in_progress", "v1"),
        ({"status": "updating", "touched": True}, "in_progress", "v1 → v2"),
        ({"status": "healthy", "touched": True}, "completed", "v2"),
        ({"status": "draining", "touched": True}, "rolling_back", "v2"),
        ({"status": "updating", "touched": True}, "rolling_back", "v2 → v1"),
        ({"status": "health_checking", "touched": True}, "rolling_back", "v1"),
        ({"status": "rolled_back", "touched": True}, "rolled_back", "v1"),
        ({"status": "pending", "old_version": ""}, "in_progress", "?"),
    ],
)
def test_a_tile_says_what_the_instance_runs(
    fields: dict[str, Any], deployment: str, words: str
) -> None:
    """As far as it is known."""
    assert screens.runs(target(**fields), deployment) == words


def test_a_tile_counts_its_seconds_and_sessions() -> None:
    """While the deployment runs; what is settled for good does not age."""
    draining = screens.tile(target("draining", sessions=3), "in_progress", NOW)
    assert (draining["seconds"], draining["detail"]) == ("10 s", "3 open")
    back = screens.tile(target("draining", sessions=3), "rolling_back", NOW)
    assert back["detail"] == "draining, 3 open"
    later = NOW + timedelta(seconds=93)
    assert screens.tile(target("healthy"), "in_progress", later)["seconds"] == "1 min"
    assert screens.tile(target("healthy"), "completed", NOW)["seconds"] == ""


def test_a_sparkline_tells_good_bad_and_no_answer_apart() -> None:
    """By height and class, within its box even for thirty checks."""
    good = {"status": 200, "latency_ms": 75.0, "error": ""}
    bad = {"status": 503, "latency_ms": 2.0, "error": "unwell"}
    none = {"status": None, "latency_ms": None, "error": "nothing listens yet"}
    drawn = screens.bars([none, bad, good])
    assert [bar["kind"] for bar in drawn] == ["none", "bad", "good"]
    assert [bar["height"] for bar in drawn] == [16, 16, 8]
    thirty = screens.bars([good] * 30)
    assert min(bar["x"] for bar in thirty) >= 0
    assert max(bar["x"] + bar["width"] for bar in thirty) <= screens.BARS_WIDTH


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (135, "2 min 15 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    """In the two units that matter."""
    assert screens.duration(seconds) == words


def test_the_progress_bar_adds_up() -> None:
    """Its parts lie side by side and never reach beyond the end."""
    progress = {"total": 8, "updated": 5, "healthy": 2, "failed": 1, "rolled_back": 1}
    parts = screens.segments(progress)
    widths = [float(part["width"].rstrip("%")) for part in parts]
    assert sum(widths) == pytest.approx(100 * 5 / 8)
    ends = [float(part["x"].rstrip("%")) + width for part, width in zip(parts, widths, strict=True)]
    assert [float(part["x"].rstrip("%")) for part in parts][1:] == pytest.approx(ends[:-1])


@pytest.mark.parametrize(
    ("statuses", "deployment", "state", "words"),
    [
        (["pending", "pending"], "in_progress", "coming", "to come"),
        (["pending", "pending"], "rolled_back", "left", "untouched"),
        (["pending", "draining"], "in_progress", "active", "under way"),
        (["healthy", "healthy"], "in_progress", "done", "done"),
        (["healthy", "failed"], "in_progress", "failed", "1 failed"),
        (["rolled_back", "pending"], "cancelled", "done", "restored"),
        (["healthy", "pending"], "in_progress", "active", "partly done"),
        (["healthy", "pending"], "cancelled", "left", "partly done"),
    ],
)
def test_a_lane_says_how_far_its_batch_is(
    statuses: list[str], deployment: str, state: str, words: str
) -> None:
    """After the end nothing is "to come" any more, and nothing under way."""
    lane = screens.lane_state([target(status) for status in statuses], deployment)
    assert lane == {"lane": state, "words": words}


def keys(notices: list[attention.Notice]) -> list[str]:
    return [notice.key.split("-", 1)[0] for notice in notices]


@pytest.mark.django_db
def test_a_fleet_on_two_versions_needs_attention() -> None:
    """Unless a deployment is at it just now."""
    service = make_service()
    assert keys(attention.of_services(snapshots.services_named())) == []
    service.instances.filter(name="web-01").update(version="v0")
    [notice] = attention.of_services(snapshots.services_named())
    assert notice.text == "shop runs a mix: 3 on v1, 1 on v0."
    actions.start(service, "v2", by="ada")
    assert keys(attention.of_services(snapshots.services_named())) == []


@pytest.mark.django_db
def test_a_deployment_that_failed_needs_attention() -> None:
    """Until the next one of its service."""
    service = make_service()
    failed = actions.start(service, "v2", by="ada")
    Deployment.objects.filter(pk=failed.pk).update(status="failed", completed_at=timezone.now())
    [notice] = attention.of_services(snapshots.services_named())
    assert (notice.hue, notice.url) == ("fail", f"/deployments/{failed.id}/")


@pytest.mark.django_db
def test_what_waits_for_somebody_for_too_long_needs_attention() -> None:
    """A deployment that nobody drives, and a pause that was forgotten; not a fresh one."""
    deployment = actions.start(make_service(), "v2", by="ada")

    def notices(later: timedelta = timedelta()) -> list[str]:
        running = snapshots.active_summaries()
        return keys(attention.of_deployments(running, timezone.now() + later))

    assert notices() == []
    journal.tell_waiting(deployment.pk, Waiting.WORKER)
    assert notices() == ["waiting"]
    ownership.claim(deployment.pk, "somebody")
    assert notices() == []
    Deployment.objects.filter(pk=deployment.pk).update(status="paused")
    Event.objects.create(deployment=deployment, seq=99, at=timezone.now(), kind="status")
    assert notices(timedelta(minutes=9)) == []
    assert notices(timedelta(minutes=11)) == ["paused"]
