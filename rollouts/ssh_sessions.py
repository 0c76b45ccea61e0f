"""One command on an SSH connection, heard as it speaks."""

import asyncio
import signal as signals
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncssh

Channel = asyncssh.SSHClientChannel[Any]


class Session(asyncssh.SSHClientSession[bytes]):
    """One command: hands on what it says, and tells when it exits and when all is said."""

    def __init__(self, heard: Callable[[bytes, bool], None]) -> None:
        self._heard = heard
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int | None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._heard(data, datatype == asyncssh.EXTENDED_DATA_STDERR)

    def exit_status_received(self, status: int) -> None:
        # Shells say so that a signal ended what they ran; timeout(1) does too.
        self._exit(128 - status if status > 128 else status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._exit(-getattr(signals, f"SIG{signal}", signals.SIGKILL))

    def connection_lost(self, exc: Exception | None) -> None:
        self._exit(None)
        if not self.closed.done():
            self.closed.set_result(None)

    def _exit(self, status: int | None) -> None:
        if not self.exited.done():
            self.exited.set_result(status)

    async def exited_within(self, seconds: float | None, *others: asyncio.Future[Any]) -> None:
        """Return when it exited, one of `others` is done, or `seconds` are over."""
        await _first(seconds, self.exited, *others)

    async def closed_within(self, seconds: float, *others: asyncio.Future[Any]) -> None:
        """Return when all is said, one of `others` is done, or `seconds` are over."""
        await _first(seconds, self.closed, *others)


async def _first(seconds: float | None, *futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def start(
    connection: asyncssh.SSHClientConnection, command: str, heard: Callable[[bytes, bool], None]
) -> tuple[Channel, Session]:
    """Have the login shell run `command`; `heard` is told its output, and whether on stderr.

    Raises asyncssh.Error.
    """
    session = Session(heard)
    starting = asyncio.ensure_future(
        connection.create_session(
            lambda: session, command, encoding=None, request_pty=False, env=None, send_env=()
        )
    )
    try:
        channel, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Given up half open, it would take one of the few sessions of the connection for good.
        starting.add_done_callback(_abort)
        raise
    return channel, session


def say(channel: Channel, data: bytes) -> None:
    """Send `data` to the command's input; it goes nowhere where the command has just ended."""
    with suppress(BrokenPipeError):
        channel.write(data)


def _abort(starting: "asyncio.Future[tuple[Channel, Any]]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result()[0].abort()
