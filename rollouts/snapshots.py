"""A deployment as a dict: one shape for pages, REST, sockets and the patches of events.

It lives in the domain because the journal draws an event's patch from the same functions:
a client that applies every patch holds what `snapshot` gives. How a patch applies: each
top-level field is replaced, but for `targets`, which are matched by `instance`, each given
field of a target being replaced.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, Q

from rollouts.models import Deployment, Event, HealthCheck, Target
from rollouts.states import IN_FLIGHT, TargetStatus

CHECKS_SHOWN = 30  # last health checks of a target
Json = dict[str, Any]


def iso(moment: datetime | None) -> str | None:
    """Return `moment` as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def deployment_fields(deployment: Deployment) -> Json:
    """Return the fields of the snapshot that stand in the deployment's own row."""
    return {
        "id": deployment.id,
        "service": deployment.service.name,
        "version": deployment.version,
        "previous_version": deployment.previous_version,
        "strategy": deployment.strategy,
        "status": deployment.status,
        "reason": deployment.reason,
        "policy": deployment.policy,
        "traffic": deployment.traffic,
        "note": deployment.note,
        "wish": deployment.wish,
        "wish_by": deployment.wish_by,
        "waiting_until": iso(deployment.waiting_until),
        "started_by": deployment.started_by,
        "created_at": iso(deployment.created_at),
        "started_at": iso(deployment.started_at),
        "completed_at": iso(deployment.completed_at),
        "seq": deployment.seq,
    }


def target_fields(target: Target) -> Json:
    """Return the fields of a target that stand in its own row."""
    return {
        "instance": target.name,
        "address": target.fact().instance.address,
        "slot": target.slot,
        "batch": target.batch,
        "status": target.status,
        "old_version": target.old_version,
        "new_version": target.new_version,
        "touched": target.touched,
        "error": target.error,
        "sessions": target.sessions,
        "updated_at": iso(target.updated_at),
    }


def check_fields(check: HealthCheck) -> Json:
    """Return one health check of a target."""
    return {
        "at": iso(check.at),
        "status": check.status,
        "latency_ms": check.latency_ms,
        "error": check.error,
    }


def checks_of(target: Target) -> list[Json]:
    """Return the last health checks of `target`, oldest first."""
    latest = list(HealthCheck.objects.filter(target=target).order_by("-id")[:CHECKS_SHOWN])
    return [check_fields(check) for check in reversed(latest)]


def progress(deployment: Deployment) -> Json:
    """Return how far `deployment` is, counted from its targets.

    `updated` counts the instances that were given the new version, whatever became of it.
    """
    in_flight = [status.value for status in IN_FLIGHT]
    counts = deployment.targets.aggregate(
        total=Count("id"),
        updated=Count("id", filter=Q(touched=True)),
        healthy=Count("id", filter=Q(status=TargetStatus.HEALTHY)),
        failed=Count("id", filter=Q(status=TargetStatus.FAILED)),
        rolled_back=Count("id", filter=Q(status=TargetStatus.ROLLED_BACK)),
    )
    batches = deployment.targets.order_by("batch").values("batch").annotate(
        begun=Count("id", filter=Q(touched=True) | Q(status__in=in_flight)),
    )
    begun = [row["batch"] for row in batches if row["begun"]]
    return {**counts, "batch": max(begun, default=0), "batches": len(batches)}


def snapshot(deployment: Deployment) -> Json:
    """Return all of `deployment`. Call it within one transaction, or it may mix two moments."""
    targets = list(deployment.targets.all())
    checks: dict[int, list[Json]] = {target.pk: [] for target in targets}
    latest = HealthCheck.objects.filter(target__deployment=deployment).order_by("-id")
    for check in latest.iterator():
        shown = checks[check.target_id]
        if len(shown) < CHECKS_SHOWN:
            shown.insert(0, check_fields(check))
    fields = deployment_fields(deployment)
    fields["progress"] = progress(deployment)
    fields["targets"] = [
        {**target_fields(target), "health_checks": checks[target.pk]} for target in targets
    ]
    return fields


def summary(deployment: Deployment) -> Json:
    """Return `deployment` without its targets, for lists."""
    return {**deployment_fields(deployment), "progress": progress(deployment)}


def event_fields(event: Event) -> Json:
    """Return `event` as it goes over sockets, Redis and REST."""
    fields: Json = {
        "seq": event.seq,
        "at": iso(event.at),
        "kind": event.kind,
        "patch": event.patch,
        "message": event.message,
    }
    if event.target:
        fields["target"] = event.target
    return fields


def apply(held: Json, events: Iterable[Json]) -> Json:
    """Return the snapshot `held` with `events` applied in order, as every client does."""
    result = dict(held)
    for event in events:
        patch = dict(event["patch"])
        changed = {target["instance"]: target for target in patch.pop("targets", [])}
        result.update(patch)
        result["targets"] = [
            {**target, **changed.get(target["instance"], {})} for target in result["targets"]
        ]
    return result
