"""The interpreter of a plan. It reads what is stored, decides, acts through a port, writes
what happened, and reads again. It holds nothing that it could not read again.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from rollouts import planning, shifting, verdicts, weights
from rollouts.change import Change
from rollouts.everywhere import WATCH_INTERVAL, Everywhere, end
from rollouts.facts import (
    Approve,
    BalancerReport,
    Instance,
    Prepare,
    Restore,
    Retire,
    Rollout,
    Shift,
    Step,
)
from rollouts.facts import Change as ChangeStep
from rollouts.policy import Policy
from rollouts.ports import BalancerError, Interrupted, Ports
from rollouts.rotation import Rotation, bounded, persist
from rollouts.shifting import full_weights
from rollouts.states import (
    IN_FLIGHT,
    SERVING,
    TERMINAL,
    DeploymentStatus,
    IllegalMove,
    TargetStatus,
)

BALANCER_INTERVAL = 0.5  # seconds between two looks whether the balancer forgot anything
TRAFFIC_INTERVAL = 1.0  # seconds between two records of what clients got
PARKED_FROM = 5.0  # seconds; for a longer wait the worker is given back

Tasks = dict[str, asyncio.Task[None]]


class Engine:
    """Drives one deployment to its end, until it is parked, or until it is cancelled as a task."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._journal = ports.journal
        self._rotation = Rotation(ports.balancer, ports.lease)
        self._shifting = shifting.Shifting(ports, self._rotation)
        self._everywhere = Everywhere(ports, self._going_on)
        self._unhealthy: frozenset[str] | None = None  # not known yet
        self._following: list[asyncio.Task[None]] = []
        self._looked = False  # at the traffic, by this engine
        self._knows_weights = True  # those that were set before
        self._told = ""  # why nothing goes on, where it was told

    async def run(self) -> None:
        """Go on from what is stored until the deployment has ended or is parked.

        Raises LeaseLost as soon as another owner drives it; what was under way is ended then.
        """
        rollout = await self._journal.read()
        if rollout.status in TERMINAL:
            return
        for target in rollout.targets:
            if target.kept_out:
                self._rotation.want_out(target.instance.server)
            elif target.status in SERVING:
                self._rotation.want_in(target.instance.server)
        for server in planning.retired(rollout):
            self._rotation.want_out(server)
        self._knows_weights = not (weights.steered(rollout) or rollout.policy.slow_start)
        with suppress(BalancerError):  # then the next look finds them
            await self._resume_weights()
        self._follow()
        try:
            while await self._advance_unless_ended():
                pass
        finally:
            await end(self._following)

    async def _resume_weights(self) -> None:
        """Want the weights that whoever drove the deployment before had set; raise BalancerError.

        What this engine has set meanwhile stays as it is.
        """
        if not self._knows_weights:
            full = full_weights(await bounded(self._ports.balancer.report))
            self._rotation.resume_weights(weights.wanted(await self._journal.read(), full))
            self._knows_weights = True

    async def _advance_unless_ended(self) -> bool:
        """Advance; a deployment that a person ended between read and write is no error."""
        try:
            return await self._advance()
        except Interrupted:
            return True
        except IllegalMove:
            if (await self._journal.read()).status not in TERMINAL:
                raise
            return False

    async def _advance(self) -> bool:
        """Do what is next; return False once the deployment has ended or is parked."""
        rollout = await self._journal.read()
        match verdicts.decide(rollout, self._ports.clock.now()):
            case verdicts.Ended():
                return False
            case verdicts.Hold(until, look_after):
                return not await self._wait_or_park(rollout, until, look_after)
            case verdicts.Wait(until, reason):
                await self._journal.step(rollout.cursor, until, reason)
            case verdicts.Pass(reason):
                await self._pass_unless_found(rollout, reason)
            case verdicts.Begin(reason):
                await self._begin(rollout, reason)
            case verdicts.Take(cursor, step):
                await self._take(rollout, cursor, step)
            case verdicts.MoveTo(status, reason):
                await self._journal.move(status, reason)
            case verdicts.GoBack(everything, ends_as, reason):
                steps = planning.way_back(rollout, everything=everything)
                await self._journal.begin_way_back(steps, ends_as, reason)
            case verdicts.Finish(status, reason):
                await self._finish(rollout, status, reason)
        return True

    async def _surveyed(self, rollout: Rollout) -> frozenset[str] | None:
        """Return which instances that were not changed yet are unhealthy, asked where not known.

        Returns None where a wish comes between.
        """
        if self._unhealthy is None:
            waiting = [one for one in rollout.targets if one.status is TargetStatus.PENDING]
            asked = [*(target.instance for target in waiting), *rollout.others]
            survey = asyncio.create_task(self._sick(asked, rollout.policy))
            try:
                while not survey.done():
                    await asyncio.wait({survey}, timeout=WATCH_INTERVAL)
                    if not survey.done() and await self._going_on() is None:
                        return None
            finally:
                await end([survey])
            self._unhealthy = survey.result()
        return self._unhealthy

    async def _sick(self, asked: Sequence[Instance], policy: Policy) -> frozenset[str]:
        """Ask instances that are not being changed whether they are well; return who is not.

        As after an update, so many bad answers in a row are needed as the policy says.
        """

        async def well(instance: Instance) -> bool:
            for attempt in range(policy.health_check_retries):
                if attempt:
                    await asyncio.sleep(policy.health_check_interval)
                if (await self._ports.probe.ask(instance)).ok:
                    return True
            return False

        answers = await asyncio.gather(*(well(instance) for instance in asked))
        return frozenset(
            one.name for one, is_well in zip(asked, answers, strict=True) if not is_well
        )

    async def _begin(self, rollout: Rollout, reason: str) -> None:
        """Start, unless inventory and balancer disagree."""
        unhealthy = await self._surveyed(rollout)
        if unhealthy is None:
            return
        try:
            report = await self._rotation.report()
        except BalancerError as error:
            await self._journal.move(
                DeploymentStatus.FAILED,
                f"Nothing was touched: the balancer did not answer ({error}).",
            )
            return
        if (missing := await self._everywhere.missed(rollout)) is None:
            return
        if missing:
            words = f"Nothing was touched: {planning.names(missing, 3)}."
            await self._journal.move(DeploymentStatus.FAILED, words)
            return
        servers = [target.instance.server for target in rollout.targets]
        servers += [name for step in rollout.plan if isinstance(step, Shift) for name in step.old]
        if missing := [one for one in dict.fromkeys(servers) if one not in report.servers]:
            names = planning.names(missing)
            await self._journal.move(
                DeploymentStatus.FAILED,
                f"Nothing was touched: the balancer does not know {names}; "
                "add them to its backend or correct the inventory.",
            )
            return
        await self._journal.move(DeploymentStatus.IN_PROGRESS, reason)
        await self._journal.traffic(report)
        if unhealthy:
            names = planning.names(sorted(unhealthy))
            await self._journal.note(f"Unhealthy before the start, counted as out: {names}.")

    async def _take(self, rollout: Rollout, cursor: int, step: Step) -> None:
        match step:
            case Prepare():
                await self._prepare(rollout, cursor)
            case Shift() | Retire() | Restore():
                await self._move_traffic(rollout, step)
            case ChangeStep():
                await self._change(rollout, cursor, step)

    async def _pass_unless_found(self, rollout: Rollout, words: str) -> None:
        """Go past a wait, on what the traffic says now and not when it was looked at before."""
        if verdicts.judged(rollout) and not self._looked:
            await self._look_at_traffic()
        else:
            await self._pass(rollout, words)

    async def _pass(self, rollout: Rollout, words: str) -> None:
        """Go on with the step after this one."""
        self._told = ""
        after = rollout.cursor + 1
        coming = rollout.steps[after] if after < len(rollout.steps) else None
        if isinstance(coming, Approve) and coming.timeout is None:
            words = f"{words} Waiting for approval."
        await self._journal.step(after, None, words)

    async def _move_traffic(self, rollout: Rollout, step: Shift | Retire | Restore) -> None:
        """Do what a step has the balancer do, in one try; where it can't be done yet say why."""
        try:
            words = await self._shifting.done(rollout, step)
        except shifting.NotYet as why:
            await self._wait_for(str(why))
            return
        except BalancerError as error:
            await self._wait_for(f"waiting for the balancer, to move the traffic: {error}")
            return
        await self._pass(rollout, words)
        await self._look_at_traffic()

    async def _wait_for(self, why: str) -> None:
        """Say once why nothing goes on, and wait until it is worth trying again."""
        self._told = await self._tell_once(why, self._told)
        await asyncio.sleep(WATCH_INTERVAL)

    async def _wait_or_park(
        self, rollout: Rollout, until: float | None, look_after: float | None
    ) -> bool:
        """Wait for a moment, or give the deployment up for a long wait; return whether it was.

        Where the traffic is judged it is looked at before, and the deployment is due again for
        the next look.
        """
        now = self._ports.clock.now()
        if until is not None and until - now <= PARKED_FROM:
            await asyncio.sleep(min(WATCH_INTERVAL, max(until - now, 0)))
            return False
        if look_after is None:
            return await self._park(until, rollout)
        if not self._looked:
            await self._look_at_traffic()
            return False
        again = now + look_after
        return await self._park(min(until or again, again), rollout)

    async def _park(self, until: float | None, rollout: Rollout) -> bool:
        """Give the deployment up, unless there is a new wish; return whether it was.

        Nothing of this engine's may act any more then: the next owner may come at once.
        """
        await end(self._following)
        parked = await self._journal.park(until, rollout.wish)
        if not parked:
            self._follow()
        return parked

    async def _look_at_traffic(self) -> None:
        """Record what both sides answered until now, where the balancer can be reached."""
        with suppress(BalancerError):
            await self._record(await self._look())
        self._looked = True

    async def _prepare(self, rollout: Rollout, cursor: int) -> None:
        """Have the driver fetch the version everywhere; a failure touches nothing."""
        failed = await self._everywhere.prepare(rollout)
        if failed:
            words = f"Nothing was touched: {failed[0]}."
            await self._journal.move(DeploymentStatus.FAILED, words)
        elif failed is not None:
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
                    told = await self._admit(rollout, step, waiting, tasks, told)
                elif not tasks:
                    await self._journal.step(cursor + 1, None, _batch_words(rollout, step))
                    return
                await self._wait(tasks)
                for name in [name for name, task in tasks.items() if task.done()]:
                    tasks.pop(name).result()
                current = await self._going_on()
        finally:
            await end(tasks.values())

    async def _admit(
        self, rollout: Rollout, step: ChangeStep, waiting: list[str], tasks: Tasks, told: str
    ) -> str:
        """Start to change those of `waiting` that may be taken out now; return why others wait.

        What was just admitted is counted as out at once: its drain may not be stored yet.
        """
        surveyed = await self._surveyed(rollout)
        if surveyed is None:
            return told
        try:
            report = await bounded(self._ports.balancer.report)
        except BalancerError as error:
            why = f"waiting for the balancer, which does not tell who serves: {error}"
            return await self._tell_once(why, told)
        unhealthy = self._unhealthy = surveyed - {
            target.instance.name for target in rollout.targets if target.status in SERVING
        }
        full = full_weights(report)
        down = planning.down_now(rollout, report, unhealthy)
        out = planning.out_now(rollout, down) | tasks.keys()
        admitted, why = verdicts.room(rollout, waiting, out, down)
        for name in admitted:
            target = rollout.target(name)
            change = Change(
                self._ports,
                self._rotation,
                rollout.policy,
                target,
                rollout.wanted(target),
                back=rollout.going_back,
                update=step.update,
                weight=weights.entering(rollout, step, target.instance.server, full),
            )
            tasks[name] = asyncio.create_task(change.run())
        if not why or tasks:
            return told
        self._unhealthy = None  # who is well by now must not keep everybody waiting
        return await self._tell_once(why, told)

    async def _tell_once(self, why: str, told: str) -> str:
        """Say why nothing goes on, unless that was `told` last; return what was."""
        if why != told:
            await self._journal.note(why[0].upper() + why[1:] + ".")
        return why

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
                # Whoever was to drain it may have died before.
                self._rotation.want_out(target.instance.server)
        await self._everywhere.let_go(rollout)
        await end(self._following)  # what it is telling the balancer is told by the last look
        await self._look_last()
        try:
            await self._journal.move(status, reason)
        except Interrupted:
            self._follow()
            raise

    def _follow(self) -> None:
        self._following = [asyncio.create_task(self._follow_balancer())]

    async def _follow_balancer(self) -> None:
        """Look again and again: tell the balancer what it forgot, record what clients got."""
        loop = asyncio.get_running_loop()
        recorded = loop.time()
        while True:
            await asyncio.sleep(BALANCER_INTERVAL)
            with suppress(BalancerError):  # the next look may find it
                report = await self._look()
                if loop.time() - recorded >= TRAFFIC_INTERVAL:
                    recorded = loop.time()
                    await self._record(report)

    async def _record(self, report: BalancerReport) -> None:
        self._looked = True
        await self._journal.traffic(report)

    async def _look(self) -> BalancerReport:
        """Return what the balancer says, told again what it forgot; raise BalancerError."""
        await self._resume_weights()
        report = await bounded(self._ports.balancer.report)
        if told := await self._rotation.assert_again(report):
            names = planning.names(told)
            await self._journal.note(
                f"The balancer no longer had {names} as it was told: told again."
            )
        return report

    async def _look_last(self) -> None:
        """Leave the balancer knowing who serves and who is held out, where it can be reached."""
        with suppress(BalancerError):
            await self._journal.traffic(await persist(self._look))


def _batch_words(rollout: Rollout, step: ChangeStep) -> str:
    failed = [name for name in step.targets if rollout.target(name).status is TargetStatus.FAILED]
    well = len(step.targets) - len(failed)
    where = "The way back: group" if rollout.going_back else "Batch"
    does = "are ready" if step.share == 0 else "serve"
    words = f"{where} {step.batch} done: {well} of {len(step.targets)} {does}"
    return f"{words}, held out: {planning.names(failed)}." if failed else f"{words}."
