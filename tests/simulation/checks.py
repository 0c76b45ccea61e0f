"""What has to hold of every fleet after every effect: S1 to S4, S6, S8, S9, S12, liveness.

What concerns shares of the traffic and slots (S10, S11) is in `shares`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from rollouts import verdicts
from rollouts.facts import Target
from rollouts.states import IN_FLIGHT, TERMINAL, DeploymentStatus, TargetStatus
from rollouts.strategies import limit_of
from tests.simulation.fleet import Machine

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

D, T = DeploymentStatus, TargetStatus
TAKEN_OVER_WITHIN = 15.0
ACTED_WITHIN = 2.0
WISHES = {"stop", "roll_back", "rollback", "pause", "promote", "promote_all"}
# Faults whose seconds pass without any progress.
HOLDING_UP = {"slow", "freeze_before", "freeze_after", "database_away"}
WISHES |= {f"{wish} later" for wish in WISHES}
FORGIVEN = 1.5  # seconds in which what a balancer forgot has to be told to it again


class Violation(AssertionError):
    """An invariant does not hold."""


class Checks:
    """Looks at a world, and raises Violation for what does not hold there."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.violations: list[str] = []

    def that(self, holds: bool, text: str) -> None:
        """Raise Violation unless it holds."""
        if not holds:
            # Kept too: who is being cancelled swallows what it raises.
            self.violations.append(text)
            raise Violation(text)

    def owner(self, process: "Process", what: str) -> None:
        epoch = self._world.store.epoch
        self.that(process.epoch == epoch, f"S6: {what} by {process.epoch}, owned by {epoch}")
        self.that(self._world.rollout.status not in TERMINAL, f"S8: {what} after the end")

    def drain(self, machine: Machine) -> None:
        """S1: never more than max_unavailable without traffic, what is unwell counted too."""
        world = self._world
        told_again = machine.forgotten_at is not None  # it was counted when it was told first
        if not machine.meant_to_serve or not world.well(machine) or told_again:
            return
        others = [m for m in world.machines.values() if not self.recalled_just_now(m)]
        gone = sum(not m.meant_to_serve or not world.well(m) for m in others) + 1
        limit = limit_of(world.policy, world.rollout.size)
        self.that(gone <= limit, f"S1: {machine.name} is drained as number {gone} of {limit}")

    def finish(self, machine: Machine) -> None:
        """What is kept for the way back is needed until nothing is left to do."""
        rollout = self._world.rollout
        ending = rollout.wish is not None and rollout.wish.ends
        # Another wish comes too late at the end.
        decision = verdicts.decide(replace(rollout, wish=None), self._world.now())
        over = isinstance(decision, verdicts.Finish)
        self.that(over or ending, f"S9: the way back of {machine.name} is let go of too early")

    def zones(self) -> None:
        """Where zones are kept apart, one is left before the next is touched."""
        rollout = self._world.rollout
        if not rollout.policy.by_zone:
            return
        touched = {one.instance.zone for one in rollout.targets if one.status in IN_FLIGHT}
        self.that(
            len(touched) <= 1, f"instances of {', '.join(sorted(touched))} are touched at once"
        )
        begun = {one.instance.zone for one in rollout.targets if one.status is not T.PENDING}
        left = {one.instance.zone for one in rollout.targets if not rollout.settled(one)}
        half_done = sorted(begun & left)
        self.that(
            rollout.going_back or len(half_done) <= 1, f"{', '.join(half_done)} are half done"
        )

    def update(self, machine: Machine, version: str) -> None:
        name = machine.name
        world, rollout = self._world, self._world.rollout
        self.that(world.target_of(name) is not None, f"S12: {name} is updated, and is no target")
        self.that(version == world.wanted(name), f"S12: {name} is given {version}")
        drained = machine.out or self.forgotten_just_now(machine) or self.unaware()
        self.that(drained, f"S3: {name} is updated in rotation")
        self.that(machine.sessions == 0 or machine.cut, f"S3: {name} is updated with sessions")
        if rollout.going_back:
            return
        first = [one for one in rollout.targets if one.batch == 1]
        settled = all(one.status in {T.HEALTHY, T.FAILED} for one in first)
        mine = rollout.target(name).batch == 1
        self.that(mine or settled, f"S2: {name} gets {version} before batch 1 is verified")
        wished = rollout.wish is not None and rollout.wish.ends
        before = world.store.intended_at.get(name, 0.0) <= world.store.wished_at
        self.that(not wished or before, f"S8: {name} gets {version} after a cancel")
        self.that(rollout.target(name).status is T.UPDATING, f"{name} is updated unannounced")

    def ready(self, machine: Machine, since: float | None) -> None:
        """`since`: when the unbroken run of good answers began that the caller has heard."""
        name = machine.name
        world = self._world
        target = world.target_of(name)
        # What serves, or is without traffic by its weight, may be told to be ready again.
        served_before = machine.recalled and (self.may_serve(target) or not machine.weight)
        if not machine.out or served_before:
            return
        self.that(world.well(machine), f"S4: {name} enters rotation though it is not well")
        if target is None:
            retired = world.retires and world.rollout.going_back
            self.that(
                retired, f"S11: {name} of the old slot enters rotation, and nobody drained it"
            )
            return
        self.that(
            since is not None and since >= machine.updated_at, f"S4: {name} enters unverified"
        )
        run = world.now() - (since or 0.0)
        self.that(run >= world.policy.min_healthy_time, f"S4: {name} enters after {run} s")
        self.that(machine.runs == world.wanted(name), f"S4: {name} enters with {machine.runs}")
        status = target.status
        self.that(status is T.HEALTH_CHECKING, f"{name} enters rotation unannounced")

    def forgotten(self) -> None:
        """What the balancer forgot is told to it again at once, if anybody is there to do so."""
        world = self._world
        for machine in world.machines.values():
            if machine.forgotten_at is None or machine.out:
                machine.forgotten_at = None
                continue
            target = world.target_of(machine.name)
            if self.nobody_since(machine.forgotten_at):
                machine.forgotten_at = world.now()  # nobody could tell it
            elif self.may_serve(target):
                machine.forgotten_at = None
            elif not world.well(machine) or machine.runs != world.wanted(machine.name):
                late = world.now() - machine.forgotten_at
                self.that(late <= FORGIVEN, f"S3: {machine.name} gets traffic for {late} s")

    def nobody_since(self, moment: float) -> bool:
        """Whether at some time since `moment` nobody was there to do anything."""
        owner = self._world.store.owner
        return owner is None or owner.since > moment or owner.absent_since(moment)

    def may_serve(self, target: Target | None) -> bool:
        """Whether traffic to the target is no harm: it is whole, on one version or the other."""
        if target is None:
            return True
        changing = target.status in IN_FLIGHT and target.touched
        return not changing and target.status is not T.FAILED

    def forgotten_just_now(self, machine: Machine) -> bool:
        """Whether the balancer lost what it knew when nobody could tell it any more.

        That was just now, or after the last look of a deployment that has ended.
        """
        world = self._world
        over = world.rollout.status in TERMINAL and machine.last_forgotten >= world.looked_at
        return over or self.just_now(machine.last_forgotten)

    def just_now(self, moment: float) -> bool:
        """Whether it was so shortly ago, or before the end, that nobody could do anything."""
        return min(self._world.now(), self._world.ended_at) - moment <= FORGIVEN

    def recalled_just_now(self, machine: Machine) -> bool:
        """Whether the balancer drained it by itself so shortly ago that nobody could know."""
        return machine.recalled and (self.unaware() or self.forgotten_just_now(machine))

    def unaware(self) -> bool:
        """Whether whoever drives it came just now, or was frozen, and can't know what was."""
        owner = self._world.store.owner
        since = 0.0 if owner is None else max(owner.since, owner.frozen_until)
        return self._world.now() - since <= FORGIVEN

    def liveness(self) -> None:
        world = self._world
        late = world.longest_driverless
        self.that(late <= TAKEN_OVER_WITHIN, f"nobody took over for {late} s")
        acted = world.acted_after
        undisturbed = {fault.kind for fault in world.faults.values()} <= WISHES
        self.that(
            acted is None or acted <= ACTED_WITHIN or not undisturbed,
            f"a cancel was acted on after {acted} s",
        )

    def end(self) -> None:
        """S9: whole, in rotation or held out with a reason, and as the status says."""
        self.liveness()
        world, rollout = self._world, self._world.rollout
        self.that(rollout.plan == world.planned, "S12: the plan was changed")
        self.that(bool(rollout.reason), "S9: it ends without a reason")
        for target in rollout.targets:
            machine = world.machines[target.instance.name]
            name, status = machine.name, target.status
            self.that(status not in IN_FLIGHT, f"S9: {name} is left {status}")
            if status is T.FAILED:
                self.that(bool(target.error), f"S9: {name} is held out without a reason")
                gone = name in world.unknown
                out = gone or machine.out or self.forgotten_just_now(machine)
                self.that(out, f"S9: {name} is held out, yet in rotation")
                continue
            out = machine.out and not self.recalled_just_now(machine)
            out = out and (status is not T.PENDING or name not in world.out_before)
            self.that(not out, f"S9: {name} is out for no reason")
            version = rollout.version if status is T.HEALTHY else world.before[name]
            self.that(machine.runs == version, f"S9: {name} runs {machine.runs}")
            if status is not T.PENDING:
                self.that(world.well(machine), f"S9: {name} is not well")
        self.status()
        world.shares.end()

    def status(self) -> None:
        """The end is the one that what happened leads to."""
        rollout = self._world.rollout
        statuses = {target.status for target in rollout.targets}
        wish = rollout.wish
        stopped = wish is not None and wish.ends
        self.that(not stopped or rollout.status is not D.COMPLETED, "completed over a cancel")
        if rollout.status is D.COMPLETED:
            self.that(statuses <= {T.HEALTHY, T.FAILED}, f"S9: completed with {statuses}")
        if rollout.status is D.ROLLED_BACK:
            back = {T.PENDING, T.ROLLED_BACK, *({T.HEALTHY} if self._world.swaps else ())}
            self.that(statuses <= back, f"S9: rolled back with {statuses}")

    def converged(self) -> None:
        """A fault that passes, or a death, is no failure of the version or of an instance.

        What answers with errors is condemned, unless a person takes it past its bakes.
        """
        world, rollout = self._world, self._world.rollout
        passing = not world.driver_failed and world.bad_answers < world.policy.health_check_retries
        faults = world.faults.values()
        held_up = sum(one.seconds for one in faults if one.kind in HOLDING_UP)
        held_up += TAKEN_OVER_WITHIN * sum(one.kind.startswith("crash") for one in faults)
        patience = world.policy.healthy_deadline if world.bad_answers else float("inf")
        passing = passing and held_up < min(world.policy.progress_deadline, patience)
        if not passing or (rollout.wish is not None and rollout.wish.ends):
            return
        if rollout.version in world.errors_of and not world.shares.promoted:
            self.that(rollout.status is D.ROLLED_BACK, f"a bad version ended {rollout.status}")
            return
        good = not (world.bad or world.bad_on or world.driver_lies or world.driver_hangs)
        good = good and not any(machine.sick for machine in world.machines.values())
        if good and not world.errors_of:
            statuses = {target.status for target in rollout.targets}
            self.that(rollout.status is D.COMPLETED, f"a good version ended {rollout.status}")
            self.that(statuses == {T.HEALTHY}, f"a good version left {statuses}")
