"""A deployment as a dict: one shape for pages, REST, sockets and the patches of events.

It lives in the domain because the journal draws an event's patch from the same functions:
a client that applies every patch holds what `snapshot` gives. How a patch applies: each
top-level field is replaced, but for `targets`, which are matched by `instance`, each given
field of a target being replaced. The first event's patch is the whole snapshot.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Max, Q
from django.db.models.functions import Coalesce

from rollouts import analysis
from rollouts import policy as policies
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
        "policy": deployment.policy,
        "approvals": [
            number for number, step in enumerate(deployment.plan) if step["kind"] == "approve"
        ],
        "note": deployment.note,
        "started_by": deployment.started_by,
        "created_at": iso(deployment.created_at),
        **moving_fields(deployment),
    }


def moving_fields(deployment: Deployment) -> Json:
    """Return those of the deployment's fields that change after it was stored."""
    return {
        "status": deployment.status,
        "step": deployment.cursor,
        "reason": deployment.reason,
        "traffic": deployment.traffic,
        "wish": deployment.wish,
        "wish_by": deployment.wish_by,
        "waiting_for": deployment.waiting_for,
        "waiting_until": iso(deployment.waiting_until),
        "started_at": iso(deployment.started_at),
        "completed_at": iso(deployment.completed_at),
        "seq": deployment.seq,
    }


def analysis_fields(evidence: Json, policy: policies.Policy) -> Json | None:
    """Return what both sides' traffic says so far; None where nothing was counted."""
    return analysis.view(analysis.from_json(evidence), policy.judging) if evidence else None


def target_fields(target: Target) -> Json:
    """Return the fields of a target that stand in its own row."""
    return {
        "instance": target.name,
        "address": target.fact().instance.address,
        "slot": target.slot,
        "zone": target.zone,
        "batch": target.batch,
        "status": target.status,
        "old_version": target.old_version,
        "new_version": target.new_version,
        "digest": target.digest,
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


COUNTED = {
    TargetStatus.HEALTHY.value: "healthy",
    TargetStatus.FAILED.value: "failed",
    TargetStatus.ROLLED_BACK.value: "rolled_back",
}
# A swap verifies instances that are not touched.
BEGUN_VALUES = frozenset(status.value for status in (*IN_FLIGHT, TargetStatus.HEALTHY))


def progress(targets: Iterable[Target]) -> Json:
    """Return how far a deployment with these targets is.

    `updated` counts the instances that were given the new version, whatever became of it.
    """
    counted = dict.fromkeys(("total", "updated", *COUNTED.values(), "batch", "batches"), 0)
    for target in targets:
        counted["total"] += 1
        counted["updated"] += target.touched
        counted["batches"] = max(counted["batches"], target.batch)
        if target.status in COUNTED:
            counted[COUNTED[target.status]] += 1
        if target.touched or target.status in BEGUN_VALUES:
            counted["batch"] = max(counted["batch"], target.batch)
    return counted


def _progress_of(ids: Sequence[str]) -> dict[str, Json]:
    """Return the progress of many deployments with one query, which counts: theirs may be large."""
    begun = Q(touched=True) | Q(status__in=BEGUN_VALUES)
    counts = {name: Count("pk", filter=Q(status=value)) for value, name in COUNTED.items()}
    rows = (
        Target.objects.filter(deployment__in=ids)
        .order_by()
        .values("deployment_id")
        .annotate(
            total=Count("pk"),
            updated=Count("pk", filter=Q(touched=True)),
            **counts,
            reached=Coalesce(Max("batch", filter=begun), 0),
            batches=Max("batch"),
        )
    )
    found = {pk: progress(()) for pk in ids}
    for row in rows:
        counted: Json = dict(row)
        counted["batch"] = counted.pop("reached")
        found[counted.pop("deployment_id")] = counted
    return found


@contextmanager
def one_moment() -> Iterator[None]:
    """Let all reads inside see the same moment, and lock nothing.

    Without it a snapshot read with several queries could mix two moments, and patches
    applied to it would never lead to the server's state. Inside a transaction that is
    under way already, that one's isolation stays.
    """
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def consistent_snapshot(deployment_id: str) -> Json:
    """Return all of a deployment at one moment; raise Deployment.DoesNotExist."""
    with one_moment():
        return snapshot(Deployment.objects.select_related("service").get(pk=deployment_id))


def snapshot(deployment: Deployment) -> Json:
    """Return all of `deployment`. Call it within `one_moment`, or it may mix two."""
    targets = list(deployment.targets.all())
    fields = _without_checks(deployment, targets)
    checks = latest_checks(deployment.pk)
    for target, shown in zip(targets, fields["targets"], strict=True):
        shown["health_checks"] = checks[target.pk]
    return fields


def bare_snapshot(deployment: Deployment) -> Json:
    """Return all of `deployment` but the health checks, which are most of it."""
    return _without_checks(deployment, list(deployment.targets.all()))


def _without_checks(deployment: Deployment, targets: Sequence[Target]) -> Json:
    fields = deployment_fields(deployment)
    fields["steps"] = deployment.plan
    fields["way_back"] = deployment.way_back
    fields["analysis"] = analysis_fields(deployment.evidence, policies.stored(deployment.policy))
    fields["progress"] = progress(targets)
    fields["targets"] = [target_fields(target) for target in targets]
    return fields


# Times as `iso` writes them. PostgreSQL makes the JSON: of a large fleet these are tens of
# thousands of checks, and to make objects of them all takes longer than all the rest.
LATEST_CHECKS = """
    SELECT target.id, (
        SELECT json_agg(json_build_object(
            'at', replace(
                to_char(latest.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                '.000000Z', 'Z'
            ),
            'status', latest.status,
            'latency_ms', latest.latency_ms,
            'error', latest.error
        ) ORDER BY latest.id)::text
        FROM (
            SELECT * FROM rollouts_healthcheck
            WHERE target_id = target.id ORDER BY id DESC LIMIT %s
        ) AS latest
    )
    FROM rollouts_target AS target WHERE target.deployment_id = %s
"""


def latest_checks(deployment_id: str) -> dict[int, list[Json]]:
    """Return the last health checks of every target, oldest first, by the target's key."""
    with connection.cursor() as cursor:
        cursor.execute(LATEST_CHECKS, [CHECKS_SHOWN, deployment_id])
        found = {target: json.loads(text) for target, text in cursor if text}
    return defaultdict(list, found)


def summary(deployment: Deployment) -> Json:
    """Return `deployment` without its targets, for lists."""
    return summaries([deployment])[0]


def summaries(deployments: Sequence[Deployment]) -> list[Json]:
    """Return the summary of each of `deployments`, with one query for all of them."""
    counted = _progress_of([one.pk for one in deployments])
    return [{**deployment_fields(one), "progress": counted[one.pk]} for one in deployments]


def events_after(deployment_id: str, seq: int, limit: int) -> list[Json]:
    """Return at most `limit` events that follow `seq`, in order."""
    events = Event.objects.filter(deployment_id=deployment_id, seq__gt=seq).order_by("seq")
    return [event_fields(event) for event in events[:limit]]


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
    """Return the snapshot `held` with `events` applied in order, as every client does.

    Where nothing is held yet, `held` is empty and the events begin with the first.
    """
    result = dict(held)
    targets = {target["instance"]: target for target in held.get("targets", [])}
    for event in events:
        result.update(event["patch"])
        known = bool(targets)
        for target in event["patch"].get("targets", []):
            name = target["instance"]
            if name in targets or not known:
                targets[name] = {**targets.get(name, {}), **target}
    if targets:
        result["targets"] = list(targets.values())
    return result
