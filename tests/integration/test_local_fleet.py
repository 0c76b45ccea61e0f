"""The demo fleet: updates of its instances, the load, and a balancer that loses nothing."""

import http.client
import socket
import subprocess
import sys
import tempfile
import threading
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dashboard.local import fleet, haproxy_server, load, update
from dashboard.local.places import CHECKOUT, Places
from dashboard.local.stack import LOOPBACK, Owner, Stack, free_ports
from tests.servers import StartHAProxy, until

COUNT = 4
PORTS = 26_000
RATE = 60.0  # requests a second


@dataclass(frozen=True)
class Fleet:
    """A fleet behind a balancer, under load."""

    places: Places
    instances: dict[str, int]
    stack: Stack

    def update(self, name: str, version: str) -> "subprocess.CompletedProcess[str]":
        """Run the driver's command as a worker would."""
        driver = fleet.update_command(self.places)
        known = {"{name}": name, "{version}": version}
        return subprocess.run(
            [known.get(word, word) for word in driver["update"]],
            cwd=str(driver["directory"]),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def version(self, name: str) -> str:
        """Return what the instance says that it runs; empty where it does not answer."""
        try:
            return ask(self.instances[name], "/version")
        except OSError:
            return ""

    def ask(self, command: str) -> str:
        return haproxy_server.ask(self.places.haproxy_socket, command)

    def sessions(self, name: str) -> int:
        """Return how many sessions the balancer has open on an instance."""
        head, *rows = self.ask("show stat").removeprefix("# ").splitlines()
        columns = head.split(",")
        [row] = [line.split(",") for line in rows if line.startswith(f"app,{name},")]
        return int(row[columns.index("scur")])

    def pid(self, name: str) -> int:
        info = self.stack.supervisor.call("getProcessInfo", f"{fleet.GROUP}:{name}")
        return int(info["pid"])


def ask(port: int, path: str, **headers: str) -> str:
    """Return the body of an answer; raise OSError."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    """A fleet of four on v1 behind the shipped balancer, under load."""
    with tempfile.TemporaryDirectory(prefix="lgf-", dir="/tmp") as folder:
        places = Places.of(Path(folder) / "data")
        places.make()
        instances = dict(zip(fleet.names(COUNT), free_ports(COUNT, PORTS), strict=True))
        [port] = free_ports(1, PORTS + 1000)
        url = f"http://{LOOPBACK}:{port}"
        fleet.prepare(places, instances)
        haproxy_server.prepare(places, port, instances)
        programs = [
            *fleet.programs(places, instances, url),
            haproxy_server.program(places),
            load.program(places, url, RATE),
        ]
        with (
            Owner(places, lambda text: None),
            Stack(places, programs, lambda text: None) as stack,
        ):
            fleet.start(stack, instances)
            stack.start("haproxy", lambda: haproxy_server.answers(places.haproxy_socket))
            stack.start("load", places.counts.exists)
            yield Fleet(places, instances, stack)


@pytest.fixture
def shop(running: Fleet) -> Iterator[Fleet]:
    """The fleet, every instance of it on v1 and in rotation."""
    for name in running.instances:
        if running.version(name) != "v1":
            assert running.update(name, "v1").returncode == 0
        running.ask(f"set server app/{name} state ready")
    until(
        lambda: not haproxy_server.out_of_rotation(running.places.haproxy_socket),
        what="all are in rotation",
    )
    return running


def counted(shop: Fleet, beyond: int = 0) -> load.Counts:
    """Return the counts once `beyond` more requests were sent and all of them have ended."""
    sent = load.read(shop.places.counts).requests + beyond
    until(lambda: load.read(shop.places.counts).settled >= sent, what="the load is counted")
    return load.read(shop.places.counts)


def test_an_update_restarts_the_instance_with_the_version(shop: Fleet) -> None:
    """The command returns when a new process was started; that one reports the version."""
    before = shop.pid("web-01")
    done = shop.update("web-01", "v2")
    assert (done.returncode, done.stdout) == (0, "web-01 was started with v2\n")
    assert shop.pid("web-01") != before
    until(lambda: shop.version("web-01") == "v2", what="v2 is reported")


def test_an_update_is_told_in_the_history(shop: Fleet) -> None:
    """Who was given a version, however shortly, is known afterwards."""
    lines = len(fleet.history(shop.places).read_text().splitlines())
    for name, version in (("web-02", "v7"), ("web-02", "v1"), ("web-03", "v7")):
        assert shop.update(name, version).returncode == 0
    assert fleet.updated(shop.places, "v7", lines) == ["web-02", "web-03"]


def test_an_instance_that_crashed_at_start_can_be_updated(shop: Fleet) -> None:
    """However often it was tried again meanwhile: the next update starts the next version."""
    assert shop.update("web-01", "v2-crash").returncode == 0
    state = "getProcessInfo", f"{fleet.GROUP}:web-01"
    until(
        lambda: shop.stack.supervisor.call(*state)["statename"] == "FATAL",
        what="supervisord has given it up",
    )
    assert shop.update("web-01", "v3").returncode == 0
    until(lambda: shop.version("web-01") == "v3", what="v3 is reported")


def test_an_instance_between_two_attempts_can_be_updated(shop: Fleet) -> None:
    """An update in the back-off after a crash takes effect at once."""
    assert shop.update("web-01", "v2-crash").returncode == 0
    state = "getProcessInfo", f"{fleet.GROUP}:web-01"
    until(
        lambda: shop.stack.supervisor.call(*state)["statename"] == "BACKOFF",
        what="supervisord waits for the next attempt",
    )
    assert shop.update("web-01", "v3").returncode == 0
    until(lambda: shop.version("web-01") == "v3", what="v3 is reported")


def test_updates_of_one_instance_at_the_same_time_are_harmless(shop: Fleet) -> None:
    """They follow one another: the instance ends whole, on one of the versions."""
    versions = [f"v{number}" for number in range(10, 14)]
    with ThreadPoolExecutor(len(versions)) as pool:
        done = list(pool.map(lambda version: shop.update("web-01", version), versions))
    assert [each.returncode for each in done] == [0] * len(versions)
    until(lambda: shop.version("web-01") in versions, what="one of them is reported")
    [last] = [shop.version("web-01")]
    assert (shop.places.fleet / "web-01" / "version").read_text().strip() == last


@pytest.mark.parametrize(
    ("name", "version"),
    [("web-99", "v2"), ("../web-01", "v2"), ("web-01", "$(id)"), ("web-01", "../x")],
)
def test_a_bad_name_or_version_is_refused(shop: Fleet, name: str, version: str) -> None:
    """Exit status 1 and a sentence; nothing is written or restarted."""
    before = fleet.history(shop.places).read_text(), shop.pid("web-01")
    done = shop.update(name, version)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (fleet.history(shop.places).read_text(), shop.pid("web-01")) == before


def test_an_update_without_supervisord_fails(tmp_path: Path) -> None:
    """Exit status 1 and a sentence where nobody is there to restart the instance."""
    places = Places.of(tmp_path)
    (places.fleet / "web-01").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "dashboard.local.update", "--data", tmp_path, "web-01", "v2"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "out of reach" in done.stderr


def test_a_refused_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What supervisord says about a process that it can't start reaches the log."""

    def refuse(path: Path, method: str, *arguments: object) -> None:
        raise xmlrpc.client.Fault(50, "SPAWN_ERROR")

    monkeypatch.setattr(update.control, "call", refuse)
    places = Places.of(tmp_path)
    (places.fleet / "web-01").mkdir(parents=True)
    with pytest.raises(update.UpdateError, match="SPAWN_ERROR"):
        update.update(places, "web-01", "v2")


def test_drain_update_and_ready_lose_nothing(shop: Fleet) -> None:
    """Every instance is drained, restarted and put back under load: no failure, no stall."""
    before = counted(shop)
    for name in shop.instances:
        shop.ask(f"set server app/{name} state drain")
        until(lambda name=name: shop.sessions(name) == 0, what=f"{name} has no session left")
        assert shop.update(name, "v2").returncode == 0
        until(lambda name=name: shop.version(name) == "v2", what=f"{name} reports v2")
        shop.ask(f"set server app/{name} state ready")
    after = counted(shop, beyond=int(RATE))
    assert after.requests - before.requests > RATE
    assert (after.failed - before.failed, after.slow - before.slow) == (0, 0)


def test_a_drained_instance_gets_no_request(shop: Fleet) -> None:
    """While it is drained others answer; once ready it takes part again."""
    shop.ask("set server app/web-04 state drain")
    until(lambda: shop.sessions("web-04") == 0, what="no session is left")
    assert haproxy_server.out_of_rotation(shop.places.haproxy_socket) == {"web-04"}
    url = shop.places.haproxy_config.read_text().partition("bind 127.0.0.1:")[2].split()[0]
    assert "web-04" not in {ask(int(url), "/").split()[0] for _ in range(2 * COUNT)}
    shop.ask("set server app/web-04 state ready")
    until(lambda: ask(int(url), "/").startswith("web-04"), what="web-04 answers again")


def test_a_sticky_version_keeps_its_session_while_draining(shop: Fleet) -> None:
    """`-sticky` has a session open when its drain begins, and the drain does not end it."""
    assert shop.update("web-02", "v2-sticky").returncode == 0
    until(lambda: shop.sessions("web-02") >= 1 and shop.version("web-02"), what="it holds one")
    shop.ask("set server app/web-02 state drain")
    # Longer than it takes the balancer's checks to tell the instance that it drains.
    counted(shop, beyond=int(2.5 * RATE))
    assert shop.sessions("web-02") == 1
    before = counted(shop)
    shop.ask("shutdown sessions server app/web-02")
    until(lambda: shop.sessions("web-02") == 0, what="the session was cut")
    after = counted(shop)
    assert (after.failed - before.failed, after.slow - before.slow) == (0, 0)


def test_a_restart_of_the_balancer_keeps_what_was_drained(shop: Fleet) -> None:
    """From the saved state: drained before it was killed, drained after."""
    shop.ask("set server app/web-03 state drain")
    shop.ask("set weight app/web-01 50")
    haproxy_server.save_state(shop.places)
    info = "getProcessInfo", "haproxy"
    pid = shop.stack.supervisor.call(*info)["pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    until(
        lambda: (
            shop.stack.supervisor.call(*info)["pid"] not in {0, pid}
            and haproxy_server.answers(shop.places.haproxy_socket)
        ),
        what="a new one answers",
    )
    assert haproxy_server.statuses(shop.places.haproxy_socket)["web-03"] == "DRAIN"
    assert shop.ask("get weight app/web-01").startswith("50 ")
    shop.ask("set weight app/web-01 100")


def test_a_server_begins_as_the_configuration_says(haproxy: StartHAProxy) -> None:
    """Without saved state every server is ready, with a weight of 100 and checks."""
    balancer = haproxy({"web-01": 9, "web-02": 9})
    assert balancer.ask("get weight app/web-01").startswith("100 (initial 100)")
    assert set(haproxy_server.statuses(balancer.socket)) == {"web-01", "web-02"}
    assert balancer.socket.stat().st_mode & 0o777 == 0o600


class Failing(BaseHTTPRequestHandler):
    """Answers 200 and 500 in turn, and counts."""

    protocol_version = "HTTP/1.1"
    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        self.send_response(200 if self.seen % 2 else 500)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


async def test_the_load_counts_every_failure() -> None:
    """Of a server that fails every second request, half the answers are counted as failed."""
    with ThreadingHTTPServer((LOOPBACK, 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sender = load.Load(LOOPBACK, server.server_port, "/")
        for _ in range(20):
            sender.send()
        await sender.finish()
        await sender.close()
        server.shutdown()
    counts = sender.settle()
    assert (counts.requests, counts.answered, counts.failed) == (20, 10, 10)
    assert Failing.seen == 20


async def test_the_load_counts_a_refused_connection() -> None:
    """Nobody listens: a failure, not an end of the load."""
    [port] = free_ports(1, PORTS + 2000)
    sender = load.Load(LOOPBACK, port, "/")
    sender.send()
    await sender.finish()
    assert (sender.counts.requests, sender.counts.failed) == (1, 1)


async def test_the_load_counts_silence_and_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing: failed at the time-out, and slow."""
    monkeypatch.setattr(load, "TIMEOUT", 0.2)
    monkeypatch.setattr(load, "SLOW", 0.1)
    with socket.create_server((LOOPBACK, 0)) as server:
        sender = load.Load(LOOPBACK, server.getsockname()[1], "/")
        sender.send()
        await sender.finish()
        await sender.close()
    assert (sender.counts.failed, sender.counts.slow) == (1, 1)


async def test_the_load_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many open requests another is not sent, and counted as a failure."""
    monkeypatch.setattr(load, "MAX_OPEN", 3)
    with socket.create_server((LOOPBACK, 0)) as server:
        sender = load.Load(LOOPBACK, server.getsockname()[1], "/")
        for _ in range(5):
            sender.send()
        counts = sender.settle()
        await sender.close()
    assert (counts.requests, counts.failed, counts.settled) == (5, 2, 0)


def test_the_load_keeps_its_rate_and_its_connections(shop: Fleet) -> None:
    """At its rate, over a few kept connections rather than one for each request."""
    before = shop.ask("show info")
    sent = counted(shop).requests
    counted(shop, beyond=int(2 * RATE))
    after = shop.ask("show info")

    def number(info: str, key: str) -> int:
        return int(info.partition(f"\n{key}: ")[2].split()[0])

    requests = number(after, "CumReq") - number(before, "CumReq")
    connections = number(after, "CumConns") - number(before, "CumConns")
    assert load.read(shop.places.counts).requests - sent >= 2 * RATE
    # Each question to the runtime API is a connection too.
    assert connections < requests / 2
