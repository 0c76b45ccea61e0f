"""Asks an agent or a platform over HTTP to update an instance; docs/webhook.md is its contract.

The agent answers 200 or 204 when the work is done, or 202 with an address to poll. Requests of
one target carry the same Idempotency-Key whoever sends them, so that a repeated one finds the
work that was begun. Each says for how long the sender is sure to own the deployment: when that
passes without another word, the agent ends the work.
"""

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import httpx

from rollouts.adapters import SettingsError, Surroundings, check_secret, checked, wrong_keys
from rollouts.drivers.output import LineSink
from rollouts.drivers.templates import check_template, fill, values
from rollouts.drivers.webhook_client import AgentError, Client, Reply, is_local, refused, shown
from rollouts.facts import Instance, Running, Tick
from rollouts.ports import Driver, DriverError
from rollouts.probes import MAX_VERSION

TIMEOUT = 10.0  # seconds for one request, where not set
MAX_TIMEOUT = 60.0
ANSWER_TIMEOUT = 5.0  # seconds for a question that changes nothing, and for a cancel
RETRY_FOR = 60.0  # seconds of nothing but failures until the work counts as failed
FIRST_PAUSE, MAX_PAUSE = 0.2, 5.0  # seconds between two requests; they grow by half each time
# Busy with other work of this instance, too early, too many, and whatever is the agent's fault.
AGAIN = frozenset({409, 425, 429, *range(500, 600)})
ACTIONS = ("update", "roll_back", "prepare", "finish")

_URL = re.compile(r"(https?)://([^/?#\s]+)([/?][!\"$-~]*)?")


@dataclass(frozen=True)
class Settings:
    """What the service says: addresses are templates, `timeout` is in seconds."""

    url: str
    timeout: float
    actions: frozenset[str]
    cancel: bool
    version_url: str
    health_url: str


class Webhook(Driver):
    """An agent is asked for those `actions` that it knows; others are an update, or nothing."""

    def __init__(self, settings: Settings, client: Client, deployment: str) -> None:
        self._settings = settings
        self._client = client
        # Outside of a deployment no two calls belong together.
        self._deployment = deployment or secrets.token_hex(8)

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Webhook":
        """Return the driver that docs/webhook.md describes; raise SettingsError."""
        local = raw.get("allow_http") is True
        checks: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(
                ("url", "version_url", "health_url"), lambda value: _check_url(value, local)
            ),
            "secret_env": check_secret,
            "timeout": _check_timeout,
            "actions": _check_actions,
            **dict.fromkeys(("cancel", "allow_http"), _check_flag),
            "ca": _check_file,
        }
        required = ("kind", "url", "secret_env")
        errors = wrong_keys(raw, required, [key for key in checks if key not in required])
        checked(raw, checks, errors)
        if errors:
            raise SettingsError(errors)
        settings = Settings(
            url=raw["url"],
            timeout=float(raw.get("timeout", TIMEOUT)),
            actions=frozenset(raw.get("actions", ())) | {"update"},
            cancel=raw.get("cancel", False),
            version_url=raw.get("version_url", ""),
            health_url=raw.get("health_url", ""),
        )
        client = Client(raw["secret_env"], raw.get("ca"), allow_http=local)
        return cls(settings, client, surroundings.deployment)

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Ask for `prepare` where the agent knows it; raise DriverError."""
        if "prepare" in self._settings.actions:
            await self._perform("prepare", "prepare", instance, version, output, left)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Ask for `update`; return once the agent says that it is done, raise DriverError."""
        await self._perform("update", "update", instance, version, output, left)

    async def roll_back(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Ask for `roll_back` where the agent knows it, else for an update; raise DriverError."""
        action = "roll_back" if "roll_back" in self._settings.actions else "update"
        await self._perform(action, "roll_back", instance, version, output, left)

    async def finish(
        self, instance: Instance, output: Callable[[str], None], left: Callable[[], float]
    ) -> None:
        """Ask for `finish` where the agent knows it; raise DriverError."""
        if "finish" in self._settings.actions:
            await self._perform("finish", "finish", instance, "", output, left)

    @property
    def reports_version(self) -> bool:
        """Whether there is an address that tells the version."""
        return bool(self._settings.version_url)

    async def running(self, instance: Instance) -> Running:
        """Return what the agent answers at `version_url`; raise DriverError."""
        url = filled(self._settings.version_url, instance, "")
        try:
            reply = await self._client.send("GET", url, ANSWER_TIMEOUT)
        except AgentError as error:
            raise DriverError(f"the version is not known: {error}") from error
        if reply.code != 200:
            raise DriverError(f"the version is not known: {reply.words()}")
        version, digest = (reply.fields().get(key, "") for key in ("version", "digest"))
        if not isinstance(version, str) or not 1 <= len(version) <= MAX_VERSION:
            raise DriverError('the agent told no version: {"version": "v1"} is right')
        return Running(version, digest if isinstance(digest, str) else "")

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        """Return whether the agent can be reached, or is well where it has a `health_url`."""
        address = self._settings.health_url or self._settings.url
        url = filled(address, instance, old_version)
        try:
            if self._settings.health_url:
                reply = await self._client.send("GET", url, ANSWER_TIMEOUT)
                well = 200 <= reply.code < 300
                reached = Tick("agent well", well, "" if well else reply.words())
            else:
                await self._client.reach(url, ANSWER_TIMEOUT)
                reached = Tick("agent reachable", True)
        except AgentError as error:
            what = "agent well" if self._settings.health_url else "agent reachable"
            reached = Tick(what, False, str(error))
        return [*self._client.ready(), reached]

    async def aclose(self) -> None:
        """Close what is still open."""
        await self._client.aclose()

    async def _perform(
        self,
        action: str,
        direction: str,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        key = hashlib.sha256(
            "\0".join((self._deployment, direction, instance.name, version)).encode()
        ).hexdigest()[:32]
        asked = {
            "action": action,
            "deployment": self._deployment,
            "instance": asdict(instance),
            "version": version,
        }
        sink = LineSink(output)
        work = _Work(self._client, self._settings, key, sink, left)
        try:
            url = filled(self._settings.url, instance, version)
            await work.perform(url, json.dumps(asked).encode())
        except asyncio.CancelledError:
            if self._settings.cancel:
                await work.cancel()
            raise
        finally:
            sink.close()


class _Work:
    """What an agent was asked for, until it is done."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        key: str,
        sink: LineSink,
        left: Callable[[], float],
    ) -> None:
        self._client = client
        self._settings = settings
        self._key = key
        self._sink = sink
        self._left = left
        self._status: httpx.URL | None = None
        self._lines = 0  # of the agent's output that were passed on

    async def perform(self, url: httpx.URL, body: bytes) -> None:
        """Return once the agent says that it is done; raise DriverError."""
        reply = await self._send("POST", url, body)
        if reply.code == 202:
            self._status = _status_url(url, reply)
        pause = FIRST_PAUSE
        while not self._done(reply):
            await self._wait(_retry_after(reply) or pause)
            pause = min(pause * 1.5, MAX_PAUSE)
            reply = await self._send("GET", self._status or url)

    async def cancel(self) -> None:
        """Ask the agent to end the work, where it is known and still ours to end."""
        limit = min(ANSWER_TIMEOUT, self._left())
        if self._status is None or limit <= 0:
            return
        with suppress(AgentError):  # it ends by itself when nobody asks any more
            await self._client.send("DELETE", self._status, limit, headers=self._headers())

    def _done(self, reply: Reply) -> bool:
        """Pass on what `reply` says; raise DriverError where the work failed."""
        fields = reply.fields()
        self._pass_on(fields)
        told = fields.get("message")
        message = shown(told) if isinstance(told, str) else ""
        match fields.get("status"):
            case "done":
                return True
            case "failed":
                raise DriverError(message or "the agent says that it failed, and not why")
            case "running" if self._status:
                return False
        if reply.code == 204 or (self._status is None and "status" not in fields):
            return True
        if reply.code == 202:
            return False
        raise DriverError(
            f'{reply.words()}; a status is {{"status": "running"}}, or done, or failed'
        )

    def _pass_on(self, fields: Mapping[str, Any]) -> None:
        """Pass on those lines of the output that were not; the first of them may have a number."""
        lines, first = fields.get("output"), fields.get("first", 0)
        if not isinstance(lines, list) or not isinstance(first, int):
            return
        if lines and first > self._lines:
            self._sink.feed(f"… {first - self._lines} lines cut by the agent\n".encode())
        for number, line in enumerate(lines, first):
            if number >= self._lines and isinstance(line, str):
                self._sink.feed(line.encode(errors="replace") + b"\n")
        self._lines = max(self._lines, first + len(lines))

    async def _send(self, method: str, url: httpx.URL, body: bytes = b"") -> Reply:
        """Return a good answer, asked for again and again while that may help."""
        loop = asyncio.get_running_loop()
        since, pause, told = loop.time(), FIRST_PAUSE, ""
        while True:
            wait = None
            try:
                limit = min(self._settings.timeout, self._still_ours())
                reply = await self._client.send(
                    method, url, limit, body=body, headers=self._headers()
                )
            except AgentError as error:
                if not error.again:
                    raise DriverError(str(error)) from error
                trouble = str(error)
            else:
                if 200 <= reply.code < 300:
                    return reply
                trouble = reply.words()
                if reply.code not in AGAIN:
                    raise DriverError(trouble)
                wait = _retry_after(reply)
            if loop.time() - since >= RETRY_FOR:
                raise DriverError(f"{trouble}; and so for {RETRY_FOR:g} s")
            if trouble != told:
                self._sink.feed(f"{trouble}; asked again".encode() + b"\n")
                told = trouble
            await self._wait(wait or pause)
            pause = min(pause * 1.5, MAX_PAUSE)

    def _headers(self) -> dict[str, str]:
        return {
            "Idempotency-Key": self._key,
            "X-Lockgate-Lease": f"{max(0.0, self._left()):.3f}",
        }

    def _still_ours(self) -> float:
        left = self._left()
        if left <= 0:
            raise DriverError(
                "this worker may not own the deployment any more: the agent ends the work when "
                "nobody asks for it"
            )
        return left

    async def _wait(self, seconds: float) -> None:
        """Wait, but less than it takes for the agent to believe us gone."""
        await asyncio.sleep(min(seconds, max(self._still_ours() / 3, 0.05)))


def filled(template: str, instance: Instance, version: str) -> httpx.URL:
    """Return a checked address with its placeholders replaced by what is safe in one."""
    known = values(instance, version)
    match = _URL.fullmatch(template)
    if match is None:
        raise DriverError(f"{template} is no address")
    escaped = {key: quote(value, safe="") for key, value in known.items()}
    bracketed = f"[{instance.hostname}]" if ":" in instance.hostname else instance.hostname
    host = fill([match[2]], {**escaped, "hostname": bracketed})[0]
    path = fill([match[3] or "/"], escaped)[0]
    try:
        return httpx.URL(f"{match[1]}://{host}{path}")
    except httpx.InvalidURL as error:
        raise DriverError(f"{match[1]}://{host}{path} is no address: {error}") from error


def _status_url(asked: httpx.URL, reply: Reply) -> httpx.URL:
    """Return where the work that was accepted tells how it is; raise DriverError."""
    found = reply.headers.get("location") or reply.fields().get("status_url")
    if not isinstance(found, str) or not found:
        raise DriverError("the agent answered 202 and not where to ask: it lacks a Location")
    try:
        url = asked.join(found)
    except (httpx.InvalidURL, ValueError) as error:
        raise DriverError(f"the agent's status address is none: {shown(found)}") from error
    if (url.scheme, url.raw_host, url.port) != (asked.scheme, asked.raw_host, asked.port):
        raise DriverError(f"the agent's status address is elsewhere: {shown(found)}")
    return url


def _retry_after(reply: Reply) -> float | None:
    """Return the seconds to wait that the agent asks for, as far as that is taken seriously."""
    text = reply.headers.get("retry-after", "")
    return min(max(float(text), FIRST_PAUSE), MAX_PAUSE) if re.fullmatch(r"\d{1,9}", text) else None


def _check_url(raw: Any, http: bool) -> None:
    match = _URL.fullmatch(raw) if isinstance(raw, str) and len(raw) <= 1000 else None
    if match is None:
        raise ValueError("must be an address such as https://agent.example.com/deploy/{name}")
    check_template(raw)
    if "@" in match[2]:
        raise ValueError("must hold no user or password: the signature tells who asks")
    if "{version}" in match[2]:
        raise ValueError("must not have the version in its host")
    filler = Instance("name", "host.invalid", 1, "server", "slot", "zone")
    literal = "{" not in match[2]
    try:
        host = filled(raw, filler, "v1").raw_host.decode("ascii")
    except (DriverError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    if match[1] == "http" and not http and not (literal and is_local(host)):
        raise ValueError("must be https; set allow_http to let it go unencrypted")
    why = None
    with suppress(ValueError):  # a name, which is looked at when it is asked
        why = refused(host)
    if why:
        raise ValueError(f"must be another address: {why}")


def _check_timeout(raw: Any) -> None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 1 <= raw <= MAX_TIMEOUT:
        raise ValueError(f"must be a number of seconds from 1 to {MAX_TIMEOUT:g}")


def _check_actions(raw: Any) -> None:
    if not isinstance(raw, list) or not all(each in ACTIONS for each in raw):
        raise ValueError(f"must be a list of what the agent knows, of: {', '.join(ACTIONS)}")


def _check_flag(raw: Any) -> None:
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")


def _check_file(raw: Any) -> None:
    if not isinstance(raw, str) or not raw.startswith("/") or "\0" in raw:
        raise ValueError("must be the absolute path of a PEM file on the worker's machine")
