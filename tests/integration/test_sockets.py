"""The sockets on real PostgreSQL and Redis: a snapshot, then each event once, in order."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connections
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisAway

from dashboard import consumers, live, sockets, troubles
from dashboard.attention import Notice
from dashboard.live import OVERVIEW_GROUP, group_of
from dashboard.routing import Reader
from rollouts import actions, journal
from rollouts.models import Deployment, Event
from rollouts.snapshots import consistent_snapshot, events_after
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import aowned_journal, make_service
from tests.integration.watching import (
    PATIENCE,
    Screen,
    communicator,
    make_user,
    screen_of,
    session_of,
)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client", "closed"),
]
D, T = DeploymentStatus, TargetStatus


@pytest.fixture
async def closed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """End what sockets read, the news of this process and the connection of async writes.

    A socket that is left does not wait for what it reads, and an open transaction would be in
    the way of emptying the database.
    """
    readers = ThreadPoolExecutor(max_workers=4)
    monkeypatch.setattr(sockets, "readers", readers)
    yield
    await asyncio.to_thread(readers.shutdown)
    await sync_to_async(live.stop)()
    await sync_to_async(connections.close_all)()


@pytest.fixture
def user() -> User:
    return make_user("ada", "view_deployment")


@pytest.fixture
def session(user: User) -> str:
    return session_of(user)


@pytest.fixture
def deployment() -> Deployment:
    return actions.start(make_service(), "v2", by="ada")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the heart beat often, for tests of what a heartbeat does."""
    monkeypatch.setattr(sockets, "HEARTBEAT", 0.1)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose all news on the way."""
    monkeypatch.setattr(journal, "listeners", [])


def path_of(deployment: Deployment, query: str = "") -> str:
    return f"/ws/deployments/{deployment.id}/{query}"


@asynccontextmanager
async def connected(path: str, session: str) -> AsyncIterator[WebsocketCommunicator]:
    socket = communicator(path, session)
    assert (await socket.connect(timeout=PATIENCE))[0]
    try:
        yield socket
    finally:
        await socket.disconnect(timeout=PATIENCE)


@asynccontextmanager
async def watching(
    deployment: Deployment, session: str, after: int | None = None
) -> AsyncIterator[Screen]:
    query = "" if after is None else f"?after={after}"
    async with connected(path_of(deployment, query), session) as socket:
        yield screen_of(socket, after or 0)


async def server_holds(deployment: Deployment) -> dict[str, Any]:
    return await sync_to_async(consistent_snapshot)(deployment.id)


async def roll_out(deployment: Deployment) -> int:
    """Write what an engine would write for one batch; return the last number."""
    writer = await aowned_journal(deployment.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    for name in ("web-01", "web-02"):
        for status in (T.DRAINING, T.UPDATING, T.HEALTH_CHECKING):
            await writer.target(name, status, f"{name} {status}", touched=status == T.UPDATING)
        await writer.target(name, T.HEALTHY, "Serves.", version="v2")
    return (await Deployment.objects.aget(pk=deployment.pk)).seq


async def closed_with(socket: WebsocketCommunicator) -> int:
    """Return the code that the server closes the socket with, whatever it says before."""
    while True:
        message = await socket.receive_output(timeout=PATIENCE)
        if message["type"] == "websocket.close":
            return int(message["code"])


async def test_the_first_message_is_the_servers_snapshot(
    deployment: Deployment, session: str
) -> None:
    """The same that REST gives."""
    async with watching(deployment, session) as screen:
        assert (await screen.read())["type"] == "snapshot"
        assert screen.held == await server_holds(deployment)


async def test_a_screen_that_applies_every_event_holds_the_servers_snapshot(
    deployment: Deployment, session: str
) -> None:
    """Each event comes once and in order, as it is stored."""
    async with watching(deployment, session) as screen:
        await screen.read()
        last = await roll_out(deployment)
        await screen.until(last)
        assert screen.held == await server_holds(deployment)
        assert screen.events == await sync_to_async(events_after)(deployment.id, 1, 100)


async def test_a_socket_hears_news_before_it_reads_its_snapshot(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round, what happens between the two would be in neither."""
    order: list[str] = []
    read = consumers.opening

    class SlowToSubscribe:
        def __getattr__(self, name: str) -> Any:
            return getattr(get_channel_layer(), name)

        async def group_add(self, group: str, channel: str) -> None:
            await asyncio.sleep(0.2)  # longer than it takes to read
            await get_channel_layer().group_add(group, channel)
            order.append("subscribed")

    async def opening(*args: Any) -> dict[str, Any]:
        order.append("read")
        return await read(*args)

    monkeypatch.setattr(sockets, "get_channel_layer", SlowToSubscribe)
    monkeypatch.setattr(consumers, "opening", opening)
    async with watching(deployment, session) as screen:
        await screen.read()
    assert order == ["subscribed", "read"]


@pytest.mark.usefixtures("deaf")
async def test_a_reconnect_brings_the_missed_events_alone(
    deployment: Deployment, session: str
) -> None:
    """With `after` there is neither a gap nor a double."""
    last = await roll_out(deployment)
    async with watching(deployment, session, after=4) as screen:
        first = await screen.read()
        assert first["type"] == "events"
        assert [event["seq"] for event in first["events"]] == list(range(5, last + 1))


async def test_a_reconnect_that_missed_nothing_is_told_so(
    deployment: Deployment, session: str
) -> None:
    """An empty list of events, so that the page knows it is up to date."""
    async with watching(deployment, session, after=1) as screen:
        assert await screen.read() == {"type": "events", "events": []}


@pytest.mark.parametrize("after", ["2", "99", "x", "-1", "", "1e3", "9" * 30, "²"])
async def test_an_after_that_the_server_can_not_follow_gets_a_snapshot(
    deployment: Deployment, session: str, after: str
) -> None:
    """As after a database restored from a backup: the page begins anew."""
    async with connected(path_of(deployment, f"?after={after}"), session) as socket:
        assert (await screen_of(socket).read())["type"] == "snapshot"


@pytest.mark.usefixtures("deaf", "quick")
async def test_news_that_were_lost_come_with_the_heartbeat(
    deployment: Deployment, session: str
) -> None:
    """Redis forgets without a sign; PostgreSQL does not."""
    async with watching(deployment, session) as screen:
        await screen.read()
        last = await roll_out(deployment)
        await screen.until(last)
        assert screen.held == await server_holds(deployment)


@pytest.mark.usefixtures("deaf")
async def test_doubled_late_and_missing_news_are_put_right(
    deployment: Deployment, session: str
) -> None:
    """What was sent is dropped; a gap is read from PostgreSQL at once."""
    async with watching(deployment, session) as screen:
        await screen.read()
        last = await roll_out(deployment)
        stored = await sync_to_async(events_after)(deployment.id, 0, 100)
        for events in (stored[2:3], stored[1:2], stored[:4], stored[3:5], stored[-1:]):
            message = {"type": "news", "events": events}
            await get_channel_layer().group_send(group_of(deployment.id), message)
        await asyncio.wait_for(screen.until(last), sockets.HEARTBEAT - 1)
        assert screen.held == await server_holds(deployment)


@pytest.mark.usefixtures("quick")
async def test_the_heartbeat_says_how_far_the_server_is(
    deployment: Deployment, session: str
) -> None:
    """With the time, so that a page knows how fresh it is."""
    async with watching(deployment, session) as screen:
        beat = await screen.until_type("heartbeat")
        assert beat["seq"] == 1
        assert beat["at"].endswith("Z")


@pytest.mark.usefixtures("quick")
async def test_the_heartbeat_says_what_is_wrong_with_the_machinery(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, as long as it lasts; with how late news are where Redis does not bring them."""
    monkeypatch.setattr(troubles, "EVERY", 0.1)

    async def beat_with(words: str, late: float) -> None:
        beat = await screen.until_type("heartbeat")
        while words not in "".join(beat["troubles"]) or beat["late"] != late:
            beat = await screen.until_type("heartbeat")

    async with watching(deployment, session) as screen, asyncio.timeout(PATIENCE):
        await beat_with("No worker is alive", late=0)
        monkeypatch.setattr(troubles, "machinery", without_redis)
        await beat_with("Redis is out of reach", late=0.1)


def without_redis() -> list[Notice]:
    return [Notice("redis", "fail", "Redis is out of reach.")]


async def test_many_missed_events_come_in_bounded_messages(
    deployment: Deployment, session: str
) -> None:
    """At most 500 in one, and all of them."""

    def write() -> None:
        Event.objects.bulk_create(
            Event(
                deployment=deployment, seq=seq, at=timezone.now(), kind="note", patch={"seq": seq}
            )
            for seq in range(2, 1_102)
        )
        Deployment.objects.update(seq=1_101)

    await sync_to_async(write)()
    async with watching(deployment, session, after=0) as screen:
        await screen.until(1_101)
        assert [len(message["events"]) for message in screen.messages] == [500, 500, 101]


async def test_big_events_come_in_several_messages(deployment: Deployment, session: str) -> None:
    """Clients of Python take 1 MiB at once, unless they were told otherwise."""
    writer = await aowned_journal(deployment.id)
    for _ in range(40):
        await writer.output("web-01", "x" * 16_000)
    await writer.settle()
    async with watching(deployment, session, after=1) as screen:
        await screen.until(41)
        sizes = [len(json.dumps(message)) for message in screen.messages]
        assert len(sizes) == 3
        assert max(sizes) < 300_000


async def test_a_burst_loses_nothing(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More news than a socket keeps waiting are read from PostgreSQL instead."""
    monkeypatch.setattr(sockets, "WAITING_LIMIT", 5)

    def write() -> None:
        for number in range(200):
            journal.record_wish(deployment.id, None, "ada", f"note {number}")

    async with watching(deployment, session) as screen:
        await screen.read()
        await sync_to_async(write)()
        await screen.until(201)


async def test_a_socket_without_redis_is_served_from_postgresql(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """It opens, holds the snapshot and follows with each heartbeat."""

    class Away:
        async def new_channel(self) -> str:
            raise RedisAway

        async def group_discard(self, group: str, channel: str) -> None:
            raise RedisAway

    monkeypatch.setattr(sockets, "get_channel_layer", Away)
    async with watching(deployment, session) as screen:
        await screen.read()
        last = await roll_out(deployment)
        await screen.until(last)


def without_session(_: str) -> dict[str, str]:
    return {"cookie": ""}


def forged(_: str) -> dict[str, str]:
    return {"cookie": "sessionid=" + "a" * 32}


def foreign(_: str) -> dict[str, str]:
    return {"origin": "http://evil.example"}


def other_port(_: str) -> dict[str, str]:
    return {"origin": "http://testserver:9000"}


def sandboxed(_: str) -> dict[str, str]:
    return {"origin": "null"}


def rebound(_: str) -> dict[str, str]:
    return {"origin": "http://evil.example", "host": "evil.example"}


@pytest.mark.parametrize(
    "change", [without_session, forged, foreign, other_port, sandboxed, rebound]
)
@pytest.mark.parametrize("where", ["deployment", "overview"])
async def test_a_stranger_is_refused_before_the_socket_opens(
    deployment: Deployment, session: str, change: Callable[[str], dict[str, str]], where: str
) -> None:
    """No session, or a page of somebody else."""
    path = path_of(deployment) if where == "deployment" else "/ws/overview/"
    assert not (await communicator(path, session, **change(session)).connect(PATIENCE))[0]


async def test_a_client_that_is_no_browser_needs_no_origin(
    deployment: Deployment, session: str
) -> None:
    """Only browsers can be led astray by a page, and they always say where it is from."""
    socket = communicator(path_of(deployment), session, origin="")
    assert (await socket.connect(PATIENCE))[0]
    await socket.disconnect(timeout=PATIENCE)


@pytest.mark.parametrize("turns", range(0, 15, 3))
async def test_a_client_that_leaves_at_once_leaves_nothing_behind(
    deployment: Deployment, session: str, turns: int
) -> None:
    """Whatever the socket is doing at that moment."""
    socket = communicator(path_of(deployment), session)
    assert (await socket.connect(PATIENCE))[0]
    for _ in range(turns):
        await asyncio.sleep(0)  # one turn of the event loop
    before = asyncio.get_running_loop().time()
    await socket.disconnect(timeout=PATIENCE)
    assert asyncio.get_running_loop().time() - before < PATIENCE / 2
    assert not [task for task in asyncio.all_tasks() if "LiveConsumer" in repr(task)]


@pytest.mark.parametrize("path", ["/ws/deployments/deploy-000000000000/", "/ws/x/", "/ws/"])
async def test_what_does_not_exist_is_refused(session: str, path: str) -> None:
    """An unknown deployment, an unknown address."""
    assert not (await communicator(path, session).connect(PATIENCE))[0]


async def test_a_user_without_the_right_is_refused(deployment: Deployment) -> None:
    """Being logged in is not enough."""
    session = await sync_to_async(lambda: session_of(make_user("eve")))()
    for path in (path_of(deployment), "/ws/overview/"):
        assert not (await communicator(path, session).connect(PATIENCE))[0]


def logs_out(user: User) -> None:
    Session.objects.all().delete()


def is_deactivated(user: User) -> None:
    User.objects.update(is_active=False)


def loses_the_right(user: User) -> None:
    user.user_permissions.clear()


def changes_the_password(user: User) -> None:
    user.set_unusable_password()  # another random one
    user.save()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "happens", [logs_out, is_deactivated, loses_the_right, changes_the_password]
)
async def test_a_socket_ends_with_what_it_was_opened_by(
    deployment: Deployment, session: str, user: User, happens: Callable[[User], None]
) -> None:
    """Checked with each heartbeat, so well within 60 s."""
    async with connected(path_of(deployment), session) as socket:
        await sync_to_async(happens)(user)
        assert await closed_with(socket) == sockets.NOT_LOGGED_IN


async def test_frames_that_command_are_ignored(deployment: Deployment, session: str) -> None:
    """A socket only tells."""
    async with connected(path_of(deployment), session) as socket:
        screen = screen_of(socket)
        await screen.read()
        for text in ("{", '{"type": "cancel"}', '{"type": "websocket.close"}'):
            await socket.send_to(text_data=text)
        await socket.send_to(bytes_data=b"\x00\xff")
        last = await roll_out(deployment)
        await screen.until(last)


async def test_a_flood_of_frames_ends_the_socket(deployment: Deployment, session: str) -> None:
    """More than 20 in 10 s; twenty are still ignored."""
    async with connected(path_of(deployment), session) as socket:
        for _ in range(20):
            await socket.send_to(text_data="x")
        assert (await screen_of(socket).read())["type"] == "snapshot"
        await socket.send_to(text_data="x")
        assert await closed_with(socket) == sockets.FLOOD


async def test_a_frame_over_64_kib_ends_the_socket(deployment: Deployment, session: str) -> None:
    """Counted in bytes: a character may be four."""
    async with connected(path_of(deployment), session) as socket:
        await socket.send_to(text_data="x" * 65_536)
        assert (await screen_of(socket).read())["type"] == "snapshot"
        await socket.send_to(text_data="ä" * 32_769)
        assert await closed_with(socket) == sockets.TOO_BIG


async def test_a_reader_that_does_not_read_is_dropped(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded, because nothing more is written to it."""
    monkeypatch.setattr(sockets, "SLOW_READER", 0.1)

    async def stuck(reader: Reader) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reader, "ready", stuck)
    async with connected(path_of(deployment), session) as socket:
        assert await closed_with(socket) == sockets.TOO_SLOW


async def test_an_outage_of_postgresql_is_silence_and_then_all_that_was_missed(
    deployment: Deployment, session: str, monkeypatch: pytest.MonkeyPatch, quick: None, deaf: None
) -> None:
    """No heartbeat vouches for what can't be read, and the socket outlives it."""
    read, silent = sockets.admitted, asyncio.Event()

    async def away(*args: Any) -> bool:
        silent.set()
        raise TimeoutError

    async with watching(deployment, session) as screen:
        await screen.read()
        monkeypatch.setattr(sockets, "admitted", away)
        last = await roll_out(deployment)
        silent.clear()
        await asyncio.wait_for(silent.wait(), PATIENCE)
        monkeypatch.setattr(sockets, "admitted", read)
        await screen.until(last)
        assert screen.held == await server_holds(deployment)


async def overview_message(socket: WebsocketCommunicator) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await socket.receive_from(timeout=PATIENCE))
    return message


async def test_the_overview_begins_with_services_and_running_deployments(
    deployment: Deployment, session: str
) -> None:
    """As lists show them."""
    async with connected("/ws/overview/", session) as socket:
        first = await overview_message(socket)
        assert first["type"] == "snapshot"
        [service] = first["overview"]["services"]
        assert (service["name"], service["versions"]) == ("shop", {"v1": 4})
        [running] = first["overview"]["deployments"]
        assert (running["id"], running["progress"]["total"]) == (deployment.id, 4)
        assert "targets" not in running


async def follow_overview(
    socket: WebsocketCommunicator, deployment_id: str, last: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Apply events to nothing until `last`; return the deployment and the services told last."""
    held: dict[str, Any] = {"seq": 0}
    services: list[dict[str, Any]] = []
    while held["seq"] < last or not services:
        message = await overview_message(socket)
        services = message.get("services", services)
        for event in message.get("events", []):
            if event["deployment"] == deployment_id:
                assert event["seq"] == held["seq"] + 1
                assert event["service"] == "shop"
                held.update(event["patch"])
    return held, services


@pytest.mark.parametrize("hears", [True, False])
async def test_a_deployment_that_begins_is_added_from_its_events_alone(
    session: str, monkeypatch: pytest.MonkeyPatch, hears: bool
) -> None:
    """The first one carries the whole summary; the services follow. With news and without."""
    if not hears:
        monkeypatch.setattr(journal, "listeners", [])
        monkeypatch.setattr(sockets, "HEARTBEAT", 0.1)
    service = await sync_to_async(make_service)()
    async with connected("/ws/overview/", session) as socket:
        assert (await overview_message(socket))["overview"]["deployments"] == []
        begun = await sync_to_async(actions.start)(service, "v2", by="ada")
        last = await roll_out(begun)
        held, services = await follow_overview(socket, begun.id, last)
        expected = await server_holds(begun)
        del expected["targets"]
        assert held == expected
        while services[0]["versions"] != {"v1": 2, "v2": 2}:
            services = (await overview_message(socket)).get("services", services)
        assert services[0]["active_deployment"] == begun.id


@pytest.mark.usefixtures("quick", "deaf")
async def test_the_end_of_a_deployment_reaches_the_overview_whatever_is_lost(
    deployment: Deployment, session: str
) -> None:
    """Though it is no running deployment any more when the heartbeat looks."""
    async with connected("/ws/overview/", session) as socket:
        await overview_message(socket)
        await sync_to_async(actions.cancel)(deployment.id, "stop", by="ada")
        told: list[dict[str, Any]] = []
        while not told:
            told = (await overview_message(socket)).get("events", [])
        assert [event["patch"]["status"] for event in told] == ["cancelled"]


@pytest.mark.usefixtures("deaf")
async def test_a_gap_in_the_overviews_news_is_read_from_postgresql(
    deployment: Deployment, session: str
) -> None:
    """At once, not with the next heartbeat."""
    async with connected("/ws/overview/", session) as socket:
        await overview_message(socket)
        last = await roll_out(deployment)
        [stored] = await sync_to_async(events_after)(deployment.id, last - 1, 1)
        event = {**stored, "deployment": deployment.id, "service": "shop"}
        message = {"type": "news", "events": [event]}
        await get_channel_layer().group_send(OVERVIEW_GROUP, message)
        told = await asyncio.wait_for(overview_message(socket), sockets.HEARTBEAT - 1)
        assert [event["seq"] for event in told["events"]] == list(range(2, last + 1))
