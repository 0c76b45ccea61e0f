"""The real server with a real client: over restarts of Redis and of the web, nothing is lost."""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.utils import timezone
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dashboard import live
from dashboard.local.places import CHECKOUT
from dashboard.local.stack import free_ports
from dashboard.local.supervision import Supervisor
from dashboard.sockets import TOO_SLOW
from rollouts import actions
from rollouts.models import Deployment, Event, Target
from rollouts.snapshots import consistent_snapshot
from rollouts.states import DeploymentStatus, TargetStatus
from tests.environment import PLACES
from tests.integration.factories import aowned_journal, make_service
from tests.integration.watching import PATIENCE, Screen, make_user, session_of
from tests.servers import until

pytestmark = pytest.mark.django_db(transaction=True)
T = TargetStatus
SLOW_READER = 1.0
RUN = f"""
import sys
from daphne.cli import CommandLineInterface
import dashboard.asgi
from dashboard import sockets
sockets.SLOW_READER = {SLOW_READER}
CommandLineInterface().run(sys.argv[1:])
"""


class Web:
    """A daphne on the tests' database, which can be killed and started again."""

    def __init__(self, log: Path) -> None:
        [self.port] = free_ports(1, 18_000)
        self.origin = ""
        self._log = log
        name = connection.settings_dict["NAME"]
        self._env = {
            **os.environ,
            "DATABASE_URL": f"{PLACES.database_url.rsplit('/', 1)[0]}/{name}",
            "DATABASE_POOL": "10",
        }

    def start(self) -> None:
        """Start it; it listens when this returns."""
        leash = [sys.executable, "-m", "dashboard.local.leash"]
        server = [sys.executable, "-c", RUN, "-b", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*leash, *server, "dashboard.asgi:application"],
                cwd=CHECKOUT,
                env=self._env,
                stdout=output,
                stderr=output,
            )
        until(self._listens, what="daphne listens")

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2_000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it, at once by default."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE)

    @asynccontextmanager
    async def watching(
        self, deployment: Deployment, session: str, query: str = ""
    ) -> AsyncIterator[ClientConnection]:
        """Open the socket of a deployment as the page does."""
        address = f"ws://127.0.0.1:{self.port}/ws/deployments/{deployment.id}/{query}"
        headers = {"Cookie": f"sessionid={session}"}
        async with connect(
            address,
            origin=self.origin,  # type: ignore[arg-type]
            additional_headers=headers,
            max_size=None,
            proxy=None,
        ) as opened:
            yield opened


@pytest.fixture
async def closed() -> AsyncIterator[None]:
    """End the news of this process and the connection in which async writes run."""
    yield
    await sync_to_async(live.stop)()
    await sync_to_async(connections.close_all)()


@pytest.fixture
def session(db: None) -> str:
    return session_of(make_user("ada", "view_deployment"))


@pytest.fixture
def deployment(transactional_db: None, redis_client: redis.Redis, closed: None) -> Deployment:
    return actions.start(make_service(8), "v2", by="ada")


@pytest.fixture(scope="module")
def server(
    servers: Supervisor, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """One daphne for all tests here: its start takes seconds."""
    web = Web(tmp_path_factory.mktemp("web") / "daphne.log")
    web.start()
    yield web
    web.kill(signal.SIGTERM)


@pytest.fixture
def web(server: Web, transactional_db: None) -> Web:
    """The running daphne, opened by its own pages."""
    server.origin = f"http://127.0.0.1:{server.port}"
    return server


async def roll_out(deployment: Deployment, first: int, last: int) -> None:
    """Write what an engine would write about these instances."""
    writer = await aowned_journal(deployment.id)
    for number in range(first, last + 1):
        name = f"web-{number:02}"
        for status in (T.DRAINING, T.UPDATING, T.HEALTH_CHECKING, T.HEALTHY):
            await writer.target(name, status, f"{name} {status}", touched=status == T.UPDATING)
            await writer.sessions(name, number)
    await writer.settle()


async def test_the_client_ends_with_the_servers_snapshot_whatever_is_restarted(
    web: Web, deployment: Deployment, session: str, servers: Supervisor
) -> None:
    """Redis restarted and the web killed in the middle of a stream: no gap and no double."""
    await (await aowned_journal(deployment.id)).move(DeploymentStatus.IN_PROGRESS, "Started.")
    async with web.watching(deployment, session) as opened:
        screen = Screen(opened.recv)
        await screen.read()
        await roll_out(deployment, 1, 2)
        await sync_to_async(servers.call)("stopProcess", "redis", True)
        await roll_out(deployment, 3, 4)
        await sync_to_async(servers.call)("startProcess", "redis", True)
        await roll_out(deployment, 5, 5)
        await screen.until((await Deployment.objects.aget(pk=deployment.pk)).seq)
        writing = asyncio.create_task(roll_out(deployment, 6, 8))
        web.kill()
        with suppress(ConnectionClosed):
            while True:
                await screen.read()
    await sync_to_async(web.start)()
    async with web.watching(deployment, session, f"?after={screen.last}") as opened:
        screen._receive = opened.recv
        await writing
        await screen.until((await Deployment.objects.aget(pk=deployment.pk)).seq)
    assert [message["type"] for message in screen.messages].count("snapshot") == 1
    assert screen.held == await sync_to_async(consistent_snapshot)(deployment.id)


async def test_an_event_is_on_the_screen_soon_after_its_commit(
    web: Web, deployment: Deployment, session: str
) -> None:
    """Half of them within 100 ms, and on an idle machine in far less."""
    committed: dict[int, float] = {}
    seen: dict[int, float] = {}
    async with web.watching(deployment, session) as opened:
        screen = Screen(opened.recv)
        await screen.read()

        async def read() -> None:
            while screen.last < 101:
                await screen.read()
                seen[screen.last] = time.monotonic()

        reading = asyncio.create_task(read())
        writer = await aowned_journal(deployment.id)
        for seq in range(2, 102):
            await writer.note("something")
            committed[seq] = time.monotonic()
        await asyncio.wait_for(reading, PATIENCE)
    took = [seen[seq] - committed[seq] for seq in committed if seq in seen]
    print(f"median {statistics.median(took) * 1000:.1f} ms, longest {max(took) * 1000:.1f} ms")
    assert statistics.median(took) < 0.1


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1"])
async def test_a_page_of_somebody_else_gets_403(
    web: Web, deployment: Deployment, session: str, origin: str
) -> None:
    """Though the browser sends the cookie along."""
    web.origin = origin
    with pytest.raises(InvalidStatus) as caught:
        async with web.watching(deployment, session):
            pass
    assert caught.value.response.status_code == 403


async def test_without_a_session_the_answer_is_403(web: Web, deployment: Deployment) -> None:
    """Before anything is accepted."""
    with pytest.raises(InvalidStatus) as caught:
        async with web.watching(deployment, "a" * 32):
            pass
    assert caught.value.response.status_code == 403


async def test_a_snapshot_may_be_larger_than_daphne_lets_clients_send(
    web: Web, deployment: Deployment, session: str
) -> None:
    """A thousand instances with thirty checks each are more than its 1 MiB."""

    def write() -> None:
        Target.objects.update(error="x" * 200_000)

    await sync_to_async(write)()
    async with web.watching(deployment, session) as opened:
        screen = Screen(opened.recv)
        await screen.read()
        assert screen.held == await sync_to_async(consistent_snapshot)(deployment.id)
        await opened.send("x" * 1_048_577)
        with suppress(ConnectionClosed):
            while True:
                await opened.recv()
        assert opened.close_code in {1006, 1009}


async def test_a_client_that_reads_nothing_is_dropped(
    web: Web, deployment: Deployment, session: str
) -> None:
    """Before all of it has been written into the server's memory."""
    total, text = 2_000, "x" * 16_000

    def write() -> None:
        now = timezone.now()
        Event.objects.bulk_create(
            Event(deployment=deployment, seq=seq, at=now, kind="output", patch={}, message=text)
            for seq in range(2, total + 1)
        )
        Deployment.objects.update(seq=total)

    await sync_to_async(write)()
    received = 0
    code = None
    async with web.watching(deployment, session, "?after=0") as opened:
        transport = opened.transport
        transport.pause_reading()
        await asyncio.sleep(SLOW_READER * 3)  # what is tested is that nothing is read meanwhile
        transport.resume_reading()
        with suppress(ConnectionClosed):
            while received < total * len(text):
                received += len(await opened.recv())
        code = opened.close_code
    assert received < total * len(text)
    assert code in {TOO_SLOW, 1006}, "the server sends its reason where it still can"
