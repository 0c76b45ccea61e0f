"""The only writer of a status.

Each write is one transaction: the row locked, the move checked, the change, and the event
with the next number. Listeners hear of it after the commit; they are news, never truth.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    event_fields,
    moving_fields,
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

Write = Callable[["Entry"], None]

OUTPUT_KEPT = 16_384  # characters of a driver's output in one event

# Called after commit with each event; the dashboard adds its own when it is loaded.
listeners: list[Listener] = []
# Called when a job ends, so that news still under way is not lost with the process.
flushes: list[Callable[[], None]] = []


def moment(seconds: float | None) -> datetime | None:
    """Return `seconds` since the Unix epoch as an aware datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def locked(deployment_id: str) -> Deployment:
    """Return the deployment, its row locked until the transaction ends.

    What never changes and is large is left out; it is read where it is asked for.
    """
    return (
        Deployment.objects.select_for_update(of=("self",))
        .select_related("service")
        .defer("plan", "policy", "adapters", "way_back", "service__driver", "service__balancer")
        .get(pk=deployment_id)
    )


class Entry:
    """One transaction on a locked deployment: what changes, and the events that tell of it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._events: list[Event] = []

    def append(self, kind: str, message: str, patch: Json | None = None, target: str = "") -> None:
        """Add an event with the next number."""
        self.deployment.seq += 1
        self._events.append(
            Event(
                deployment=self.deployment,
                seq=self.deployment.seq,
                at=timezone.now(),
                kind=kind,
                target=target,
                patch={**(patch or {}), "seq": self.deployment.seq},
                message=message,
            )
        )

    def save(self) -> None:
        """Write the deployment's row and the events; listeners hear of them after the commit."""
        self.deployment.save()
        Event.objects.bulk_create(self._events)
        for event in self._events:
            _tell(self.deployment, event)


@contextmanager
def writing(deployment_id: str) -> Iterator[Entry]:
    """Open the journal of a deployment for one transaction."""
    with transaction.atomic():
        entry = Entry(locked(deployment_id))
        yield entry
        entry.save()


def _tell(deployment: Deployment, event: Event) -> None:
    """Give `event` to every listener once the transaction under way is committed."""
    fields = event_fields(event)
    service = deployment.service.name
    for listener in listeners:
        transaction.on_commit(
            lambda listener=listener: listener(deployment.id, service, fields),  # type: ignore[misc]
            robust=True,
        )


def changes(deployment: Deployment, *names: str) -> Json:
    """Return the named fields of the snapshot as they are now."""
    fields = moving_fields(deployment)
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

    Writes are committed in the order in which they were asked for, in one thread. What waits
    while a transaction is under way shares the next one, so that many instances changed at the
    same time cost few commits (group commit, as databases do it). A write whose caller was
    cancelled is committed all the same.
    """

    def __init__(self, deployment_id: str) -> None:
        self.id = deployment_id
        self._waiting: list[tuple[Write, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None

    async def read(self) -> facts.Rollout:
        await self.settle()
        return await sync_to_async(_read)(self.id)

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
            target = _moved(entry.deployment, name, status, error, touched)
            if version is not None and target.instance_id is not None:
                Instance.objects.filter(pk=target.instance_id).update(
                    version=version, version_at=target.updated_at
                )
            patch = {"targets": [target_fields(target)], "progress": progress(entry.deployment)}
            entry.append("target", message, patch, name)

        if soon:
            self._post(write)
        else:
            await self._write(write)

    async def check(self, name: str, answer: facts.Answer, message: str) -> None:
        def write(entry: Entry) -> None:
            target = entry.deployment.targets.get(name=name)
            HealthCheck.objects.create(
                target=target,
                at=datetime.fromtimestamp(answer.at, UTC),
                ok=answer.ok,
                status=answer.code,
                latency_ms=answer.latency_ms,
                error=answer.error[:500],
            )
            patch = {"targets": [{"instance": name, "health_checks": checks_of(target)}]}
            entry.append("check", message, patch, name)

        self._post(write)

    async def sessions(self, name: str, sessions: int) -> None:
        def write(entry: Entry) -> None:
            entry.deployment.targets.filter(name=name).update(sessions=sessions)
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
                await sync_to_async(_commit)(self.id, [write for write, _ in group])
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
            await sync_to_async(_commit)(self.id, [write])
        except Exception as error:
            if not written.done():
                written.set_exception(error)
        else:
            if not written.done():
                written.set_result(None)


@transaction.atomic
def _read(deployment_id: str) -> facts.Rollout:
    return rollout_of(Deployment.objects.select_related("service").get(pk=deployment_id))


def _commit(deployment_id: str, writes: Sequence[Write]) -> None:
    with writing(deployment_id) as entry:
        for write in writes:
            write(entry)


def _moved(
    deployment: Deployment, name: str, status: TargetStatus, error: str, touched: bool
) -> Target:
    """Move a target of a locked deployment and return it; raise IllegalMove."""
    target = deployment.targets.get(name=name)
    check_target_move(TargetStatus(target.status), status)
    target.status = status.value
    target.updated_at = timezone.now()
    target.sessions = None
    target.touched = target.touched or touched
    target.returning = bool(deployment.ends_as)
    target.error = error or target.error
    target.save()
    if status in {TargetStatus.HEALTHY, TargetStatus.ROLLED_BACK}:
        deployment.progress_at = target.updated_at
    return target


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
    entry = Entry(deployment)
    entry.append("created", message, {"status": deployment.status})
    entry.save()


def record_wish(deployment_id: str, wish: facts.Wish | None, by: str, message: str) -> Deployment:
    """Store what a person asked for, as a wish that the engine turns into status."""
    with writing(deployment_id) as entry:
        entry.deployment.wish = wish.value if wish else ""
        entry.deployment.wish_by = by
        entry.append("wish", message, changes(entry.deployment, "wish", "wish_by"))
    return entry.deployment


def move_now(deployment_id: str, status: DeploymentStatus, reason: str) -> Deployment:
    """Move a deployment that no engine drives; raise IllegalMove."""
    with writing(deployment_id) as entry:
        entry.append("status", reason, set_status(entry.deployment, status, reason))
    return entry.deployment


def policy_json(policy: Policy) -> Json:
    """Return `policy` as it is stored and shown."""
    return asdict(policy)
