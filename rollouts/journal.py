"""The only writer of a status.

Each write is one transaction: the row locked, the move checked, the change, and the event
with the next number. Listeners hear of it after the commit; they are news, never truth.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from rollouts import facts, lease
from rollouts.models import Deployment, Event, Target
from rollouts.policy import Policy
from rollouts.ports import Interrupted, LeaseLost
from rollouts.snapshots import (
    event_fields,
    moving_fields,
    snapshot,
)
from rollouts.states import (
    SERVING,
    TERMINAL,
    DeploymentStatus,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)

Json = dict[str, Any]
Listener = Callable[[str, str, Json], None]  # deployment id, service name, event

# Called after commit with each event; the dashboard adds its own when it is loaded.
listeners: list[Listener] = []
# Called when a job ends, so that news still under way is not lost with the process.
flushes: list[Callable[[], None]] = []


def moment(seconds: float | None) -> datetime | None:
    """Return `seconds` since the Unix epoch as an aware datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def locked(deployment_id: str) -> Deployment:
    """Return the deployment, its row locked until the transaction ends.

    `db_now` of it is the database's time, before the lock was got. What never changes and is
    large is left out; it is read where it is asked for.
    """
    large = ("plan", "policy", "adapters", "way_back")
    rows = Deployment.objects.select_for_update().defer(*large).annotate(asked_at=Now())
    deployment = rows.get(pk=deployment_id)
    deployment.db_now = deployment.asked_at
    return deployment


class Entry:
    """One transaction on a locked deployment: what changes, and the events that tell of it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._before = dict(vars(deployment))
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
        """Write what changed of the deployment, and the events, of which listeners then hear."""
        fields = [field.attname for field in Deployment._meta.concrete_fields]
        held = vars(self.deployment)
        changed = [name for name in fields if name in held and held[name] != self._before.get(name)]
        self.deployment.save(update_fields=changed)
        Event.objects.bulk_create(self._events)
        for event in self._events:
            _tell(self.deployment, event)


@contextmanager
def writing(deployment_id: str, epoch: int | None = None) -> Iterator[Entry]:
    """Open the journal of a deployment for one transaction; raise Deployment.DoesNotExist.

    With an `epoch`, that of the owner who writes: raises LeaseLost where another owns it.
    """
    with transaction.atomic():
        entry = Entry(locked(deployment_id))
        if epoch is not None and entry.deployment.epoch != epoch:
            raise LeaseLost(f"{deployment_id} has another owner now")
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


def extend_lease(deployment: Deployment) -> None:
    """Keep others out for `lease.SECONDS` from when the locked row was asked for."""
    deployment.heard_at = deployment.db_now
    deployment.lease_until = deployment.db_now + timedelta(seconds=lease.SECONDS)


def end_lease(deployment: Deployment) -> None:
    """Let nobody drive the locked deployment any more."""
    deployment.owner = ""
    deployment.lease_until = None


def stop_waiting(deployment: Deployment) -> Json:
    """Note on the locked deployment that it waits for no worker; return what changed."""
    deployment.waiting_for = ""
    return changes(deployment, "waiting_for")


def tell_waiting(deployment_id: str, what: facts.Waiting) -> None:
    """Say what a deployment that nobody drives waits for, once."""
    with writing(deployment_id) as entry:
        held = entry.deployment
        if held.completed_at is None and held.waiting_for != what and not is_driven(held):
            held.waiting_for = what.value
            words = what.words(started=held.started_at is not None)
            entry.append("waiting", words, changes(held, "waiting_for"))


def is_driven(deployment: Deployment) -> bool:
    """Whether somebody has the locked deployment."""
    return deployment.lease_until is not None and deployment.lease_until > deployment.db_now


def changes(deployment: Deployment, *names: str) -> Json:
    """Return the named fields of the snapshot as they are now."""
    fields = moving_fields(deployment)
    return {name: fields[name] for name in names}


def set_status(deployment: Deployment, status: DeploymentStatus, reason: str) -> Json:
    """Move a locked deployment and return what changed; raise IllegalMove or Interrupted."""
    check_deployment_move(DeploymentStatus(deployment.status), status)
    if status is DeploymentStatus.COMPLETED:
        refuse_interrupted(deployment)
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
        deployment.due_at = None
        deployment.waiting_for = ""
        end_lease(deployment)
    if deployment.wish and facts.Wish(deployment.wish).answered_by(status):
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
        "waiting_for",
    )


def refuse_interrupted(deployment: Deployment) -> None:
    """Raise Interrupted where a person asked for the end of the locked deployment."""
    if deployment.wish and facts.Wish(deployment.wish).ends:
        raise Interrupted(f"{deployment.wish_by} asked for the end")


def move_target(
    deployment: Deployment, target: Target, status: TargetStatus, error: str, touched: bool
) -> Target:
    """Move a target of a locked deployment and return it; raise IllegalMove or Interrupted."""
    if status in {TargetStatus.DRAINING, TargetStatus.UPDATING} and not deployment.ends_as:
        refuse_interrupted(deployment)
    check_target_move(TargetStatus(target.status), status)
    target.status = status.value
    target.updated_at = timezone.now()
    target.sessions = None
    target.touched = target.touched or touched
    target.returning = bool(deployment.ends_as)
    target.error = error or target.error
    target.save()
    if status in SERVING:
        deployment.progress_at = target.updated_at
    return target


def create(deployment: Deployment, targets: Sequence[Target], message: str) -> None:
    """Store a new deployment with its targets and its first event, in the transaction under way.

    The first patch is the whole snapshot: from nothing, the events alone lead to any later state.
    Raises IntegrityError where another deployment of the service is active.
    """
    deployment.traffic = {"requests": 0, "failed_requests": 0, "shares": {}, "observed": {}}
    deployment.save(force_insert=True)
    Target.objects.bulk_create(targets)
    entry = Entry(deployment)
    entry.append("created", message, snapshot(deployment))
    entry.save()


def record_wish(deployment_id: str, wish: facts.Wish | None, by: str, message: str) -> Deployment:
    """Store what a person asked for, as a wish that the engine turns into status."""
    with writing(deployment_id) as entry:
        entry.deployment.wish = wish.value if wish else ""
        entry.deployment.wish_by = by
        # Whoever has it sees the wish; where nobody has, somebody has to come.
        entry.deployment.due_at = entry.deployment.db_now
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
