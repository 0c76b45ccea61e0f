"""The journal of one owner: the rules of `engine_journal`, on what the world stores."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rollouts import analysis, lease
from rollouts.facts import Answer, BalancerReport, Rollout, Shift, Step, Wish
from rollouts.ports import Interrupted
from rollouts.states import (
    TERMINAL,
    DeploymentStatus,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)
from rollouts.strategies import SLOTS

if TYPE_CHECKING:
    from tests.simulation.process import Process

D, T = DeploymentStatus, TargetStatus


class StoredJournal:
    """See `ports.Journal`: each write is one transaction, of whoever owns the deployment."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self._store = process.store

    async def _write(self, what: str, change: Callable[[Rollout], Rollout]) -> None:
        """Change what is stored, as one transaction of this owner, and renew its lease."""
        process, store = self._process, self._store

        async def act() -> None:
            while (left := process.slow_until - process.now()) > 0:  # noqa: ASYNC110 - virtual
                await asyncio.sleep(left)
            await process.answering()
            if process.epoch != store.epoch:
                raise process.lease.lost()
            asked_at = process.now()
            store.rollout = change(self._world.rollout)
            store.seq += 1
            if store.owner is process:
                store.lease_until = asked_at + lease.SECONDS
                process.lease.extended(asked_at)
            self._world.effect(what)
            self._world.notice()

        await process.call(what, act)

    async def read(self) -> Rollout:
        await asyncio.sleep(0)
        await self._process.answering()
        if self._process.epoch != self._store.epoch:
            raise self._process.lease.lost()
        return self._world.rollout

    async def park(self, until: float | None, seen: Wish | None) -> bool:
        parked = False

        def change(rollout: Rollout) -> Rollout:
            nonlocal parked
            parked = rollout.wish is seen
            if parked:
                self._store.due_at = until
                self._store.owner, self._store.lease_until = None, 0.0
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
            self._world.shares.entered()
            if status in TERMINAL:
                self._world.ended(status, reason)
            return replace(
                rollout,
                status=status,
                reason=reason,
                waiting_until=None,
                wish=self._left(rollout.wish, status),
                progress_at=self._now() if status is D.IN_PROGRESS else rollout.progress_at,
            )

        await self._write(f"status {status.value}", change)

    async def begin_way_back(
        self, steps: Sequence[Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        def change(rollout: Rollout) -> Rollout:
            check_deployment_move(rollout.status, D.ROLLING_BACK)
            self._note_act(rollout)
            return replace(
                rollout,
                status=D.ROLLING_BACK,
                way_back=tuple(steps),
                ends_as=ends_as,
                cursor=0,
                reason=reason,
                waiting_until=None,
                wish=self._left(rollout.wish, D.ROLLING_BACK),
                progress_at=self._now(),
            )

        await self._write("status rolling_back", change)

    def _now(self) -> float:
        return self._process.now()

    def _left(self, wish: Wish | None, status: DeploymentStatus) -> Wish | None:
        """Return what is left of a wish once the deployment has moved."""
        return None if wish is None or wish.answered_by(status) else wish

    def _note_act(self, rollout: Rollout) -> None:
        if rollout.wish is not None and rollout.wish.ends and self._world.acted_after is None:
            self._world.acted_after = self._now() - self._store.wished_at

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        def change(rollout: Rollout) -> Rollout:
            wish = rollout.wish
            if cursor != rollout.cursor:
                if not rollout.going_back:
                    self._world.shares.passes(rollout)
                self._world.shares.entered()
                self._note_shift(rollout)
                wish = None if wish is Wish.PROMOTE else wish
            return replace(
                rollout,
                cursor=cursor,
                waiting_until=waiting_until,
                progress_at=self._now(),
                wish=wish,
            )

        await self._write(f"step {cursor}", change)

    def _note_shift(self, rollout: Rollout) -> None:
        done = rollout.step
        if not isinstance(done, Shift):
            return
        self._store.evidence = analysis.shifted(self._store.evidence)
        if done.old and done.share in {0, 100}:
            mine = rollout.targets[0].instance.slot
            other = SLOTS[1 - SLOTS.index(mine)]
            self._store.live_slot = mine if done.share else other

    async def target(
        self,
        name: str,
        status: TargetStatus,
        message: str,
        *,
        error: str = "",
        touched: bool = False,
        version: str | None = None,
        digest: str = "",
        soon: bool = False,
    ) -> None:
        def change(rollout: Rollout) -> Rollout:
            old = rollout.target(name)
            onward = status in {T.DRAINING, T.UPDATING} and not rollout.going_back
            if onward and rollout.wish is not None and rollout.wish.ends:
                raise Interrupted(f"{rollout.wish_by} asked for the end")
            check_target_move(old.status, status)
            if status is T.DRAINING:
                self._world.shares.way_back(name)
            new = replace(
                old,
                status=status,
                touched=old.touched or touched,
                returning=rollout.going_back,
                error=error or old.error,
            )
            if status is T.UPDATING:
                self._store.intended_at[name] = self._now()
            well = status in {T.HEALTHY, T.ROLLED_BACK}
            return replace(
                rollout,
                targets=tuple(new if one is old else one for one in rollout.targets),
                progress_at=self._now() if well else rollout.progress_at,
            )

        await self._write(f"target {name} {status.value}", change)

    async def check(self, name: str, answer: Answer, message: str) -> None:
        self._world.effect(f"check {name}")

    async def sessions(self, name: str, sessions: int) -> None:
        self._world.effect(f"sessions {name} {sessions}")

    async def output(self, name: str, text: str) -> None:
        self._world.effect(f"output {name} {text}")

    async def traffic(self, report: BalancerReport) -> None:
        """Weigh what was answered; while the database is away that waits for the next look."""
        await self._process.answering()
        store, rollout = self._store, self._world.rollout
        late = self._process.epoch != store.epoch or self._now() < self._process.slow_until
        if late or rollout.status in TERMINAL:
            return
        if rollout.policy.judging.enabled and rollout.ends_as is None:
            store.evidence = analysis.observe(store.evidence, report, self._sides(), self._now())
            judgement = analysis.verdict(store.evidence, rollout.policy.judging)
            store.rollout = replace(rollout, judgement=judgement)

    def _sides(self) -> dict[str, str]:
        """Return of each server that may have traffic on which side it is."""
        rollout = self._world.rollout
        shift = next((step for step in rollout.plan if isinstance(step, Shift)), None)
        others = tuple(one.server for one in rollout.others)
        sides = dict.fromkeys(shift.old if shift else others, analysis.OLD)
        for target in rollout.targets:
            server = target.instance.server
            if target.status is T.HEALTHY:
                sides[server] = analysis.NEW
            elif target.status is T.PENDING and not sides.get(server):
                sides[server] = analysis.OLD
        return sides

    async def note(self, message: str, name: str = "") -> None:
        await self._write(f"note {message}", lambda rollout: rollout)
