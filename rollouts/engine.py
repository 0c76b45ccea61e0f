"""The interpreter of a plan. It reads what is stored, decides, acts through a port, writes
what happened, and reads again. It holds nothing that it could not read again.
"""

import asyncio
from collections.abc import Iterable

from rollouts import planning, verdicts
from rollouts.change import Change, Ports, persist, run_driver
from rollouts.facts import Change as ChangeStep
from rollouts.facts import Pause, Prepare, Rollout, Step
from rollouts.ports import BalancerError, DriverError
from rollouts.states import IN_FLIGHT, TERMINAL, DeploymentStatus, IllegalMove, TargetStatus

WATCH_INTERVAL = 0.5  # seconds between two looks for a wish while something is under way
TRAFFIC_INTERVAL = 2.0  # seconds between two records of what clients got
PREPARED_AT_ONCE = 20  # instances

Tasks = dict[str, asyncio.Task[None]]


class Engine:
    """Drives one deployment to its end, or until it is cancelled as a task."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._journal = ports.journal
        self._unhealthy: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Go on from what is stored until the deployment has ended."""
        rollout = await self._journal.read()
        if rollout.status in TERMINAL:
            return
        await self._survey(rollout)
        traffic = asyncio.create_task(self._follow_traffic())
        try:
            while await self._advance_unless_ended():
                pass
        finally:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)

    async def _advance_unless_ended(self) -> bool:
        """Advance; a deployment that was cancelled between read and write is no error."""
        try:
            return await self._advance()
        except IllegalMove:
            if (await self._journal.read()).status not in TERMINAL:
                raise
            return False

    async def _advance(self) -> bool:
        """Do what is next; return False once the deployment has ended."""
        rollout = await self._journal.read()
        match verdicts.decide(rollout, self._ports.clock.now()):
            case verdicts.Ended():
                return False
            case verdicts.Begin(reason):
                await self._begin(rollout, reason)
            case verdicts.Take(cursor, step):
                await self._take(rollout, cursor, step)
            case verdicts.Hold():
                await asyncio.sleep(WATCH_INTERVAL)
            case verdicts.MoveTo(status, reason):
                await self._journal.move(status, reason)
            case verdicts.GoBack(everything, ends_as, reason):
                steps = planning.way_back(rollout, everything=everything)
                await self._journal.begin_way_back(steps, ends_as, reason)
            case verdicts.Finish(status, reason):
                await self._finish(rollout, status, reason)
        return True

    async def _survey(self, rollout: Rollout) -> None:
        """Ask the instances that were not changed yet whether they are well."""
        waiting = [t for t in rollout.targets if t.status is TargetStatus.PENDING]
        answers = await asyncio.gather(*(self._ports.probe.ask(t.instance) for t in waiting))
        self._unhealthy = frozenset(
            target.instance.name
            for target, answer in zip(waiting, answers, strict=True)
            if not answer.ok
        )

    async def _begin(self, rollout: Rollout, reason: str) -> None:
        """Start, unless inventory and balancer disagree."""
        try:
            report = await persist(self._ports.balancer.report)
        except BalancerError as error:
            await self._journal.move(
                DeploymentStatus.FAILED,
                f"Nothing was touched: the balancer did not answer ({error}).",
            )
            return
        servers = [target.instance.server for target in rollout.targets]
        if missing := [server for server in servers if server not in report.servers]:
            names = planning.names(missing)
            await self._journal.move(
                DeploymentStatus.FAILED,
                f"Nothing was touched: the balancer does not know {names}; "
                "add them to its backend or correct the inventory.",
            )
            return
        await self._journal.move(DeploymentStatus.IN_PROGRESS, reason)
        await self._journal.traffic(report)
        if self._unhealthy:
            names = planning.names(sorted(self._unhealthy))
            await self._journal.note(f"Unhealthy before the start, counted as out: {names}.")

    async def _take(self, rollout: Rollout, cursor: int, step: Step) -> None:
        match step:
            case Prepare():
                await self._prepare(rollout, cursor)
            case Pause(seconds):
                await self._pause(rollout, cursor, seconds)
            case ChangeStep():
                await self._change(rollout, cursor, step)

    async def _pause(self, rollout: Rollout, cursor: int, seconds: float) -> None:
        now = self._ports.clock.now()
        if rollout.waiting_until is None:
            await self._journal.step(
                cursor, now + seconds, f"Waiting {seconds:g} s before the next batch."
            )
        elif now >= rollout.waiting_until:
            await self._journal.step(cursor + 1, None, "The pause is over.")
        else:
            await asyncio.sleep(min(WATCH_INTERVAL, rollout.waiting_until - now))

    async def _prepare(self, rollout: Rollout, cursor: int) -> None:
        """Have the driver fetch the version everywhere; a failure touches nothing."""
        places = asyncio.Semaphore(PREPARED_AT_ONCE)
        driver = self._ports.driver

        async def prepare(name: str) -> None:
            instance, version = rollout.target(name).instance, rollout.version
            async with places, asyncio.timeout(rollout.policy.update_timeout):
                await run_driver(
                    self._ports, name, lambda output: driver.prepare(instance, version, output)
                )

        tasks: Tasks = {
            target.instance.name: asyncio.create_task(prepare(target.instance.name))
            for target in rollout.targets
        }
        try:
            while not all(task.done() for task in tasks.values()):
                await self._wait(tasks)
                if await self._going_on() is None:
                    return
        finally:
            await _end(tasks.values())
        for name, task in tasks.items():
            error = task.exception()
            if isinstance(error, DriverError | TimeoutError):
                why = str(error) or f"longer than {rollout.policy.update_timeout:g} s"
                await self._journal.move(
                    DeploymentStatus.FAILED,
                    f"Nothing was touched: {name} could not be prepared: {why}.",
                )
                return
            if error is not None:
                raise error
        await self._journal.step(cursor + 1, None, "All instances are prepared.")

    async def _change(self, rollout: Rollout, cursor: int, step: ChangeStep) -> None:
        """Change the targets of a batch at the same time, as many as may be out."""
        tasks: Tasks = {}
        told = ""
        current: Rollout | None = rollout
        try:
            while current is not None:
                rollout = current
                waiting = [
                    name
                    for name in step.targets
                    if name not in tasks and not rollout.settled(rollout.target(name))
                ]
                if waiting:
                    told = await self._admit(rollout, waiting, tasks, told)
                elif not tasks:
                    await self._journal.step(cursor + 1, None, _batch_words(rollout, step))
                    return
                await self._wait(tasks)
                for name in [name for name, task in tasks.items() if task.done()]:
                    tasks.pop(name).result()
                current = await self._going_on()
        finally:
            await _end(tasks.values())

    async def _admit(self, rollout: Rollout, waiting: list[str], tasks: Tasks, told: str) -> str:
        """Start to change those of `waiting` that may be taken out now; return why others wait.

        What was just admitted is counted as out at once: its drain may not be stored yet.
        """
        report = await persist(self._ports.balancer.report)
        cured = {
            target.instance.name
            for target in rollout.targets
            if target.status in {TargetStatus.HEALTHY, TargetStatus.ROLLED_BACK}
        }
        out = planning.out_now(rollout, report, self._unhealthy - cured) | tasks.keys()
        admitted, why = verdicts.room(rollout, waiting, out)
        for name in admitted:
            target = rollout.target(name)
            change = Change(
                self._ports,
                rollout.policy,
                target,
                rollout.wanted(target),
                back=rollout.going_back,
            )
            tasks[name] = asyncio.create_task(change.run())
        if why and not tasks and why != told:
            await self._journal.note(why[0].upper() + why[1:] + ".")
            return why
        return told

    async def _wait(self, tasks: Tasks) -> None:
        """Wait until a task ends, or until it is time to look for a wish."""
        running = [task for task in tasks.values() if not task.done()]
        if running:
            await asyncio.wait(running, timeout=WATCH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        elif not tasks:
            await asyncio.sleep(WATCH_INTERVAL)

    async def _going_on(self) -> Rollout | None:
        """Return the deployment as it is now, or None where what is under way has to end."""
        rollout = await self._journal.read()
        interrupted = verdicts.interruption(rollout, self._ports.clock.now()) is not None
        return None if interrupted or rollout.status in TERMINAL else rollout

    async def _finish(self, rollout: Rollout, status: DeploymentStatus, reason: str) -> None:
        for target in rollout.targets:
            if target.status in IN_FLIGHT:
                name = target.instance.name
                why = f"stopped while {target.status.value.replace('_', ' ')}"
                await self._journal.target(
                    name, TargetStatus.FAILED, f"{name} is held out: {why}.", error=why
                )
        await self._record_traffic()
        await self._journal.move(status, reason)

    async def _follow_traffic(self) -> None:
        while True:
            await asyncio.sleep(TRAFFIC_INTERVAL)
            await self._record_traffic()

    async def _record_traffic(self) -> None:
        try:
            report = await self._ports.balancer.report()
        except BalancerError:
            return  # news, not truth: the next report counts on
        await self._journal.traffic(report)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what still runs, and wait until it has ended what it began."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _batch_words(rollout: Rollout, step: ChangeStep) -> str:
    failed = [name for name in step.targets if rollout.target(name).status is TargetStatus.FAILED]
    well = len(step.targets) - len(failed)
    where = "The way back: group" if rollout.going_back else "Batch"
    words = f"{where} {step.batch} done: {well} of {len(step.targets)} serve"
    return f"{words}, held out: {planning.names(failed)}." if failed else f"{words}."
