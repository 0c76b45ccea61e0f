"""The application of the demo fleet: each trouble that a version's suffix names."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dashboard.local import app
from dashboard.local.stack import free_ports
from tests.servers import until

PORTS = 25_000
Start = Callable[..., "Instance"]


class Instance:
    """One process of the application."""

    def __init__(self, version: str, folder: Path, *arguments: str) -> None:
        [self.port] = free_ports(1, PORTS)
        file = folder / f"version-{self.port}"
        file.write_text(f"{version}\n")
        options = ["--name", "web-01", "--port", str(self.port), "--version-file", str(file)]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-P", app.__file__, *options, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def listens(self) -> bool:
        with closing(socket.socket()) as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path: str, timeout: float = 10, **headers: str) -> tuple[int, str]:
        """Return status and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as client:
            client.request(
                "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )
            answer = client.getresponse()
            return answer.status, answer.read().decode()

    def statuses(self, path: str, count: int) -> list[int]:
        """Return the statuses of `count` requests."""
        return [self.get(path)[0] for _ in range(count)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an instance that runs a version, and wait until it listens."""
    instances: list[Instance] = []

    def start(version: str, *arguments: str, wait: bool = True) -> Instance:
        instance = Instance(version, tmp_path, *arguments)
        instances.append(instance)
        if wait:
            until(instance.listens, what=f"{version} listens")
        return instance

    yield start
    for instance in instances:
        instance.process.kill()
        instance.process.wait()


def test_a_good_version_answers_everything(start: Start) -> None:
    """Name and version at /, the version alone at /version, health, and 200 for the rest."""
    instance = start("v1")
    assert instance.get("/") == (200, "web-01 v1\n")
    assert instance.get("/version") == (200, "v1")
    assert instance.get("/health")[0] == 200
    assert instance.get("/anything/else?at=all")[0] == 200


def test_a_connection_is_kept_for_many_requests(start: Start) -> None:
    """HTTP/1.1 keep-alive: a second request on the same connection is answered."""
    instance = start("v1")
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)) as client:
        for _ in range(3):
            client.request("GET", "/version")
            connection = client.sock
            assert client.getresponse().read() == b"v1"
            assert client.sock is connection


def test_a_body_is_read_so_that_the_next_request_is_found(start: Start) -> None:
    """A POST with a body does not confuse what follows it."""
    instance = start("v1")
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)) as client:
        client.request("POST", "/order", body=b"x" * 5000)
        assert client.getresponse().read() == b"web-01 v1\n"
        client.request("GET", "/version")
        assert client.getresponse().read() == b"v1"


def test_unhealthy_answers_500_to_health_alone(start: Start) -> None:
    """`-unhealthy` serves its pages and fails its checks."""
    instance = start("v3-unhealthy")
    assert instance.statuses("/health", 3) == [500, 500, 500]
    assert instance.get("/") == (200, "web-01 v3-unhealthy\n")


def test_crash_ends_at_start(start: Start) -> None:
    """`-crash` ends with a status that is not 0, and never listens."""
    instance = start("v3-crash", wait=False)
    assert instance.process.wait(10) == 1
    assert not instance.listens()


def test_slow_takes_three_seconds_to_start(start: Start) -> None:
    """`-slow` refuses connections until then, and is well afterwards."""
    instance = start("v3-slow")
    assert 3 <= time.monotonic() - instance.started < 10
    assert instance.get("/health")[0] == 200


def test_hang_accepts_and_never_answers_health(start: Start) -> None:
    """`-hang` leaves the check waiting while pages are served, and still ends at once."""
    instance = start("v3-hang")
    with pytest.raises(TimeoutError):
        instance.get("/health", timeout=0.5)
    assert instance.get("/")[0] == 200
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(2) == 0


def test_liar_reports_another_version(start: Start) -> None:
    """`-liar` says 200 to health and names a version that it is not."""
    instance = start("v3-liar")
    assert instance.get("/version") == (200, "v3")
    assert instance.get("/health")[0] == 200


def test_errors_fails_one_request_in_five(start: Start) -> None:
    """`-errors` is well to every check, while one in five other requests answers 500."""
    instance = start("v3-errors")
    assert sorted(instance.statuses("/", 20)) == [200] * 16 + [500] * 4
    assert instance.statuses("/health", 10) == [200] * 10


def test_sluggish_is_300_ms_slower(start: Start) -> None:
    """`-sluggish` answers, 300 ms later."""
    instance = start("v3-sluggish")
    began = time.monotonic()
    assert instance.get("/")[0] == 200
    assert 0.3 <= time.monotonic() - began < 2


def test_flap_is_good_and_bad_in_turn(start: Start) -> None:
    """`-flap` alternates for each asker: the balancer's checks take nobody's turn away."""
    instance = start("v3-flap")
    seen = []
    for _ in range(4):
        seen.append(instance.get("/health")[0])
        instance.get("/health", X_Haproxy_Server_State="UP 1/3; name=app/web-01")
    assert seen == [200, 500, 200, 500]


def test_sticky_holds_its_request_while_draining(start: Start) -> None:
    """`-sticky` has one long request open, which the begin of a drain does not end."""
    instance = start("v3-sticky")
    ended = threading.Event()

    def hold() -> None:
        instance.get("/sticky", timeout=30)
        ended.set()

    holder = threading.Thread(target=hold)
    holder.start()
    instance.get("/health", X_Haproxy_Server_State="DRAIN; name=app/web-01")
    assert not ended.wait(1)
    # It ends 20 s after the drain began, or with the process, as here.
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(5) == 0
    holder.join(5)
    assert ended.is_set()


def test_an_open_request_is_finished_before_the_end(start: Start) -> None:
    """SIGTERM in the middle of a request: it is answered, then the process ends with 0."""
    instance = start("v1-sluggish")
    with closing(socket.create_connection(("127.0.0.1", instance.port), timeout=5)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        until(lambda: unread(client) == 0, what="the request is read")
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(5) == 0
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 200 OK")
    assert answer.endswith("web-01 v1-sluggish\n")


def unread(client: socket.socket) -> int:
    """Return how many of the bytes that a client has sent its server has yet to read."""
    server, own = (f":{end[1]:04X}" for end in (client.getpeername(), client.getsockname()))
    for row in Path("/proc/net/tcp").read_text().splitlines():
        words = row.split()
        if words[1].endswith(server) and words[2].endswith(own):
            return int(words[4].partition(":")[2], 16)
    raise AssertionError("no such connection")


def test_a_stop_right_after_the_start_is_heeded(start: Start) -> None:
    """At whichever moment SIGTERM comes once it listens, the process ends with 0."""
    for _ in range(20):
        instance = start("v1")
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(5) == 0


def test_an_idle_connection_does_not_delay_the_end(start: Start) -> None:
    """A client that keeps its connection open has the process wait for nothing."""
    instance = start("v1")
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)) as client:
        client.request("GET", "/")
        client.getresponse().read()
        began = time.monotonic()
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(5) == 0
        assert time.monotonic() - began < 1.5
