"""What is wrong with the machinery, looked at once for all sockets of a process.

A heartbeat says what the last look found and never waits for one: Redis may hang.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from django.db import InterfaceError, OperationalError, connection

from dashboard.attention import Notice, machinery

log = logging.getLogger(__name__)

EVERY = 4.0  # seconds between two looks: a little less than between two heartbeats

looker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="troubles")


class Troubles:
    """The last look, and the one under way."""

    def __init__(self) -> None:
        self._found: list[Notice] = []
        self._looking: asyncio.Task[None] | None = None
        self._due = 0.0

    @property
    def texts(self) -> list[str]:
        """What was wrong, in a sentence each."""
        return [notice.text for notice in self._found]

    @property
    def redis_away(self) -> bool:
        """Whether news did not come through Redis."""
        return any(notice.key == "redis" for notice in self._found)

    def look(self) -> None:
        """Begin a look where the last one is too long ago."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due or (self._looking and not self._looking.done()):
            return
        self._due = loop.time() + EVERY
        self._looking = loop.create_task(self._look())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._found = await loop.run_in_executor(looker, _machinery)
        except (OperationalError, InterfaceError) as error:
            log.warning("Nobody can look at the machinery: %s", error)


def _machinery() -> list[Notice]:
    try:
        return machinery()
    finally:
        connection.close()  # back to the pool


troubles = Troubles()
