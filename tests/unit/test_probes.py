"""HTTP probes against real servers on loopback, the ill-behaved ones included."""

import asyncio
import gzip
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from rollouts import probes
from rollouts.adapters import SettingsError
from rollouts.facts import Answer, Instance
from rollouts.policy import Policy, parse
from rollouts.probes import HttpProbe, VersionSource, parse_networks, refuse_host

Reply = Callable[[str, asyncio.StreamWriter], Awaitable[None]]

NOW = 1_700_000_000.0


def page(body: bytes = b"ok", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def policy(**values: object) -> Policy:
    return parse({"health_check_timeout": 2, **values})


@asynccontextmanager
async def instance(reply: Reply | bytes, host: str = "127.0.0.1") -> AsyncIterator[Instance]:
    """Yield an instance whose server answers each request with `reply`, or by calling it."""
    requests: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(asyncio.current_task())  # type: ignore[arg-type]
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield Instance("web-01", host, server.sockets[0].getsockname()[1], "web-01")
    finally:
        server.close()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await server.wait_closed()


async def ask(
    target: Instance, source: VersionSource | None = None, knobs: Policy | None = None
) -> Answer:
    async with HttpProbe(source, knobs or policy(), now=lambda: NOW) as probe:
        return await probe.ask(target)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_good_answer_has_code_latency_and_time() -> None:
    """200 is good; `at` is the time of asking by the given clock."""
    async with instance(page()) as target:
        answer = await ask(target)
    assert (answer.ok, answer.listening, answer.code, answer.at) == (True, True, 200, NOW)
    assert answer.latency_ms is not None
    assert 0 < answer.latency_ms < 2000
    assert (answer.version, answer.error) == (None, "")


async def test_the_request_asks_for_one_plain_answer() -> None:
    """No compression is asked for, nothing is kept open, and the host is the instance's."""
    seen: list[str] = []

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        seen.append(request.lower())
        writer.write(page(b"ok", "200 OK", "Set-Cookie: a=b"))
        await writer.drain()

    async with instance(reply) as target, HttpProbe(None, policy(), lambda: NOW) as probe:
        await probe.ask(target)
        await probe.ask(target)
    first, second = seen
    assert first.startswith("get /health http/1.1\r\n")
    assert "accept-encoding: identity\r\n" in first
    assert "connection: close\r\n" in first
    assert f"host: 127.0.0.1:{target.port}\r\n" in first
    assert "cookie" not in second


@pytest.mark.parametrize("code", [404, 500, 503])
async def test_any_other_status_is_bad_and_told(code: int) -> None:
    """Only 200 to 299 is good."""
    async with instance(page(b"", f"{code} No")) as target:
        answer = await ask(target)
    assert (answer.ok, answer.listening, answer.code) == (False, True, code)
    assert answer.error == f"/health answered {code}"


async def test_a_redirect_is_not_followed_but_told() -> None:
    """A redirect could lead to the metadata service of a cloud."""
    hits: list[str] = []

    async def elsewhere(request: str, writer: asyncio.StreamWriter) -> None:
        hits.append(request)
        writer.write(page())

    async with instance(elsewhere) as other:
        location = f"Location: http://{other.address}/"
        async with instance(page(b"", "302 Found", location)) as target:
            answer = await ask(target)
    assert (answer.ok, answer.code) == (False, 302)
    assert answer.error == f"/health answered 302, a redirect to http://{other.address}/"
    assert hits == []


async def test_what_an_instance_says_is_told_short_and_printable() -> None:
    """A message for the screen holds no control character and no novel."""
    reply = page(b"", "302 Found").replace(b"\r\n\r\n", b"\r\nLocation: /\x9b31m" + b"y" * 5000)
    async with instance(reply + b"\r\n\r\n") as target:
        answer = await ask(target)
    assert answer.error.startswith("/health answered 302, a redirect to /?31myyy")
    assert answer.error.isprintable()
    assert len(answer.error) < 300


async def test_nothing_listening_is_not_a_bad_answer_but_none() -> None:
    """A refused connection says that the instance is starting."""
    target = Instance("web-01", "127.0.0.1", unused_port(), "web-01")
    answer = await ask(target)
    assert (answer.ok, answer.listening, answer.code) == (False, False, None)
    assert answer.error == f"nothing listens yet on {target.address}"


async def hang(request: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def trickle(request: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def trickle_head(request: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("reply", [hang, trickle, trickle_head])
async def test_an_answer_that_does_not_end_is_bounded_as_a_whole(reply: Reply) -> None:
    """A byte now and then resets a read timeout, but not ours."""
    async with instance(reply) as target:
        begun = time.monotonic()
        answer = await ask(target, knobs=policy(health_check_timeout=0.2))
        seconds = time.monotonic() - begun
    assert (answer.ok, answer.listening, answer.error) == (False, True, "no answer within 0.2 s")
    assert seconds < 1


async def test_an_endless_body_is_left_at_64_kib() -> None:
    """Reading stops at the limit: the server can't send more than the sockets buffer."""
    sent = 0

    async def endless(request: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 2**16)
            await writer.drain()
            sent += 2**16

    async with instance(endless) as target:
        answer = await ask(target)
    assert (answer.ok, answer.code) == (False, 200)
    assert answer.error == "/health answered more than 64 KiB"
    assert sent < 16 * 2**20


async def test_a_gzip_bomb_stays_packed() -> None:
    """What is compressed against our wish is neither unpacked nor taken for a version."""
    bomb = gzip.compress(b"1" * 60 * 2**20)
    assert len(bomb) < probes.MAX_BODY
    reply = page(bomb, "200 OK", "Content-Encoding: gzip")
    async with instance(reply) as target:
        begun = time.process_time()
        answer = await ask(target, VersionSource("/version"))
        seconds = time.process_time() - begun
    assert (answer.ok, answer.version) == (False, None)
    assert answer.error == "/version is compressed though it was asked not to be"
    assert seconds < 0.5


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\xff" * 100,
    ],
    ids=["not http", "closed", "cut short", "huge header", "bad chunk", "binary"],
)
async def test_nonsense_is_a_bad_answer_not_a_crash(reply: bytes) -> None:
    """Whatever an instance says, ask() returns."""
    async with instance(reply) as target:
        answer = await ask(target)
    assert (answer.ok, answer.listening) == (False, True)
    assert answer.error.isprintable()


def versioned(version_reply: bytes, health: bytes | None = None) -> Reply:
    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(version_reply if request.startswith("GET /version ") else health or page())
        await writer.drain()

    return reply


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        (VersionSource("/version"), page(b" v2\n")),
        (VersionSource("/version", json="version"), page(b'{"version": "v2"}')),
        (VersionSource("/version", header="X-Version"), page(b"", "200 OK", "x-version: v2")),
    ],
)
async def test_the_version_is_read_where_the_service_says(
    source: VersionSource, reply: bytes
) -> None:
    """The whole body, a key of its JSON, or a header."""
    async with instance(versioned(reply)) as target:
        answer = await ask(target, source)
    assert (answer.ok, answer.version, answer.error) == (True, "v2", "")


async def test_a_wrong_version_is_told_as_it_is() -> None:
    """Whether it is the right one is for the verdict, which knows what should run."""
    async with instance(versioned(page(b"v1"))) as target:
        answer = await ask(target, VersionSource("/version"))
    assert (answer.ok, answer.version) == (True, "v1")


@pytest.mark.parametrize(
    ("source", "reply", "error"),
    [
        (VersionSource("/version"), page(b"", "404 No"), "/version answered 404"),
        (VersionSource("/version"), page(b" \n"), "/version tells no version"),
        (VersionSource("/version"), page(b"v" * 129), "/version tells no version"),
        (VersionSource("/version"), page(b"v2\x1b[0m"), "/version tells no version"),
        (VersionSource("/version", json="version"), page(b"v2"), "/version answers no JSON"),
        (VersionSource("/version", json="version"), page(b"[" * 60_000), "answers no JSON"),
        (VersionSource("/version", json="version"), page(b"[1]"), "has no key version"),
        (VersionSource("/version", json="version"), page(b"{}"), "has no key version"),
        (VersionSource("/version", json="v"), page(b'{"v": {}}'), "/version has no text at v"),
        (VersionSource("/version", header="X-V"), page(b"v2"), "the header X-V tells no version"),
    ],
)
async def test_a_version_that_cannot_be_read_is_a_bad_answer(
    source: VersionSource, reply: bytes, error: str
) -> None:
    """Good health alone must not pass where the version is to be verified."""
    async with instance(versioned(reply)) as target:
        answer = await ask(target, source)
    assert (answer.ok, answer.version) == (False, None)
    assert error in answer.error


async def test_the_version_is_asked_only_of_the_well_and_where_it_counts() -> None:
    """Not after a bad health answer, and not where verify_version is off."""
    asked: list[str] = []
    status = "500 No"

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        asked.append(request.split()[1])
        writer.write(page(b"v2", status))
        await writer.drain()

    async with instance(reply) as target:
        await ask(target, VersionSource("/version"))
        status = "200 OK"
        unverified = await ask(target, VersionSource("/version"), policy(verify_version=False))
        together = await ask(target, VersionSource("/health"))
    assert asked == ["/health"] * 3
    assert unverified.version is None
    assert together.version == "v2"


async def test_health_and_version_share_one_limit() -> None:
    """Two slow answers take no longer than one may."""

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(page(b"v2"))
        await writer.drain()

    async with instance(reply) as target:
        knobs = policy(health_check_timeout=0.3)
        answer = await ask(target, VersionSource("/version"), knobs)
    assert (answer.ok, answer.error) == (False, "no answer within 0.3 s")


async def test_every_probe_makes_a_connection_of_its_own() -> None:
    """A process that was replaced can't be taken for its predecessor."""
    ports: set[int] = set()

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        writer.write(page())
        await writer.drain()

    async with instance(reply) as target, HttpProbe(None, policy(), lambda: NOW) as probe:
        for _ in range(3):
            await probe.ask(target)
    assert len(ports) == 3


async def test_a_name_is_tried_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` may be ::1 first though the instance listens on 127.0.0.1 alone."""
    seen: list[str] = []

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        seen.append(request.lower())
        writer.write(page())
        await writer.drain()

    resolve_to(monkeypatch, "127.0.0.9", "127.0.0.1")
    async with instance(reply) as target:
        named = Instance("web-01", "web-01.example", target.port, "web-01")
        answer = await ask(named)
    assert answer.ok
    assert f"host: web-01.example:{target.port}\r\n" in seen[0]
    assert (await ask(named)).listening is False


async def test_a_name_that_means_nothing_is_a_bad_answer() -> None:
    """A name that can't be resolved, or is none, is told and not raised."""
    for hostname in ("nowhere.invalid", "a..b", "x" * 70 + ".invalid"):
        answer = await ask(Instance("web-01", hostname, 80, "web-01"))
        assert (answer.ok, answer.error) == (False, f"{hostname} can't be resolved")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name mean `addresses`."""
    original = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: object, **named: object) -> list[object]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]
        return original(host, *arguments, **named)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


NETWORKS = parse_networks(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    "hostname",
    ["169.254.169.254", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "::1", "::ffff:127.0.0.1"],
)
def test_hosts_outside_the_networks_are_refused_however_spelled(hostname: str) -> None:
    """The resolver decides what a spelling means, and the address is what counts."""
    why = refuse_host(hostname, NETWORKS)
    assert why is not None
    assert "is not in the networks" in why


@pytest.mark.parametrize("hostname", ["10.1.2.3", "fd00::1", "::ffff:10.0.0.1"])
def test_hosts_inside_the_networks_are_allowed(hostname: str) -> None:
    """Both families, and an IPv4 address that is written as IPv6."""
    assert refuse_host(hostname, NETWORKS) is None


def test_a_name_must_lie_in_the_networks_with_all_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One good address does not make up for a bad one."""
    resolve_to(monkeypatch, "10.0.0.1", "127.0.0.1")
    why = refuse_host("web.example", NETWORKS)
    assert why == "web.example (127.0.0.1) is not in the networks that instances may be in"
    assert refuse_host("web.example", ()) is None


async def test_a_host_is_checked_again_at_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that meant a good address when it was saved is asked for what it means now."""
    hits: list[str] = []

    async def reply(request: str, writer: asyncio.StreamWriter) -> None:
        hits.append(request)
        writer.write(page())

    resolve_to(monkeypatch, "127.0.0.1")
    async with instance(reply) as target:
        probe = HttpProbe(
            None, policy(), lambda: NOW, allowed=lambda address: refuse_host(address, NETWORKS)
        )
        async with probe:
            answer = await probe.ask(Instance("web-01", "web.example", target.port, "web-01"))
    assert (answer.ok, answer.listening) == (False, True)
    assert answer.error == "not asked: 127.0.0.1 is not in the networks that instances may be in"
    assert hits == []


async def test_twenty_probes_at_once_are_cheap() -> None:
    """A batch is watched without the watching being felt: no TLS context per probe, e.g."""
    async with instance(page()) as target, HttpProbe(None, policy(), lambda: NOW) as probe:
        await probe.ask(target)
        begun = time.process_time()
        answers = await asyncio.gather(*(probe.ask(target) for _ in range(20)))
        seconds = time.process_time() - begun
    assert all(answer.ok for answer in answers)
    assert seconds < 0.15, "20 probes and their 20 answers, measured at 0.04 s"


@pytest.mark.parametrize(
    ("raw", "bad"),
    [
        ({"path": "version"}, {"path"}),
        ({"path": "//evil.example/version"}, {"path"}),
        ({"path": "/version", "json": ""}, {"json"}),
        ({"path": "/version", "json": "v", "header": "X-V"}, {"header"}),
        ({"path": "/version", "header": "X V\r\nHost: evil"}, {"header"}),
        ({"json": 3, "host": "evil.example"}, {"path", "json", "host"}),
    ],
)
def test_wrong_sources_of_the_version_are_refused_when_saved(
    raw: dict[str, object], bad: set[str]
) -> None:
    """Every bad, unknown and missing key at once; only a path can be given, never a host."""
    with pytest.raises(SettingsError) as refusal:
        probes.check_source(raw)
    assert set(refusal.value.errors) == bad


def test_a_service_may_say_nothing_about_its_version() -> None:
    """Empty settings mean that instances do not report one."""
    probes.check_source({})
    assert probes.version_source({}) is None
    assert probes.version_source({"path": "/v", "json": "k"}) == VersionSource("/v", json="k")
