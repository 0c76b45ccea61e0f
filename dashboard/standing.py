"""How many instances of a service are in rotation and well, as far as anybody knows.

At rest the last look of a worker says so (`Instance.seen`); what it saw before the end of a
deployment is of no account. While a deployment runs its targets say who is out of rotation.
Where neither tells it is None: unknown, and never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db.models import Count, Q

from dashboard.times import moment
from rollouts.models import Deployment, Instance, Target
from rollouts.states import IN_FLIGHT, TargetStatus

Json = dict[str, Any]

# A target in one of these is out of rotation, or nobody may count on it.
OUT_VALUES = [status.value for status in (*IN_FLIGHT, TargetStatus.FAILED)]
NOTHING: Json = {"in_rotation": None, "expected": 0, "well": None, "total": 0, "at": None}


def of(services: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    """Return by name how each of `services` stands, with two queries for all of them.

    `in_rotation` of `expected`, those of an idle slot left out; `well` of `total`; `at` is when it
    was seen, None while a deployment runs.
    """
    services = list(services)
    seen = _seen([one["name"] for one in services])
    out = _out([one["active_deployment"] for one in services if one["active_deployment"]])
    return {one["name"]: _standing(one, seen.get(one["name"], {}), out) for one in services}


def _seen(names: Sequence[str]) -> dict[str, dict[str, Json]]:
    """Return by service and slot how many instances there are, were seen, are well and serve."""
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
    found: dict[str, dict[str, Json]] = {}
    for row in rows:
        found.setdefault(row["service__name"], {})[row["slot"]] = dict(row)
    return found


def _out(deployments: Sequence[str]) -> dict[str, int]:
    """Return by service how many targets of its running deployment are out of rotation."""
    changing = Deployment.objects.filter(pk__in=deployments).exclude(strategy="blue_green")
    rows = (
        Target.objects.filter(deployment__in=changing)
        .order_by()
        .values_list("deployment__service__name")
        .annotate(out=Count("pk", filter=Q(status__in=OUT_VALUES)))
    )
    return dict(rows)


def _standing(
    service: Mapping[str, Any], slots: Mapping[str, Json], out: Mapping[str, int]
) -> Json:
    live = service["live_slot"]
    expected = [slots[live]] if live in slots and len(slots) > 1 else list(slots.values())
    found = {
        **NOTHING,
        "expected": sum(slot["total"] for slot in expected),
        "total": sum(slot["total"] for slot in slots.values()),
    }
    if service["active_deployment"]:
        if service["name"] in out:
            away = out[service["name"]] + len(service["held_out"])
            found["in_rotation"] = max(0, found["expected"] - away)
        return found
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
