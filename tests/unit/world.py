"""A small world in memory at the engine's ports, on a loop whose time is virtual.

Waiting costs nothing: when nothing is ready the clock jumps to the next timer.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rollouts import planning
from rollouts.change import Ports
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
from rollouts.policy import parse
from rollouts.ports import BalancerError, BalancerUnreachable, DriverError
from rollouts.states import (
    IN_FLIGHT,
    DeploymentStatus,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)

R = TypeVar("R")
START = 1_000_000.0


class _Jump(selectors.SelectSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulated world waits for nothing: a deadlock")
        self.loop.elapsed += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its time jumps to the next timer."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return START + self.elapsed


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
    sick: bool = False
    weight: int = 100
    updates: list[str] = field(default_factory=list)
    last_update_at: float = 0.0


class World:
    """Balancer, driver, probe, clock and journal of a fleet, with switches for trouble.

    `bad` are versions that are unhealthy wherever they run; `bad_on` pairs of an instance
    and a version. After every effect `check` holds the invariants that a fleet must keep.
    """

    def __init__(self, count: int = 4, **policy: Any) -> None:
        self.machines = {f"web-{n:02}": Machine(f"web-{n:02}") for n in range(1, count + 1)}
        policy = {"batch_pause": 0, "health_check_interval": 0.5, **policy}
        self.policy = parse(policy, total=count)
        self.bad: set[str] = set()
        self.bad_on: set[tuple[str, str]] = set()
        self.driver_fails: set[tuple[str, str]] = set()
        self.driver_hangs: set[str] = set()
        self.prepare_fails: set[str] = set()
        self.update_seconds = 1.0
        self.balancer_away_until = 0.0
        self.unknown: set[str] = set()
        self.stubborn: set[str] = set()  # whose sessions never end
        self.log: list[str] = []
        self.most_out = 0
        self.on_effect: Callable[[str], None] = lambda effect: None
        self.rollout = self.plan()

    # Clock

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # Effects and invariants

    def effect(self, what: str) -> None:
        self.log.append(what)
        out = [m.name for m in self.machines.values() if self.out(m)]
        self.most_out = max(self.most_out, len(out))
        self.on_effect(what)

    def out(self, machine: Machine) -> bool:
        return machine.state is not ServerState.READY

    def well(self, machine: Machine) -> bool:
        bad = machine.runs in self.bad or (machine.name, machine.runs) in self.bad_on
        return not bad and not machine.sick

    # Balancer

    def _reach(self) -> None:
        if self.now() < self.balancer_away_until:
            raise BalancerUnreachable("no answer within 2 s")

    async def report(self) -> BalancerReport:
        self._reach()
        return BalancerReport(
            {
                m.name: Server(m.name, m.state, True, m.sessions, m.weight)
                for m in self.machines.values()
                if m.name not in self.unknown
            }
        )

    async def drain(self, server: str) -> None:
        self._reach()
        if server in self.unknown:
            raise BalancerError(f"no such server: {server}")
        machine = self.machines[server]
        machine.state = ServerState.DRAIN
        if server not in self.stubborn:
            machine.sessions = 0
        self.effect(f"drain {server}")

    async def ready(self, server: str) -> None:
        self._reach()
        machine = self.machines[server]
        assert self.well(machine), f"S4: {server} goes back into rotation while it is not well"
        machine.state = ServerState.READY
        self.effect(f"ready {server}")

    async def set_weight(self, server: str, percent: int) -> None:
        self._reach()
        self.machines[server].weight = percent
        self.effect(f"weight {server} {percent}")

    async def cut(self, server: str) -> None:
        self._reach()
        self.machines[server].sessions = 0
        self.effect(f"cut {server}")

    # Driver

    async def prepare(
        self, instance: Instance, version: str, output: Callable[[str], None]
    ) -> None:
        await asyncio.sleep(0.1)
        if instance.name in self.prepare_fails:
            raise DriverError("exit status 1: no space left")
        self.effect(f"prepare {instance.name}")

    async def update(self, instance: Instance, version: str, output: Callable[[str], None]) -> None:
        machine = self.machines[instance.name]
        assert machine.state is ServerState.DRAIN, f"S3: {instance.name} updated in rotation"
        assert machine.sessions == 0, f"S3: {instance.name} updated with open sessions"
        output(f"installing {version}")
        if version in self.driver_hangs:
            await asyncio.sleep(10_000)
        await asyncio.sleep(self.update_seconds)
        if (instance.name, version) in self.driver_fails:
            raise DriverError("exit status 3: broken pipe")
        machine.runs = version
        machine.sick = False
        machine.updates.append(version)
        machine.last_update_at = self.now()
        self.effect(f"update {instance.name} {version}")

    # Probe

    reports_version = True

    async def ask(self, instance: Instance) -> Answer:
        await asyncio.sleep(0.01)
        machine = self.machines[instance.name]
        if self.well(machine):
            return Answer(self.now(), ok=True, code=200, latency_ms=10, version=machine.runs)
        return Answer(self.now(), ok=False, code=500, latency_ms=10, error="")

    # Journal

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

    async def read(self) -> Rollout:
        await asyncio.sleep(0)
        return self.rollout

    async def move(self, status: DeploymentStatus, reason: str) -> None:
        check_deployment_move(self.rollout.status, status)
        assert reason
        paused = self.rollout.wish in {Wish.PAUSE, Wish.RESUME}
        self.rollout = replace(
            self.rollout,
            status=status,
            reason=reason,
            waiting_until=None,
            wish=None if paused else self.rollout.wish,
        )
        if status is DeploymentStatus.IN_PROGRESS:
            self.rollout = replace(self.rollout, progress_at=self.now())
        self.effect(f"status {status.value}")

    async def begin_way_back(
        self, steps: Sequence[Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        check_deployment_move(self.rollout.status, DeploymentStatus.ROLLING_BACK)
        self.rollout = replace(
            self.rollout,
            status=DeploymentStatus.ROLLING_BACK,
            way_back=tuple(steps),
            ends_as=ends_as,
            cursor=0,
            reason=reason,
        )
        self.effect("status rolling_back")

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        self.rollout = replace(self.rollout, cursor=cursor, waiting_until=waiting_until)
        self.effect(f"step {cursor}")

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
        old = self.rollout.target(name)
        check_target_move(old.status, status)
        new = replace(
            old,
            status=status,
            touched=old.touched or touched,
            returning=self.rollout.going_back,
            error=error or old.error,
        )
        targets = tuple(new if t is old else t for t in self.rollout.targets)
        self.rollout = replace(self.rollout, targets=targets)
        if status in {TargetStatus.HEALTHY, TargetStatus.ROLLED_BACK}:
            self.rollout = replace(self.rollout, progress_at=self.now())
        self.effect(f"target {name} {status.value}")

    async def check(self, name: str, answer: Answer, message: str) -> None:
        self.effect(f"check {name}")

    async def sessions(self, name: str, sessions: int) -> None:
        self.effect(f"sessions {name} {sessions}")

    async def output(self, name: str, text: str) -> None:
        self.effect(f"output {name} {text}")

    async def traffic(self, report: BalancerReport) -> None:
        pass

    async def note(self, message: str, name: str = "") -> None:
        self.effect(f"note {message}")

    # Runs

    def wish(self, wish: Wish, by: str = "ada") -> None:
        self.rollout = replace(self.rollout, wish=wish, wish_by=by)

    async def drive(self) -> None:
        """Run the engine to the end of the deployment."""
        await Engine(Ports(self, self, self, self, self)).run()  # type: ignore[arg-type]

    async def deploy(self) -> Rollout:
        """Drive the deployment, and check how the fleet was left (S9)."""
        await self.drive()
        flying = [t for t in self.rollout.targets if t.status in IN_FLIGHT]
        assert not flying, f"S9: {flying} left half done"
        for target in self.rollout.targets:
            if target.status is not TargetStatus.FAILED:
                assert not self.out(self.machines[target.instance.name]), "S9: out for no reason"
        return self.rollout

    def versions(self) -> list[str]:
        return [machine.runs for machine in self.machines.values()]

    def touched(self) -> list[str]:
        return [machine.name for machine in self.machines.values() if machine.updates]
