"""Hosts over SSH: short commands, long ones that end with the lease, and remote Unix sockets.

One connection to each host is kept and shared. For one event loop.
"""

import asyncio
import math
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from rollouts.adapters import KnownHosts
from rollouts.ssh_connecting import (
    CONNECT_TIMEOUT,
    HostKeyRefused,
    LoginRefused,
    Place,
    SshError,
    SshSettings,
    SshUnreachable,
    close,
    connect,
)
from rollouts.ssh_keeper import LINGER, Kept, command
from rollouts.ssh_sessions import Channel, Session, say, start

__all__ = [
    "Completed",
    "HostKeyRefused",
    "LoginRefused",
    "Place",
    "Ssh",
    "SshError",
    "SshSettings",
    "SshUnreachable",
]

SESSIONS = 10  # at once on a connection: what an sshd allows by default
KEPT = 8  # of these for long commands at most, so that a short one finds room
CONNECTING = 10  # connections that are made at once: an sshd drops some beyond that
OPEN_PAUSES = (0.02, 0.1, 0.5)  # seconds between two tries to open a session
MOST_OUTPUT = 2**20  # bytes of output that a short command may have


@dataclass(frozen=True)
class Completed:
    """A command that ended: `status` is its exit status, or minus the number of a signal."""

    status: int
    stdout: bytes
    stderr: bytes


class _Answer:
    """What a short command says."""

    def __init__(self) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.too_much: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._size = 0

    def heard(self, data: bytes, on_stderr: bool) -> None:
        self._size += len(data)
        if self._size <= MOST_OUTPUT:
            (self.stderr if on_stderr else self.stdout).append(data)
        elif not self.too_much.done():
            self.too_much.set_result(None)


@dataclass
class _Link:
    connection: asyncssh.SSHClientConnection
    sessions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SESSIONS))
    kept: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(KEPT))


class Ssh:
    """Hosts as `settings` reach them. `host` is a host name, HOST:PORT or a key of `hosts`.

    Every call raises SshError, and SshUnreachable where the host does not answer.
    """

    def __init__(self, settings: SshSettings, known_hosts: KnownHosts) -> None:
        self._settings = settings
        self._known_hosts = known_hosts
        self._links: dict[Place, asyncio.Task[_Link]] = {}
        self._connecting = asyncio.Semaphore(CONNECTING)

    async def reach(self, host: str) -> None:
        """Return once there is a connection to `host`, some CONNECT_TIMEOUT at the latest."""
        await self._link(self._place(host))

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 10.0
    ) -> Completed:
        """Run a short command that is done in `timeout` seconds; it is ended there after that.

        It has 1 MiB of output at most. A connection that has to be made first takes its own time.
        """
        await self.reach(host)
        answer = _Answer()
        bounded = shlex.join(("timeout", "-k", "1", str(math.ceil(timeout)), *argv))
        try:
            async with (
                asyncio.timeout(timeout),
                self._session(host, bounded, answer.heard) as (channel, session),
            ):
                say(channel, stdin)
                channel.write_eof()
                await session.exited_within(None, answer.too_much)
                await session.closed_within(LINGER, answer.too_much)
        except TimeoutError as error:
            words = f"no answer from {argv[0]} on {host} within {timeout:g} s"
            raise SshUnreachable(words) from error
        if answer.too_much.done():
            raise SshError(f"{argv[0]} on {host} says more than {MOST_OUTPUT // 2**10} KiB")
        status = session.exited.result()
        if status is None:
            raise SshUnreachable(f"the connection to {host} was lost while {argv[0]} ran there")
        return Completed(status, b"".join(answer.stdout), b"".join(answer.stderr))

    async def keep(
        self,
        host: str,
        argv: Sequence[str],
        *,
        lock: str,
        output: Callable[[bytes], None],
        left: Callable[[], float],
    ) -> int:
        """Run a command for as long as `left` says; return its exit status, or minus its signal.

        It waits there until an earlier one of the same `lock` is gone. It is ended, with all of
        its process group, when the call is cancelled, when the connection is gone, and when what
        `left` said last, in seconds, is over; see `ssh_keeper`.
        """
        kept = Kept(host, output)
        async with self._session(host, command(argv, lock), kept.heard, kept=True) as (
            channel,
            session,
        ):
            try:
                return await kept.run(channel, session, left)
            except asyncio.CancelledError:
                await kept.end(channel, session)
                raise

    @asynccontextmanager
    async def socket(self, host: str, path: str) -> AsyncIterator[str]:
        """Yield the path of a local Unix socket that leads to the Unix socket `path` on `host`."""
        link = await self._link(self._place(host))
        with tempfile.TemporaryDirectory(prefix="lockgate-") as folder:
            here = str(Path(folder) / "s")
            try:
                listener = await link.connection.forward_local_path(here, path)
            except (OSError, asyncssh.Error) as error:
                raise SshError(f"{path} on {host} can't be reached: {error}") from error
            try:
                yield here
            finally:
                listener.close()
                await listener.wait_closed()

    async def aclose(self) -> None:
        """Close all connections; the object is not used after that."""
        tasks = list(self._links.values())
        self._links.clear()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, _Link):
                await close(result.connection)

    def _place(self, host: str) -> Place:
        try:
            return self._settings.place(host)
        except ValueError as error:
            raise SshError(f"{host[:64]!r} is no host: it {error}") from error

    async def _link(self, place: Place) -> _Link:
        """Return the connection to `place`, made anew where it died."""
        task = self._links.get(place)
        if task is None or (task.done() and not _alive(task)):
            task = self._links[place] = asyncio.create_task(self._connect(place))
            task.add_done_callback(_heard_of)
        # Others may wait for it too, whatever becomes of this call.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def _session(
        self, host: str, command: str, heard: Callable[[bytes, bool], None], *, kept: bool = False
    ) -> AsyncIterator[tuple[Channel, Session]]:
        """Yield a session that runs `command`, as soon as there is room for one."""
        place = self._place(host)
        for pause in (*OPEN_PAUSES, None):
            link = await self._link(place)
            async with link.kept if kept else nullcontext(), link.sessions:
                try:
                    channel, session = await start(link.connection, command, heard)
                except asyncssh.Error as error:
                    # Nothing was begun: the host was set up anew, which breaks the old connection
                    # when it is used, or its sshd is not yet done with a session that is over.
                    if pause is not None:
                        await asyncio.sleep(pause)
                        continue
                    if link.connection.is_closed():
                        words = f"the connection to {host} was lost: {error}"
                        raise SshUnreachable(words) from error
                    raise SshError(f"{host} refuses a command: {error}") from error
                try:
                    yield channel, session
                finally:
                    channel.abort()
                return

    async def _connect(self, place: Place) -> _Link:
        jump = self._settings.jump
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                through = None
                if jump is not None and jump != place:
                    through = (await self._link(jump)).connection
                async with self._connecting:
                    return _Link(await connect(place, self._settings, self._known_hosts, through))
        except TimeoutError as error:
            words = f"{place} did not answer within {CONNECT_TIMEOUT:g} s"
            raise SshUnreachable(words) from error


def _alive(task: asyncio.Task[_Link]) -> bool:
    if task.cancelled() or task.exception() is not None:
        return False
    return not task.result().connection.is_closed()


def _heard_of(task: asyncio.Task[_Link]) -> None:
    """Take note of an error, which nobody may be left to wait for."""
    if not task.cancelled():
        task.exception()
