"""HAProxy through its runtime API, on one or several addresses.

Every HAProxy that is named must confirm: a server is drained when all of them say so, and
one that does not answer makes the call fail. Wants `level admin` on the socket, and in the
configuration `weight 100`, because a share of a small weight can't be told apart.
"""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rollouts.adapters import SettingsError, wrong_keys
from rollouts.balancers.haproxy_replies import (
    Counts,
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
CONFIRM_TIMEOUT = 1.5  # seconds of these until HAProxy must have followed
CUT_TIMEOUT = 0.5  # seconds that ended sessions may take to be gone
READ_BACK_INTERVAL = 0.05  # seconds between two looks meanwhile
QUEUE_INTERVAL = 0.01  # seconds between two tries while HAProxy's queue is full
CONNECTIONS = 4  # at the same time to one address; HAProxy takes 10 by default, from all
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
        """Connect; raise OSError. Waits while as many connections wait as HAProxy lets wait."""
        if not self.path:
            return await asyncio.open_connection(self.host, self.port)
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plug.setblocking(False)
            # asyncio would take a full queue for a connection that is on its way.
            while True:
                error = plug.connect_ex(self.path)
                if error not in {errno.EAGAIN, errno.EINTR}:
                    break
                await asyncio.sleep(QUEUE_INTERVAL)
            if error:
                raise OSError(error, os.strerror(error))
            return await asyncio.open_unix_connection(sock=plug)
        except BaseException:
            plug.close()
            raise


def _addresses(raw: Any) -> tuple[Address, ...]:
    if not isinstance(raw, list) or not raw:
        raise ValueError('must be a list of addresses, such as ["unix:/run/haproxy/admin.sock"]')
    addresses = tuple(Address.parse(text) for text in raw)
    if len(set(addresses)) < len(addresses):
        raise ValueError("must name each address once")
    return addresses


class HAProxy:
    """A backend of one HAProxy or of several that serve the same instances.

    For one event loop.
    """

    def __init__(self, addresses: Sequence[Address], backend: str) -> None:
        self._addresses = tuple(addresses)
        self._backend = backend
        self._turns = {address: asyncio.Semaphore(CONNECTIONS) for address in self._addresses}

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
        command = f"set server {self._backend}/{_checked(server)} state drain"
        await self._on_all(
            lambda address: self._settle(
                address,
                server,
                tell=lambda row: command,
                settled=lambda row: row.state is not ServerState.READY,
            )
        )

    async def ready(self, server: str) -> None:
        """Put `server` back, and return once every HAProxy sends it traffic.

        Raises BalancerUnreachable, so that it is asked again, while HAProxy's own check still
        finds the server down: one that went down while it was drained comes up only after
        `rise` good checks. Raises BalancerError where its weight is 0.
        """
        command = f"set server {self._backend}/{_checked(server)} state ready"

        async def call(address: Address) -> None:
            row = await self._settle(
                address,
                server,
                tell=lambda row: command,
                settled=lambda row: row.state is ServerState.READY and row.up,
                passing=lambda row: row.state is ServerState.READY,
            )
            if row.weight == 0:
                raise BalancerError(
                    f"HAProxy at {address.text} sends nothing to {server}: its weight is 0"
                )

        await self._on_all(call)

    async def set_weight(self, server: str, percent: int) -> None:
        """Give `server` a share of its configured weight, at least 1 unless `percent` is 0."""
        _checked(server)
        if not 0 <= percent <= 100:
            raise BalancerError(f"a weight is from 0 to 100 percent, not {percent}")

        def wanted(row: Row) -> int:
            # HAProxy itself would round 50% of the default weight, 1, to no traffic at all.
            least = min(1, row.configured) if percent else 0
            return max(least, row.configured * percent // 100)

        await self._on_all(
            lambda address: self._settle(
                address,
                server,
                tell=lambda row: f"set weight {self._backend}/{server} {wanted(row)}",
                settled=lambda row: row.weight == wanted(row),
            )
        )

    async def cut(self, server: str) -> None:
        """End the open sessions of `server`, waiting CUT_TIMEOUT at most until none is left.

        Some may be: clients with a sticky cookie come back to a server that drains.
        """
        command = f"shutdown sessions server {self._backend}/{_checked(server)}"

        async def call(address: Address) -> None:
            await self._row(address, server)
            await self._tell(address, command)
            deadline = asyncio.get_running_loop().time() + CUT_TIMEOUT
            while asyncio.get_running_loop().time() < deadline:
                counts = (await self._view(address)).counts.get(server)
                if counts is None or counts.sessions == 0:
                    return
                await asyncio.sleep(READ_BACK_INTERVAL)

        await self._on_all(call)

    async def _on_all(self, call: Callable[[Address], Awaitable[T]]) -> list[T]:
        """Return what `call` gives for each address, all at the same time.

        Where some fail the others are finished all the same, and the errors are told together.
        """
        results = await asyncio.gather(
            *(_bounded(address, call) for address in self._addresses), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in errors:
            if not isinstance(error, BalancerError):
                raise error
        if errors:
            # A refusal weighs more than silence: it will not go away by asking again.
            refused = any(not isinstance(error, BalancerUnreachable) for error in errors)
            kind = BalancerError if refused else BalancerUnreachable
            raise kind("; ".join(str(error) for error in errors)) from errors[0]
        return [result for result in results if not isinstance(result, BaseException)]

    async def _settle(
        self,
        address: Address,
        server: str,
        *,
        tell: Callable[[Row], str],
        settled: Callable[[Row], bool],
        passing: Callable[[Row], bool] = lambda row: False,
    ) -> Row:
        """Tell HAProxy, unless it is so already, and return `server` once it reads back as told.

        Where it does not within CONFIRM_TIMEOUT, raises BalancerUnreachable if that is `passing`
        and BalancerError if not.
        """
        row = await self._row(address, server)
        if settled(row):
            return row
        command = tell(row)
        await self._tell(address, command)
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT
        while not settled(row := await self._row(address, server)):
            if asyncio.get_running_loop().time() >= deadline:
                kind = BalancerUnreachable if passing(row) else BalancerError
                raise kind(f'HAProxy at {address.text}, told "{command}", answers {row}')
            await asyncio.sleep(READ_BACK_INTERVAL)
        return row

    async def _row(self, address: Address, server: str) -> Row:
        """Return `server` as the HAProxy at `address` has it; raise BalancerError."""
        reply = await self._ask(address, f"show servers state {self._backend}")
        try:
            return read_state(reply, only=server)[server]
        except KeyError:
            raise BalancerError(
                f"HAProxy at {address.text} knows no server {server} in backend {self._backend}"
            ) from None
        except ReplyError as error:
            raise self._refusal(address, error) from error

    async def _view(self, address: Address) -> View:
        backend = self._backend
        reply = await self._ask(address, f"show servers state {backend};show stat {backend} 6 -1")
        state, stat = split(reply)
        try:
            rows = read_state(state)
            counts, whole = read_stat(stat)
            if whole is None and rows:
                # A frontend has the same name, and HAProxy took that one: ask by number.
                number = next(iter(rows.values())).backend_id
                counts, whole = read_stat(await self._ask(address, f"show stat {number} 6 -1"))
        except ReplyError as error:
            raise self._refusal(address, error) from error
        return View(rows, counts, whole or Counts())

    async def _tell(self, address: Address, command: str) -> None:
        """Send a command that changes something; raise BalancerError where it is refused."""
        reply = await self._ask(address, command)
        if reply.strip():
            raise BalancerError(
                f'HAProxy at {address.text} refused "{command}": it answered {complaint(reply)}'
            )

    async def _ask(self, address: Address, command: str) -> str:
        async with self._turns[address]:
            return await _ask(address, command)

    def _refusal(self, address: Address, error: ReplyError) -> BalancerError:
        return BalancerError(
            f"HAProxy at {address.text} does not show backend {self._backend}: {error}"
        )


def _checked(server: str) -> str:
    if not NAME.fullmatch(server):
        raise BalancerError(
            f"{server[:64]!r} can't be a server of HAProxy: a name has only letters, digits, "
            "'_', '.', ':' and '-'"
        )
    return server


async def _bounded(address: Address, call: Callable[[Address], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            return await call(address)
    except TimeoutError:
        raise BalancerUnreachable(
            f"HAProxy at {address.text} did not answer within {CALL_TIMEOUT:g} s"
        ) from None


async def _ask(address: Address, command: str) -> str:
    """Return the whole reply to `command`; raise BalancerUnreachable where it was lost."""
    try:
        reader, writer = await address.open()
    except (OSError, UnicodeError) as error:
        raise BalancerUnreachable(f"HAProxy at {address.text} can't be reached: {error}") from error
    reply = bytearray()
    try:
        writer.write(command.encode() + b"\n")
        while chunk := await reader.read(2**16):
            reply += chunk
            if len(reply) > MAX_REPLY:
                raise BalancerError(f"HAProxy at {address.text} answers more than 16 MiB")
    except OSError as error:
        raise BalancerUnreachable(
            f"HAProxy at {address.text} broke the connection: {error}"
        ) from error
    finally:
        writer.transport.abort()
    # Every reply ends with an empty line, so one that does not was cut short on its way.
    if reply != b"\n" and not reply.endswith(b"\n\n"):
        raise BalancerUnreachable(f"HAProxy at {address.text} ended its answer too soon")
    return reply.decode(errors="replace")
