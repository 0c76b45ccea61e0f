"""A simulated world at the engine's ports, on a loop whose time is virtual.

A fleet with its balancer, a store with the rules of PostgreSQL's journal, people who ask for
things, and owners: each a process with a lease of its own, which may be killed, frozen or cut
off at any call.

After every effect the invariants of the engine are checked; a `Violation` names the one that
broke.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rollouts import analysis, lease, planning
from rollouts.facts import Approve, Bake, Instance, Retire, Rollout, Shift, Target, Wish
from rollouts.policy import parse
from rollouts.states import TERMINAL, DeploymentStatus, TargetStatus
from rollouts.strategies import SLOTS, Observed
from tests.simulation.checks import Checks, Violation
from tests.simulation.fleet import Fleet
from tests.simulation.loop import START
from tests.simulation.process import Fault, Process
from tests.simulation.shares import Shares

D, T = DeploymentStatus, TargetStatus
DISPATCH_POLL = 1.0  # seconds between two looks of the simulated dispatch
START_SECONDS = 0.3  # from a job to its claim
EARLY = 1.0  # seconds before a parked deployment is due at which it may be claimed
LONGEST = 4 * 3600.0  # virtual seconds in which every deployment has to end
APPROVED_AFTER = 20.0  # seconds that a person takes to approve
PATIENCE = 15.0  # seconds that a person waits for traffic after a bake
# Seconds in which whoever only looks at what waits has gone again, and where it is held up.
PARKED_WITHIN, HELD_UP = 10.0, 60.0


@dataclass
class Store:
    """What PostgreSQL would hold of the one deployment, and of who drives it."""

    rollout: Rollout
    epoch: int = 0
    owner: Process | None = None
    lease_until: float = 0.0
    due_at: float | None = START
    wished_at: float = 0.0
    intended_at: dict[str, float] = field(default_factory=dict)
    seq: int = 0
    evidence: analysis.Evidence = field(default_factory=analysis.Evidence)
    live_slot: str = ""


class World(Fleet):
    """A fleet, the store of its one deployment, and switches for trouble.

    `faults` are what goes wrong at which call, counted over all processes. With `swaps` the
    deployment is one that only moves the traffic to the idle slot, and with `only` one of these
    instances. Where traffic is judged, a person approves some minutes after that was asked for.
    """

    def __init__(
        self,
        count: int = 4,
        *,
        slots: bool = False,
        weights: Sequence[int] = (),
        zones: Sequence[str] = (),
        swaps: bool = False,
        only: Collection[str] | None = None,
        **policy: Any,
    ) -> None:
        super().__init__(count, slots, weights, zones)
        self.slots, self.swaps, self.only = slots, swaps, only
        strategy = "blue_green" if slots else policy.get("strategy", "rolling")
        # The look before the start is the same for all: one fleet has it, and its faults.
        short = {
            "batch_pause": 0,
            "health_check_interval": 0.5,
            "update_timeout": 60,
            "preflight": False,
        }
        judging = {"enabled": strategy != "rolling"}
        self.policy = parse(
            {**short, "strategy": strategy, "analysis": judging, **policy}, total=count
        )
        self.ended_at = float("inf")
        self.looked_at = 0.0  # at the balancer, by whoever
        self.balancer_away_until = 0.0
        self.log: list[str] = []
        self.most_out = 0
        self.on_effect: Callable[[str], None] = lambda effect: None
        self.faults: dict[int, Fault] = {}
        self.calls: list[str] = []
        self.waits_at: set[int] = set()  # the calls at which a person could promote
        self.processes: list[Process] = []
        self.balancer_failed_at = 0.0
        self.driver_failed = False
        self.bad_answers = 0
        self.driverless_since: float | None = None
        self.longest_driverless = 0.0
        self.acted_after: float | None = None  # seconds from a wish to end to what it led to
        self.wished = asyncio.Event()
        self.checks = Checks(self)
        self.shares = Shares(self)
        self._expected: tuple[int, float] | None = None  # what a person has noticed is waited for
        live = SLOTS[0] if slots else ""
        self.store = Store(self.plan(live=live), live_slot=live)
        self._planned()

    def _planned(self) -> None:
        self.planned = self.rollout.plan
        self.shifts = any(isinstance(one, Shift) for one in self.planned)
        self.before = {m.name: m.runs for m in self.machines.values()}
        self.out_before = {m.name for m in self.machines.values() if m.out}
        self._targets = {one.instance.name for one in self.rollout.targets}

    @property
    def rollout(self) -> Rollout:
        """The deployment as it is stored."""
        return self.store.rollout

    @rollout.setter
    def rollout(self, rollout: Rollout) -> None:
        self.store.rollout = rollout
        self._planned()

    def target_of(self, name: str) -> Target | None:
        """Return the target that an instance is; None for one of the old slot."""
        return self.rollout.target(name) if name in self._targets else None

    @property
    def retires(self) -> bool:
        """Whether the old slot is being taken out of rotation, or was."""
        begun = self.rollout.plan if self.rollout.going_back else self.planned[: self.cursor + 1]
        return any(isinstance(one, Retire) for one in begun)

    @property
    def cursor(self) -> int:
        return self.rollout.cursor

    def wanted(self, name: str) -> str:
        return self.before[name] if self.rollout.going_back else self.rollout.version

    # Effects

    def steered(self, what: str) -> None:
        """Note an effect that a balancer would write down, for when it comes back."""
        self.write_down()
        self.effect(what)

    def effect(self, what: str) -> None:
        self.log.append(what)
        self.most_out = max(self.most_out, sum(m.out for m in self.machines.values()))
        self.shares.look()
        self.checks.zones()
        self.on_effect(what)

    # What people do

    def wish(self, wish: Wish, by: str = "ada") -> None:
        """Record what a person asks for, as `actions` does: what has ended takes no wish."""
        status = self.rollout.status
        untimely = wish is Wish.ROLL_BACK and status is D.PENDING
        ending = self.rollout.wish is not None and self.rollout.wish.ends
        overruled = ending and not wish.ends
        idle = wish.promotes and not self.waits_for_somebody()
        if status in TERMINAL or status is D.ROLLING_BACK or untimely or overruled or idle:
            return
        self.shares.wished(self.rollout.wish, wish)
        self.store.wished_at = self.store.due_at = self.now()
        self.store.rollout = replace(self.rollout, wish=wish, wish_by=by)
        self.wished.set()
        if status is D.PENDING and wish.ends:
            words = f"Stopped by {by} before anything was touched."
            self.ended(D.CANCELLED, words)

    def ended(self, status: DeploymentStatus, reason: str) -> None:
        """Store the end."""
        self.store.rollout = replace(self.rollout, status=status, reason=reason)
        self.store.owner, self.store.lease_until = None, 0.0
        self.ended_at = self.now()

    def waits_for_somebody(self) -> bool:
        """Whether a person may promote."""
        waits = isinstance(self.rollout.step, Approve | Bake)
        return waits and self.rollout.status is D.IN_PROGRESS and not self.rollout.going_back

    def notice(self) -> None:
        """Have a person come after a while where one is waited for."""
        if not self.shifts or not self.waits_for_somebody():
            return
        rollout = self.rollout
        seen = (rollout.cursor, rollout.waiting_until or 0.0)
        if seen == self._expected:
            return
        after = APPROVED_AFTER
        if isinstance(rollout.step, Bake):
            if rollout.waiting_until is None or rollout.step.keep:
                return
            after = rollout.waiting_until - self.now() + PATIENCE
        self._expected = seen
        asyncio.get_running_loop().call_later(after, self._come, seen)

    def _come(self, seen: tuple[int, float]) -> None:
        """Promote what is waited for still: an approval, or a bake without traffic."""
        rollout = self.rollout
        if seen != (rollout.cursor, rollout.waiting_until or 0.0) or not self.waits_for_somebody():
            self._expected = None
            self.notice()
            return
        if isinstance(rollout.step, Bake):
            self.count()
            if self.answered.get(rollout.version, 0.0) >= self.policy.judging.min_requests:
                return  # whoever drives it has to see that by itself
        owner = self.store.owner
        held = 0.0 if owner is None or owner.absent_since(owner.since) else self.now() - owner.since
        self.checks.that(held <= HELD_UP, "it keeps a worker while a person is waited for")
        if rollout.wish is None and held <= PARKED_WITHIN:
            self.wish(Wish.PROMOTE, "grace")
        asyncio.get_running_loop().call_later(APPROVED_AFTER, self._come, seen)

    # Runs

    def plan(self, version: str = "v2", live: str = "") -> Rollout:
        observed = [
            Observed(
                Instance(m.name, "127.0.0.1", 80, m.name, m.slot, m.zone),
                m.runs,
                self.well(m),
                m.serving,
                m.full,
            )
            for m in self.machines.values()
        ]
        if self.swaps:
            version, made = planning.swap(observed, self.policy, live)
        else:
            made = planning.plan(version, observed, self.policy, live, self.only)
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
            others=tuple(
                one.instance
                for one in observed
                if self.only is not None and one.instance.name not in self.only
            ),
            progress_at=START,
            judgement=analysis.verdict(analysis.Evidence(), self.policy.judging),
        )

    def claim(self) -> Process | None:
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
            self.checks.forgotten()
            await self._until_next_look()
        await asyncio.gather(*running)

    async def _until_next_look(self) -> None:
        due, now = self.store.due_at, self.now()
        if self.store.lease_until > now:
            await asyncio.sleep(DISPATCH_POLL)
        elif due is None or due - now > DISPATCH_POLL + EARLY:
            # Each look until it is due, or a person asks for something, would find the same.
            self.wished.clear()
            try:
                async with asyncio.timeout(None if due is None else due - EARLY - now):
                    await self.wished.wait()
                await asyncio.sleep(START_SECONDS)
            except TimeoutError:
                pass
            self.checks.forgotten()  # while it was parked nobody could tell it again
            self.shares.look()
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
            self.checks.violations.append(f"it did not end: {self.rollout.status}")
        if self.checks.violations:
            raise Violation(self.checks.violations[0])
        self.checks.end()
        return self.rollout

    def versions(self) -> list[str]:
        return [machine.runs for machine in self.machines.values()]

    def touched(self) -> list[str]:
        return [machine.name for machine in self.machines.values() if machine.updates]
