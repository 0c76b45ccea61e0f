"""What a driver does on all instances of a deployment: look before it, prepare, let go at last."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from rollouts.change import CutShort, run_driver
from rollouts.facts import Rollout, Target
from rollouts.ports import DriverError, Ports
from rollouts.states import SERVING

R = TypeVar("R")

AT_ONCE = 20  # instances
WATCH_INTERVAL = 0.5  # seconds between two looks for a wish while something is under way
PREFLIGHT_TIMEOUT = 20.0  # seconds for what a driver looks at on one instance
FINISH_TIMEOUT = 30.0  # seconds for what a driver lets go of on one instance


class Everywhere:
    """The driver of `ports` on all instances; `going_on` says None where that has to end."""

    def __init__(self, ports: Ports, going_on: Callable[[], Awaitable[Rollout | None]]) -> None:
        self._ports = ports
        self._going_on = going_on
        self._places = asyncio.Semaphore(AT_ONCE)

    async def missed(self, rollout: Rollout) -> list[str] | None:
        """Return what the driver misses on the instances; None where a wish comes between."""
        if not rollout.policy.preflight:
            return []
        found = await self._on_all(rollout.targets, self._missed_on)
        return None if found is None else [words for missed in found for words in missed]

    async def prepare(self, rollout: Rollout) -> list[str] | None:
        """Have the driver fetch the version everywhere; return where that failed, and why.

        Returns None where a wish comes between.
        """
        found = await self._on_all(rollout.targets, lambda one: self._unprepared(rollout, one))
        return None if found is None else [words for words in found if words]

    async def let_go(self, rollout: Rollout) -> None:
        """Have the driver let go of what it kept for the way back of those that need none."""
        well = [one for one in rollout.targets if one.touched and one.status in SERVING]
        tasks = [asyncio.create_task(self._let_go_of(target)) for target in well]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    async def _on_all(
        self, targets: Iterable[Target], call: Callable[[Target], Awaitable[R]]
    ) -> list[R] | None:
        """Return what `call` gives for each target; None where a wish comes between."""

        async def one(target: Target) -> R:
            async with self._places:
                return await call(target)

        tasks = [asyncio.create_task(one(target)) for target in targets]
        try:
            while (await asyncio.wait(tasks, timeout=WATCH_INTERVAL))[1]:
                if await self._going_on() is None:
                    return None
        finally:
            await end(tasks)
        return [task.result() for task in tasks]

    async def _missed_on(self, target: Target) -> list[str]:
        name = target.instance.name
        try:
            async with asyncio.timeout(PREFLIGHT_TIMEOUT):
                ticks = await self._ports.driver.preflight(target.instance, target.old_version)
        except TimeoutError:
            return [f"{name}: no answer within {PREFLIGHT_TIMEOUT:g} s"]
        return [f"{name}: not {tick.what}: {tick.detail}" for tick in ticks if tick.ok is False]

    async def _unprepared(self, rollout: Rollout, target: Target) -> str:
        driver, left = self._ports.driver, self._ports.lease.left
        instance, version = target.instance, rollout.version
        timeout = rollout.policy.update_timeout
        while True:
            try:
                with suppress(CutShort):
                    await run_driver(
                        self._ports,
                        instance.name,
                        timeout,
                        lambda output: driver.prepare(instance, version, output, left),
                    )
                    return ""
            except (DriverError, TimeoutError) as error:
                why = str(error) or f"longer than {timeout:g} s"
                return f"{instance.name} could not be prepared: {why}"

    async def _let_go_of(self, target: Target) -> None:
        name = target.instance.name
        driver, left = self._ports.driver, self._ports.lease.left
        try:
            async with self._places:
                await run_driver(
                    self._ports,
                    name,
                    FINISH_TIMEOUT,
                    lambda output: driver.finish(target.instance, output, left),
                )
        except (DriverError, TimeoutError, CutShort) as error:
            why = str(error) or f"not done within {FINISH_TIMEOUT:g} s"
            await self._ports.journal.note(
                f"{name}: what was kept for the way back is left: {why}.", name
            )


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait until it has ended what it began."""
    running = list(tasks)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
