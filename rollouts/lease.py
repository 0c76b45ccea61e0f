"""Pure: the owner's side of a lease, which goes by its own clock; see `ports.Lease`."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from rollouts.ports import LeaseLost

SECONDS = 10.0  # so long an owner that is not heard of any more keeps others out
RENEW_EVERY = 2.5  # seconds
RENEW_AGAIN = 0.5  # seconds between two tries while nobody answers


def clock() -> float:
    """Return seconds that go on while this machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """A lease that was granted, as asked for at `asked_at`, and is kept. For one event loop.

    It is counted from before it was asked for, so that it ends here before it ends for others.
    """

    def __init__(self, name: str, asked_at: float, clock: Callable[[], float] = clock) -> None:
        self._name = name
        self._clock = clock
        self._until = asked_at + SECONDS
        self._lost = False
        self._changed = asyncio.Event()

    def left(self) -> float:
        """See ports.Lease."""
        return 0.0 if self._lost else self._until - self._clock()

    async def hold(self, seconds: float) -> None:
        """See ports.Lease."""
        while self.left() < seconds:
            if self._lost:
                raise self.lost()
            self._changed.clear()
            await self._changed.wait()

    def now(self) -> float:
        """Return the time to give to `extended`, before the extension is asked for."""
        return self._clock()

    def extended(self, asked_at: float) -> None:
        """Note that it was extended, as asked for at `asked_at`."""
        self._until = max(self._until, asked_at + SECONDS)
        self._changed.set()

    def lost(self) -> LeaseLost:
        """Note that another has it; return what to raise."""
        self._lost = True
        self._changed.set()
        return LeaseLost(f"{self._name} has another owner now")

    async def keep(self, renew: Callable[[], Awaitable[bool | None]]) -> None:
        """Renew it until it is lost; raise LeaseLost then.

        `renew` asks for an extension: True if granted, False if another has it, None if nobody
        answers.
        """
        while True:
            await asyncio.sleep(max(0.0, self.left() - SECONDS + RENEW_EVERY))
            asked_at = self._clock()
            match await renew():
                case True:
                    self.extended(asked_at)
                case False:
                    raise self.lost()
                case None:
                    await asyncio.sleep(RENEW_AGAIN)
