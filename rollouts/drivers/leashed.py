"""A program that outlives neither this process nor the time for which it may run."""

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import strerror
from types import TracebackType
from typing import BinaryIO, Self

from rollouts.drivers import leash
from rollouts.drivers.process_group import end_group

WORD_INTERVAL = 0.5  # seconds between two words to the leash


class Leashed:
    """A program in a group of its own, which is killed unless it is told to go on.

    `left` tells for how many seconds from now the program may go on; it is asked at the start
    and every WORD_INTERVAL while `wait` runs. The program is killed when they are over, be
    this process stopped, and when this process ends or leaves the context, whatever comes
    first. What the program leaves running after its own end is not.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        group: int,
        link: socket.socket,
        left: Callable[[], float],
    ) -> None:
        self._process = process
        self._group = group
        self._link = link
        self._left = left

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        left: Callable[[], float],
        *,
        output: BinaryIO,
        env: Mapping[str, str],
        directory: str | None,
        errors: BinaryIO | None = None,
    ) -> Self:
        """Return the program `arguments`, started with no input, its output going to `output`.

        Standard error goes to `errors` where that is given. Raises OSError and ValueError where
        the program can't be started, as subprocess does.
        """
        link, other_end = socket.socketpair()
        try:
            link.setblocking(False)
            with other_end:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", leash.__file__),
                    *(str(_until(left)), env.get("LC_CTYPE", ""), *arguments),
                    stdin=other_end.fileno(),
                    stdout=output,
                    stderr=errors or output,
                    cwd=directory,
                    env=env,
                    start_new_session=True,
                )
            group = await _hear(link)
            if group is None:
                raise ChildProcessError(f"its leash ended first, with {await process.wait()}")
            if group < 0:
                await process.wait()
                raise OSError(-group, strerror(-group), arguments[0])
        except BaseException:
            link.close()
            raise
        return cls(process, group, link, left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._link.close()

    async def wait(self) -> int:
        """Return the exit status, or minus the number of the signal that ended the program."""
        hearing = asyncio.ensure_future(_hear(self._link))
        try:
            while not (await asyncio.wait({hearing}, timeout=WORD_INTERVAL))[0]:
                # One that gets through no more is missed by the leash, which is what it is for.
                with suppress(OSError):
                    self._link.send(leash.encode(_until(self._left)))
        finally:
            hearing.cancel()  # not waited for, as a second cancel is for `end`
        status = hearing.result()
        if status is None:  # somebody killed the leash
            await self.end()
        ended = await self._process.wait()
        return ended if status is None else status

    async def end(self) -> None:
        """End the program with all of its group; see end_group."""
        await end_group(self._group, self._process)


def _until(left: Callable[[], float]) -> int:
    # The clock is read first, so that being stopped in between takes away from what is left.
    return leash.now() + int(left() * 1e9)


async def _hear(link: socket.socket) -> int | None:
    """Return the next number that the leash says; None if it is gone."""
    with suppress(ConnectionResetError):  # it is gone, and a word was on its way to it
        data = await asyncio.get_running_loop().sock_recv(link, leash.NUMBER_BYTES)
        return leash.decode(data)
    return None
