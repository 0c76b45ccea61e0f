"""How many instances of a service are in rotation and well, as far as anybody knows.

At rest the last look of a worker says so (`Instance.seen`); what it saw before the end of a
deployment is of no account. While a deployment runs it says so of those that it has begun with.
Where neither tells it is None: unknown, and never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db.models import Count, OuterRef, Q, Subquery

from dashboard import snapshots
from dashboard.times import moment
from rollouts import drift
from rollouts.models import Instance, Target
from rollouts.states import IN_FLIGHT, TargetStatus

Json = dict[str, Any]
Slots = dict[str, Json]  # by slot, counts: total, told of and serving, looked at and well

# A target in one of these is out of rotation, or nobody may count on it.
OUT_VALUES = {status.value for status in (*IN_FLIGHT, TargetStatus.FAILED)}
VERIFIED_VALUES = {TargetStatus.HEALTHY.value, TargetStatus.ROLLED_BACK.value}
NOTHING: Json = {"in_rotation": None, "expected": 0, "well": None, "total": 0, "at": None}


def of(services: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    """Return by name how each of `services` stands, with two queries for all of them.

    `in_rotation` of `expected`, those of an idle slot left out; `well` of `total`; `at` is when it
    was seen, None while a deployment runs.
    """
    services = list(services)
    running = [one for one in services if one["active_deployment"]]
    counted = {**_seen([one["name"] for one in services]), **_under_way(running)}
    return {one["name"]: _standing(one, counted.get(one["name"], {})) for one in services}


def _seen(names: Sequence[str]) -> dict[str, Slots]:
    """Return by service how its instances were seen last."""
    rows = (
        Instance.objects.filter(service__name__in=names, active=True)
        .order_by()
        .values("service__name", "slot")
        .annotate(
            total=Count("pk"),
            looked=Count("pk", filter=Q(seen__has_key="at")),
            well=Count("pk", filter=Q(seen__healthy=True)),
            told=Count("pk", filter=Q(seen__in_rotation__in=[True, False])),
            serving=Count("pk", filter=Q(seen__in_rotation=True)),
        )
    )
    found: dict[str, Slots] = {}
    for row in rows:
        found.setdefault(row["service__name"], {})[row["slot"]] = dict(row)
    return found


def _under_way(services: Sequence[Mapping[str, Any]]) -> dict[str, Slots]:
    """Return by service how its instances are while a deployment of it is running.

    Who is under way or has failed is out and not well, who is verified is in and well. With the
    others nothing has begun: they are as seen last, and in rotation unless somebody knows better.
    """
    running = [one["active_deployment"] for one in services]
    part = Target.objects.filter(deployment__in=running, instance=OuterRef("pk"))
    rows = Instance.objects.filter(service__name__in=[one["name"] for one in services], active=True)
    found: dict[str, Slots] = {}
    for name, slot, held_out, seen, status, ended in rows.order_by().values_list(
        *("service__name", "slot", "held_out", "seen"),
        Subquery(part.values("status")[:1]),
        Subquery(drift.last_end_of("service")),
    ):
        begun = status in OUT_VALUES | VERIFIED_VALUES
        last = snapshots.last_seen(seen, ended) or {}
        well = status in VERIFIED_VALUES if begun else last.get("healthy")
        serving = well if begun else not held_out and last.get("in_rotation") is not False
        empty = dict.fromkeys(("total", "looked", "well", "told", "serving"), 0)
        counts = found.setdefault(name, {}).setdefault(slot, empty)
        counts["total"] += 1
        counts["told"] += 1
        counts["serving"] += bool(serving)
        counts["looked"] += well is not None
        counts["well"] += bool(well)
    return found


def _standing(service: Mapping[str, Any], slots: Slots) -> Json:
    live = service["live_slot"]
    expected = [slots[live]] if live in slots and len(slots) > 1 else list(slots.values())
    found = {
        **NOTHING,
        "expected": sum(slot["total"] for slot in expected),
        "total": sum(slot["total"] for slot in slots.values()),
    }
    if not service["active_deployment"]:
        if not _counts(service):
            return found
        found["at"] = service["looked_at"]
    if all(slot["told"] == slot["total"] for slot in expected):
        found["in_rotation"] = sum(slot["serving"] for slot in expected)
    if all(slot["looked"] == slot["total"] for slot in slots.values()):
        found["well"] = sum(slot["well"] for slot in slots.values())
    return found


def _counts(service: Mapping[str, Any]) -> bool:
    """Whether the last look was after the last deployment."""
    looked_at, last = moment(service["looked_at"]), service["last_deployment"]
    changed_at = moment(last["completed_at"]) if last else None
    return looked_at is not None and (changed_at is None or looked_at > changed_at)
