"""What on the overview needs a person: said first, in a sentence each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse
from redis.exceptions import RedisError

from dashboard.screens import waiting_words
from dashboard.stages import asks_approval, strategy_words
from dashboard.times import duration, moment
from rollouts import ownership, workers
from rollouts.cautions import names
from rollouts.models import Event

PAUSED_TOO_LONG = timedelta(minutes=10)
DRIFTS_SHOWN = 3  # sentences about one service
OVERLOOKED_AFTER = 15.0  # seconds; dispatch would have said long before what it waits for


@dataclass(frozen=True)
class Notice:
    """One thing that needs a person; `key` stays the same while it lasts."""

    key: str
    hue: str  # warn or fail
    text: str
    url: str = ""


def machinery() -> list[Notice]:
    """Return what is wrong with the queue, its workers and dispatch."""
    try:
        alive = workers.alive()
    except (RedisError, OSError):
        return [
            Notice(
                "redis",
                "fail",
                "Redis is out of reach: what is started is saved and begins when it is back.",
            )
        ]
    notices = []
    if not alive:
        text = "No worker is alive: deployments wait until one is."
        notices.append(Notice("worker", "fail", text))
    if any(not one.waiting_for for one in ownership.due(within=-OVERLOOKED_AFTER)):
        text = "Nobody gives out what is due: start `manage.py dispatch`."
        notices.append(Notice("dispatch", "fail", text))
    return notices


def of_services(services: Iterable[Mapping[str, Any]]) -> list[Notice]:
    """Return which services are left as nobody wanted them."""
    notices: list[Notice] = []
    for service in services:
        name, last = service["name"], service["last_deployment"]
        if service["active_deployment"]:
            continue
        if last and last["status"] == "failed":
            text = (
                f"{name}: the deployment of {last['version']} failed and left the fleet as it is."
            )
            url = reverse("deployment", args=[last["id"]])
            notices.append(Notice(f"failed-{name}", "fail", text, url))
        if held := service["held_out"]:
            url = reverse("service", args=[name]) + "#held-out"
            words = (
                f"{name}: {names(held)} {'is' if len(held) == 1 else 'are'} held out of rotation."
            )
            notices.append(Notice(f"held-{name}", "warn", words, url))
        for slot, versions in _fleets(service).items():
            if len(versions) > 1:
                what = f"{slot} of {name}" if slot else name
                url = reverse("service", args=[name])
                text = f"{what} runs a mix: {_mix(versions)}."
                notices.append(Notice(f"mixed-{what}", "warn", text, url))
        notices += _drifts(service)
    return notices


def _drifts(service: Mapping[str, Any]) -> list[Notice]:
    """Return what the last look at a service found otherwise than the inventory says."""
    alike: dict[str, list[str]] = {}
    for instance, words in service["drift"].items():
        for word in words:
            alike.setdefault(word, []).append(instance)
    name, url = service["name"], reverse("service", args=[service["name"]])
    if len(alike) > DRIFTS_SHOWN:
        count = len(service["drift"])
        text = f"{name}: {count} instances are not as the inventory says, each in its own way."
        return [Notice(f"drift-{name}", "warn", text, url)]
    return [
        Notice(f"drift-{name}-{word}", "warn", f"{name}, {names(found)}: {word}.", url)
        for word, found in alike.items()
    ]


def _fleets(service: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """Return the versions of what should run one each: of both slots, or else of all."""
    slots: Mapping[str, Mapping[str, int]] = service["slots"]
    return slots if len(slots) > 1 else {"": service["versions"]}


def _mix(versions: Mapping[str, int]) -> str:
    most_first = sorted(versions.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count} on {version or '?'}" for version, count in most_first)


def of_deployments(deployments: Sequence[Mapping[str, Any]], now: datetime) -> list[Notice]:
    """Return which running deployments wait for somebody for too long."""
    notices: list[Notice] = []
    for one in deployments:
        url = reverse("deployment", args=[one["id"]])
        what = f"{one['service']} {one['version']}"
        created = moment(one["created_at"]) or now
        if words := waiting_words(one):
            notices.append(Notice(f"waiting-{one['id']}", "warn", f"{what}: {words}", url))
        if asks_approval(one):
            text = f"{what} waits for approval, {strategy_words(one)}."
            notices.append(Notice(f"asks-{one['id']}", "warn", text, url))
        if one["status"] == "paused" and now - _since(one["id"], created) > PAUSED_TOO_LONG:
            waited = duration((now - _since(one["id"], created)).total_seconds())
            notices.append(
                Notice(f"paused-{one['id']}", "warn", f"{what} has been paused for {waited}.", url)
            )
    return notices


def _since(deployment_id: str, otherwise: datetime) -> datetime:
    """Return when the deployment got the status that it has."""
    moves = Event.objects.filter(deployment=deployment_id, kind="status").order_by("-seq")
    return moves.values_list("at", flat=True).first() or otherwise
