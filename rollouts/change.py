"""One instance on its way to a version: out of rotation, updated, verified, back.

The same way leads forward to the new version and back to the old one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from rollouts import verdicts
from rollouts.facts import Answer, Server, Target
from rollouts.policy import Policy
from rollouts.ports import (
    Balancer,
    BalancerError,
    BalancerUnreachable,
    Clock,
    Driver,
    DriverError,
    Journal,
    Probe,
)
from rollouts.states import TargetStatus

R = TypeVar("R")

BALANCER_PATIENCE = 30.0  # seconds that a balancer out of reach is asked again
BALANCER_FIRST_DELAY = 0.1
BALANCER_LONGEST_DELAY = 2.0
SESSIONS_INTERVAL = 0.02  # seconds between two looks at the open sessions
OUTPUT_INTERVAL = 1.0  # seconds between two pieces of a driver's output
SLOW_START_STEPS = 10


@dataclass(frozen=True)
class Ports:
    """All that the engine may touch."""

    journal: Journal
    balancer: Balancer
    driver: Driver
    probe: Probe
    clock: Clock


class HeldOut(Exception):
    """The instance can't go on; it stays out of rotation, and the message says why."""


async def persist(call: Callable[[], Awaitable[R]]) -> R:
    """Return what the balancer answers, asking again with back-off while it is out of reach.

    Raises BalancerError at once where it refuses, and after BALANCER_PATIENCE where it is away.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BALANCER_PATIENCE
    delay = BALANCER_FIRST_DELAY
    while True:
        try:
            return await call()
        except BalancerUnreachable:
            if loop.time() + delay > deadline:
                raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, BALANCER_LONGEST_DELAY)


async def run_driver(
    ports: Ports, name: str, call: Callable[[Callable[[str], None]], Awaitable[None]]
) -> None:
    """Await a driver's `call`, recording its output meanwhile; ended with it if cancelled."""
    written: list[str] = []

    async def flush() -> None:
        if written:
            text = "\n".join(written)
            written.clear()
            await ports.journal.output(name, text)

    task = asyncio.ensure_future(call(written.append))
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=OUTPUT_INTERVAL)
            await flush()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            await flush()
    await task


class Change:
    """One target on its way to `version`."""

    def __init__(
        self, ports: Ports, policy: Policy, target: Target, version: str, *, back: bool
    ) -> None:
        self._ports = ports
        self._policy = policy
        self._target = target
        self._instance = target.instance
        self._name = target.instance.name
        self._server = target.instance.server
        self._version = version
        self._back = back

    async def run(self) -> None:
        """Bring the target to `version` and into rotation, or hold it out with a reason."""
        try:
            if not self._version:
                raise HeldOut("its old version is not known, so there is no way back")
            await self._take_out()
            # On the way back an instance that was never given the new version keeps what it runs.
            if not self._back or self._target.touched:
                await self._update()
            await self._put_back(await self._verify())
        except (HeldOut, BalancerError) as error:
            await self._ports.journal.target(
                self._name,
                TargetStatus.FAILED,
                f"{self._name} is held out: {error}.",
                error=str(error),
                soon=True,
            )

    async def _look(self) -> Server:
        report = await persist(self._ports.balancer.report)
        try:
            return report.servers[self._server]
        except KeyError:
            raise HeldOut(f"the balancer no longer knows the server {self._server}") from None

    async def _take_out(self) -> None:
        """Drain, and wait until no session is open or drain_timeout is over."""
        await self._ports.journal.target(
            self._name, TargetStatus.DRAINING, f"Draining {self._name}."
        )
        await persist(lambda: self._ports.balancer.drain(self._server))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.drain_timeout
        told = 0
        while (sessions := (await self._look()).sessions) > 0:
            if loop.time() >= deadline:
                await self._ports.journal.note(
                    f"{self._name}: {sessions} sessions still open after "
                    f"{self._policy.drain_timeout:g} s (drain_timeout), cutting them.",
                    self._name,
                )
                await persist(lambda: self._ports.balancer.cut(self._server))
                return
            if sessions != told:
                told = sessions
                await self._ports.journal.sessions(self._name, sessions)
            await asyncio.sleep(min(SESSIONS_INTERVAL, max(0.0, deadline - loop.time())))

    async def _update(self) -> None:
        """Run the driver; what it leaves behind when it fails is asked of the instance."""
        await self._ports.journal.target(
            self._name,
            TargetStatus.UPDATING,
            f"{self._name} is drained; updating to {self._version}.",
            touched=not self._back,
        )
        driver, instance, version = self._ports.driver, self._instance, self._version
        try:
            async with asyncio.timeout(self._policy.update_timeout):
                await run_driver(
                    self._ports, self._name, lambda output: driver.update(instance, version, output)
                )
        except TimeoutError:
            why = f"the update took longer than {self._policy.update_timeout:g} s (update_timeout)"
        except DriverError as error:
            why = f"the update failed: {error}"
        else:
            return
        answer = await self._ports.probe.ask(instance)
        runs = f"it reports {answer.version}" if answer.version else "it reports no version"
        raise HeldOut(f"{why}; {runs}")

    async def _verify(self) -> str:
        """Probe until the instance has passed, as the policy asks; return how, in words."""
        checks = self._policy.verify_version and self._ports.probe.reports_version
        wanted = self._version if checks else None
        since = self._ports.clock.now()
        answers: list[Answer] = []
        # This is also the intent of what follows, the return into rotation; asking needs none.
        checking = self._ports.journal.target(
            self._name, TargetStatus.HEALTH_CHECKING, f"Checking {self._name}."
        )
        heard, _ = await asyncio.gather(self._ports.probe.ask(self._instance), checking)
        while True:
            answer = verdicts.judge(heard, wanted)
            # A streak of "nothing listens yet", asked many times a second, is told once.
            if answer.listening or not answers or answers[-1].listening:
                await self._ports.journal.check(
                    self._name, answer, f"{self._name}: {verdicts.describe(answer)}"
                )
            answers.append(answer)
            verdict = verdicts.health(answers, since, self._ports.clock.now(), self._policy)
            match verdict:
                case verdicts.Healthy(reason):
                    return reason
                case verdicts.Unhealthy(reason):
                    raise HeldOut(reason)
                case verdicts.AskAgain(seconds):
                    await asyncio.sleep(seconds)
                    heard = await self._ports.probe.ask(self._instance)

    async def _put_back(self, reason: str) -> None:
        """Return into rotation, confirmed by the balancer, the weight ramped if asked for."""
        ramp = self._policy.slow_start
        if ramp:
            await persist(lambda: self._ports.balancer.set_weight(self._server, 1))
        await persist(lambda: self._ports.balancer.ready(self._server))
        if ramp:
            for step in range(1, SLOW_START_STEPS + 1):
                await asyncio.sleep(ramp / SLOW_START_STEPS)
                percent = 100 * step // SLOW_START_STEPS
                await persist(lambda p=percent: self._ports.balancer.set_weight(self._server, p))  # type: ignore[misc]
        server = await self._look()
        if not server.serving:
            raise HeldOut(f"the balancer does not send it traffic ({server.state})")
        status = TargetStatus.ROLLED_BACK if self._back else TargetStatus.HEALTHY
        await self._ports.journal.target(
            self._name,
            status,
            f"{self._name} serves with {self._version}: {reason}.",
            version=self._version,
            soon=True,
        )
