"""Real servers for tests: PostgreSQL and Redis once a run, HAProxy as a test asks for it.

A test that needs the database asks for pytest-django's `db`; one that needs Redis alone for
`redis_client`, which is empty; one that needs a balancer for `haproxy`.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import redis

from dashboard.local import binaries, haproxy_server, postgres_server, redis_server
from dashboard.local.places import CHECKOUT, Places
from dashboard.local.stack import free_ports
from dashboard.local.supervision import Supervisor, tail
from tests.environment import FOLDER, PLACES, SHARE

PATIENCE = 30.0  # seconds for a server to answer
BALANCER_PORTS = 17_000 + 50 * SHARE  # where free ports for balancers are looked for


def until(condition: Callable[[], object], within: float = PATIENCE, what: str = "") -> None:
    """Return as soon as `condition` holds; fail the test after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what or condition}")
        time.sleep(0.01)


@contextmanager
def running(places: Places, *, durable: bool = True) -> Iterator[Supervisor]:
    """Run PostgreSQL and Redis of `places`; both answer when it is entered."""
    places.make()
    places.make_runtime()
    postgres_server.prepare(places, lambda text: None)
    redis_server.prepare(places)
    programs = [postgres_server.program(places, durable=durable), redis_server.program(places)]
    supervisor = Supervisor(places, programs)
    try:
        supervisor.start()
        supervisor.launch(postgres_server.NAME, redis_server.NAME)
        for server in (postgres_server, redis_server):
            supervisor.wait(server.NAME, partial(server.answers, places), PATIENCE)
        yield supervisor
    finally:
        supervisor.stop()


@pytest.fixture(scope="session")
def servers() -> Iterator[Supervisor]:
    """PostgreSQL and Redis at DATABASE_URL and REDIS_URL, until the end of the run."""
    with running(PLACES, durable=False) as supervisor:
        yield supervisor


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    servers: Supervisor, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """What pytest-django asks for before it makes the test database: here, that there is one."""


@pytest.fixture
def redis_client(servers: Supervisor) -> Iterator[redis.Redis]:
    """A client of the tests' Redis, which is empty before and after."""
    with redis.Redis(unix_socket_path=str(PLACES.redis_socket), decode_responses=True) as client:
        client.flushall()
        yield client
        client.flushall()


@dataclass(frozen=True)
class Balancer:
    """A running HAProxy: its admin address, where clients go, and its files."""

    address: str  # unix:/PATH, as the inventory has it
    url: str
    socket: Path
    config: Path
    process: subprocess.Popen[bytes]

    def ask(self, command: str) -> str:
        """Return the answer to a command of the runtime API."""
        return haproxy_server.ask(self.socket, command)


class StartHAProxy(Protocol):
    def __call__(
        self, servers: Mapping[str, int], config: Callable[[Path, int], str] | None = None
    ) -> Balancer: ...


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[StartHAProxy]:
    """Start an HAProxy: `haproxy({"web-01": 8001})` balances to ports of this machine.

    With the configuration that the demo ships, or what `config(admin socket, port)` returns.
    """
    with ExitStack() as stack:

        def start(
            servers: Mapping[str, int], config: Callable[[Path, int], str] | None = None
        ) -> Balancer:
            return stack.enter_context(_haproxy(tmp_path, servers, config))

        yield start


@contextmanager
def _haproxy(
    folder: Path, servers: Mapping[str, int], config: Callable[[Path, int], str] | None
) -> Iterator[Balancer]:
    [port] = free_ports(1, BALANCER_PORTS)
    path = folder / f"haproxy-{port}.cfg"
    # pytest's own folders make the address of a socket too long.
    admin = Path(FOLDER.name).resolve() / f"haproxy-{port}.sock"
    text = (
        config(admin, port)
        if config
        else haproxy_server.render(admin, folder / f"state-{port}", port, servers)
    )
    path.write_text(text)
    log = folder / f"haproxy-{port}.log"
    leash = [sys.executable, "-m", "dashboard.local.leash"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*leash, str(binaries.haproxy()), "-db", "-f", str(path)],
            cwd=CHECKOUT,
            stdout=output,
            stderr=output,
        )
    try:
        balancer = Balancer(f"unix:{admin}", f"http://127.0.0.1:{port}", admin, path, process)
        until(
            lambda: haproxy_server.answers(admin) or process.poll() is not None,
            what=f"haproxy answers: {tail(log)}",
        )
        assert process.poll() is None, tail(log)
        yield balancer
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
