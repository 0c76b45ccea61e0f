"""Who gets traffic, and how much of it: S10 and S11, after every effect.

The bounds are taken from the policy and from the plan as it was stored, and not from the rules
by which the engine makes weights of them.
"""

from typing import TYPE_CHECKING

from rollouts.facts import Approve, Bake, BalancerReport, Change, Restore, Rollout, Shift, Wish
from rollouts.states import TERMINAL, DeploymentStatus, TargetStatus
from rollouts.strategies import limit_of
from tests.simulation.checks import FORGIVEN
from tests.simulation.fleet import Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

D, T = DeploymentStatus, TargetStatus
CLEAR = 0.2  # part of the answers that are errors, from which nobody may miss it
SOON = 0.01  # seconds
ROUNDED = 1.5  # percent of the traffic by which weights of about 100 may be off


class Shares:
    """Looks at who gets the traffic of a world, and raises Violation for what does not hold."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.that = world.checks.that
        self.asked_at: dict[int, set[Wish]] = {}  # what was asked for at which step
        self.promoted: set[int] = set()  # steps that were gone past because of that
        self._asked = 0.0  # the largest share that the plan has asked for so far
        self._done = 0.0  # the share that was set last on the way forward
        self._entered_at = 0.0  # when the step that is next became so
        self._all_new_at: float | None = None  # when the new slot got everything
        self._old_side = 0  # instances that were not changed when the way back began

    # After every effect

    def look(self) -> None:
        """Check who gets how much by now."""
        world, rollout = self._world, self._world.rollout
        if not world.shifts or rollout.status in TERMINAL:
            return
        serving = [one for one in world.machines.values() if one.serving]
        self._note(rollout)
        lost = self._weights_are_lost()
        # A slot whose configured weight is 0 has none until somebody tells the balancer again, and
        # who was drained a second ago may be so again when the others are drained.
        recalled = any(one.recalled for one in world.machines.values())
        self.that(bool(serving) or lost or recalled, "S10: nobody gets any traffic")
        if lost:
            return
        new = [one for one in serving if self._is_new(one)]
        self._check_share(rollout, new)
        if world.slots:
            self._check_slots(rollout, new)

    def _note(self, rollout: Rollout) -> None:
        if not rollout.going_back:
            begun = rollout.plan[: rollout.cursor + 1]
            shares = [
                one.share
                for one in begun
                if isinstance(one, Shift | Change) and one.share is not None
            ]
            whole = any(isinstance(one, Restore) for one in begun)
            self._asked = max(self._asked, 100.0 if whole else max(shares, default=0.0))
            done = [one.share for one in rollout.plan[: rollout.cursor] if isinstance(one, Shift)]
            self._done = done[-1] if done else 0.0
            self._old_side = sum(one.status is T.PENDING for one in rollout.targets)
        mine = [one for one in self._world.machines.values() if self._world.target_of(one.name)]
        others = [one for one in self._world.machines.values() if one not in mine]
        if self._all_new_at is None and others and not any(one.serving for one in others):
            self._all_new_at = self._world.now()

    def _weights_are_lost(self) -> bool:
        """Whether the balancer lost weights and could not be told them again yet.

        Where somebody could, and did not within FORGIVEN seconds, that is a violation.
        """
        world = self._world
        lost = False
        for machine in world.machines.values():
            if machine.lost_weight is None or machine.out or machine.forgotten_at is not None:
                continue  # whether one that was forgotten may have any is for Checks.forgotten
            lost = True
            if world.checks.nobody_since(machine.lost_at) or self._back_batch_by_batch():
                machine.lost_at = world.now()
            late = world.now() - machine.lost_at
            self.that(
                late <= FORGIVEN,
                f"S10: {machine.name} has a weight of {machine.weight} for {late} s",
            )
        return lost

    def _back_batch_by_batch(self) -> bool:
        """Whether it is on a way back that leads to the configured weights anyway."""
        steps = self._world.rollout.way_back
        return steps is not None and not any(isinstance(one, Shift) for one in steps)

    def _is_new(self, machine: Machine) -> bool:
        """Whether it is of the new side: in the new slot, or changed to the new version."""
        target = self._world.target_of(machine.name)
        if target is None or machine.forgotten_at is not None:
            return False  # that one which was forgotten gets traffic is for Checks.forgotten
        return bool(self._world.slots) or (
            target.touched and machine.runs == self._world.rollout.version
        )

    def _check_share(self, rollout: Rollout, new: list[Machine]) -> None:
        """S10: the new side never has more than the plan has asked for so far.

        By the weights of those in rotation, against all of the old side, who is drained just now
        included: while an old one is out of rotation, the others of both sides take its part.
        Half a unit of weight is for rounding, and one for each server, which has 1 at least.
        """
        given = sum(one.weight for one in new)
        if rollout.going_back and rollout.cursor and rollout.steps[0] == self._nothing(rollout):
            self.that(not given, f"S10: {_names(new)} have traffic on the way back")
        share = self._asked / 100
        if share >= 1:
            return
        rest = sum(
            one.weight
            for one in self._world.machines.values()
            if one not in new
            and (
                (target := self._world.target_of(one.name)) is None or target.status is not T.FAILED
            )
        )
        most = share * (rest + 1) + (0.5 + len(new)) * (1 - share)
        real = 100 * given / (given + rest) if given else 0.0
        self.that(
            given * (1 - share) <= most, f"S10: {real:.1f} % to the new side, not {self._asked:g}"
        )

    def _held_out(self, machine: Machine) -> bool:
        target = self._world.target_of(machine.name)
        return target is not None and target.status is T.FAILED

    def _nothing(self, rollout: Rollout) -> Shift:
        """Return the shift that takes all traffic off the new side."""
        return Shift(0, next(one.old for one in rollout.plan if isinstance(one, Shift)))

    def _check_slots(self, rollout: Rollout, new: list[Machine]) -> None:
        """S11: no traffic to a slot that is not whole, and always one slot that could take all."""
        whole = all(one.status is T.HEALTHY for one in rollout.targets)
        if not rollout.going_back:
            self.that(
                whole or not new, f"S11: {_names(new)} get traffic, and the slot is not whole"
            )
        slots: dict[str, list[Machine]] = {}
        for machine in self._world.machines.values():
            slots.setdefault(machine.slot, []).append(machine)
        recalled = any(one.recalled for one in self._world.machines.values())
        full = any(all(one.serving and one.weight == one.full for one in s) for s in slots.values())
        self.that(full or recalled, "S11: no slot has all its weight")

    # Before an effect

    def drain(self, machine: Machine, seen: BalancerReport) -> None:
        """S11: in slots only what has no traffic is drained, and the old one after its time.

        Who does it has `seen` that the others have all of it.
        """
        world = self._world
        if not world.slots or machine.out:
            return
        meant = machine.meant_to_serve and machine.forgotten_at is None
        self.that(not meant, f"S11: {machine.name} is drained, and has traffic")
        if world.target_of(machine.name) is None:
            self.that(world.retires, f"S11: {machine.name} of the old slot is drained")
            self._check_kept("drained")
            new = [one.instance.server for one in world.rollout.targets]
            rest = all(seen.servers[name].weight or world.machines[name].weight for name in new)
            self.that(rest, f"S11: {machine.name} is drained, and the new slot has no traffic")

    def _check_kept(self, what: str) -> None:
        """The old slot was warm for as long as the policy says, or a person said that it may go."""
        plan = self._world.planned
        keeping = [n for n, one in enumerate(plan) if isinstance(one, Bake) and one.keep]
        if self._world.swaps or self.promoted & set(keeping):
            return
        kept = self._world.now() - (self._all_new_at or self._world.now())
        self.that(
            kept >= self._world.policy.keep_old - SOON,
            f"S11: the old slot is {what} after {kept} s",
        )

    def update(self, machine: Machine) -> None:
        """S10: no instance is changed that the share does not need, nor back before its weight."""
        world, rollout = self._world, self._world.rollout
        if not world.shifts:
            return
        if rollout.going_back:
            self.way_back(machine.name)
        elif not world.slots:
            self._check_needed(machine)

    def _check_needed(self, machine: Machine) -> None:
        """S10: those that were changed are as few as can carry the share that comes next.

        One carries what it has to carry anyway while max_unavailable are out; without the
        largest of those that were changed there would be too few.
        """
        world, rollout = self._world, self._world.rollout
        step = rollout.step
        assert isinstance(step, Change)
        assert step.share is not None
        wanted = [one["share"] for one in world.policy.canary_steps if "share" in one]
        coming = min(share for share in wanted if share >= step.share - 1e-6)
        changed = [
            world.machines[one.instance.name].full
            for one in rollout.targets
            if one.touched or one.instance.name == machine.name
        ]
        total = len(rollout.targets)
        in_service = (total - limit_of(world.policy, total)) / total
        needed = coming / 100 * in_service * sum(one.full for one in world.machines.values())
        self.that(
            coming >= 100 or sum(changed) - max(changed) < needed,
            f"S10: {len(changed)} are changed for {coming:g} %",
        )

    def way_back(self, name: str) -> None:
        """The new side has lost its traffic before any of it is drained or updated.

        Where the old side is half of the fleet at least; a stop leaves the new side as it is.
        """
        world, rollout = self._world, self._world.rollout
        half = world.slots or 2 * self._old_side >= len(rollout.targets)
        stopped = rollout.wish is Wish.CANCEL_STOP
        if not world.shifts or not rollout.going_back or stopped or not half:
            return
        if any(one.lost_weight is not None for one in world.machines.values()):
            return
        new = [one for one in world.machines.values() if one.serving and self._is_new(one)]
        self.that(not new, f"S10: {name} goes back while {_names(new)} have traffic")

    def weights(self) -> None:
        """S10: where the new side loses everything, the old one is half of the fleet at least."""
        world, rollout = self._world, self._world.rollout
        if not rollout.going_back or world.slots or self._weights_are_lost():
            return
        steps = rollout.steps
        if steps[0] == Shift(0) and rollout.cursor == 0:
            left = [
                one
                for one in world.machines.values()
                if not self._is_new(one) and (one.serving or one.recalled)
            ]
            enough = 2 * len(left) >= len(rollout.targets)
            self.that(enough, f"S10: {_names(left)} alone get all traffic")

    # Steps

    def entered(self) -> None:
        """Note that another step is next, or that the waiting at it begins anew."""
        self._entered_at = self._world.now()

    def wished(self, before: Wish | None, wish: Wish) -> None:
        """Note that a person asks to go on, or no longer, as somebody may have heard already."""
        asked = self.asked_at.setdefault(self._world.rollout.cursor, set())
        asked.update(one for one in (before, wish) if one is not None and one.promotes)

    def passes(self, rollout: Rollout) -> None:
        """A person goes past an approval; a bake takes its time, and has traffic to judge by."""
        step, wish = rollout.step, rollout.wish
        asked = self.asked_at.get(rollout.cursor, set()) | ({wish} if wish else set())
        asked = {one for one in asked if one.promotes}
        if isinstance(step, Approve):
            self.that(bool(asked), "it goes past an approval by itself")
        if not isinstance(step, Bake):
            return
        if asked - ({Wish.PROMOTE_ALL} if step.keep else set()):
            self.promoted.add(rollout.cursor)
            return
        world = self._world
        baked = world.now() - self._entered_at
        self.that(
            baked >= step.seconds - SOON, f"a bake of {step.seconds:g} s ends after {baked} s"
        )
        judging = world.policy.judging
        if step.keep or not judging.enabled or judging.too_little == "go_on":
            return
        world.count()
        answers = world.answered.get(rollout.version, 0.0)
        rounded = len(world.machines)  # a balancer counts whole ones
        enough = answers >= judging.min_requests - rounded
        self.that(enough, f"S10: {answers:.0f} answers end a bake")
        wrong = world.errors_of.get(rollout.version, 0.0)
        self.that(wrong < CLEAR, f"S10: errors in {wrong:.0%} of the answers end a bake")

    # The end

    def end(self) -> None:
        """S9: the weights are the configured ones, or those of the slot that has the traffic."""
        world, rollout = self._world, self._world.rollout
        if any(world.checks.just_now(one.lost_at) for one in world.machines.values()):
            return
        stopped = rollout.status in {D.CANCELLED, D.FAILED} and world.shifts
        if world.shifts and rollout.status is D.CANCELLED and rollout.wish is Wish.CANCEL_STOP:
            self._check_share_at_end()
        if world.slots:
            self._check_slots_at_end(rollout)
        for machine in world.machines.values():
            target = world.target_of(machine.name)
            ramped = not world.shifts and self._held_out(machine)
            if world.slots or stopped or target is None or ramped:
                continue
            self.that(
                machine.weight == machine.configured,
                f"S9: {machine.name} has a weight of {machine.weight}",
            )

    def _check_share_at_end(self) -> None:
        """Who stopped it finds the new side with the share that it had by then."""
        serving = [one for one in self._world.machines.values() if one.serving]
        new = [one for one in serving if self._is_new(one)]
        real = 100 * sum(one.weight for one in new) / sum(one.weight for one in serving)
        kept = not new or self._done - ROUNDED <= real <= self._asked + ROUNDED
        self.that(kept, f"S9: {real:.1f} % to the new side, not {self._done:g} to {self._asked:g}")

    def _check_slots_at_end(self, rollout: Rollout) -> None:
        world = self._world
        new = [one for one in world.machines.values() if world.target_of(one.name) is not None]
        old = [one for one in world.machines.values() if one not in new]
        if rollout.status is D.COMPLETED:
            self._check_kept("let go")
            left, right = new, old
        elif rollout.status is D.ROLLED_BACK:
            left, right = old, new
        else:
            return
        for machine in left:
            whole = machine.weight == machine.full and (not machine.out or machine.recalled)
            self.that(
                whole, f"S11: {machine.name} has a weight of {machine.weight}, {machine.state}"
            )
        self.that(not any(one.serving for one in right), f"S11: {_names(right)} have traffic")
        gone = rollout.status is D.COMPLETED and world.policy.retire_old and not world.swaps
        for machine in old:
            out = machine.out == gone or world.checks.forgotten_just_now(machine)
            self.that(out or machine.recalled, f"S11: {machine.name} is left {machine.state}")
        self.that(
            world.store.live_slot == left[0].slot, f"S11: {world.store.live_slot} is noted as live"
        )


def _names(machines: list[Machine]) -> str:
    return ", ".join(f"{one.name} ({one.weight})" for one in machines)
