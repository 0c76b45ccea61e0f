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
from rollouts import drift, ownership, workers
from rollouts.cautions import names
from rollouts.models import Event

MINUTE = timedelta(minutes=1)
PAUSED_TOO_LONG = 10 * MINUTE
LOOK = "Look at it"
DRIFTS_SHOWN = 3  # sentences about one service
OVERLOOKED_AFTER = 15.0  # seconds; dispatch would have said long before what it waits for


@dataclass(frozen=True)
class Notice:
    """One thing that needs a person; `key` stays the same while it lasts.

    `do` is what the link to `url` is called: where to go with it.
    """

    key: str
    hue: str  # warn or fail
    text: str
    url: str = ""
    do: str = ""
    service: str = ""  # whose it is; "" for what concerns all


def machinery() -> list[Notice]:
    """Return what is wrong with the queue, its workers and dispatch."""
    try:
        alive = workers.alive()
    except (RedisError, OSError):
        return [
            Notice(
                "redis",
                "fail",
                "Redis is out of reach: what is started is saved and begins when it is back. "
                "Look at the server that REDIS_URL names.",
            )
        ]
    notices = []
    if not alive:
        text = "No worker is alive: deployments wait until one is. Start “manage.py worker”."
        notices.append(Notice("worker", "fail", text))
    if any(not one.waiting_for for one in ownership.due(within=-OVERLOOKED_AFTER)):
        text = "Nobody gives out what is due: start “manage.py dispatch”."
        notices.append(Notice("dispatch", "fail", text))
    return notices


def of_services(services: Iterable[Mapping[str, Any]]) -> list[Notice]:
    """Return which services are left as nobody wanted them."""
    return [
        notice
        for service in services
        if not service["active_deployment"]
        for notice in (*_failed(service), *_held(service), *_mixes(service), *_drifts(service))
    ]


def _failed(service: Mapping[str, Any]) -> list[Notice]:
    name, last = service["name"], service["last_deployment"]
    if not last or last["status"] != "failed":
        return []
    text = f"{name}: the deployment of {last['version']} failed and left the fleet as it is."
    url = reverse("deployment", args=[last["id"]])
    return [Notice(f"failed-{name}", "fail", text, url, "What failed", name)]


def _held(service: Mapping[str, Any]) -> list[Notice]:
    name, held = service["name"], service["held_out"]
    if not held:
        return []
    text = f"{name}: {names(held)} {'is' if len(held) == 1 else 'are'} held out of rotation."
    url = reverse("service", args=[name]) + "#held-out"
    return [Notice(f"held-{name}", "warn", text, url, "Retry or put back", name)]


def _mixes(service: Mapping[str, Any]) -> list[Notice]:
    name = service["name"]
    found = []
    for slot, versions in _fleets(service).items():
        if len(versions) > 1:
            url = reverse("service", args=[name])
            what = f"{slot} of {name}" if slot else name
            text = f"{what} runs a mix: {_mix(versions)}."
            found.append(Notice(f"mixed-{what}", "warn", text, url, "Which runs what", name))
    return found


def _drifts(service: Mapping[str, Any]) -> list[Notice]:
    """Return what the last look at a service found otherwise than the inventory says."""
    if not service["drift"]:
        return []
    alike: dict[str, list[str]] = {}
    for instance, words in service["drift"].items():
        for word in words:
            alike.setdefault(word, []).append(instance)
    name, url = service["name"], reverse("service", args=[service["name"]])
    notices = []
    # It is one thing that is wrong, however many instances could not be told of.
    for word in [word for word in alike if word.startswith(drift.UNASKED)]:
        del alike[word]
        why = word.removeprefix(drift.UNASKED).lstrip(": ")
        text = f"{name}: its balancer is out of reach: {why}"
        check = reverse("check", args=[name])
        notices = [Notice(f"balancer-{name}", "fail", text, check, "Check the fleet", name)]
    if len(alike) > DRIFTS_SHOWN:
        count = len(service["drift"])
        text = f"{name}: {count} instances are not as the inventory says, each in its own way."
        return [*notices, Notice(f"drift-{name}", "warn", text, url, "See them", name)]
    return notices + [
        Notice(
            f"drift-{name}-{word}", "warn", f"{name}, {names(found)}: {word}.", url, "See it", name
        )
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
        whose = one["service"]
        what = f"{whose} {one['version']}"
        created = moment(one["created_at"]) or now
        if words := waiting_words(one):
            notices.append(
                Notice(f"waiting-{one['id']}", "warn", f"{what}: {words}", url, LOOK, whose)
            )
        if asks_approval(one):
            text = f"{what} waits for approval, {strategy_words(one)}."
            notices.append(Notice(f"asks-{one['id']}", "warn", text, url, "Decide", whose))
        waited = now - _since(one["id"], created) if one["status"] == "paused" else timedelta()
        if waited > PAUSED_TOO_LONG:
            # Whole minutes: a sentence that changes with each look is read again and again.
            text = f"{what} has been paused for {duration(waited // MINUTE * 60)}."
            notices.append(Notice(f"paused-{one['id']}", "warn", text, url, "Go on or stop", whose))
    return notices


def _since(deployment_id: str, otherwise: datetime) -> datetime:
    """Return when the deployment got the status that it has."""
    moves = Event.objects.filter(deployment=deployment_id, kind="status").order_by("-seq")
    return moves.values_list("at", flat=True).first() or otherwise
