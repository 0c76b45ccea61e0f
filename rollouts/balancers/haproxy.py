"""HAProxy through its runtime API, on one or several addresses.

Every HAProxy that is named must confirm: a server is drained when all of them say so, and
one that does not answer makes the call fail. Wants `level admin` on the socket, and in the
configuration `weight 100`, because shares of a small weight can't be told apart.
"""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rollouts.adapters import SettingsError, Surroundings, wrong_keys
from rollouts.balancers.haproxy_replies import (
    ReplyError,
    Row,
    View,
    Whole,
    complaint,
    merge,
    read_stat,
    read_state,
    split,
    told,
)
from rollouts.facts import BalancerReport, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

T = TypeVar("T")

CALL_TIMEOUT = 2.0  # seconds for a whole call: all addresses, reading back included
CONFIRM_TIMEOUT = 1.5  # seconds of these until HAProxy must have followed
CUT_TIMEOUT = 0.5  # seconds that ended sessions may take to be gone
READ_BACK_INTERVAL = 0.05  # seconds between two looks meanwhile
QUEUE_INTERVAL = 0.01  # seconds between two tries while HAProxy's queue is full
CONNECTIONS = 4  # at the same time to one address; HAProxy takes 10 by default, from all
MAX_REPLY = 16 * 2**20  # bytes; a backend of 1,000 servers takes 0.5 MB
MAX_LINE = 8000  # bytes of commands; HAProxy's buffer has 16,384 by default, and may have less
MAX_WEIGHT = 256
MAX_NAMED = 5  # servers in one message
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


class HAProxy(Balancer):
    """A backend of one HAProxy or of several that serve the same instances.

    For one event loop.
    """

    def __init__(self, addresses: Sequence[Address], backend: str) -> None:
        self._addresses = tuple(addresses)
        self._backend = backend
        self._turns = {address: asyncio.Semaphore(CONNECTIONS) for address in self._addresses}

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "HAProxy":
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
        """Put `server` back, and return once every HAProxy sends it what its weight gives it.

        Raises BalancerUnreachable, so that it is asked again, while HAProxy's own check still
        finds the server down: one that went down while it was drained comes up only after
        `rise` good checks.
        """
        command = f"set server {self._backend}/{_checked(server)} state ready"
        await self._on_all(
            lambda address: self._settle(
                address,
                server,
                tell=lambda row: command,
                settled=lambda row: row.state is ServerState.READY and row.up,
                passing=lambda row: row.state is ServerState.READY,
            )
        )

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Give each server its weight, 0 to 256, and return once every HAProxy has followed.

        All that one line can hold changes within about a millisecond. A HAProxy that fails does
        not keep the others from following: the way off a bad version must not wait for it. Where
        one refuses a weight, as those of static algorithms do unless it is 0 or the configured
        one, others of the same call may have been set.
        """
        wanted = dict(weights)
        for server, weight in wanted.items():
            _checked(server)
            if type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
                raise BalancerError(
                    f"the weight of {server} must be a whole number from 0 to {MAX_WEIGHT}, "
                    f"not {weight!r}"
                )
        if wanted:
            await self._on_all(lambda address: self._shift(address, wanted))

    async def cut(self, server: str) -> None:
        """End the open sessions of `server`, waiting CUT_TIMEOUT at most until none is left.

        Some may be: clients with a sticky cookie come back to a server that drains.
        """
        command = f"shutdown sessions server {self._backend}/{_checked(server)}"

        async def call(address: Address) -> None:
            await self._row(address, server)
            await self._tell(address, [command])
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
        await self._tell(address, [command])
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT
        while not settled(row := await self._row(address, server)):
            if asyncio.get_running_loop().time() >= deadline:
                kind = BalancerUnreachable if passing(row) else BalancerError
                raise kind(f'HAProxy at {address.text}, told "{command}", answers {row}')
            await asyncio.sleep(READ_BACK_INTERVAL)
        return row

    async def _shift(self, address: Address, weights: Mapping[str, int]) -> None:
        """Tell HAProxy the weights that it has not, and return once it has them all."""
        rows = await self._rows(address, tuple(weights))
        changes = [name for name, weight in weights.items() if rows[name].weight != weight]
        if not changes:
            return
        # Whoever gets more comes first: requests are served between two commands as well, and
        # would find no server at all where the last one is taken out before the next is in.
        changes.sort(key=lambda name: weights[name] < rows[name].weight)
        await self._tell(
            address, [f"set weight {self._backend}/{name} {weights[name]}" for name in changes]
        )
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT
        while True:
            rows = await self._rows(address, tuple(weights))
            astray = [
                f"{name} has weight {rows[name].weight}, not {weight}"
                for name, weight in weights.items()
                if rows[name].weight != weight
            ]
            if not astray:
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise BalancerError(f"HAProxy at {address.text} did not follow: {_listed(astray)}")
            await asyncio.sleep(READ_BACK_INTERVAL)

    async def _row(self, address: Address, server: str) -> Row:
        """Return `server` as the HAProxy at `address` has it; raise BalancerError."""
        return (await self._rows(address, (server,)))[server]

    async def _rows(self, address: Address, servers: Sequence[str]) -> dict[str, Row]:
        """Return at least `servers` as the HAProxy at `address` has them; raise BalancerError."""
        reply = await self._ask(address, f"show servers state {self._backend}")
        try:
            rows = read_state(reply, only=servers[0] if len(servers) == 1 else "")
        except ReplyError as error:
            raise self._refusal(address, error) from error
        if unknown := [server for server in servers if server not in rows]:
            raise BalancerError(
                f"HAProxy at {address.text} knows no server {_listed(unknown)} "
                f"in backend {self._backend}"
            )
        return rows

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
        return View(rows, counts, whole or Whole())

    async def _tell(self, address: Address, commands: Sequence[str]) -> None:
        """Send commands that change something; raise BalancerError where one is refused.

        HAProxy goes on after one that it refuses, to the end of the line.
        """
        for line in _lines(commands):
            said = told(await self._ask(address, ";".join(line)))
            for place, words in enumerate(said):
                if words:
                    command = line[min(place, len(line) - 1)]
                    raise BalancerError(
                        f'HAProxy at {address.text} refused "{command}": '
                        f"it answered {complaint(words)}"
                    )
            if len(said) < len(line):
                raise _cut_short(address)

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


def _listed(things: Sequence[str]) -> str:
    """Return the first few of `things`, and how many more there are, for people."""
    more = len(things) - MAX_NAMED
    return ", ".join(things[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _lines(commands: Sequence[str]) -> Iterator[list[str]]:
    """Return the commands in order, as many together as a line of MAX_LINE bytes can hold."""
    line: list[str] = []
    length = 0
    for command in commands:
        if line and length + len(command) >= MAX_LINE:
            yield line
            line, length = [], 0
        line.append(command)
        length += len(command) + 1
    if line:
        yield line


def _cut_short(address: Address) -> BalancerUnreachable:
    return BalancerUnreachable(f"HAProxy at {address.text} ended its answer too soon")


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
        raise _cut_short(address)
    return reply.decode(errors="replace")
