"""Signed requests to an agent: to addresses that may be asked, bounded in time and in size.

The signature is an HMAC-SHA256, with the shared secret, over the time, a dot, and the body; of
a request without a body, over the time, a dot, and its first line, such as `GET /jobs/1`.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from rollouts.adapters import secret
from rollouts.drivers.output import clean
from rollouts.facts import Tick

MAX_BODY = 64 * 1024  # bytes
MAX_SHOWN = 300  # characters of an answer that get into a message
# Here clouds tell their machines secrets; link-local addresses are refused as a whole.
METADATA = frozenset({"fd00:ec2::254", "100.100.100.200"})


class AgentError(Exception):
    """An agent gave no proper answer; `again` tells whether it is worth repeating."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True)
class Reply:
    """What an agent answered, in full."""

    code: int
    headers: httpx.Headers
    body: bytes

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that was answered, an empty one for anything else."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def words(self) -> str:
        """Return status and message for a person."""
        fields = self.fields()
        told = next(
            (fields[key] for key in ("message", "detail", "title", "error") if fields.get(key)), ""
        )
        text = told if isinstance(told, str) else ""
        if not fields:
            text = next(iter(self.body.decode(errors="replace").strip().splitlines()), "")
        return f"the agent answered {self.code}: {shown(text)}".removesuffix(": ")


def shown(text: str) -> str:
    """Return what an agent said as one short piece that changes nothing on a screen."""
    text = " ".join(clean(text.encode(errors="replace").replace(b"\n", b" ")).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"


def is_local(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refused(address: str) -> str | None:
    """Return why an IP address is never asked, or None."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.is_link_local or str(parsed) in METADATA:
        return f"{address} is where a cloud's metadata is: an agent has another address"
    if parsed.is_multicast or parsed.is_unspecified:
        return f"{address} is no address of one machine"
    return None


def signature(key: str, timestamp: str, signed: bytes) -> str:
    """Return the value of X-Lockgate-Signature."""
    mac = hmac.new(key.encode(), timestamp.encode() + b"." + signed, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


class Client:
    """Sends signed requests. `authorities` is a PEM file, where those of the system are not it."""

    def __init__(self, secret_env: str, authorities: str | None, *, allow_http: bool) -> None:
        self._secret_env = secret_env
        self._authorities = authorities
        self._allow_http = allow_http
        self._opened: httpx.AsyncClient | None = None

    async def aclose(self) -> None:
        """Close what is still open."""
        if self._opened:
            await self._opened.aclose()

    def ready(self) -> Sequence[Tick]:
        """Return whether what is needed to sign is there."""
        try:
            secret(self._secret_env)
        except LookupError as error:
            return [Tick("secret set", False, str(error))]
        return [Tick("secret set", True)]

    async def send(
        self,
        method: str,
        url: httpx.URL,
        timeout: float,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Return what is answered within `timeout` seconds, any status; raise AgentError."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(url)
                return await self._first(addresses, method, url, body, headers or {})
        except TimeoutError:
            raise AgentError(
                f"no answer from {_where(url)} within {timeout:.3g} s", again=True
            ) from None

    async def reach(self, url: httpx.URL, timeout: float) -> None:
        """Open a connection to where `url` is and close it; raise AgentError."""
        try:
            async with asyncio.timeout(timeout):
                for address in await self._addresses(url):
                    port = url.port or (443 if url.scheme == "https" else 80)
                    _, writer = await asyncio.open_connection(address, port)
                    writer.close()
                    await writer.wait_closed()
                    return
        except TimeoutError:
            raise AgentError(f"{_where(url)} can't be reached: no answer", again=True) from None
        except OSError as error:
            raise AgentError(
                f"{_where(url)} can't be reached: {_told(error)}", again=True
            ) from error

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """Return the IP addresses of the host, all of which may be asked; raise AgentError."""
        host = url.raw_host.decode("ascii")
        if url.scheme != "https" and not self._allow_http and not is_local(host):
            raise AgentError(
                f"{_where(url)} is not asked without encryption: use https, or set allow_http",
                again=False,
            )
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            raise AgentError(f"{host} can't be resolved", again=True) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if why := refused(address):
                raise AgentError(f"{host} is not asked: {why}", again=False)
        return addresses

    async def _first(
        self,
        addresses: list[str],
        method: str,
        url: httpx.URL,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Reply:
        """Ask the first address that can be connected to."""
        unreached: httpx.ConnectError | None = None
        for address in addresses:
            try:
                return await self._ask(address, method, url, body, headers)
            except httpx.ConnectError as error:
                unreached = unreached or error
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                words = shown(str(error)) or type(error).__name__
                raise AgentError(f"{_where(url)} gave no answer: {words}", again=True) from error
        cause = _innermost(unreached) if unreached else OSError("it has no address")
        raise AgentError(
            f"{_where(url)} can't be reached: {_told(cause)}",
            again=not isinstance(cause, ssl.SSLCertVerificationError),
        )

    async def _ask(
        self,
        address: str,
        method: str,
        url: httpx.URL,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Reply:
        timestamp = str(int(time.time()))
        line = f"{method} {url.raw_path.decode('ascii')}".encode()
        try:
            signed = signature(secret(self._secret_env), timestamp, body or line)
        except LookupError as error:
            raise AgentError(str(error), again=False) from error
        async with self._client().stream(
            method,
            url.copy_with(host=address),
            content=body,
            headers={
                **headers,
                "Host": url.netloc.decode("ascii"),
                "X-Lockgate-Timestamp": timestamp,
                "X-Lockgate-Signature": signed,
                **({"Content-Type": "application/json"} if body else {}),
            },
            # The certificate is that of the name, though its address is connected to.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as response:
            found = bytearray()
            async for chunk in response.aiter_raw():
                found += chunk
                if len(found) > MAX_BODY:
                    raise AgentError(
                        f"{_where(url)} answered more than {MAX_BODY // 1024} KiB", again=False
                    )
            return Reply(response.status_code, response.headers, bytes(found))

    def _client(self) -> httpx.AsyncClient:
        """Return the client, which is opened at its first use: that reads the authorities."""
        if self._opened is None:
            try:
                context = ssl.create_default_context(cafile=self._authorities)
            except OSError as error:
                raise AgentError(
                    f"the authorities in {self._authorities} can't be read: {error}", again=False
                ) from error
            self._opened = httpx.AsyncClient(
                verify=context,
                timeout=None,  # noqa: S113 - it bounds each read alone; send() bounds the whole
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                trust_env=False,
                follow_redirects=False,
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "Connection": "close",
                    "User-Agent": "lockgate",
                },
            )
        return self._opened


def _where(url: httpx.URL) -> str:
    return url.netloc.decode("ascii")


def _told(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    known = isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno
    return os.strerror(known) if known else shown(str(error))


def _innermost(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
