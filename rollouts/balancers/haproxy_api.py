"""The runtime API of one HAProxy, as far as one backend is concerned."""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.balancers.haproxy_replies import (
    ReplyError,
    Row,
    View,
    Whole,
    complaint,
    read_stat,
    read_state,
    split,
    told,
)
from rollouts.balancers.servers import CONFIRM_TIMEOUT
from rollouts.facts import ServerState
from rollouts.ports import BalancerError, BalancerUnreachable

READ_BACK_INTERVAL = 0.05  # seconds between two looks whether HAProxy has followed
QUEUE_INTERVAL = 0.01  # seconds between two tries while HAProxy's queue is full
CONNECTIONS = 4  # at the same time to one address; HAProxy takes 10 by default, from all
MAX_REPLY = 16 * 2**20  # bytes; a backend of 1,000 servers takes 0.5 MB
MAX_LINE = 8000  # bytes of commands; HAProxy's buffer has 16,384 by default, and may have less
MAX_NAMED = 5  # servers in one message
MAX_PATH = 107  # bytes that a Unix socket's path may have on Linux

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


class RuntimeApi:
    """One HAProxy's side of one backend. For one event loop; every call raises BalancerError."""

    def __init__(self, address: Address, backend: str) -> None:
        self.address = address
        self.backend = backend
        self._turns = asyncio.Semaphore(CONNECTIONS)

    def __str__(self) -> str:
        return f"HAProxy at {self.address.text}"

    async def row(self, server: str) -> Row:
        """Return `server` as this HAProxy has it."""
        return (await self.rows((server,)))[server]

    async def rows(self, servers: Sequence[str] = ()) -> dict[str, Row]:
        """Return at least `servers` as this HAProxy has them; without any, all that it has."""
        reply = await self.ask(f"show servers state {self.backend}")
        try:
            rows = read_state(reply, only=servers[0] if len(servers) == 1 else "")
        except ReplyError as error:
            raise self._refusal(error) from error
        if unknown := [server for server in servers if server not in rows]:
            raise BalancerError(
                f"{self} knows no server {listed(unknown)} in backend {self.backend}"
            )
        return rows

    async def view(self) -> View:
        """Return the backend as this HAProxy sees it."""
        backend = self.backend
        reply = await self.ask(f"show servers state {backend};show stat {backend} 6 -1")
        state, stat = split(reply)
        try:
            rows = read_state(state)
            counts, whole = read_stat(stat)
            if whole is None and rows:
                # A frontend has the same name, and HAProxy took that one: ask by number.
                number = next(iter(rows.values())).backend_id
                counts, whole = read_stat(await self.ask(f"show stat {number} 6 -1"))
        except ReplyError as error:
            raise self._refusal(error) from error
        return View(rows, counts, whole or Whole())

    async def tell(self, commands: Sequence[str]) -> None:
        """Send commands that change something; raise BalancerError where one is refused.

        HAProxy goes on after one that it refuses, to the end of the line.
        """
        for line in _lines(commands):
            said = told(await self.ask(";".join(line)))
            for place, words in enumerate(said):
                if words:
                    command = line[min(place, len(line) - 1)]
                    raise BalancerError(
                        f'{self} refused "{command}": it answered {complaint(words)}'
                    )
            if len(said) < len(line):
                raise self._cut_short()

    async def drain(self, server: str) -> None:
        """Give no new session to `server`; one in maintenance stays there."""
        await self._settle(
            server, ServerState.DRAIN, settled=lambda row: row.state is not ServerState.READY
        )

    async def ready(self, server: str) -> None:
        """Put `server` back; raise BalancerUnreachable while HAProxy's own check finds it down."""
        await self._settle(
            server,
            ServerState.READY,
            settled=lambda row: row.state is ServerState.READY and row.up,
            passing=lambda row: row.state is ServerState.READY,
        )

    async def stop(self, server: str) -> None:
        """Put `server` into maintenance: nothing reaches it, its own checks included."""
        await self._settle(
            server, ServerState.MAINT, settled=lambda row: row.state is ServerState.MAINT
        )

    async def _settle(
        self,
        server: str,
        state: ServerState,
        *,
        settled: Callable[[Row], bool],
        passing: Callable[[Row], bool] = lambda row: False,
    ) -> None:
        """Tell HAProxy, unless it is so already, and return once `server` reads back as told.

        Where it does not within CONFIRM_TIMEOUT, raises BalancerUnreachable if that is `passing`
        and BalancerError if not.
        """
        if settled(await self.row(server)):
            return
        command = f"set server {self.backend}/{server} state {state}"
        await self.tell([command])
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT
        while not settled(row := await self.row(server)):
            if asyncio.get_running_loop().time() >= deadline:
                kind = BalancerUnreachable if passing(row) else BalancerError
                raise kind(f'{self}, told "{command}", answers {row}')
            await asyncio.sleep(READ_BACK_INTERVAL)

    async def ask(self, command: str) -> str:
        """Return the whole reply to `command`; raise BalancerUnreachable where it was lost."""
        async with self._turns:
            return await self._exchange(command)

    async def _exchange(self, command: str) -> str:
        try:
            reader, writer = await self.address.open()
        except (OSError, UnicodeError) as error:
            raise BalancerUnreachable(f"{self} can't be reached: {error}") from error
        reply = bytearray()
        try:
            writer.write(command.encode() + b"\n")
            while chunk := await reader.read(2**16):
                reply += chunk
                if len(reply) > MAX_REPLY:
                    raise BalancerError(f"{self} answers more than 16 MiB")
        except OSError as error:
            raise BalancerUnreachable(f"{self} broke the connection: {error}") from error
        finally:
            writer.transport.abort()
        # Every reply ends with an empty line, so one that does not was cut short on its way.
        if reply != b"\n" and not reply.endswith(b"\n\n"):
            raise self._cut_short()
        return reply.decode(errors="replace")

    def _cut_short(self) -> BalancerUnreachable:
        return BalancerUnreachable(f"{self} ended its answer too soon")

    def _refusal(self, error: ReplyError) -> BalancerError:
        return BalancerError(f"{self} does not show backend {self.backend}: {error}")


def listed(things: Sequence[str]) -> str:
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
