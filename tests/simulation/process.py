"""An owner of the deployment: the engine's ports as one process has them, and what goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rollouts import lease
from rollouts.engine import Engine
from rollouts.everywhere import PREFLIGHT_TIMEOUT
from rollouts.facts import Answer, BalancerReport, Instance, Running, ServerState, Tick, Wish
from rollouts.lease import Lease
from rollouts.ports import BalancerError, BalancerUnreachable, DriverError, LeaseLost, Ports
from rollouts.rotation import BALANCER_DEADLINE
from rollouts.states import TERMINAL, DeploymentStatus
from tests.simulation.fleet import Machine, Saved
from tests.simulation.journal import StoredJournal
from tests.simulation.loop import Killed

if TYPE_CHECKING:
    from tests.simulation.world import World

R = TypeVar("R")
D = DeploymentStatus


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one call: before, in, or after it."""

    kind: str
    seconds: float = 30.0


BALANCER = (Fault("fail"), Fault("lost"), Fault("hang"), Fault("slow", 2.5))
BALANCER_CALLS = frozenset({"report", "drain", "ready", "weight", "cut"})
WORLD_CALLS = BALANCER_CALLS | {
    "preflight",
    "prepare",
    "update",
    "finish",
    "ask",
}  # the others go to the database
LATER = " later"  # after the call, and after what comes at once after it


class Process:
    """An owner of the deployment: all of the engine's ports as one process has them."""

    reports_version = True

    def __init__(self, world: "World", epoch: int) -> None:
        self.world = world
        self.store = world.store
        self.epoch = epoch
        self.since = world.now()
        self.dead = False
        self.frozen_until = 0.0
        self.slow_until = 0.0  # so long the database does not answer
        self.lease = Lease(f"process {epoch}", world.now(), world.now)
        self.good_since: dict[str, float] = {}
        self.seen = BalancerReport({})  # what the balancer said last
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Drive until the end, a parking, a lost lease or death."""
        ports = Ports(StoredJournal(self), self, self, self, self, self.lease)
        engine = asyncio.create_task(Engine(ports).run())
        keeper = asyncio.create_task(self.lease.keep(self._renew))
        self._tasks = [engine, keeper]
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, LeaseLost | Killed):
                raise error

    def die(self) -> None:
        """End as by kill -9: nothing more is done, not even in a `finally`."""
        self.dead = True
        if self.store.owner is self and self.world.rollout.status not in TERMINAL:
            self.world.driverless_since = self.world.now()
        for task in self._tasks:
            task.cancel()

    def absent_since(self, moment: float) -> bool:
        """Whether it could do nothing at some time since `moment`."""
        away = max(self.frozen_until, self.slow_until, self.world.balancer_failed_at)
        return self.dead or away >= moment

    def now(self) -> float:
        return self.world.now()

    async def _renew(self) -> bool | None:
        await self.answering()
        # Woken from a freeze, a process may do anything else before it looks after its lease.
        await asyncio.sleep(0.001)
        if self.now() < self.slow_until:
            return None
        if self.store.owner is not self:
            return False
        self.store.lease_until = self.now() + lease.SECONDS
        return True

    # What goes wrong

    async def answering(self) -> None:
        """Wait while the process is frozen; end where it is dead."""
        while (left := self.frozen_until - self.now()) > 0:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(left)
        if self.dead:
            raise Killed

    async def call(self, what: str, act: Callable[[], Awaitable[R]]) -> R:
        """Make one call of a port, with what goes wrong at it."""
        await self.answering()
        world = self.world
        number = len(world.calls)
        fault = world.faults.get(number)
        world.calls.append(what)
        if world.waits_for_somebody():
            world.waits_at.add(number)
        if fault is None:
            result = await act()
        else:
            result = await self._faulty(fault, what, act)
        world.checks.forgotten()
        return result

    async def _faulty(self, fault: Fault, what: str, act: Callable[[], Awaitable[R]]) -> R:
        if what.split()[0] in BALANCER_CALLS and fault.kind in {"fail", "lost", "hang", "slow"}:
            held_up = {"hang": BALANCER_DEADLINE, "slow": min(fault.seconds, BALANCER_DEADLINE)}
            until = self.now() + held_up.get(fault.kind, 0.0)
            self.world.balancer_failed_at = max(self.world.balancer_failed_at, until)
        if fault.kind == "fail":
            await self._fail(what)
        await self._before(fault, what)
        await self.answering()
        result = await act()
        if fault.kind == "lost":
            await self._fail(what)
        if fault.kind == "crash_after":
            self.die()
        if fault.kind == "freeze_after":
            self.frozen_until = self.now() + fault.seconds
        await self.answering()
        return result

    async def _before(self, fault: Fault, what: str) -> None:
        loop = asyncio.get_running_loop()
        match fault.kind:
            case "crash_before":
                self.die()
            case "crash_within":
                loop.call_later(self.world.update_seconds / 2, self.die)
            case "freeze_before":
                self.frozen_until = self.now() + fault.seconds
            case kind if kind.endswith(LATER):
                loop.call_later(fault.seconds, self._from_outside, kind.removesuffix(LATER))
            case "slow" | "hang" | "database_away":
                await self._slow_down(fault, what)
            case kind:
                self._from_outside(kind, fault.seconds)

    def _from_outside(self, kind: str, seconds: float = 0.0) -> None:
        """Have a person ask for something just now, or the balancer be restarted."""
        match kind:
            case "forget":
                self._restart_balancer({})
            case "recall":
                self._restart_balancer(self.world.written_down())
            case "stop" | "roll_back" | "rollback" | "pause" | "promote" | "promote_all":
                self.world.wish(Wish(kind))
                if kind == "pause":
                    long = min(seconds, 1.5 * self.world.policy.progress_deadline)
                    asyncio.get_running_loop().call_later(long, self._resume)

    async def _slow_down(self, fault: Fault, what: str) -> None:
        match fault.kind:
            case "slow":
                late = what.startswith("preflight") and fault.seconds >= PREFLIGHT_TIMEOUT
                self.world.driver_failed |= late
                await asyncio.sleep(fault.seconds)
            case "hang" if what.startswith("ask"):
                await asyncio.sleep(self.world.policy.health_check_timeout)
                await self._fail(what)
            case "hang" if what.split()[0] in WORLD_CALLS:
                failing = ("update", "prepare", "preflight")
                self.world.driver_failed |= what.startswith(failing)
                await asyncio.sleep(10_000)
            case "database_away":
                self.slow_until = self.now() + fault.seconds

    async def _fail(self, what: str) -> None:
        """Fail as such a call does; the journal tries again by itself, and writes once."""
        match what.split()[0]:
            case "update" | "prepare":
                self.world.driver_failed = True
                raise DriverError("exit status 1: injected")
            case "finish":
                raise DriverError("exit status 1: injected")
            case "ask":
                self.world.bad_answers += 1
                raise BalancerUnreachable("injected: no answer")
            case "report" | "drain" | "ready" | "weight" | "cut":
                raise BalancerUnreachable("injected: no answer")
            case _:
                await asyncio.sleep(1)

    def _restart_balancer(self, saved: Mapping[str, Saved]) -> None:
        """Restart it; what it forgets once all is over is nobody's to tell it again."""
        if self.world.rollout.status not in TERMINAL:
            self.world.restart_balancer(saved)

    def _resume(self) -> None:
        if self.world.rollout.wish in {None, Wish.PAUSE}:
            paused = self.world.rollout.status is D.PAUSED
            if paused:
                self.world.wish(Wish.RESUME)
            elif self.world.rollout.wish is Wish.PAUSE:
                self.store.rollout = replace(self.world.rollout, wish=None)

    # Balancer

    def _machine(self, server: str) -> Machine:
        if self.now() < self.world.balancer_away_until:
            raise BalancerUnreachable("no answer within 2 s")
        if server in self.world.unknown:
            raise BalancerError(f"no such server: {server}")
        self.world.count()
        return self.world.machines[server]

    async def report(self) -> BalancerReport:
        async def act() -> BalancerReport:
            if self.now() < self.world.balancer_away_until:
                raise BalancerUnreachable("no answer within 2 s")
            self.seen = self.world.reported()
            self.world.looked_at = self.now()
            return self.seen

        return await self.call("report", act)

    async def drain(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.checks.owner(self, f"drain {server}")
            self.world.checks.drain(machine)
            self.world.shares.drain(machine, self.seen)
            machine.state = ServerState.DRAIN
            machine.forgotten_at = None
            if not self.world.counts_sessions:
                nearly = 0.9 * self.world.policy.drain_timeout
                asyncio.get_running_loop().call_later(nearly, machine.end_sessions)
            elif server not in self.world.stubborn:
                machine.sessions = 0
            machine.recalled = False
            self.world.steered(f"drain {server}")

        await self.call(f"drain {server}", act)

    async def ready(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.checks.owner(self, f"ready {server}")
            self.world.checks.ready(machine, self.good_since.get(server))
            machine.state = ServerState.READY
            machine.forgotten_at = None
            machine.recalled = False
            self.world.steered(f"ready {server}")

        await self.call(f"ready {server}", act)

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        async def act() -> None:
            machines = {name: self._machine(name) for name in weights}
            self.world.checks.owner(self, f"weight {weights}")
            for name, machine in machines.items():
                machine.weight, machine.lost_weight = weights[name], None
            self.world.shares.weights()
            told = ", ".join(f"{name} {weight}" for name, weight in weights.items())
            self.world.steered(f"weight {told}")

        await self.call(f"weight {' '.join(weights)}", act)

    async def cut(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.checks.owner(self, f"cut {server}")
            machine.sessions, machine.cut = 0, True
            self.world.effect(f"cut {server}")

        await self.call(f"cut {server}", act)

    # Driver

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        async def act() -> None:
            await asyncio.sleep(0.1)
            if instance.name in self.world.prepare_fails:
                raise DriverError("exit status 1: no space left")
            self.world.effect(f"prepare {instance.name}")

        await self.call(f"prepare {instance.name}", act)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        world = self.world
        machine = world.machines[instance.name]

        async def act() -> None:
            world.checks.owner(self, f"update {instance.name}")
            world.checks.update(machine, version)
            world.shares.update(machine)
            output(f"installing {version}")
            if version in world.driver_hangs:
                await asyncio.sleep(10_000)
            if version in world.driver_lies:
                return
            # The old process is gone from here on, the new one there at the end.
            world.count()
            machine.broken, machine.updated_at = True, self.now()
            await self._leashed(world.update_seconds, left)
            if (instance.name, version) in world.driver_fails:
                machine.broken = False
                raise DriverError("exit status 3: broken pipe")
            world.checks.that(
                self.epoch == self.store.epoch, f"S6: a late update of {machine.name}"
            )
            world.count()
            machine.runs, machine.broken, machine.sick = version, False, False
            machine.updates.append(version)
            machine.updated_at = self.now()
            world.effect(f"update {instance.name} {version}")

        await self.call(f"update {instance.name} {version}", act)

    roll_back = update

    async def finish(
        self, instance: Instance, output: Callable[[str], None], left: Callable[[], float]
    ) -> None:
        async def act() -> None:
            self.world.checks.owner(self, f"finish {instance.name}")
            self.world.checks.finish(self.world.machines[instance.name])
            self.world.effect(f"finish {instance.name}")

        await self.call(f"finish {instance.name}", act)

    async def running(self, instance: Instance) -> Running:
        return Running()

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        async def act() -> Sequence[Tick]:
            there = instance.name not in self.world.misses
            return (Tick("host reachable", there, "no route"), Tick("old version there", None))

        return await self.call(f"preflight {instance.name}", act)

    async def aclose(self) -> None:
        return None

    async def _leashed(self, seconds: float, left: Callable[[], float]) -> None:
        """Take so long, unless the process dies or its lease runs out: then end half way."""
        end = self.now() + seconds
        while self.now() < end:
            await asyncio.sleep(min(0.25, end - self.now()))
            if self.dead or left() <= 0:
                raise Killed if self.dead else DriverError("ended by SIGKILL")

    # Probe

    async def ask(self, instance: Instance) -> Answer:
        machine = self.world.machines[instance.name]

        async def act() -> Answer:
            await asyncio.sleep(0.01)
            at = self.now()
            if not self.world.well(machine):
                return Answer(at, ok=False, code=500, latency_ms=10, error="")
            return Answer(at, ok=True, code=200, latency_ms=10, version=machine.runs)

        try:
            answer = await self.call(f"ask {instance.name}", act)
        except BalancerUnreachable:
            answer = Answer(self.now(), ok=False, error="no answer within 5 s")
        if not answer.ok or answer.version != self.world.wanted(machine.name):
            self.good_since.pop(machine.name, None)
        elif self.good_since.get(machine.name, -1.0) < machine.updated_at:
            self.good_since[machine.name] = answer.at  # what was heard before counts no more
        else:
            self.good_since.setdefault(machine.name, answer.at)
        return answer
