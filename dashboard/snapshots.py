"""What lists and the overview show of services, for pages, REST and sockets alike.

A deployment's own snapshot is drawn in `rollouts.snapshots`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.fields.json import KT
from django.utils import timezone

from dashboard.times import moment
from rollouts import drift
from rollouts.models import Deployment, Instance, Service, Target
from rollouts.snapshots import Json, iso, one_moment, summaries
from rollouts.states import ACTIVE, TargetStatus

ACTIVE_VALUES = [status.value for status in ACTIVE]
BRIEF = ("version", "status", "started_by", "created_at", "completed_at")
JUST_ENDED = timedelta(seconds=60)  # so long an end may still be news to a socket


def lock_fields(service: Service) -> Json:
    """Return whether a deployment may start, and who forbids it why and until when."""
    holds = service.lock_holds
    return {
        "locked": holds,
        "reason": service.lock_reason if holds else "",
        "by": service.locked_by if holds else "",
        "until": iso(service.locked_until) if holds else None,
    }


def instance_fields(instance: Instance, held: Target | None) -> Json:
    """Return one instance as the inventory knows it; nothing is probed for it.

    `held` is the part in the deployment that holds it out, where one does.
    """
    return {
        "name": instance.name,
        "address": instance.fact().address,
        "server": instance.server,
        "slot": instance.slot,
        "zone": instance.zone,
        "active": instance.active,
        "version": instance.version,
        "digest": instance.digest,
        "version_at": iso(instance.version_at),
        "held_out": held_out_fields(instance.held_out, held) if instance.held_out else None,
    }


def held_out_fields(reason: str, held: Target | None) -> Json:
    """Return why an instance was left out of rotation, since when, and by which deployment."""
    return {
        "reason": reason,
        "since": iso(held.updated_at) if held else None,
        "deployment": held.deployment_id if held else None,
        "version": held.new_version if held else "",
    }


def _holding(instances: Iterable[Instance]) -> dict[int, Target]:
    """Return the last failed part in a deployment of each instance that is held out, by its key."""
    held = [one.pk for one in instances if one.held_out]
    failed = Target.objects.filter(instance__in=held, status=TargetStatus.FAILED)
    latest = failed.order_by("instance_id", "-updated_at").distinct("instance_id")
    return {target.instance_id: target for target in latest if target.instance_id is not None}


def service_fields(service: Service) -> Json:
    """Return `service` as in a list."""
    return services_fields([service])[0]


def service_detail(service: Service) -> Json:
    """Return `service` with all its instances."""
    instances = list(service.instances.all())
    holding = _holding(instances)
    fields = service_fields(service)
    parts = _parts(fields["active_deployment"])
    ended = service.deployments.aggregate(at=Max("completed_at"))["at"]
    rows = [
        {
            **instance_fields(one, holding.get(one.pk)),
            "part": parts.get(one.pk),
            "seen": None if one.pk in parts else last_seen(one.seen, ended),
            "drift": fields["drift"].get(one.name, []),
        }
        for one in instances
    ]
    return {**fields, "instances": rows}


def _parts(deployment_id: str | None) -> dict[int, Json]:
    """Return by key how instances are in a running deployment that has begun with them."""
    begun = Target.objects.exclude(status=TargetStatus.PENDING).filter(deployment=deployment_id)
    return {
        one.instance_id: {"status": one.status, "since": iso(one.updated_at)}
        for one in begun
        if one.instance_id is not None
    }


def last_seen(seen: Json, ended: datetime | None) -> Json | None:
    """Return what the last look found; None where it was before the end of a deployment."""
    at = moment(seen.get("at"))
    return seen if at and (ended is None or at > ended) else None


def services_fields(services: Sequence[Service]) -> list[Json]:
    """Return each of `services`, with a few queries for all of them."""
    ids = [service.pk for service in services]
    versions, slots, looked_at = _versions(ids)
    held_out: dict[int, list[str]] = defaultdict(list)
    held = Instance.objects.filter(service__in=ids, active=True).exclude(held_out="")
    for service_id, name in held.order_by("name").values_list("service_id", "name"):
        held_out[service_id].append(name)
    latest = {one.service_id: one for one in _latest(ids)}
    active = dict(
        Deployment.objects.filter(service__in=ids, status__in=ACTIVE_VALUES).values_list(
            "service_id", "id"
        )
    )
    drifts = drift.told(
        [service for service in services if service.pk not in active],
        slots,
        {pk: one.completed_at for pk, one in latest.items()},
    )
    return [
        {
            "name": service.name,
            "total": sum(versions[service.pk].values()),
            "versions": versions[service.pk],
            "slots": slots[service.pk],
            "held_out": held_out[service.pk],
            "lock": lock_fields(service),
            "active_deployment": active.get(service.pk),
            "last_deployment": _brief(latest.get(service.pk)),
            "live_slot": service.live_slot,
            "preview_url": service.preview_of_idle,
            "policy": service.policy,
            "drift": drifts.get(service.pk, {}),
            "looked_at": looked_at.get(service.pk),
        }
        for service in services
    ]


def _latest(ids: Sequence[int]) -> QuerySet[Deployment]:
    """Return the last deployment of each service: one look into an index for each."""
    newest = Deployment.objects.filter(service=OuterRef("pk")).order_by("-created_at", "-id")
    latest = Service.objects.filter(pk__in=ids).values_list(Subquery(newest.values("pk")[:1]))
    return Deployment.objects.filter(pk__in=latest).only("service_id", *BRIEF)


Counts = dict[int, dict[str, int]]


def _versions(
    ids: Iterable[int],
) -> tuple[Counts, dict[int, dict[str, dict[str, int]]], dict[int, str]]:
    """Return how many active instances of each service run which version, most first; the same
    for each of its slots; and when all of those that were ever looked at had been.
    """
    rows = (
        Instance.objects.filter(service__in=ids, active=True)
        .order_by()
        .values_list("service_id", "version", "slot")
        .annotate(count=Count("id"), looked_at=Min(KT("seen__at")))
        .order_by("-count", "version")
    )
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    slots: dict[int, dict[str, dict[str, int]]] = defaultdict(dict)
    looked_at: dict[int, str] = {}
    for service_id, version, slot, count, oldest in rows:
        if oldest:
            looked_at[service_id] = min(oldest, looked_at.get(service_id, oldest))
        counted[service_id][version] += count
        if slot:
            slots[service_id].setdefault(slot, {})[version] = count
    versions: Counts = defaultdict(dict)
    for service_id, found in counted.items():
        versions[service_id] = dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))
    return versions, slots, looked_at


def _brief(deployment: Deployment | None) -> Json | None:
    if deployment is None:
        return None
    return {
        "id": deployment.id,
        "version": deployment.version,
        "status": deployment.status,
        "started_by": deployment.started_by,
        "created_at": iso(deployment.created_at),
        "completed_at": iso(deployment.completed_at),
    }


def services_named(names: Iterable[str] | None = None) -> list[Json]:
    """Return the services of these names, or all."""
    wanted = Service.objects.all() if names is None else Service.objects.filter(name__in=names)
    return services_fields(list(wanted))


def overview() -> Json:
    """Return all services and the active deployments, at one moment."""
    with one_moment():
        return {"services": services_named(), "deployments": active_summaries()}


def active_summaries() -> list[Json]:
    """Return the summary of every active deployment, newest first."""
    active = Deployment.objects.filter(status__in=ACTIVE_VALUES).select_related("service")
    return summaries(list(active))


@dataclass(frozen=True)
class Progress:
    """How far the events of one deployment go."""

    service: str
    seq: int
    settled: bool  # ended, and longer ago than JUST_ENDED: no more news of it


def progress_of_all(known: Iterable[str] = ()) -> dict[str, Progress]:
    """Return how far every deployment is that may have news for whoever knows `known`.

    These are the active ones, those that ended just now, and the known.
    """
    just_ended = timezone.now() - JUST_ENDED
    recent = Q(status__in=ACTIVE_VALUES) | Q(completed_at__gte=just_ended)
    found = Deployment.objects.filter(recent | Q(pk__in=list(known))).select_related("service")
    return {
        one.pk: Progress(
            one.service.name,
            one.seq,
            settled=one.completed_at is not None and one.completed_at < just_ended,
        )
        for one in found.only("seq", "completed_at", "service__name").order_by("created_at", "id")
    }


def without_targets(event: Json) -> Json:
    """Return `event` as the overview needs it: its deployments are summaries."""
    patch: dict[str, Any] = {
        key: value for key, value in event["patch"].items() if key != "targets"
    }
    return {**event, "patch": patch}
