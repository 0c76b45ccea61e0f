"""The journal on real PostgreSQL: numbered events, one transaction each, news after commit."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, connections, transaction

from rollouts import actions, journal
from rollouts.facts import Answer, BalancerReport, Change, Server, ServerState, Wish
from rollouts.models import Deployment, Event, HealthCheck, Instance
from rollouts.snapshots import CHECKS_SHOWN, Json, apply, event_fields, snapshot
from rollouts.states import DeploymentStatus, IllegalMove, TargetStatus
from tests.integration.factories import aowned_journal, make_service

pytestmark = pytest.mark.django_db(transaction=True)
D, T = DeploymentStatus, TargetStatus


@pytest.fixture
async def closed() -> AsyncIterator[None]:
    """Close the connection of the thread in which async writes run."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def deployment() -> Deployment:
    return actions.start(make_service(), "v2", by="ada")


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    """Every event that listeners were told of."""
    told: list[dict[str, Any]] = []

    def listen(deployment_id: str, service: str, event: dict[str, Any]) -> None:
        told.append(event)

    journal.listeners.append(listen)
    yield told
    journal.listeners.remove(listen)


def events(deployment: Deployment) -> list[Event]:
    return list(Event.objects.filter(deployment=deployment).order_by("seq"))


def held(deployment: Deployment) -> Deployment:
    return Deployment.objects.select_related("service").get(pk=deployment.pk)


def server(name: str, **more: Any) -> Server:
    return Server(name, ServerState.READY, True, 0, 100, **more)


async def test_a_client_that_applies_every_patch_holds_the_servers_snapshot(
    closed: None, deployment: Deployment
) -> None:
    """From nothing and the first event to the end of a way back, at every single step."""
    client: Json = {}
    writer = await aowned_journal(deployment.id)
    report = BalancerReport({"web-01": server("web-01")}, requests=10, failed=1)
    writes = [
        lambda: writer.move(D.IN_PROGRESS, "Started."),
        lambda: writer.traffic(report),
        lambda: writer.target("web-01", T.DRAINING, "Draining."),
        lambda: writer.sessions("web-01", 3),
        lambda: writer.target("web-01", T.UPDATING, "Updating.", touched=True),
        lambda: writer.output("web-01", "<b>hello</b>"),
        lambda: writer.target("web-01", T.HEALTH_CHECKING, "Checking."),
        lambda: writer.check("web-01", Answer(1.0, ok=False, code=500, latency_ms=3.25), "500"),
        lambda: writer.target("web-01", T.FAILED, "Held out.", error="check 3 of 3 failed"),
        lambda: writer.step(2, 5_000.0, "Waiting."),
        lambda: writer.step(3, None, "Over."),
        lambda: writer.note("Something.", "web-01"),
        lambda: writer.begin_way_back([Change(1, ("web-01",))], D.ROLLED_BACK, "Back."),
        lambda: writer.target("web-01", T.DRAINING, "Draining."),
        lambda: writer.target("web-01", T.HEALTH_CHECKING, "Checking."),
        lambda: writer.target("web-01", T.ROLLED_BACK, "Serves.", version="v1"),
        lambda: writer.move(D.ROLLED_BACK, "Done."),
    ]
    seen = 0
    for write in (writer.settle, *writes):
        await write()
        await writer.settle()
        fresh = [event_fields(e) for e in await sync_to_async(events)(deployment) if e.seq > seen]
        seen += len(fresh)
        client = apply(client, fresh)
        assert client == await sync_to_async(lambda: snapshot(held(deployment)))()
    assert client["status"] == "rolled_back"


@pytest.mark.parametrize(
    ("wish", "before", "move", "kept"),
    [
        (Wish.PAUSE, (), D.IN_PROGRESS, True),
        (Wish.PAUSE, (D.IN_PROGRESS,), D.PAUSED, False),
        (Wish.PAUSE, (D.IN_PROGRESS,), D.ROLLING_BACK, False),
        (Wish.RESUME, (D.IN_PROGRESS, D.PAUSED), D.IN_PROGRESS, False),
        (Wish.CANCEL_STOP, (D.IN_PROGRESS,), D.CANCELLED, True),
    ],
)
def test_a_wish_is_kept_until_a_status_answers_it(
    deployment: Deployment, wish: Wish, before: tuple[D, ...], move: D, kept: bool
) -> None:
    """A pause asked for while pending outlives the start; who stopped it stays on record."""
    for status in before:
        journal.move_now(deployment.id, status, "So.")
    journal.record_wish(deployment.id, wish, "ada", "ada asked.")
    journal.move_now(deployment.id, move, "So.")
    assert (held(deployment).wish, held(deployment).wish_by) == (
        (wish, "ada") if kept else ("", "")
    )


async def test_the_version_last_verified_is_kept_with_the_instance(
    closed: None, deployment: Deployment
) -> None:
    """In the same transaction as the move of the target, with what names it exactly."""
    writer = await aowned_journal(deployment.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    for status in (T.DRAINING, T.UPDATING, T.HEALTH_CHECKING):
        await writer.target("web-02", status, ".")
    await writer.target("web-02", T.HEALTHY, "Serves.", version="v2", digest="sha256:12")
    instance = await Instance.objects.aget(name="web-02")
    assert (instance.version, instance.digest) == ("v2", "sha256:12")
    assert instance.version_at is not None
    target = await deployment.targets.aget(name="web-02")
    assert target.digest == "sha256:12"


def test_events_are_numbered_without_a_gap_by_writers_at_the_same_time(
    deployment: Deployment,
) -> None:
    """Eight threads write twenty notes each: 1 to n, none doubled (S7)."""

    def write() -> None:
        try:
            for number in range(20):
                journal.record_wish(deployment.id, None, "ada", f"note {number}")
        finally:
            connection.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [event.seq for event in events(deployment)] == list(range(1, 162))


async def test_writes_at_the_same_time_keep_their_order_and_fail_alone(
    closed: None, deployment: Deployment
) -> None:
    """One that fails among twenty at the same time spoils none of the others."""
    writer = await aowned_journal(deployment.id)
    names = [f"web-0{1 + number % 4}" for number in range(20)]
    moves = [writer.note(str(number), name) for number, name in enumerate(names)]
    results = await asyncio.gather(
        *moves[:10], writer.move(D.COMPLETED, "illegal"), *moves[10:], return_exceptions=True
    )
    assert [type(result) for result in results if result is not None] == [IllegalMove]
    told = [event.message async for event in Event.objects.filter(kind="note").order_by("seq")]
    assert told == [str(number) for number in range(20)]


async def test_a_post_that_fails_is_raised_by_the_next_read(
    closed: None, deployment: Deployment
) -> None:
    """Nothing is lost in silence."""
    writer = await aowned_journal(deployment.id)
    await writer.target("web-01", T.HEALTHY, "No.", soon=True)
    with pytest.raises(IllegalMove):
        await writer.read()


async def test_a_write_whose_caller_was_cancelled_is_committed_all_the_same(
    closed: None, deployment: Deployment
) -> None:
    """Whoever reads next sees it."""
    writer = await aowned_journal(deployment.id)
    task = asyncio.create_task(writer.target("web-01", T.DRAINING, "Draining."))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert (await writer.read()).target("web-01").status is T.DRAINING


def test_an_illegal_move_changes_nothing_and_tells_nobody(
    deployment: Deployment, heard: list[dict[str, Any]]
) -> None:
    """No row, no event, no news."""
    before = len(events(deployment))
    with pytest.raises(IllegalMove):
        journal.move_now(deployment.id, D.COMPLETED, "No.")
    assert held(deployment).status == "pending"
    assert len(events(deployment)) == before
    assert heard == []


def test_listeners_hear_only_of_what_is_committed(
    deployment: Deployment, heard: list[dict[str, Any]]
) -> None:
    """A write that is rolled back is no news; one that is committed is, and after the commit."""
    with transaction.atomic():
        journal.record_wish(deployment.id, None, "ada", "never")
        transaction.set_rollback(True)
    with transaction.atomic():
        journal.record_wish(deployment.id, None, "ada", "once")
        assert heard == []
    assert [event["message"] for event in heard] == ["once"]


def test_terminal_states_absorb(deployment: Deployment) -> None:
    """After the end no move and no wish is taken (S8)."""
    actions.cancel(deployment.id, "stop", by="ada")
    for status in D:
        with pytest.raises(IllegalMove):
            journal.move_now(deployment.id, status, "No.")
    with pytest.raises(actions.Conflict, match="has ended: cancelled"):
        actions.cancel(deployment.id, "roll_back", by="ada")


def test_the_database_refuses_a_second_active_deployment(deployment: Deployment) -> None:
    """Even of code that does not ask first (S5)."""
    with pytest.raises(IntegrityError, match="deployment_one_active_per_service"):
        Deployment.objects.create(
            service=deployment.service, version="v3", policy={}, plan=[], started_by="eve"
        )


async def test_only_the_last_checks_are_shown(closed: None, deployment: Deployment) -> None:
    """Thirty of them, oldest first; all are kept."""
    writer = await aowned_journal(deployment.id)
    for number in range(CHECKS_SHOWN + 5):
        await writer.check("web-01", Answer(float(number), ok=True, code=200), "200")
    await writer.settle()
    last = await Event.objects.filter(deployment=deployment).alast()
    assert last is not None
    shown = last.patch["targets"][0]["health_checks"]
    assert len(shown) == CHECKS_SHOWN
    assert shown[-1]["at"] == "1970-01-01T00:00:34Z"
    assert await HealthCheck.objects.acount() == CHECKS_SHOWN + 5


async def test_requests_are_counted_on_when_the_balancer_restarts(
    closed: None, deployment: Deployment
) -> None:
    """Its counters begin again at zero; ours do not."""
    writer = await aowned_journal(deployment.id)
    for requests, failed in [(100, 5), (150, 6), (20, 1), (30, 1)]:
        await writer.traffic(BalancerReport({}, requests, failed))
    await writer.settle()
    current = await Deployment.objects.aget(pk=deployment.pk)
    assert current.traffic["requests"] == 50 + 20 + 10
    assert current.traffic["failed_requests"] == 1 + 1


async def test_shares_follow_the_set_weights_of_what_serves(
    closed: None, deployment: Deployment
) -> None:
    """A drained instance has no share; the shares sum to one."""
    await Instance.objects.filter(name="web-01").aupdate(version="v2")
    drained = Server("web-02", ServerState.DRAIN, True, 0, 100)
    servers = {s.name: s for s in (server("web-01"), drained, server("web-03"))}
    writer = await aowned_journal(deployment.id)
    await writer.traffic(BalancerReport(servers))
    await writer.settle()
    current = await Deployment.objects.aget(pk=deployment.pk)
    assert current.traffic["shares"] == {"v2": 0.5, "v1": 0.5}


async def test_long_output_is_cut_and_says_so(closed: None, deployment: Deployment) -> None:
    """A driver that writes without end does not fill the database."""
    writer = await aowned_journal(deployment.id)
    await writer.output("web-01", "x" * 50_000)
    await writer.settle()
    last = await Event.objects.filter(deployment=deployment).alast()
    assert last is not None
    assert len(last.message) < 17_000
    assert last.message.endswith("[cut: 33616 more characters]")


def test_a_wish_does_not_change_the_status(deployment: Deployment) -> None:
    """It is the engine that turns it into one."""
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    actions.cancel(deployment.id, "roll_back", by="ada")
    current = held(deployment)
    assert (current.status, current.wish, current.wish_by) == (
        "in_progress",
        Wish.CANCEL_ROLL_BACK,
        "ada",
    )
