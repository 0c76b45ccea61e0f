"""An event loop whose time is virtual: waiting costs nothing."""

import asyncio
import heapq
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")
START = 1_000_000.0
MOST_TURNS = 20_000  # of the event loop at one instant


class Killed(BaseException):
    """The process that asks for this is dead."""


def _forget_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of what the tasks of a killed process ended with: nobody is left to ask."""
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that does not wait: its time jumps to the next timer.

    It has no selector: no thread and no socket of the simulated world wakes it. Its own turn
    takes half the time of asyncio's, which is most of what a run costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = START
        self._turns = 0  # since time went on
        self.set_exception_handler(_forget_the_dead)

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not ready:
            if not timers:
                raise RuntimeError("the simulated world waits for nothing: a deadlock")
            self._now = max(self._now, timers[0]._when)
            self._turns = 0
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise RuntimeError("the engine goes round in circles, and time stands still")
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run `main` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
