"""The only writer of a status.

Each write is one transaction: the row locked, the move checked, the change, and the event
with the next number. Listeners hear of it after the commit; they are news, never truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from rollouts import facts, planning
from rollouts.models import Deployment, Event, HealthCheck, Instance, Target
from rollouts.policy import Policy
from rollouts.snapshots import (
    checks_of,
    deployment_fields,
    event_fields,
    progress,
    target_fields,
)
from rollouts.states import (
    TERMINAL,
    DeploymentStatus,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)

Json = dict[str, Any]
Listener = Callable[[str, str, Json], None]  # deployment id, service name, event

OUTPUT_KEPT = 16_384  # characters of a driver's output in one event

# Called after commit with each event; the dashboard adds its own when it is loaded.
listeners: list[Listener] = []
# Called when a job ends, so that news still under way is not lost with the process.
flushes: list[Callable[[], None]] = []


def moment(seconds: float | None) -> datetime | None:
    """Return `seconds` since the Unix epoch as an aware datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def tell(deployment: Deployment, event: Event) -> None:
    """Give `event` to every listener once the transaction under way is committed."""
    fields = event_fields(event)
    service = deployment.service.name
    for listener in listeners:
        transaction.on_commit(
            lambda listener=listener: listener(deployment.id, service, fields),  # type: ignore[misc]
            robust=True,
        )


def locked(deployment_id: str) -> Deployment:
    """Return the deployment, its row locked until the transaction ends."""
    return (
        Deployment.objects.select_for_update(of=("self",))
        .select_related("service")
        .get(pk=deployment_id)
    )


def append(
    deployment: Deployment,
    kind: str,
    message: str,
    patch: Json | None = None,
    target: str = "",
) -> Event:
    """Append an event to a locked deployment and save its row, in the transaction under way."""
    deployment.seq += 1
    deployment.save()
    event = Event.objects.create(
        deployment=deployment,
        seq=deployment.seq,
        at=timezone.now(),
        kind=kind,
        target=target,
        patch={**(patch or {}), "seq": deployment.seq},
        message=message,
    )
    tell(deployment, event)
    return event


def changes(deployment: Deployment, *names: str) -> Json:
    """Return the named fields of the snapshot as they are now."""
    fields = deployment_fields(deployment)
    return {name: fields[name] for name in names}


def set_status(deployment: Deployment, status: DeploymentStatus, reason: str) -> Json:
    """Move a locked deployment and return what changed; raise IllegalMove."""
    check_deployment_move(DeploymentStatus(deployment.status), status)
    now = timezone.now()
    deployment.status = status.value
    deployment.reason = reason
    deployment.waiting_until = None
    if status is DeploymentStatus.IN_PROGRESS:
        # progress_deadline never runs while paused.
        deployment.progress_at = now
        deployment.started_at = deployment.started_at or now
    if status in TERMINAL:
        deployment.completed_at = now
    if deployment.wish in {facts.Wish.PAUSE, facts.Wish.RESUME}:
        deployment.wish = deployment.wish_by = ""
    return changes(
        deployment,
        "status",
        "reason",
        "waiting_until",
        "started_at",
        "completed_at",
        "wish",
        "wish_by",
    )


def rollout_of(deployment: Deployment) -> facts.Rollout:
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
        targets=tuple(target.fact() for target in deployment.targets.all()),
        cursor=deployment.cursor,
        waiting_until=deployment.waiting_until.timestamp() if deployment.waiting_until else None,
        progress_at=deployment.progress_at.timestamp(),
        wish=facts.Wish(deployment.wish) if deployment.wish else None,
        wish_by=deployment.wish_by,
        reason=deployment.reason,
    )


class DjangoJournal:
    """The journal of one deployment in PostgreSQL: `ports.Journal` for the engine.

    All calls run one after the other in one thread, so a call whose caller was cancelled
    still ends before the next begins.
    """

    def __init__(self, deployment_id: str) -> None:
        self.id = deployment_id

    async def read(self) -> facts.Rollout:
        return await sync_to_async(self._read)()

    async def move(self, status: DeploymentStatus, reason: str) -> None:
        await sync_to_async(self._move)(status, reason)

    async def begin_way_back(
        self, steps: Sequence[facts.Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        await sync_to_async(self._begin_way_back)(steps, ends_as, reason)

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        await sync_to_async(self._step)(cursor, waiting_until, message)

    async def target(
        self,
        name: str,
        status: TargetStatus,
        message: str,
        *,
        error: str = "",
        touched: bool = False,
        version: str | None = None,
    ) -> None:
        await sync_to_async(self._target)(name, status, message, error, touched, version)

    async def check(self, name: str, answer: facts.Answer, message: str) -> None:
        await sync_to_async(self._check)(name, answer, message)

    async def sessions(self, name: str, sessions: int) -> None:
        await sync_to_async(self._sessions)(name, sessions)

    async def output(self, name: str, text: str) -> None:
        if len(text) > OUTPUT_KEPT:
            text = text[:OUTPUT_KEPT] + f"\n[cut: {len(text) - OUTPUT_KEPT} more characters]"
        await sync_to_async(self._note)("output", text, name)

    async def traffic(self, report: facts.BalancerReport) -> None:
        await sync_to_async(self._traffic)(report)

    async def note(self, message: str, name: str = "") -> None:
        await sync_to_async(self._note)("note", message, name)

    @transaction.atomic
    def _read(self) -> facts.Rollout:
        deployment = Deployment.objects.select_related("service").get(pk=self.id)
        return rollout_of(deployment)

    @transaction.atomic
    def _move(self, status: DeploymentStatus, reason: str) -> None:
        deployment = locked(self.id)
        append(deployment, "status", reason, set_status(deployment, status, reason))

    @transaction.atomic
    def _begin_way_back(
        self, steps: Sequence[facts.Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        deployment = locked(self.id)
        deployment.way_back = planning.steps_to_json(steps)
        deployment.ends_as = ends_as.value
        deployment.cursor = 0
        patch = set_status(deployment, DeploymentStatus.ROLLING_BACK, reason)
        deployment.progress_at = timezone.now()
        append(deployment, "status", reason, patch)

    @transaction.atomic
    def _step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        deployment = locked(self.id)
        deployment.cursor = cursor
        if deployment.waiting_until is not None:
            # The pause counted as no lack of progress; the deadline is armed again after it.
            deployment.progress_at = timezone.now()
        deployment.waiting_until = moment(waiting_until)
        append(deployment, "step", message, changes(deployment, "waiting_until"))

    @transaction.atomic
    def _target(
        self,
        name: str,
        status: TargetStatus,
        message: str,
        error: str,
        touched: bool,
        version: str | None,
    ) -> None:
        deployment = locked(self.id)
        target = deployment.targets.get(name=name)
        check_target_move(TargetStatus(target.status), status)
        now = timezone.now()
        target.status = status.value
        target.updated_at = now
        target.sessions = None
        target.touched = target.touched or touched
        target.returning = deployment.way_back is not None
        target.error = error or target.error
        target.save()
        if status in {TargetStatus.HEALTHY, TargetStatus.ROLLED_BACK}:
            deployment.progress_at = now
        if version is not None and target.instance_id is not None:
            Instance.objects.filter(pk=target.instance_id).update(version=version, version_at=now)
        patch = {"targets": [target_fields(target)], "progress": progress(deployment)}
        append(deployment, "target", message, patch, name)

    @transaction.atomic
    def _check(self, name: str, answer: facts.Answer, message: str) -> None:
        deployment = locked(self.id)
        target = deployment.targets.get(name=name)
        HealthCheck.objects.create(
            target=target,
            at=datetime.fromtimestamp(answer.at, UTC),
            ok=answer.ok,
            status=answer.code,
            latency_ms=answer.latency_ms,
            error=answer.error[:500],
        )
        patch = {"targets": [{"instance": name, "health_checks": checks_of(target)}]}
        append(deployment, "check", message, patch, name)

    @transaction.atomic
    def _sessions(self, name: str, sessions: int) -> None:
        deployment = locked(self.id)
        deployment.targets.filter(name=name).update(sessions=sessions)
        patch = {"targets": [{"instance": name, "sessions": sessions}]}
        append(deployment, "sessions", "", patch, name)

    @transaction.atomic
    def _traffic(self, report: facts.BalancerReport) -> None:
        deployment = locked(self.id)
        deployment.traffic = _traffic_fields(deployment, report)
        deployment.counters = [report.requests, report.failed]
        append(deployment, "traffic", "", changes(deployment, "traffic"))

    @transaction.atomic
    def _note(self, kind: str, message: str, name: str) -> None:
        append(locked(self.id), kind, message, target=name)


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


def create(deployment: Deployment, targets: Sequence[Target], message: str) -> None:
    """Store a new deployment with its targets and its first event, in the transaction under way.

    Raises IntegrityError where another deployment of the service is active.
    """
    deployment.traffic = {"requests": 0, "failed_requests": 0, "shares": {}}
    deployment.save(force_insert=True)
    Target.objects.bulk_create(targets)
    append(deployment, "created", message, {"status": deployment.status})


@transaction.atomic
def record_wish(deployment_id: str, wish: facts.Wish | None, by: str, message: str) -> Deployment:
    """Store what a person asked for, as a wish that the engine turns into status."""
    deployment = locked(deployment_id)
    deployment.wish = wish.value if wish else ""
    deployment.wish_by = by
    append(deployment, "wish", message, changes(deployment, "wish", "wish_by"))
    return deployment


@transaction.atomic
def move_now(deployment_id: str, status: DeploymentStatus, reason: str) -> Deployment:
    """Move a deployment that no engine drives; raise IllegalMove."""
    deployment = locked(deployment_id)
    append(deployment, "status", reason, set_status(deployment, status, reason))
    return deployment


def policy_json(policy: Policy) -> Json:
    """Return `policy` as it is stored and shown."""
    return asdict(policy)
