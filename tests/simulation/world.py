"""A simulated world at the engine's ports, on a loop whose time is virtual.

A fleet with its balancer, a store with the rules of PostgreSQL's journal, and owners: each a
process with a lease of its own, which may be killed, frozen or cut off at any call. Waiting
costs nothing: when nothing is ready the clock jumps to the next timer.

After every effect the invariants of the engine are checked (S1 to S9); a `Violation` names
the one that broke.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rollouts import lease, planning
from rollouts.change import BALANCER_DEADLINE, Ports
from rollouts.engine import Engine
from rollouts.facts import (
    Answer,
    BalancerReport,
    Instance,
    Rollout,
    Server,
    ServerState,
    Step,
    Target,
    Wish,
)
from rollouts.lease import Lease
from rollouts.policy import parse
from rollouts.ports import (
    BalancerError,
    BalancerUnreachable,
    DriverError,
    Interrupted,
    LeaseLost,
)
from rollouts.states import (
    IN_FLIGHT,
    TERMINAL,
    DeploymentStatus,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)

R = TypeVar("R")
D, T = DeploymentStatus, TargetStatus
START = 1_000_000.0
DISPATCH_POLL = 1.0  # seconds between two looks of the simulated dispatch
START_SECONDS = 0.3  # from a job to its claim
EARLY = 1.0  # seconds before a parked deployment is due at which it may be claimed
TAKEN_OVER_WITHIN = 15.0
ACTED_WITHIN = 2.0
WISHES = {"stop", "roll_back", "rollback", "pause"}
SAVED_EVERY = 1.0  # seconds between two times that a balancer's state is written down
FORGIVEN = 1.5  # seconds in which what a balancer forgot has to be told to it again
MOST_TURNS = 20_000  # of the event loop at one instant
LONGEST = 4 * 3600.0  # virtual seconds in which every deployment has to end


class Violation(AssertionError):
    """An invariant does not hold."""


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


@dataclass
class Machine:
    """An instance of the world: what it runs, whether it is drained, who uses it."""

    name: str
    runs: str = "v1"
    state: ServerState = ServerState.READY
    sessions: int = 0
    sick: bool = False  # cured by an update
    broken: bool = False  # an update was ended half way
    weight: int = 100
    updates: list[str] = field(default_factory=list)
    updated_at: float = 0.0
    forgotten_at: float | None = None  # what the balancer was told of it, and was not told again
    last_forgotten: float = 0.0
    recalled: bool = False  # drained by a balancer that came back with an older state
    cut: bool = False


@dataclass
class Store:
    """What PostgreSQL would hold of the one deployment, and of who drives it."""

    rollout: Rollout
    epoch: int = 0
    owner: "Process | None" = None
    lease_until: float = 0.0
    due_at: float | None = START
    wished_at: float = 0.0
    intended_at: dict[str, float] = field(default_factory=dict)
    seq: int = 0


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one call: before, in, or after it."""

    kind: str
    seconds: float = 30.0


BALANCER = (Fault("fail"), Fault("lost"), Fault("hang"), Fault("slow", 2.5))
BALANCER_CALLS = frozenset({"report", "drain", "ready", "weight", "cut"})
WORLD_CALLS = BALANCER_CALLS | {"prepare", "update", "ask"}  # the others go to the database


class World:
    """A fleet, the store of its one deployment, and switches for trouble.

    `bad` are versions that are unhealthy wherever they run; `bad_on` pairs of an instance
    and a version. `faults` are what goes wrong at which call, counted over all processes.
    """

    def __init__(self, count: int = 4, **policy: Any) -> None:
        self.machines = {f"web-{n:02}": Machine(f"web-{n:02}") for n in range(1, count + 1)}
        short = {"batch_pause": 0, "health_check_interval": 0.5, "update_timeout": 60}
        policy = {**short, **policy}
        self.policy = parse(policy, total=count)
        self.ended_at = float("inf")
        self.states: list[tuple[float, dict[str, ServerState]]] = []
        self.bad: set[str] = set()
        self.bad_on: set[tuple[str, str]] = set()
        self.driver_fails: set[tuple[str, str]] = set()
        self.driver_hangs: set[str] = set()
        self.driver_lies: set[str] = set()  # says that it gave a version, and did nothing
        self.prepare_fails: set[str] = set()
        self.update_seconds = 1.0
        self.balancer_away_until = 0.0
        self.unknown: set[str] = set()
        self.stubborn: set[str] = set()  # whose sessions never end
        self.log: list[str] = []
        self.most_out = 0
        self.on_effect: Callable[[str], None] = lambda effect: None
        self.faults: dict[int, Fault] = {}
        self.calls: list[str] = []
        self.processes: list[Process] = []
        self.balancer_failed_at = 0.0
        self.driver_failed = False
        self.bad_answers = 0
        self.driverless_since: float | None = None
        self.longest_driverless = 0.0
        self.acted_after: float | None = None  # seconds from a wish to end to what it led to
        self.wished = asyncio.Event()
        self.violations: list[str] = []
        self.store = Store(self.plan())
        self.planned = self.rollout.plan
        self.before = {m.name: m.runs for m in self.machines.values()}

    @property
    def rollout(self) -> Rollout:
        """The deployment as it is stored."""
        return self.store.rollout

    @rollout.setter
    def rollout(self, rollout: Rollout) -> None:
        self.store.rollout = rollout
        self.planned = rollout.plan
        self.before = {m.name: m.runs for m in self.machines.values()}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # Effects and invariants

    def steered(self, what: str) -> None:
        """Note an effect that a balancer would write down, for when it comes back."""
        self.states.append((self.now(), {m.name: m.state for m in self.machines.values()}))
        self.effect(what)

    def effect(self, what: str) -> None:
        self.log.append(what)
        self.most_out = max(self.most_out, sum(self.out(m) for m in self.machines.values()))
        self.on_effect(what)

    def saved(self) -> Mapping[str, ServerState]:
        """Return what was written down of the balancer when that was done last."""
        written = [states for at, states in self.states if at <= self.now() - SAVED_EVERY]
        return written[-1] if written else {}

    def out(self, machine: Machine) -> bool:
        return machine.state is not ServerState.READY

    def well(self, machine: Machine) -> bool:
        bad = machine.runs in self.bad or (machine.name, machine.runs) in self.bad_on
        return not bad and not machine.sick and not machine.broken

    def check(self, holds: bool, text: str) -> None:
        if not holds:
            # Kept too: who is being cancelled swallows what it raises.
            self.violations.append(text)
            raise Violation(text)

    def wanted(self, name: str) -> str:
        return self.before[name] if self.rollout.going_back else self.rollout.version

    def check_owner(self, process: "Process", what: str) -> None:
        epoch = self.store.epoch
        self.check(process.epoch == epoch, f"S6: {what} by {process.epoch}, owned by {epoch}")
        self.check(self.rollout.status not in TERMINAL, f"S8: {what} after the end")

    def check_drain(self, machine: Machine) -> None:
        told_again = machine.forgotten_at is not None  # it was counted when it was told first
        if self.out(machine) or not self.well(machine) or told_again:
            return
        others = [m for m in self.machines.values() if not self.recalled_just_now(m)]
        gone = sum(self.out(m) or not self.well(m) for m in others) + 1
        limit = planning.limit_of(self.policy, len(self.machines))
        self.check(gone <= limit, f"S1: {machine.name} is drained as number {gone} of {limit}")

    def check_update(self, machine: Machine, version: str) -> None:
        name = machine.name
        rollout = self.rollout
        self.check(version == self.wanted(name), f"S12: {name} is given {version}")
        drained = self.out(machine) or self.forgotten_just_now(machine)
        self.check(drained, f"S3: {name} is updated in rotation")
        self.check(machine.sessions == 0 or machine.cut, f"S3: {name} is updated with sessions")
        if rollout.going_back:
            return
        first = [one for one in rollout.targets if one.batch == 1]
        settled = all(one.status in {T.HEALTHY, T.FAILED} for one in first)
        mine = rollout.target(name).batch == 1
        self.check(mine or settled, f"S2: {name} gets {version} before batch 1 is verified")
        wished = rollout.wish is not None and rollout.wish.ends
        before = self.store.intended_at.get(name, 0.0) <= self.store.wished_at
        self.check(not wished or before, f"S8: {name} gets {version} after a cancel")
        self.check(rollout.target(name).status is T.UPDATING, f"{name} is updated unannounced")

    def check_ready(self, machine: Machine, since: float | None) -> None:
        """`since`: when the unbroken run of good answers began that the caller has heard."""
        name = machine.name
        served_before = machine.recalled and self.may_serve(self.rollout.target(name))
        if not self.out(machine) or served_before:
            return
        self.check(self.well(machine), f"S4: {name} enters rotation though it is not well")
        self.check(
            since is not None and since >= machine.updated_at, f"S4: {name} enters unverified"
        )
        run = self.now() - (since or 0.0)
        self.check(run >= self.policy.min_healthy_time, f"S4: {name} enters after {run} s")
        self.check(machine.runs == self.wanted(name), f"S4: {name} enters with {machine.runs}")
        status = self.rollout.target(name).status
        self.check(status is T.HEALTH_CHECKING, f"{name} enters rotation unannounced")

    def check_forgotten(self) -> None:
        """What the balancer forgot is told to it again at once, if anybody is there to do so."""
        for machine in self.machines.values():
            if machine.forgotten_at is None or self.out(machine):
                machine.forgotten_at = None
                continue
            owner = self.store.owner
            if owner is None or owner.absent_since(machine.forgotten_at):
                machine.forgotten_at = self.now()  # nobody could tell it
            elif self.may_serve(self.rollout.target(machine.name)):
                machine.forgotten_at = None
            elif not self.well(machine) or machine.runs != self.wanted(machine.name):
                late = self.now() - machine.forgotten_at
                self.check(late <= FORGIVEN, f"S3: {machine.name} gets traffic for {late} s")

    def may_serve(self, target: Target) -> bool:
        """Whether traffic to the target is no harm: it is whole, on one version or the other."""
        changing = target.status in IN_FLIGHT and target.touched
        return not changing and target.status is not T.FAILED

    def check_liveness(self) -> None:
        late = self.longest_driverless
        self.check(late <= TAKEN_OVER_WITHIN, f"nobody took over for {late} s")
        acted = self.acted_after
        undisturbed = {fault.kind for fault in self.faults.values()} <= WISHES
        self.check(
            acted is None or acted <= ACTED_WITHIN or not undisturbed,
            f"a cancel was acted on after {acted} s",
        )

    def forgotten_just_now(self, machine: Machine) -> bool:
        """Whether the balancer lost what it knew so shortly ago that nobody could tell it."""
        return min(self.now(), self.ended_at) - machine.last_forgotten <= FORGIVEN

    def recalled_just_now(self, machine: Machine) -> bool:
        """Whether the balancer drained it by itself so shortly ago that nobody could know."""
        owner = self.store.owner
        unaware = owner is not None and self.now() - owner.frozen_until <= FORGIVEN
        return machine.recalled and (unaware or self.forgotten_just_now(machine))

    def check_end(self) -> None:
        """S9: whole, in rotation or held out with a reason, and as the status says."""
        self.check_liveness()
        rollout = self.rollout
        self.check(rollout.plan == self.planned, "S12: the plan was changed")
        self.check(bool(rollout.reason), "S9: it ends without a reason")
        for target in rollout.targets:
            machine = self.machines[target.instance.name]
            name, status = machine.name, target.status
            self.check(status not in IN_FLIGHT, f"S9: {name} is left {status}")
            if status is T.FAILED:
                self.check(bool(target.error), f"S9: {name} is held out without a reason")
                out = self.out(machine) or self.forgotten_just_now(machine)
                self.check(out, f"S9: {name} is held out, yet in rotation")
                continue
            out = self.out(machine) and not self.recalled_just_now(machine)
            self.check(not out, f"S9: {name} is out for no reason")
            self.check(machine.weight == 100, f"S9: {name} has a weight of {machine.weight}")
            version = self.rollout.version if status is T.HEALTHY else self.before[name]
            self.check(machine.runs == version, f"S9: {name} runs {machine.runs}")
            if status is not T.PENDING:
                self.check(self.well(machine), f"S9: {name} is not well")
        self.check_status()

    def check_status(self) -> None:
        """The end is the one that what happened leads to."""
        rollout = self.rollout
        statuses = {target.status for target in rollout.targets}
        wish = rollout.wish
        stopped = wish is not None and wish.ends
        self.check(not stopped or rollout.status is not D.COMPLETED, "completed over a cancel")
        if rollout.status is D.COMPLETED:
            self.check(statuses <= {T.HEALTHY, T.FAILED}, f"S9: completed with {statuses}")
        if rollout.status is D.ROLLED_BACK:
            self.check(statuses <= {T.PENDING, T.ROLLED_BACK}, f"S9: rolled back with {statuses}")

    def check_converged(self) -> None:
        """A fault that passes, or a death, is no failure of the version or of an instance."""
        passing = not self.driver_failed and self.bad_answers < self.policy.health_check_retries
        wish = self.rollout.wish
        good = not (self.bad or self.bad_on or self.driver_lies or self.driver_hangs)
        good = good and not any(machine.sick for machine in self.machines.values())
        if passing and not (wish and wish.ends) and good:
            statuses = {target.status for target in self.rollout.targets}
            status = self.rollout.status
            self.check(status is D.COMPLETED, f"a good version ended {status}")
            self.check(statuses == {T.HEALTHY}, f"a good version left {statuses}")

    # Runs

    def plan(self, version: str = "v2") -> Rollout:
        observed = [
            planning.Observed(Instance(m.name, "127.0.0.1", 80, m.name), m.runs, self.well(m))
            for m in self.machines.values()
        ]
        made = planning.plan(version, observed, self.policy)
        return Rollout(
            id="deploy-000000000001",
            service="shop",
            version=version,
            policy=self.policy,
            status=DeploymentStatus.PENDING,
            plan=made.steps,
            targets=tuple(
                Target(one.instance, batch, TargetStatus.PENDING, one.version, version)
                for batch, members in enumerate(made.batches, 1)
                for one in members
            ),
            progress_at=START,
        )

    def wish(self, wish: Wish, by: str = "ada") -> None:
        """Record what a person asks for, as `actions` does: what has ended takes no wish."""
        status = self.rollout.status
        untimely = wish is Wish.ROLL_BACK and status is D.PENDING
        ending = self.rollout.wish is not None and self.rollout.wish.ends
        overruled = ending and not wish.ends
        if status in TERMINAL or status is D.ROLLING_BACK or untimely or overruled:
            return
        self.store.rollout = replace(self.rollout, wish=wish, wish_by=by)
        self.store.wished_at = self.now()
        self.store.due_at = self.now()
        self.wished.set()

    def claim(self) -> "Process | None":
        """Give the deployment to a new process, where it is due and nobody has it."""
        store, now = self.store, self.now()
        due = store.due_at is not None and store.due_at <= now + EARLY
        if self.rollout.status in TERMINAL or store.lease_until > now or not due:
            return None
        store.epoch += 1
        process = Process(self, store.epoch)
        store.owner, store.lease_until = process, now + lease.SECONDS
        self.processes.append(process)
        if self.driverless_since is not None:
            self.longest_driverless = max(self.longest_driverless, now - self.driverless_since)
            self.driverless_since = None
        return process

    async def dispatch(self) -> None:
        """Give the deployment an owner whenever it is due and has none, until it has ended."""
        running: list[asyncio.Task[None]] = []
        while self.rollout.status not in TERMINAL:
            if (process := self.claim()) is not None:
                running.append(asyncio.create_task(process.run()))
            for task in running:
                if task.done() and task.exception() is not None:
                    await task
            self.check_forgotten()
            await self._until_next_look()
        await asyncio.gather(*running)

    async def _until_next_look(self) -> None:
        due, now = self.store.due_at, self.now()
        if self.store.lease_until > now:
            await asyncio.sleep(DISPATCH_POLL)
        elif due is None:
            # Each look until a person asks for something would find the same.
            self.wished.clear()
            await self.wished.wait()
            self.check_forgotten()  # while it was parked nobody could tell it again
            await asyncio.sleep(START_SECONDS)
        else:
            await asyncio.sleep(min(DISPATCH_POLL, max(START_SECONDS, due - now)))

    async def drive(self) -> None:
        """Let processes drive the deployment to its end, one after another."""
        async with asyncio.timeout(LONGEST):
            await self.dispatch()

    async def deploy(self) -> Rollout:
        """Drive the deployment, and check how the fleet was left (S9)."""
        try:
            await self.drive()
        except TimeoutError:
            raise Violation(f"it did not end: {self.rollout.status}") from None
        if self.violations:
            raise Violation(self.violations[0])
        self.check_end()
        return self.rollout

    def versions(self) -> list[str]:
        return [machine.runs for machine in self.machines.values()]

    def touched(self) -> list[str]:
        return [machine.name for machine in self.machines.values() if machine.updates]


class Process:
    """An owner of the deployment: all of the engine's ports as one process has them."""

    reports_version = True

    def __init__(self, world: World, epoch: int) -> None:
        self.world = world
        self.store = world.store
        self.epoch = epoch
        self.dead = False
        self.frozen_until = 0.0
        self.slow_until = 0.0  # so long the database does not answer
        self.lease = Lease(f"process {epoch}", world.now(), world.now)
        self.good_since: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Drive until the end, a parking, a lost lease or death."""
        ports = Ports(self, self, self, self, self, self.lease)  # type: ignore[arg-type]
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
        await self._answering()
        # Woken from a freeze, a process may do anything else before it looks after its lease.
        await asyncio.sleep(0.001)
        if self.now() < self.slow_until:
            return None
        if self.store.owner is not self:
            return False
        self.store.lease_until = self.now() + lease.SECONDS
        return True

    async def _answering(self) -> None:
        """Wait while the process is frozen; end where it is dead."""
        while (left := self.frozen_until - self.now()) > 0:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(left)
        if self.dead:
            raise Killed

    async def _call(self, what: str, act: Callable[[], Awaitable[R]]) -> R:
        """Make one call of a port, with what goes wrong at it."""
        await self._answering()
        world = self.world
        fault = world.faults.get(len(world.calls))
        world.calls.append(what)
        if fault is None:
            result = await act()
        else:
            result = await self._faulty(fault, what, act)
        world.check_forgotten()
        return result

    async def _faulty(self, fault: Fault, what: str, act: Callable[[], Awaitable[R]]) -> R:
        if what.split()[0] in BALANCER_CALLS and fault.kind in {"fail", "lost", "hang", "slow"}:
            held_up = {"hang": BALANCER_DEADLINE, "slow": min(fault.seconds, BALANCER_DEADLINE)}
            until = self.now() + held_up.get(fault.kind, 0.0)
            self.world.balancer_failed_at = max(self.world.balancer_failed_at, until)
        if fault.kind == "fail":
            await self._fail(what)
        await self._before(fault, what)
        await self._answering()
        result = await act()
        if fault.kind == "lost":
            await self._fail(what)
        if fault.kind == "crash_after":
            self.die()
        if fault.kind == "freeze_after":
            self.frozen_until = self.now() + fault.seconds
        await self._answering()
        return result

    async def _before(self, fault: Fault, what: str) -> None:
        match fault.kind:
            case "crash_before":
                self.die()
            case "crash_within":
                asyncio.get_running_loop().call_later(self.world.update_seconds / 2, self.die)
            case "freeze_before":
                self.frozen_until = self.now() + fault.seconds
            case "stop" | "roll_back" | "rollback" | "pause":
                self._ask(fault)
            case _:
                await self._slow_down(fault, what)

    def _ask(self, fault: Fault) -> None:
        """Have a person ask for something just now."""
        self.world.wish(Wish(fault.kind))
        if fault.kind == "pause":
            asyncio.get_running_loop().call_later(fault.seconds, self._resume)

    async def _slow_down(self, fault: Fault, what: str) -> None:
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "hang" if what.startswith("ask"):
                await asyncio.sleep(self.world.policy.health_check_timeout)
                await self._fail(what)
            case "hang" if what.split()[0] in WORLD_CALLS:
                self.world.driver_failed |= what.startswith(("update", "prepare"))
                await asyncio.sleep(10_000)
            case "database_away":
                self.slow_until = self.now() + fault.seconds
            case "forget":
                self._restart_balancer({})
            case "recall":
                self._restart_balancer(self.world.saved())

    async def _fail(self, what: str) -> None:
        """Fail as such a call does; the journal tries again by itself, and writes once."""
        match what.split()[0]:
            case "update" | "prepare":
                self.world.driver_failed = True
                raise DriverError("exit status 1: injected")
            case "ask":
                self.world.bad_answers += 1
                raise BalancerUnreachable("injected: no answer")
            case "report" | "drain" | "ready" | "weight" | "cut":
                raise BalancerUnreachable("injected: no answer")
            case _:
                await asyncio.sleep(1)

    def _restart_balancer(self, saved: Mapping[str, ServerState]) -> None:
        """Restart the balancer, so that it knows no more than what was `saved` of it."""
        if self.world.rollout.status in TERMINAL:
            return  # what it forgets once all is over is nobody's to tell it again
        for machine in self.world.machines.values():
            machine.weight = 100
            state = saved.get(machine.name, ServerState.READY)
            if machine.state is not state:
                machine.state, machine.last_forgotten = state, self.now()
                machine.recalled = self.world.out(machine)
                machine.forgotten_at = None if machine.recalled else self.now()

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
        return self.world.machines[server]

    async def report(self) -> BalancerReport:
        async def act() -> BalancerReport:
            if self.now() < self.world.balancer_away_until:
                raise BalancerUnreachable("no answer within 2 s")
            return BalancerReport(
                {
                    m.name: Server(m.name, m.state, True, m.sessions, m.weight)
                    for m in self.world.machines.values()
                    if m.name not in self.world.unknown
                }
            )

        return await self._call("report", act)

    async def drain(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.check_owner(self, f"drain {server}")
            self.world.check_drain(machine)
            machine.state = ServerState.DRAIN
            machine.forgotten_at = None
            if server not in self.world.stubborn:
                machine.sessions = 0
            machine.recalled = False
            self.world.steered(f"drain {server}")

        await self._call(f"drain {server}", act)

    async def ready(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.check_owner(self, f"ready {server}")
            self.world.check_ready(machine, self.good_since.get(server))
            machine.state = ServerState.READY
            machine.forgotten_at = None
            machine.recalled = False
            self.world.steered(f"ready {server}")

        await self._call(f"ready {server}", act)

    async def set_weight(self, server: str, percent: int) -> None:
        async def act() -> None:
            self._machine(server).weight = percent
            self.world.check_owner(self, f"weight {server}")
            self.world.effect(f"weight {server} {percent}")

        await self._call(f"weight {server}", act)

    async def cut(self, server: str) -> None:
        async def act() -> None:
            machine = self._machine(server)
            self.world.check_owner(self, f"cut {server}")
            machine.sessions, machine.cut = 0, True
            self.world.effect(f"cut {server}")

        await self._call(f"cut {server}", act)

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

        await self._call(f"prepare {instance.name}", act)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        machine = self.world.machines[instance.name]

        async def act() -> None:
            self.world.check_owner(self, f"update {instance.name}")
            self.world.check_update(machine, version)
            output(f"installing {version}")
            if version in self.world.driver_hangs:
                await asyncio.sleep(10_000)
            if version in self.world.driver_lies:
                return
            # The old process is gone from here on, the new one there at the end.
            machine.broken, machine.updated_at = True, self.now()
            await self._leashed(self.world.update_seconds, left)
            if (instance.name, version) in self.world.driver_fails:
                machine.broken = False
                raise DriverError("exit status 3: broken pipe")
            self.world.check(self.epoch == self.store.epoch, f"S6: a late update of {machine.name}")
            machine.runs, machine.broken, machine.sick = version, False, False
            machine.updates.append(version)
            machine.updated_at = self.now()
            self.world.effect(f"update {instance.name} {version}")

        await self._call(f"update {instance.name} {version}", act)

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
            answer = await self._call(f"ask {instance.name}", act)
        except BalancerUnreachable:
            answer = Answer(self.now(), ok=False, error="no answer within 5 s")
        if not answer.ok or answer.version != self.world.wanted(machine.name):
            self.good_since.pop(machine.name, None)
        elif self.good_since.get(machine.name, -1.0) < machine.updated_at:
            self.good_since[machine.name] = answer.at  # what was heard before counts no more
        else:
            self.good_since.setdefault(machine.name, answer.at)
        return answer

    # Journal

    async def _write(self, what: str, change: Callable[[Rollout], Rollout]) -> None:
        """Change what is stored, as one transaction of this owner, and renew its lease."""

        async def act() -> None:
            while (left := self.slow_until - self.now()) > 0:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(left)
            await self._answering()
            if self.epoch != self.store.epoch:
                raise self.lease.lost()
            asked_at = self.now()
            self.store.rollout = change(self.world.rollout)
            self.store.seq += 1
            if self.store.owner is self:
                self.store.lease_until = asked_at + lease.SECONDS
                self.lease.extended(asked_at)
            self.world.effect(what)

        await self._call(what, act)

    async def read(self) -> Rollout:
        await asyncio.sleep(0)
        await self._answering()
        if self.epoch != self.store.epoch:
            raise self.lease.lost()
        return self.world.rollout

    async def park(self, until: float | None, seen: Wish | None) -> bool:
        parked = False

        def change(rollout: Rollout) -> Rollout:
            nonlocal parked
            parked = rollout.wish is seen
            if parked:
                self.store.due_at = until
                self.store.owner, self.store.lease_until = None, 0.0
            return rollout

        await self._write("park", change)
        return parked

    async def move(self, status: DeploymentStatus, reason: str) -> None:
        def change(rollout: Rollout) -> Rollout:
            check_deployment_move(rollout.status, status)
            assert reason
            if status is D.COMPLETED and rollout.wish is not None and rollout.wish.ends:
                raise Interrupted(f"{rollout.wish_by} asked for the end")
            self._note_act(rollout)
            wish = rollout.wish
            if status in TERMINAL:
                self.world.ended_at = self.now()
                self.store.owner, self.store.lease_until = None, 0.0
            return replace(
                rollout,
                status=status,
                reason=reason,
                waiting_until=None,
                wish=None if wish is None or wish.answered_by(status) else wish,
                progress_at=self.now() if status is D.IN_PROGRESS else rollout.progress_at,
            )

        await self._write(f"status {status.value}", change)

    async def begin_way_back(
        self, steps: Sequence[Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        def change(rollout: Rollout) -> Rollout:
            check_deployment_move(rollout.status, D.ROLLING_BACK)
            self._note_act(rollout)
            wish = rollout.wish
            return replace(
                rollout,
                status=D.ROLLING_BACK,
                way_back=tuple(steps),
                ends_as=ends_as,
                cursor=0,
                reason=reason,
                waiting_until=None,
                wish=None if wish is None or wish.answered_by(D.ROLLING_BACK) else wish,
                progress_at=self.now(),
            )

        await self._write("status rolling_back", change)

    def _note_act(self, rollout: Rollout) -> None:
        if rollout.wish is not None and rollout.wish.ends and self.world.acted_after is None:
            self.world.acted_after = self.now() - self.store.wished_at

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        def change(rollout: Rollout) -> Rollout:
            paused = rollout.waiting_until is not None
            return replace(
                rollout,
                cursor=cursor,
                waiting_until=waiting_until,
                progress_at=self.now() if paused else rollout.progress_at,
            )

        await self._write(f"step {cursor}", change)

    async def target(
        self,
        name: str,
        status: TargetStatus,
        message: str,
        *,
        error: str = "",
        touched: bool = False,
        version: str | None = None,
        soon: bool = False,
    ) -> None:
        def change(rollout: Rollout) -> Rollout:
            old = rollout.target(name)
            onward = status in {T.DRAINING, T.UPDATING} and not rollout.going_back
            if onward and rollout.wish is not None and rollout.wish.ends:
                raise Interrupted(f"{rollout.wish_by} asked for the end")
            check_target_move(old.status, status)
            new = replace(
                old,
                status=status,
                touched=old.touched or touched,
                returning=rollout.going_back,
                error=error or old.error,
            )
            if status is T.UPDATING:
                self.store.intended_at[name] = self.now()
            well = status in {T.HEALTHY, T.ROLLED_BACK}
            return replace(
                rollout,
                targets=tuple(new if one is old else one for one in rollout.targets),
                progress_at=self.now() if well else rollout.progress_at,
            )

        await self._write(f"target {name} {status.value}", change)

    async def check(self, name: str, answer: Answer, message: str) -> None:
        self.world.effect(f"check {name}")

    async def sessions(self, name: str, sessions: int) -> None:
        self.world.effect(f"sessions {name} {sessions}")

    async def output(self, name: str, text: str) -> None:
        self.world.effect(f"output {name} {text}")

    async def traffic(self, report: BalancerReport) -> None:
        pass

    async def note(self, message: str, name: str = "") -> None:
        await self._write(f"note {message}", lambda rollout: rollout)
