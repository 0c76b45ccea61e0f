"""The webhook driver against real servers: what it sends, and what it makes of each answer."""

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rollouts import drivers
from rollouts.adapters import SettingsError, Surroundings
from rollouts.drivers import webhook, webhook_client
from rollouts.drivers.output import MAX_OUTPUT
from rollouts.facts import Instance
from rollouts.ports import Driver, DriverError
from tests.agent import SECRET, Answer, Request, serving

WEB = Instance("web-01", "10.0.0.11", 8080, server="srv-1", slot="blue", zone="a")
VARIABLE = "SHOP_DEPLOY_SECRET"
DONE = Answer(200, {"status": "done"})
ACCEPTED = Answer(202, None, {"Location": "/jobs/1"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is set, and nobody waits long."""
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setattr(webhook, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(webhook, "MAX_PAUSE", 0.1)


class Script:
    """Gives these answers in turn, the last one again and again, and keeps what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @property
    def lines(self) -> list[str]:
        return [f"{one.method} {one.target}" for one in self.asked]


def made(address: str, deployment: str = "deploy-1", **settings: object) -> Driver:
    raw = {"kind": "webhook", "url": f"{address}/deploy", "secret_env": VARIABLE, **settings}
    return drivers.make(raw, Surroundings(deployment=deployment))


def owned() -> float:
    return 10.0


async def update(
    driver: Driver, left: Callable[[], float] = owned, lines: list[str] | None = None
) -> list[str]:
    lines = [] if lines is None else lines
    try:
        await driver.update(WEB, "v2+1", lines.append, left)
    finally:
        await driver.aclose()
    return lines


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[str, Script]]:
    script = Script(*answers)
    with serving(script) as address:
        yield address, script


# --- what is sent


async def test_what_is_asked_is_signed_and_complete() -> None:
    """The agent learns the action, the instance, the version, and for how long it may work."""
    with scripted(DONE) as (address, script):
        await update(made(address, url=f"{address}/deploy/{{zone}}/{{instance}}?v={{version}}"))
    [request] = script.asked
    assert f"{request.method} {request.target}" == "POST /deploy/a/web-01?v=v2%2B1"
    assert request.signed()
    assert request.headers["Content-Type"] == "application/json"
    assert 9 < float(request.headers["X-Lockgate-Lease"]) <= 10
    assert json.loads(request.body) == {
        "action": "update",
        "deployment": "deploy-1",
        "instance": asdict(WEB),
        "version": "v2+1",
    }


def test_the_signature_is_the_documented_one() -> None:
    """HMAC-SHA256 over the time, a dot and the body: the value was worked out by openssl."""
    assert webhook_client.signature("key", "1700000000", b'{"a":1}') == ("sha256=" + OPENSSL)


OPENSSL = "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"


async def test_the_key_is_that_of_the_target_whoever_asks() -> None:
    """A successor's repeated request has the same key; another deployment or the way back not."""
    with scripted(DONE) as (address, script):
        for driver in (made(address), made(address), made(address, "deploy-2")):
            await update(driver)
        back = made(address)
        await back.roll_back(WEB, "v2+1", print, owned)
        await back.aclose()
        other = made(address)
        await other.update(Instance("web-02", "10.0.0.12", 8080, "srv-2"), "v2+1", print, owned)
        await other.aclose()
    first, again, *others = [one.headers["Idempotency-Key"] for one in script.asked]
    assert first == again
    assert len({first, *others}) == 4
    assert script.asked[0].body == script.asked[1].body  # or a platform would refuse it


async def test_outside_of_a_deployment_no_two_calls_belong_together() -> None:
    """Without a deployment's id another driver object is another caller."""
    with scripted(DONE) as (address, script):
        await update(made(address, ""))
        await update(made(address, ""))
    keys = {one.headers["Idempotency-Key"] for one in script.asked}
    assert len(keys) == 2


async def test_an_agent_is_asked_only_for_what_it_knows() -> None:
    """By default an update is all; going back is one too, fetching and letting go are nothing."""

    async def all_of(driver: Driver) -> None:
        await driver.prepare(WEB, "v2", print, owned)
        await driver.roll_back(WEB, "v1", print, owned)
        await driver.finish(WEB, print, owned)
        await driver.aclose()

    with scripted(DONE) as (address, script):
        await all_of(made(address))
        await all_of(made(address, actions=["prepare", "roll_back", "finish"]))
    actions = [json.loads(one.body)["action"] for one in script.asked]
    assert actions == ["update", "prepare", "roll_back", "finish"]


# --- what is made of the answers


async def test_a_status_is_polled_until_it_is_done() -> None:
    """Each poll is signed and renews the lease; output is passed on once, stripped of escapes."""
    with scripted(
        ACCEPTED,
        Answer(200, {"status": "running", "output": ["one", "\x1b[31mtwo\x1b[0m"]}),
        Answer(200, {"status": "running", "output": ["two", "three"], "first": 1}),
        Answer(200, {"status": "running", "output": ["six"], "first": 5}),
        Answer(204),
    ) as (address, script):
        lines = await update(made(address))
    assert lines == ["one", "two", "three", "… 2 lines cut by the agent", "six"]
    assert script.lines == ["POST /deploy", *4 * ["GET /jobs/1"]]
    assert all(one.signed() and one.headers["X-Lockgate-Lease"] for one in script.asked)


async def test_the_status_address_may_be_in_the_body() -> None:
    """As an absolute address of the same place, as well."""
    script = Script()
    with serving(script) as address:
        script._answers = [Answer(202, {"status_url": f"{address}/jobs/7"}), DONE]
        await update(made(address))
    assert script.lines == ["POST /deploy", "GET /jobs/7"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([ACCEPTED, Answer(200, {"status": "failed", "message": "disk\nfull"})], "^disk full$"),
        ([Answer(200, {"status": "failed", "message": "no such image"})], "^no such image$"),
        ([Answer(200, {"status": "running"})], "answered 200; a status is"),
        ([ACCEPTED, Answer(200, {"status": "well"})], "answered 200; a status is"),
        ([ACCEPTED, Answer(200, b"<html>")], "answered 200: <html>; a status is"),
        ([ACCEPTED, Answer(404, {"detail": "no such job"})], "answered 404: no such job"),
        ([Answer(202)], "lacks a Location"),
        ([Answer(202, None, {"Location": "http://127.0.0.1:1/jobs/1"})], "is elsewhere"),
        ([Answer(202, None, {"Location": "https://127.0.0.1/jobs/1"})], "is elsewhere"),
        ([Answer(202, None, {"Location": "file:///etc/passwd"})], "is elsewhere"),
        ([Answer(307, None, {"Location": "/elsewhere"})], "answered 307"),
        ([Answer(401, {"message": "wrong \x1b[31msignature"})], "401: wrong signature$"),
        ([Answer(422, {"message": "x" * 5000})], "422: x{300} …$"),
        ([Answer(400, b"\xff" * 100)], "answered 400"),
        ([Answer(200, b"x" * 70_000)], "answered more than 64 KiB"),
    ],
)
async def test_what_is_no_success_fails_at_once_and_says_why(
    answers: Sequence[Answer], words: str
) -> None:
    """No redirect is followed, no other host is asked, no endless body is read."""
    with scripted(*answers) as (address, script), pytest.raises(DriverError, match=words):
        await update(made(address))
    assert len(script.asked) == len(answers)


async def test_trouble_that_may_pass_is_asked_again_with_the_same_key() -> None:
    """Overload, the work of another and a fault of the agent; each is told once in the output."""
    busy = Answer(409, {"message": "web-01 is being changed by another"})
    with scripted(Answer(503), Answer(503), busy, Answer(429), DONE) as (address, script):
        lines = await update(made(address))
    assert len({one.headers["Idempotency-Key"] for one in script.asked}) == 1
    assert len(script.asked) == 5
    assert lines == [
        "the agent answered 503; asked again",
        "the agent answered 409: web-01 is being changed by another; asked again",
        "the agent answered 429; asked again",
    ]


async def test_trouble_that_stays_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, and with the last reason, be it an answer or that nothing listens."""
    monkeypatch.setattr(webhook, "RETRY_FOR", 0.2)
    with (
        scripted(Answer(502, b"bad gateway")) as (address, script),
        pytest.raises(DriverError, match="502: bad gateway; and so for"),
    ):
        await update(made(address))
    assert len(script.asked) > 2
    with pytest.raises(DriverError, match=r"can't be reached: .*refused.*; and so for"):
        await update(made(address))


async def test_an_agent_that_never_answers_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has `timeout` seconds, from the connect to the last byte."""
    monkeypatch.setattr(webhook, "RETRY_FOR", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        driver = made(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1)
        begun = time.monotonic()
        with pytest.raises(DriverError, match=r"no answer from 127.0.0.1:.* within 1 s"):
            await update(driver)
    assert time.monotonic() - begun < 2


async def test_the_agent_may_say_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is honoured, within bounds: nobody is made to wait for an hour."""
    monkeypatch.setattr(webhook, "MAX_PAUSE", 1.0)
    hour = {"Retry-After": "3600"}
    with scripted(Answer(503, None, hour), DONE) as (address, _):
        begun = time.monotonic()
        await update(made(address))
    assert 1.0 <= time.monotonic() - begun < 2


async def test_polls_are_closer_than_the_lease() -> None:
    """However long the agent asks to wait, it hears of us before it must believe us gone."""
    hour = {"Retry-After": "3600"}
    running = Answer(200, {"status": "running"}, hour)
    times: list[float] = []
    answers = iter([Answer(202, None, {"Location": "/jobs/1", **hour}), running, running, DONE])

    def answer(request: Request) -> Answer:
        times.append(time.monotonic())
        return next(answers)

    with serving(answer) as address:
        await update(made(address), lambda: 0.3)
    assert max(b - a for a, b in pairwise(times)) < 0.3


async def test_when_the_lease_is_over_nothing_more_is_asked() -> None:
    """Not even that the work be ended: it may be the successor's by now."""
    ends = time.monotonic() + 0.3
    running = Answer(200, {"status": "running"})
    with scripted(ACCEPTED, running) as (address, script):
        with pytest.raises(DriverError, match="may not own the deployment any more"):
            await update(made(address, cancel=True), lambda: ends - time.monotonic())
        assert time.monotonic() < ends + 0.5
    assert not any(one.method == "DELETE" for one in script.asked)


@pytest.mark.parametrize("cancel", [True, False])
async def test_cancelled_it_asks_for_the_end_where_the_agent_can_do_that(*, cancel: bool) -> None:
    """`cancel: true` sends DELETE to the status address, and returns at once after."""
    polled = asyncio.Event()
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        asked.append(request.method)
        if request.method == "GET":
            loop.call_soon_threadsafe(polled.set)
        return ACCEPTED if request.method == "POST" else Answer(200, {"status": "running"})

    with serving(answer) as address:
        task = asyncio.create_task(update(made(address, cancel=cancel)))
        async with asyncio.timeout(5):
            await polled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ("DELETE" in asked) is cancel


async def test_output_is_bounded() -> None:
    """A thousand long lines are cut as those of a command are."""
    pages = [
        Answer(200, {"status": "running", "output": 60 * ["x" * 999], "first": 60 * number})
        for number in range(3)
    ]
    with scripted(ACCEPTED, *pages, DONE) as (address, _):
        lines = await update(made(address))
    assert sum(len(line) + 1 for line in lines[:-1]) <= MAX_OUTPUT
    assert lines[-1] == "… output cut here, after 64 KiB"


# --- what is told without changing anything


async def test_the_agent_may_tell_the_version() -> None:
    """`version_url` answers JSON; anything else is no version."""
    told = Answer(200, {"version": "v7", "digest": "sha256:1"})
    with scripted(told, Answer(200, b"v7"), Answer(500)) as (address, script):
        plain, driver = made(address), made(address, version_url=f"{address}/version/{{name}}")
        assert not plain.reports_version
        assert driver.reports_version
        running = await driver.running(WEB)
        assert (running.version, running.digest) == ("v7", "sha256:1")
        for words in ("told no version", "is not known: the agent answered 500"):
            with pytest.raises(DriverError, match=words):
                await driver.running(WEB)
        await driver.aclose()
    assert script.lines == 3 * ["GET /version/web-01"]
    assert all(one.signed() for one in script.asked)


async def ticks(driver: Driver) -> dict[str, tuple[bool | None, str]]:
    found = await driver.preflight(WEB, "v1")
    await driver.aclose()
    return {one.what: (one.ok, one.detail) for one in found}


async def test_preflight_tells_secret_and_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a GET reaches the agent; what is wrong is named."""
    with scripted(Answer(204), Answer(503, {"message": "no disk"})) as (address, script):
        plain = await ticks(made(address))
        assert plain == {"secret set": (True, ""), "agent reachable": (True, "")}
        for found in ((True, ""), (False, "the agent answered 503: no disk")):
            well = await ticks(made(address, health_url=f"{address}/health"))
            assert well["agent well"] == found
    assert {one.method for one in script.asked} == {"GET"}
    ok, words = (await ticks(made(address)))["agent reachable"]
    assert ok is False
    assert address.removeprefix("http://") in words
    monkeypatch.delenv(VARIABLE)
    ok, words = (await ticks(made(address)))["secret set"]
    assert ok is False
    assert f"{VARIABLE} is not set for this process: set it" in words


async def test_without_the_secret_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsigned request would be refused anyway, or worse, taken."""
    monkeypatch.delenv(VARIABLE)
    words = f"{VARIABLE} is not set"
    with scripted(DONE) as (address, script), pytest.raises(DriverError, match=words):
        await update(made(address))
    assert script.asked == []


# --- whom it asks


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "agent.pem"
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, kind, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(pem))
    return path


async def test_a_certificate_has_to_be_that_of_the_name(certificate: Path) -> None:
    """`ca` says whom to trust; a stranger and another name are refused at once, not again."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    script = Script(DONE)
    with serving(script, context) as by_address:
        by_name = by_address.replace("127.0.0.1", "localhost")
        await update(made(by_name, ca=str(certificate)))
        for address, settings in ((by_name, {}), (by_address, {"ca": str(certificate)})):
            with pytest.raises(DriverError, match="certificate is not trusted"):
                await update(made(address, **settings))
    assert script.lines == ["POST /deploy"]
    with pytest.raises(DriverError, match=r"authorities in /nowhere.pem can't be read"):
        await update(made("https://localhost:1", ca="/nowhere.pem"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://agent/deploy",
        "file:///etc/passwd",
        "//agent/deploy",
        "http://agent/deploy",
        "http://{hostname}:9000/deploy",
        "http://10.0.0.11/deploy",
        "http://127.0.0.1.example.com/deploy",
        "https://user:password@agent/deploy",
        "https://agent/deploy#part",
        "https://agent/{nope}",
        "https://agent/{name",
        "https://agent:port/deploy",
        "https://agent/de ploy",
        "https://agent-{version}/deploy",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/deploy",
        "https://[::ffff:169.254.169.254]/deploy",
        "https://[fd00:ec2::254]/deploy",
        "https://0.0.0.0/deploy",
        7,
        "",
    ],
)
def test_an_address_that_must_not_be_asked_is_refused_when_it_is_saved(url: object) -> None:
    """Other schemes, plain HTTP to elsewhere, passwords, a cloud's metadata."""
    with pytest.raises(SettingsError) as refusal:
        drivers.check({"kind": "webhook", "url": url, "secret_env": VARIABLE})
    assert list(refusal.value.errors) == ["url"]


@pytest.mark.parametrize(
    "url",
    [
        "https://agent.example.com/deploy/{name}",
        "https://{hostname}:9443",
        "https://[2001:db8::1]:9443/deploy?zone={zone}",
        "http://localhost:9000/deploy",
        "http://[::1]:9000/deploy",
    ],
)
def test_an_agent_elsewhere_is_asked_with_encryption(url: str) -> None:
    """On the worker's own machine it may go without."""
    drivers.check({"kind": "webhook", "url": url, "secret_env": VARIABLE})


def test_every_wrong_setting_is_named_at_once() -> None:
    """All bad, unknown and missing keys come in one refusal."""
    with pytest.raises(SettingsError) as refusal:
        drivers.check(
            {
                "kind": "webhook",
                "secret_env": "SECRET_KEY",
                "timeout": 0,
                "actions": ["update", "reboot"],
                "cancel": "yes",
                "ca": "relative.pem",
                "health_url": "http://elsewhere/",
                "headers": {},
            }
        )
    bad = {"url", "secret_env", "timeout", "actions", "cancel", "ca", "health_url", "headers"}
    assert set(refusal.value.errors) == bad


def test_values_are_escaped_in_the_address() -> None:
    """Whatever an instance is called, it stays within its part of the path."""
    odd = Instance("a/../b?c", "2001:db8::1", 80, server="s%&", zone="z z")
    url = webhook.filled("https://{hostname}:{port}/{name}/{server}?z={zone}", odd, "v1")
    assert url == httpx.URL("https://[2001:db8::1]:80/a%2F..%2Fb%3Fc/s%25%26?z=z%20z")


async def test_a_name_that_leads_to_the_metadata_is_refused_when_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a name stands for is looked at each time, and that very address is connected to."""
    loop = asyncio.get_running_loop()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]

    async def resolved(*_: Any, **__: Any) -> Any:
        return found

    monkeypatch.setattr(loop, "getaddrinfo", resolved)
    words = "agent.example.com is not asked: 169.254.169.254 is where"
    with pytest.raises(DriverError, match=re.escape(words)):
        await update(made("https://agent.example.com"))
    ok, detail = (await ticks(made("https://agent.example.com")))["agent reachable"]
    assert ok is False
    assert words in detail
