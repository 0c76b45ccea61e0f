"""The journal of one deployment for the engine that drives it: `ports.Journal` in PostgreSQL."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.utils import timezone

from rollouts import analysis, facts, planning
from rollouts import policy as policies
from rollouts.journal import (
    Entry,
    changes,
    end_lease,
    extend_lease,
    moment,
    move_target,
    set_status,
    writing,
)
from rollouts.lease import Lease
from rollouts.models import Deployment, HealthCheck, Instance, Service, Slot, Target
from rollouts.ownership import AWAY, Claim, disconnect
from rollouts.ports import LeaseLost
from rollouts.snapshots import (
    CHECKS_SHOWN,
    Json,
    analysis_fields,
    check_fields,
    latest_checks,
    progress,
    target_fields,
)
from rollouts.states import DeploymentStatus, TargetStatus

log = logging.getLogger(__name__)

Write = Callable[[Entry], None]
R = TypeVar("R")
AGAINST = facts.Finding.AGAINST

# While PostgreSQL is away, or the connection to it is lost: seconds between two tries, and how
# long it is tried; then the deployment is left to a successor.
AGAIN_FIRST, AGAIN_LONGEST, AGAIN_FOR = 0.1, 2.0, 600.0
OUTPUT_KEPT = 16_384  # characters of a driver's output in one event


def rollout_of(deployment: Deployment, targets: Iterable[Target]) -> facts.Rollout:
    """Return `deployment` as the frozen facts that the engine decides on."""
    policy = policies.stored(deployment.policy)
    mine = tuple(target.fact() for target in targets)
    return facts.Rollout(
        id=deployment.id,
        service=deployment.service.name,
        version=deployment.version,
        policy=policy,
        status=DeploymentStatus(deployment.status),
        plan=planning.steps_from_json(deployment.plan),
        way_back=None
        if deployment.way_back is None
        else planning.steps_from_json(deployment.way_back),
        ends_as=DeploymentStatus(deployment.ends_as) if deployment.ends_as else None,
        targets=mine,
        others=_others(deployment, {target.instance.name for target in mine}),
        cursor=deployment.cursor,
        waiting_until=deployment.waiting_until.timestamp() if deployment.waiting_until else None,
        progress_at=deployment.progress_at.timestamp(),
        wish=facts.Wish(deployment.wish) if deployment.wish else None,
        wish_by=deployment.wish_by,
        reason=deployment.reason,
        judgement=analysis.verdict(analysis.from_json(deployment.evidence), policy.judging),
    )


def _others(deployment: Deployment, mine: Collection[str]) -> tuple[facts.Instance, ...]:
    """Return the instances of the fleet that are left as they are."""
    if deployment.strategy != "rolling":
        return ()  # a canary changes all, and blue/green counts one slot alone
    fleet = (facts.Instance(**one) for one in deployment.adapters.get("instances", ()))
    return tuple(one for one in fleet if one.name not in mine)


class DjangoJournal:
    """The journal of one deployment in PostgreSQL: `ports.Journal` for the engine.

    Writes are committed in the order in which they were asked for, in one thread. What waits
    while a transaction is under way shares the next one, so that many instances changed at the
    same time cost few commits (group commit, as databases do it). A write whose caller was
    cancelled is committed all the same. Where the connection is lost a write is tried again
    until it is committed, once. Each commit renews the lease.
    """

    def __init__(self, claim: Claim, lease: Lease) -> None:
        self.id = claim.deployment_id
        self._epoch = claim.epoch
        self._lease = lease
        self._written: int | None = None  # number of the last transaction of an owner
        self._rows: _Rows | None = None
        self._waiting: list[tuple[Write, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None

    async def read(self) -> facts.Rollout:
        await self.settle()
        return await self._surely(self._read)

    async def park(self, until: float | None, seen: facts.Wish | None) -> bool:
        parked = False

        def write(entry: Entry) -> None:
            nonlocal parked
            deployment = entry.deployment
            parked = deployment.wish == (seen or "")
            if parked:
                deployment.due_at = moment(until)
                end_lease(deployment)

        await self._write(write)
        return parked

    async def move(self, status: DeploymentStatus, reason: str) -> None:
        def write(entry: Entry) -> None:
            entry.append("status", reason, set_status(entry.deployment, status, reason))

        await self._write(write)

    async def begin_way_back(
        self, steps: Sequence[facts.Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        def write(entry: Entry) -> None:
            deployment = entry.deployment
            deployment.way_back = planning.steps_to_json(steps)
            deployment.ends_as = ends_as.value
            deployment.cursor = 0
            patch = set_status(deployment, DeploymentStatus.ROLLING_BACK, reason)
            deployment.progress_at = timezone.now()
            patch |= changes(deployment, "step") | {"way_back": deployment.way_back}
            entry.append("status", reason, patch)

        await self._write(write)

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        def write(entry: Entry) -> None:
            deployment = entry.deployment
            fields = ["step", "waiting_until"]
            if cursor != deployment.cursor:
                self._note_shift(deployment)
                if deployment.wish == facts.Wish.PROMOTE:
                    deployment.wish = deployment.wish_by = ""
                    fields += ["wish", "wish_by"]
            deployment.cursor = cursor
            # A pause was no lack of progress; the deadline is armed again after each step.
            deployment.progress_at = timezone.now()
            deployment.waiting_until = moment(waiting_until)
            entry.append("step", message, changes(deployment, *fields))

        await self._write(write)

    def _note_shift(self, deployment: Deployment) -> None:
        """Record what follows from the step that is done, where it was a shift of the traffic."""
        rows = self._held()
        steps = rows.plan if deployment.way_back is None else deployment.way_back
        [done] = planning.steps_from_json(steps[deployment.cursor : deployment.cursor + 1])
        if not isinstance(done, facts.Shift):
            return
        counted = analysis.from_json(deployment.evidence)
        deployment.evidence = analysis.to_json(analysis.shifted(counted))
        if done.old and done.share in {0, 100}:
            mine = next(iter(rows.targets.values())).slot
            other = Slot.GREEN if mine == Slot.BLUE else Slot.BLUE
            live = mine if done.share else other.value
            Service.objects.filter(pk=rows.service.pk).update(live_slot=live)

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
        def write(entry: Entry) -> None:
            rows = self._held()
            target = rows.targets[name]
            target.digest = digest or target.digest
            move_target(entry.deployment, target, status, error, touched)
            instance = Instance.objects.filter(targets=target)
            if version is not None:
                instance.update(
                    version=version, version_at=target.updated_at, digest=digest, held_out=""
                )
            elif status is TargetStatus.FAILED:
                instance.update(held_out=error)
            patch = {
                "targets": [target_fields(target)],
                "progress": progress(rows.targets.values()),
            }
            entry.append("target", message, patch, name)

        if soon:
            self._post(write)
        else:
            await self._write(write)

    async def check(self, name: str, answer: facts.Answer, message: str) -> None:
        def write(entry: Entry) -> None:
            rows = self._held()
            check = HealthCheck.objects.create(
                target=rows.targets[name],
                at=datetime.fromtimestamp(answer.at, UTC),
                ok=answer.ok,
                status=answer.code,
                latency_ms=answer.latency_ms,
                error=answer.error[:500],
            )
            shown = rows.checks[check.target_id]
            shown.append(check_fields(check))
            del shown[:-CHECKS_SHOWN]
            patch = {"targets": [{"instance": name, "health_checks": list(shown)}]}
            entry.append("check", message, patch, name)

        self._post(write)

    async def sessions(self, name: str, sessions: int) -> None:
        def write(entry: Entry) -> None:
            target = self._held().targets[name]
            target.sessions = sessions
            target.save(update_fields=["sessions"])
            patch = {"targets": [{"instance": name, "sessions": sessions}]}
            entry.append("sessions", "", patch, name)

        self._post(write)

    async def output(self, name: str, text: str) -> None:
        if len(text) > OUTPUT_KEPT:
            text = text[:OUTPUT_KEPT] + f"\n[cut: {len(text) - OUTPUT_KEPT} more characters]"
        self._post(lambda entry: entry.append("output", text, target=name))

    async def traffic(self, report: facts.BalancerReport) -> None:
        def write(entry: Entry) -> None:
            deployment = entry.deployment
            rows = self._held()
            if rows.policy.judging.enabled and not deployment.ends_as:
                counted = analysis.from_json(deployment.evidence)
                if analysis.verdict(counted, rows.policy.judging).finding is not AGAINST:
                    # What was once enough to condemn stays so: later looks can't undo it.
                    counted = analysis.observe(counted, report, rows.sides(), time.time())
                    deployment.evidence = analysis.to_json(counted)
            deployment.traffic = _traffic_fields(deployment, report)
            deployment.counters = [report.requests, report.failed]
            patch = changes(deployment, "traffic")
            if deployment.evidence:
                patch["analysis"] = analysis_fields(deployment.evidence, rows.policy)
            entry.append("traffic", "", patch)

        self._post(write)

    async def note(self, message: str, name: str = "") -> None:
        await self._write(lambda entry: entry.append("note", message, target=name))

    async def settle(self) -> None:
        """Return when all that was asked for is committed; raise what a post ran into."""
        if self._writer is not None:
            await asyncio.shield(self._writer)
        if self._lost is not None:
            raise self._lost

    async def _write(self, write: Write) -> None:
        """Commit `write` after all that was asked for before; raise what it runs into."""
        await self._enqueue(write)

    def _post(self, write: Write) -> None:
        """Have `write` committed in its turn; what it runs into is raised by a later call."""
        self._enqueue(write).add_done_callback(self._note_loss)

    def _note_loss(self, written: asyncio.Future[None]) -> None:
        if not written.cancelled() and (error := written.exception()) is not None:
            self._lost = self._lost or error

    def _enqueue(self, write: Write) -> asyncio.Future[None]:
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((write, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return written

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await self._commit([write for write, _ in group])
            except (*AWAY, LeaseLost) as error:
                for _, written in group:
                    _fail(written, error)
            except Exception:
                # One of them spoils the transaction of all: each alone, to tell which.
                for one in group:
                    await self._write_alone(*one)
            else:
                for _, written in group:
                    if not written.done():
                        written.set_result(None)

    async def _write_alone(self, write: Write, written: asyncio.Future[None]) -> None:
        try:
            await self._commit([write])
        except Exception as error:
            _fail(written, error)
        else:
            if not written.done():
                written.set_result(None)

    async def _commit(self, writes: Sequence[Write]) -> None:
        """Commit `writes` as one transaction, once, however often it has to be tried."""
        if self._written is None:
            self._written = await self._surely(self._last_written)
        number = self._written + 1
        asked_at = await self._surely(lambda: self._commit_once(writes, number))
        self._written = number
        self._lease.extended(asked_at)

    async def _surely(self, call: Callable[[], R]) -> R:
        """Return what `call` reads or commits, tried again while PostgreSQL is away."""
        loop = asyncio.get_running_loop()
        since, delay = loop.time(), AGAIN_FIRST
        while True:
            try:
                return await sync_to_async(call)()
            except AWAY as error:
                if loop.time() - since > AGAIN_FOR:
                    raise
                log.warning("%s: PostgreSQL is asked again: %s", self.id, error)
                await disconnect()
                await asyncio.sleep(delay)
                delay = min(2 * delay, AGAIN_LONGEST)

    def _last_written(self) -> int:
        return Deployment.objects.values_list("write_number", flat=True).get(pk=self.id)

    def _read(self) -> facts.Rollout:
        deployment = Deployment.objects.get(pk=self.id)
        if deployment.epoch != self._epoch:
            raise self._lease.lost()
        deployment.service = self._held().service
        return rollout_of(deployment, self._held().targets.values())

    def _commit_once(self, writes: Sequence[Write], number: int) -> float:
        """Return from when on the lease is extended; raise what a write runs into."""
        asked_at = self._lease.now()
        try:
            with writing(self.id, self._epoch) as entry:
                deployment = entry.deployment
                if deployment.write_number >= number:
                    # An earlier try was committed, and only the answer was lost.
                    self._rows = None
                    return asked_at
                deployment.service = self._held().service
                deployment.write_number = number
                if deployment.owner:
                    extend_lease(deployment)
                for write in writes:
                    write(entry)
        except BaseException as error:
            self._rows = None  # they may hold what was not committed
            if isinstance(error, LeaseLost):
                self._lease.lost()
            raise
        return asked_at

    def _held(self) -> "_Rows":
        """Return the targets: read once, for nobody else writes them."""
        if self._rows is None:
            targets = Target.objects.filter(deployment=self.id)
            rows = {one.name: one for one in targets}
            frozen = Deployment.objects.only("plan", "policy", "strategy", "adapters")
            deployment = frozen.get(pk=self.id)
            self._rows = _Rows(
                Service.objects.get(deployments=self.id),
                rows,
                latest_checks(self.id),
                deployment.plan,
                policies.stored(deployment.policy),
                tuple(one.server for one in _others(deployment, rows)),
            )
        return self._rows


def _fail(written: asyncio.Future[None], error: Exception) -> None:
    if not written.done():
        written.set_exception(error)


@dataclass
class _Rows:
    """Targets by name in the order of the plan, and the last checks of each by its key."""

    service: Service
    targets: dict[str, Target]
    checks: dict[int, list[Json]]
    plan: list[Json]
    policy: policies.Policy
    others: tuple[str, ...]  # servers of instances that are left as they are

    def sides(self) -> dict[str, str]:
        """Return of each server that may have traffic on which side it is."""
        steps = planning.steps_from_json(self.plan)
        shift = next((step for step in steps if isinstance(step, facts.Shift)), None)
        sides = dict.fromkeys(shift.old if shift else self.others, analysis.OLD)
        for target in self.targets.values():
            if target.status == TargetStatus.HEALTHY:
                sides[target.server] = analysis.NEW
            elif target.status == TargetStatus.PENDING and not sides.get(target.server):
                sides[target.server] = analysis.OLD
        return sides


def _traffic_fields(deployment: Deployment, report: facts.BalancerReport) -> Json:
    """Return requests and failures since the first report, and shares of the set weights.

    `observed` are the shares of what was answered since the weights were set last. A balancer
    that restarted counts from zero again; what it counted before is kept.
    """
    held = deployment.traffic
    requests, failed = deployment.counters or [report.requests, report.failed]
    if report.requests < requests:
        requests = failed = 0
    weights: dict[str, int] = {}
    instances = Instance.objects.filter(service=deployment.service_id, active=True)
    for name, version in instances.values_list("server", "version"):
        server = report.servers.get(name)
        if server is not None and server.serving and version:
            weights[version] = weights.get(version, 0) + server.weight
    total = sum(weights.values())
    new = analysis.observed_share(analysis.from_json(deployment.evidence))
    return {
        "requests": held["requests"] + report.requests - requests,
        "failed_requests": held["failed_requests"] + max(0, report.failed - failed),
        "shares": {version: round(weight / total, 4) for version, weight in weights.items()},
        "observed": {}
        if new is None
        else {
            deployment.previous_version: round(1 - new / 100, 4),
            deployment.version: round(new / 100, 4),
        },
    }
