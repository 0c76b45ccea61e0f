"""HTTP probes: is an instance well, and which version does it run?

An instance is asked directly, on a fresh connection each time, so that a restarted process
is seen. Nothing that it answers can cost more than `health_check_timeout` and 64 KiB.
"""

import asyncio
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any

import httpx

from rollouts.adapters import SettingsError, wrong_keys
from rollouts.facts import Answer, Instance
from rollouts.policy import BY_KEY, Policy
from rollouts.ports import Driver, DriverError, Probe

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_BODY = 64 * 1024  # bytes
MAX_VERSION = 128  # characters; no version is longer
MAX_SHOWN = 200  # characters of anything an instance says that get into a message
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")


class AnswerError(Exception):
    """An instance did not answer as it should; `code` is the HTTP status where one came."""

    def __init__(self, message: str, code: int | None = None, *, listening: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.listening = listening


@dataclass(frozen=True)
class Page:
    """A good answer in full."""

    code: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True)
class VersionSource:
    """Where an instance says what it runs: the whole body at `path`, a JSON key or a header."""

    path: str
    json: str = ""
    header: str = ""

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any]) -> "VersionSource":
        """Return the source of `{path, json, header}`; raise SettingsError with every bad key."""
        errors = wrong_keys(raw, required=("path",), optional=("json", "header"))
        if "path" in raw:
            try:
                BY_KEY["health_check_path"].check(raw["path"])
            except ValueError as error:
                errors["path"] = str(error).replace("/health", "/version")
        key, header = raw.get("json", ""), raw.get("header", "")
        if "json" in raw and not (isinstance(key, str) and 1 <= len(key) <= MAX_VERSION):
            errors["json"] = "must be a key of the JSON object that is answered"
        if "header" in raw and not (isinstance(header, str) and HEADER.fullmatch(header)):
            errors["header"] = "must be the name of a header, such as X-Version"
        elif "header" in raw and "json" in raw:
            errors["header"] = "must not be given together with json: the version is in one place"
        if errors:
            raise SettingsError(errors)
        return cls(raw["path"], key, header)

    def read(self, page: Page) -> str:
        """Return the version that `page` tells; raise AnswerError."""
        if self.header:
            text = str(page.headers.get(self.header, ""))
            where = f"the header {self.header}"
        elif "content-encoding" in page.headers:
            raise AnswerError(f"{self.path} is compressed though it was asked not to be", page.code)
        else:
            text = page.body.decode(errors="replace")
            where = self.path
            if self.json:
                text = self._value(text, page.code)
        version = text.strip()
        if not version or len(version) > MAX_VERSION or not version.isprintable():
            raise AnswerError(
                f"{where} tells no version (1 to {MAX_VERSION} printable characters)", page.code
            )
        return version

    def _value(self, text: str, code: int) -> str:
        try:
            value = json.loads(text)[self.json]
        except (ValueError, RecursionError):
            raise AnswerError(f"{self.path} answers no JSON", code) from None
        except (KeyError, TypeError, IndexError):
            raise AnswerError(f"{self.path} has no key {self.json}", code) from None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise AnswerError(f"{self.path} has no text at {self.json}", code)
        return str(value)


def version_source(raw: Mapping[str, Any]) -> VersionSource | None:
    """Return what the settings `raw` of a service say, None where empty; raise SettingsError."""
    return VersionSource.from_settings(raw) if raw else None


def check_source(raw: Mapping[str, Any]) -> None:
    """Raise SettingsError naming every bad, unknown and missing key of `raw`."""
    version_source(raw)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return networks such as 10.0.0.0/8; raise ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def refuse_host(hostname: str, networks: Sequence[Network]) -> str | None:
    """Return why `hostname` is refused, or None; without `networks` everything is allowed.

    A name is resolved, which may take seconds, and every address must be in the networks. At
    connect time the probe resolves by itself and asks about the addresses that it will use.
    """
    if not networks:
        return None
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"{hostname} can't be resolved"
    for address in (str(entry[4][0]) for entry in found):
        if not _inside(address, networks):
            named = address if address == hostname else f"{hostname} ({address})"
            return f"{named} is not in the networks that instances may be in"
    return None


def _inside(address: str, networks: Sequence[Network]) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


class HttpProbe:
    """Asks instances for their health, and for their version where a source is given.

    `allowed` is asked about each IP address before it is connected to, and returns why not.
    One probe serves many concurrent asks; close it with `aclose` or use it in `async with`.
    """

    def __init__(
        self,
        source: VersionSource | None,
        policy: Policy,
        now: Callable[[], float],
        allowed: Callable[[str], str | None] = lambda address: None,
    ) -> None:
        self._source = source
        self._policy = policy
        self._now = now
        self._allowed = allowed
        self._client = httpx.AsyncClient(
            # Only plain HTTP is spoken; an empty context spares loading the authorities.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=None,  # noqa: S113 - it bounds each read alone; ask() bounds the whole
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
            follow_redirects=False,
            headers={
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
                "User-Agent": "lockgate-probe",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async def __aenter__(self) -> "HttpProbe":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what is still open."""
        await self._client.aclose()

    @property
    def reports_version(self) -> bool:
        """Whether the service says how an instance reports its version."""
        return self._source is not None

    async def ask(self, instance: Instance) -> Answer:
        """Return what `instance` answers within health_check_timeout; see ports.Probe.

        `at` is when it was asked, `latency_ms` until the end of the health answer alone.
        """
        at = self._now()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        latency = None
        limit = self._policy.health_check_timeout
        try:
            async with asyncio.timeout(limit):
                health = await self._get(instance, self._policy.health_check_path)
                latency = 1000 * (loop.time() - begun)
                version = await self._version(instance, health)
        except TimeoutError:
            return Answer(at, ok=False, latency_ms=latency, error=f"no answer within {limit:g} s")
        except AnswerError as error:
            return Answer(
                at,
                ok=False,
                listening=error.listening,
                code=error.code,
                latency_ms=latency or (1000 * (loop.time() - begun) if error.code else None),
                error=str(error),
            )
        return Answer(at, ok=True, code=health.code, latency_ms=latency, version=version)

    async def _version(self, instance: Instance, health: Page) -> str | None:
        if self._source is None or not self._policy.verify_version:
            return None
        if self._source.path == self._policy.health_check_path:
            return self._source.read(health)
        return self._source.read(await self._get(instance, self._source.path))

    async def _get(self, instance: Instance, path: str) -> Page:
        """Return the page at `path` if it is good; raise AnswerError, with the first one's words.

        A name may have several addresses: the next is tried where nothing listens.
        """
        refused: AnswerError | None = None
        for address in await self._addresses(instance):
            try:
                return await self._fetch(instance, address, path)
            except AnswerError as error:
                if error.listening:
                    raise
                refused = refused or error
        raise refused or AnswerError(f"{instance.hostname} has no address")

    async def _addresses(self, instance: Instance) -> list[str]:
        """Return the IP addresses of `instance`, all of them allowed; raise AnswerError."""
        try:
            addresses = [str(ipaddress.ip_address(instance.hostname))]
        except ValueError:
            addresses = await _resolve(instance.hostname)
        for address in addresses:
            if why := self._allowed(address):
                raise AnswerError(f"not asked: {why}")
        return addresses

    async def _fetch(self, instance: Instance, address: str, path: str) -> Page:
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._client.stream(
                "GET", f"http://{host}:{instance.port}{path}", headers={"Host": instance.address}
            ) as response:
                return Page(_good(response, path), response.headers, await _body(response, path))
        except httpx.ConnectError as error:
            if _refused(error):
                raise AnswerError(
                    f"nothing listens yet on {instance.address}", listening=False
                ) from error
            raise AnswerError(
                f"{instance.address} can't be reached: {_innermost(error)}"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            words = _shown(str(error)) or type(error).__name__
            raise AnswerError(f"{path} gave no proper answer: {words}") from error


async def _resolve(hostname: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AnswerError(f"{hostname} can't be resolved") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _good(response: httpx.Response, path: str) -> int:
    """Return the status if it is from 200 to 299; raise AnswerError."""
    code = response.status_code
    if 300 <= code < 400 and "location" in response.headers:
        target = _shown(response.headers["location"])
        raise AnswerError(f"{path} answered {code}, a redirect to {target}", code)
    if not 200 <= code < 300:
        raise AnswerError(f"{path} answered {code}", code)
    return code


async def _body(response: httpx.Response, path: str) -> bytes:
    """Return the body as it came over the wire; raise AnswerError beyond MAX_BODY."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise AnswerError(
                f"{path} answered more than {MAX_BODY // 1024} KiB", response.status_code
            )
    return bytes(body)


def _refused(error: BaseException) -> bool:
    """Whether the connection was refused, which httpx tells only in the causes of its error."""
    return isinstance(_innermost(error), ConnectionRefusedError)


def _innermost(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _shown(text: str) -> str:
    """Return what an instance said as one short printable piece."""
    return "".join(each if each.isprintable() else "?" for each in text[:MAX_SHOWN])


class WithDriver:
    """A probe that also has the driver say what an instance runs, where the driver can tell.

    What the instance says itself, where the service says how, goes before.
    """

    def __init__(self, probe: Probe, driver: Driver, timeout: float) -> None:
        self._probe = probe
        self._driver = driver
        self._timeout = timeout

    @property
    def reports_version(self) -> bool:
        """Whether the instance or its driver says what it runs."""
        return self._probe.reports_version or self._driver.reports_version

    async def ask(self, instance: Instance) -> Answer:
        """Return what `instance` answers; of one that is well the driver is asked too."""
        answer = await self._probe.ask(instance)
        if not answer.ok or not self._driver.reports_version:
            return answer
        try:
            async with asyncio.timeout(self._timeout):
                running = await self._driver.running(instance)
        except DriverError as error:
            return replace(answer, error=str(error))
        except TimeoutError:
            return replace(answer, error=f"the driver did not answer within {self._timeout:g} s")
        version = answer.version if self._probe.reports_version else running.version
        return replace(answer, version=version, digest=running.digest)
