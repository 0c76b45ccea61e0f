"""HAProxy through its runtime API, on one or several addresses.

Every HAProxy that is named must confirm: a server is drained when all of them say so, and
one that does not answer makes the call fail. Wants `level admin` on the socket, and in the
configuration `weight 100`, because a share of a small weight can't be told apart.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rollouts.adapters import SettingsError, wrong_keys
from rollouts.balancers.haproxy_replies import (
    ReplyError,
    Row,
    View,
    complaint,
    merge,
    read_stat,
    read_state,
    split,
)
from rollouts.facts import BalancerReport, ServerState
from rollouts.ports import BalancerError, BalancerUnreachable

T = TypeVar("T")

CALL_TIMEOUT = 2.0  # seconds for a whole call: all addresses, reading back included
READ_BACK_INTERVAL = 0.05  # seconds between two looks while HAProxy has not followed yet
MAX_REPLY = 16 * 2**20  # bytes; a backend of 1,000 servers takes 0.5 MB
MAX_PATH = 107  # bytes that a Unix socket's path may have on Linux

# Everything after a `;` or a newline would be another command.
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
TCP = re.compile(r"(?:tcp:)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """Where one runtime API listens: a Unix socket's path, or host and port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: Any) -> "Address":
        """Return the address `unix:/PATH`, `tcp:HOST:PORT` or `HOST:PORT`; raise ValueError."""
        if isinstance(text, str) and text.startswith("unix:/"):
            path = text.removeprefix("unix:")
            if path.isprintable() and len(path.encode()) <= MAX_PATH:
                return cls(text, path=path)
            raise ValueError(f"a socket's path has at most {MAX_PATH} bytes, all printable")
        match = TCP.fullmatch(text) if isinstance(text, str) else None
        if match and 1 <= int(match[3]) <= 65535:
            return cls(match[0], host=match[1] or match[2], port=int(match[3]))
        raise ValueError("each must be unix:/PATH, tcp:HOST:PORT or HOST:PORT")

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; raise OSError."""
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port)


def _addresses(raw: Any) -> tuple[Address, ...]:
    if not isinstance(raw, list) or not raw:
        raise ValueError('must be a list of addresses, such as ["unix:/run/haproxy/admin.sock"]')
    addresses = tuple(Address.parse(text) for text in raw)
    if len(set(addresses)) < len(addresses):
        raise ValueError("must name each address once")
    return addresses


class HAProxy:
    """A backend of one HAProxy or of several that serve the same instances."""

    def __init__(self, addresses: Sequence[Address], backend: str) -> None:
        self._addresses = tuple(addresses)
        self._backend = backend

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any]) -> "HAProxy":
        """Return the balancer of `{kind, addresses, backend}`; raise SettingsError."""
        errors = wrong_keys(raw, required=("kind", "addresses", "backend"))
        addresses: tuple[Address, ...] = ()
        if "addresses" in raw:
            try:
                addresses = _addresses(raw["addresses"])
            except ValueError as error:
                errors["addresses"] = str(error)
        backend = raw.get("backend", "")
        if "backend" in raw and not (isinstance(backend, str) and NAME.fullmatch(backend)):
            errors["backend"] = "must be a name of letters, digits, '_', '.', ':' and '-'"
        if errors:
            raise SettingsError(errors)
        return cls(addresses, backend)

    async def report(self) -> BalancerReport:
        """Return every server that all addresses know; one connection each as a rule."""
        return merge(await self._on_all(self._view))

    async def drain(self, server: str) -> None:
        """Give no new session to `server`; one in maintenance stays there, which is stricter."""
        await self._settle(
            server,
            f"set server {self._backend}/{server} state drain",
            lambda row: row.state is not ServerState.READY,
        )

    async def ready(self, server: str) -> None:
        """Put `server` back, and return once it takes traffic.

        Raises BalancerUnreachable, so that it is asked again, while HAProxy's own check still
        finds the server down: a server that went down while it was drained comes up only after
        `rise` good checks.
        """
        await self._settle(
            server,
            f"set server {self._backend}/{server} state ready",
            lambda row: row.state is ServerState.READY,
        )
        await self._settle(server, None, lambda row: row.up)
        row = (await self._on_all(lambda address: self._row(address, server)))[0]
        if row.weight == 0:
            raise BalancerError(f"HAProxy sends nothing to {server}: its weight is 0")

    async def set_weight(self, server: str, percent: int) -> None:
        """Give `server` a share of its configured weight, at least 1 unless `percent` is 0."""
        if not 0 <= percent <= 100:
            raise BalancerError(f"a weight is from 0 to 100 percent, not {percent}")
