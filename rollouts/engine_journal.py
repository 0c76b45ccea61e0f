"""The journal of one deployment for the engine that drives it: `ports.Journal` in PostgreSQL."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from asgiref.sync import sync_to_async
from django.utils import timezone

from rollouts import facts, planning
from rollouts.journal import Entry, changes, moment, move_target, set_status, writing
from rollouts.models import Deployment, HealthCheck, Instance, Service, Target
from rollouts.policy import Policy
from rollouts.snapshots import (
    CHECKS_SHOWN,
    Json,
    check_fields,
    latest_checks,
    progress,
    target_fields,
)
from rollouts.states import DeploymentStatus, TargetStatus

Write = Callable[[Entry], None]

OUTPUT_KEPT = 16_384  # characters of a driver's output in one event


def rollout_of(deployment: Deployment, targets: Iterable[Target]) -> facts.Rollout:
    """Return `deployment` as the frozen facts that the engine decides on."""
    return facts.Rollout(
        id=deployment.id,
        service=deployment.service.name,
        version=deployment.version,
        policy=Policy(**deployment.policy),
        status=DeploymentStatus(deployment.status),
        plan=planning.steps_from_json(deployment.plan),
        way_back=None
        if deployment.way_back is None
        else planning.steps_from_json(deployment.way_back),
        ends_as=DeploymentStatus(deployment.ends_as) if deployment.ends_as else None,
        targets=tuple(target.fact() for target in targets),
        cursor=deployment.cursor,
        waiting_until=deployment.waiting_until.timestamp() if deployment.waiting_until else None,
        progress_at=deployment.progress_at.timestamp(),
        wish=facts.Wish(deployment.wish) if deployment.wish else None,
        wish_by=deployment.wish_by,
        reason=deployment.reason,
    )


class DjangoJournal:
    """The journal of one deployment in PostgreSQL: `ports.Journal` for the engine.

    Writes are committed in the order in which they were asked for, in one thread. What waits
    while a transaction is under way shares the next one, so that many instances changed at the
    same time cost few commits (group commit, as databases do it). A write whose caller was
    cancelled is committed all the same.
    """

    def __init__(self, deployment_id: str) -> None:
        self.id = deployment_id
        self._rows: _Rows | None = None
        self._waiting: list[tuple[Write, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None

    async def read(self) -> facts.Rollout:
        await self.settle()
        return await sync_to_async(self._read)()

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
            entry.append("status", reason, patch)

        await self._write(write)

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        def write(entry: Entry) -> None:
            deployment = entry.deployment
            deployment.cursor = cursor
            if deployment.waiting_until is not None:
                # The pause was no lack of progress; the deadline is armed again after it.
                deployment.progress_at = timezone.now()
            deployment.waiting_until = moment(waiting_until)
            entry.append("step", message, changes(deployment, "waiting_until"))

        await self._write(write)

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
        def write(entry: Entry) -> None:
            rows = self._held()
            target = move_target(entry.deployment, rows.targets[name], status, error, touched)
            if version is not None and target.instance_id is not None:
                Instance.objects.filter(pk=target.instance_id).update(
                    version=version, version_at=target.updated_at
                )
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
            deployment.traffic = _traffic_fields(deployment, report)
            deployment.counters = [report.requests, report.failed]
            entry.append("traffic", "", changes(deployment, "traffic"))

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
                await sync_to_async(self._commit)([write for write, _ in group])
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
            await sync_to_async(self._commit)([write])
        except Exception as error:
            if not written.done():
                written.set_exception(error)
        else:
            if not written.done():
                written.set_result(None)

    def _read(self) -> facts.Rollout:
        deployment = Deployment.objects.get(pk=self.id)
        deployment.service = self._held().service
        return rollout_of(deployment, self._held().targets.values())

    def _commit(self, writes: Sequence[Write]) -> None:
        try:
            with writing(self.id) as entry:
                entry.deployment.service = self._held().service
                for write in writes:
                    write(entry)
        except BaseException:
            self._rows = None  # they may hold what was not committed
            raise

    def _held(self) -> "_Rows":
        """Return the targets: read once, for nobody else writes them."""
        if self._rows is None:
            targets = Target.objects.filter(deployment=self.id)
            self._rows = _Rows(
                Service.objects.get(deployments=self.id),
                {one.name: one for one in targets},
                latest_checks(self.id),
            )
        return self._rows


@dataclass
class _Rows:
    """Targets by name in the order of the plan, and the last checks of each by its key."""

    service: Service
    targets: dict[str, Target]
    checks: dict[int, list[Json]]


def _traffic_fields(deployment: Deployment, report: facts.BalancerReport) -> Json:
    """Return requests and failures since the first report, and shares of the set weights.

    A balancer that restarted counts from zero again; what it counted before is kept.
    """
    held = deployment.traffic
    requests, failed = deployment.counters or [report.requests, report.failed]
    if report.requests < requests:
        requests = failed = 0
    weights: dict[str, int] = {}
    for target in deployment.targets.select_related("instance"):
        server = report.servers.get(target.server)
        version = target.instance.version if target.instance else ""
        if server is not None and server.serving and version:
            weights[version] = weights.get(version, 0) + server.weight
    total = sum(weights.values())
    return {
        "requests": held["requests"] + report.requests - requests,
        "failed_requests": held["failed_requests"] + max(0, report.failed - failed),
        "shares": {version: round(weight / total, 4) for version, weight in weights.items()},
    }
