"""One instance on its way to a version: out of rotation, updated, verified, back.

The same way leads forward to the new version and back to the old one.
"""

import asyncio
from collections.abc import Awaitable, Callable

from rollouts import verdicts
from rollouts.facts import Answer, Server, ServerState, Target
from rollouts.policy import Policy
from rollouts.ports import BalancerError, DriverError, Interrupted, Ports
from rollouts.rotation import Rotation
from rollouts.states import TargetStatus

DriverCall = Callable[[Callable[[str], None]], Awaitable[None]]

# Between two looks at the open sessions: seconds at first, as a part of the wait, and at most.
SESSIONS_FIRST, SESSIONS_GROWTH, SESSIONS_LONGEST = 0.02, 0.1, 0.5
OUTPUT_INTERVAL = 1.0  # seconds between two pieces of a driver's output
SLOW_START_STEPS = 10
DIGEST_SHOWN = 19  # characters: an algorithm, and 12 digits as Docker shows them
PUT_BACK_AGAIN = 3  # times, where a balancer that was restarted undoes it
# Seconds of the lease that must be left for a driver to begin, and below which it is ended: it
# has to be gone, with all its children, before anybody else may begin.
DRIVER_NEEDS = 5.0
DRIVER_ENDS_BELOW = 2.5


class HeldOut(Exception):
    """The instance can't go on; it stays out of rotation, and the message says why."""


class CutShort(Exception):
    """The lease ran low while a driver was to run: it was ended, or not begun; to be repeated."""


async def run_driver(ports: Ports, name: str, timeout: float, call: DriverCall) -> None:
    """Await a driver's `call`, recording its output meanwhile; ended with it if cancelled.

    Raises DriverError, TimeoutError after `timeout` seconds, CutShort once the lease is held
    again where it ran low, or LeaseLost.
    """
    if ports.lease.left() >= DRIVER_NEEDS:
        async with asyncio.timeout(timeout):
            if await _came_to_its_end(ports, name, call):
                return
    await ports.lease.hold(DRIVER_NEEDS)
    await ports.journal.note(
        f"{name}: the worker could not renew its hold on the deployment in time, so the driver "
        "was not left running; this step begins anew.",
        name,
    )
    raise CutShort


async def _came_to_its_end(ports: Ports, name: str, call: DriverCall) -> bool:
    """Run a driver's `call`; return False where it had to be ended because of the lease."""
    written: list[str] = []

    async def flush() -> None:
        if written:
            text = "\n".join(written)
            written.clear()
            await ports.journal.output(name, text)

    task = asyncio.ensure_future(call(written.append))
    try:
        while not task.done() and (spare := ports.lease.left() - DRIVER_ENDS_BELOW) > 0:
            await asyncio.wait({task}, timeout=min(OUTPUT_INTERVAL, spare))
            await flush()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            await flush()
        else:
            task.exception()  # heard, though a caller that is cancelled passes nothing on
    if task.cancelled():
        return False
    task.result()
    return True


class Change:
    """One target on its way to `version`."""

    def __init__(
        self,
        ports: Ports,
        rotation: Rotation,
        policy: Policy,
        target: Target,
        version: str,
        *,
        back: bool,
        update: bool,
        weight: int,
    ) -> None:
        self._ports = ports
        self._rotation = rotation
        self._policy = policy
        self._target = target
        self._instance = target.instance
        self._name = target.instance.name
        self._server = target.instance.server
        self._version = version
        self._back = back
        self._wants_update = update
        self._weight = weight  # with which it enters rotation
        self._had: int | None = None  # the weight that it has meanwhile, where that is known

    async def run(self) -> None:
        """Bring the target to `version` and into rotation, or hold it out with a reason."""
        try:
            if not self._version:
                raise HeldOut("its old version is not known, so there is no way back")
            while not await self._arrive():
                pass
        except Interrupted:
            return  # the wish that came between decides what becomes of the target
        except (HeldOut, BalancerError) as error:
            await self._ports.journal.target(
                self._name,
                TargetStatus.FAILED,
                f"{self._name} is held out: {error}.",
                error=str(error),
                soon=True,
            )

    async def _arrive(self) -> bool:
        """Go the whole way; return False where it was cut short and has to be gone again."""
        if not self._wants_update:
            await self._put_back(*await self._verify())
            return True
        await self._take_out()
        try:
            if not self._has_version():
                await self._update()
        except CutShort:
            return False
        await self._put_back(*await self._verify())
        return True

    def _has_version(self) -> bool:
        """Whether the target is known to have the version, and only has to be verified.

        So it is on the way back with one that was never given the new version, and with one
        whose update an earlier owner of the deployment saw come to its end.
        """
        untouched = self._back and not self._target.touched
        checked = self._target.status is TargetStatus.HEALTH_CHECKING
        return untouched or (checked and self._target.returning == self._back)

    async def _look(self) -> Server:
        report = await self._rotation.report()
        try:
            return report.servers[self._server]
        except KeyError:
            raise HeldOut(f"the balancer no longer knows the server {self._server}") from None

    async def _take_out(self) -> None:
        """Drain, and wait until no session is open or drain_timeout is over."""
        await self._ports.journal.target(
            self._name, TargetStatus.DRAINING, f"Draining {self._name}."
        )
        await self._rotation.take_out(self._server)
        loop = asyncio.get_running_loop()
        since = loop.time()
        deadline = since + self._policy.drain_timeout
        told, cut = 0, False
        while (server := await self._look()).state is ServerState.READY or server.sessions != 0:
            sessions = server.sessions
            if server.state is ServerState.READY:
                await self._rotation.take_out(self._server)  # it forgot between the two answers
            elif cut:
                return  # clients with a sticky cookie may come back to it
            elif loop.time() >= deadline and sessions is None:
                await self._ports.journal.note(
                    f"{self._name}: {self._policy.drain_timeout:g} s (drain_timeout) are over; "
                    "the balancer does not count its open sessions.",
                    self._name,
                )
                return
            elif loop.time() >= deadline:
                await self._ports.journal.note(
                    f"{self._name}: {sessions} sessions still open after "
                    f"{self._policy.drain_timeout:g} s (drain_timeout), cutting them.",
                    self._name,
                )
                await self._rotation.cut(self._server)
                cut = True
                continue
            if sessions is not None and sessions != told:
                told = sessions
                await self._ports.journal.sessions(self._name, sessions)
            soon = max(SESSIONS_FIRST, SESSIONS_GROWTH * (loop.time() - since))
            left = max(0.0, deadline - loop.time())
            await asyncio.sleep(min(soon, SESSIONS_LONGEST, left))
        self._had = server.weight

    async def _update(self) -> None:
        """Run the driver; what it leaves behind when it fails is asked of the instance."""
        await self._ports.journal.target(
            self._name,
            TargetStatus.UPDATING,
            f"{self._name} is drained; updating to {self._version}.",
            touched=not self._back,
        )
        instance, version, left = self._instance, self._version, self._ports.lease.left
        give = self._ports.driver.roll_back if self._back else self._ports.driver.update
        try:
            await run_driver(
                self._ports,
                self._name,
                self._policy.update_timeout,
                lambda output: give(instance, version, output, left),
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

    async def _verify(self) -> tuple[str, str]:
        """Probe until the instance has passed, as the policy asks.

        Returns how, in words, and the digest of what it runs, where somebody can tell.
        """
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
                    return reason, answer.digest
                case verdicts.Unhealthy(reason):
                    raise HeldOut(reason)
                case verdicts.AskAgain(seconds):
                    await asyncio.sleep(seconds)
                    heard = await self._ports.probe.ask(self._instance)

    async def _put_back(self, reason: str, digest: str) -> None:
        """Return into rotation, confirmed by the balancer, the weight ramped if asked for."""
        ramp = self._policy.slow_start if self._weight else 0
        first = 1 if ramp else self._weight
        if first != self._had or self._rotation.weighs(self._server):
            await self._rotation.set_weight(self._server, first)
        self._rotation.want_weights({self._server: first})
        await self._rotation.put_back(self._server)
        if ramp:
            for step in range(1, SLOW_START_STEPS + 1):
                await asyncio.sleep(ramp / SLOW_START_STEPS)
                weight = max(1, self._weight * step // SLOW_START_STEPS)
                await self._rotation.set_weight(self._server, weight)
        await self._see_it_serve()
        status = TargetStatus.ROLLED_BACK if self._back else TargetStatus.HEALTHY
        does = "serves with" if self._weight else "is ready, without traffic, with"
        what = f"{self._version} ({digest[:DIGEST_SHOWN]})" if digest else self._version
        await self._ports.journal.target(
            self._name,
            status,
            f"{self._name} {does} {what}: {reason}.",
            version=self._version,
            digest=digest,
            soon=True,
        )

    async def _see_it_serve(self) -> None:
        """Put it back again where a balancer that was restarted came back with an older state."""
        for _ in range(PUT_BACK_AGAIN):
            server = await self._look()
            if server.serving or (server.ready and not self._weight):
                return
            if server.ready:
                await self._rotation.set_weight(self._server, self._weight)
            elif server.state is ServerState.DRAIN:
                await self._rotation.put_back(self._server)
            else:
                break
        self._rotation.want_out(self._server)
        raise HeldOut(
            f"the balancer does not send it traffic ({server.state}, weight {server.weight})"
        )
