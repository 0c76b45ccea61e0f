"""What a deployment said: its log, page by page, and what is known of one of its instances."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import screens, stages
from dashboard.access import VIEW_DEPLOYMENT
from dashboard.times import moment
from dashboard.views import allowed
from rollouts import actions
from rollouts.models import Deployment, Event
from rollouts.snapshots import apply, event_fields, iso, one_moment, snapshot

Json = dict[str, Any]

LOG_SHOWN = 200  # lines in a page of the log
PANEL_SHOWN = 500  # last lines of one instance
OUTPUT_SHOWN = 100_000  # characters of a driver's output
LAST = 2**31 - 1
SHOWN_ABOVE = ("output", "check")  # of a panel, which has places of their own for them
# What events with something to say are of; the rest of them are figures.
KINDS = ("created", "status", "step", "target", "check", "output", "wish", "waiting", "note")


def said(deployment_id: str, wanted: Mapping[str, str]) -> QuerySet[Event]:
    """Return the events with a message, as the filters of an address want them."""
    events = Event.objects.filter(deployment=deployment_id).exclude(message="")
    if kind := wanted.get("log-kind"):
        events = events.filter(kind=kind)
    if instance := wanted.get("log-instance"):
        events = events.filter(target=instance)
    return events


def lines(deployment_id: str, wanted: Mapping[str, str], until: int = LAST) -> list[Json]:
    """Return the last lines of the log up to an event, oldest first, as the filters want them."""
    latest = said(deployment_id, wanted).filter(seq__lte=until).order_by("-seq")[:LOG_SHOWN]
    return [line(event) for event in reversed(latest)]


def line(event: Event) -> Json:
    """Return an event as a line of the log: without its patch, but for whether one failed."""
    changed = event.patch.get("targets", []) if event.kind == "target" else []
    return {
        **{key: getattr(event, key) for key in ("seq", "kind", "target", "message")},
        "at": iso(event.at),
        "moment": event.at,
        "failed": any(target.get("status") == "failed" for target in changed),
    }


@require_GET
@allowed(VIEW_DEPLOYMENT)
def log(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
    """Return a page of the log: the lines next after one event, or the last before another."""
    actions.deployment_with(deployment_id)
    after = number(request.GET.get("after"))
    if after is not None:
        later = said(deployment_id, request.GET).filter(seq__gt=after).order_by("seq")
        found = [line(event) for event in later[:LOG_SHOWN]]
    else:
        before = number(request.GET.get("before"))
        found = lines(deployment_id, request.GET, LAST if before is None else before - 1)
    return JsonResponse({"items": found})


@require_GET
@allowed(VIEW_DEPLOYMENT)
def panel(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
    """Draw what is known of one instance, now or as of an event."""
    name, at = request.GET.get("instance", ""), number(request.GET.get("at"))
    with one_moment():
        found = actions.deployment_with(deployment_id)
        held = snapshot(found) if at is None else as_of(found, at, name)
        now = timezone.now() if at is None else held["now"]
        chosen = known(held, name, now, LAST if at is None else at)
    if chosen is None:
        raise Http404(f"The deployment has no instance {name!r}.")
    return render(request, "parts/panel.html", {"chosen": chosen, "keep": keep(at)})


def keep(at: int | None) -> str:
    """Return what the addresses of a page have to say of the moment that it shows."""
    return "" if at is None else f"at={at}&"


def as_of(deployment: Deployment, at: int, name: str = "") -> Json:
    """Return the snapshot as of an event, and its time as `now`.

    With a `name`, no other target than that one is followed: an event names the one it is of.
    """
    events = Event.objects.filter(deployment=deployment, seq__lte=at).order_by("seq")
    if name:
        events = events.filter(Q(target="") | Q(target=name))
    told = list(events)
    held = apply({}, (event_fields(event) for event in told))
    return {**held, "now": told[-1].at}


def known(held: Json, name: str, now: datetime, until: int = LAST) -> Json | None:
    """Return what is known of one instance up to an event; None if there is no such."""
    for target in held["targets"]:
        if target["instance"] == name:
            mine = said(held["id"], {"log-instance": name}).filter(seq__lte=until)
            latest = [line(event) for event in mine.order_by("-seq")[:PANEL_SHOWN]][::-1]
            output = "\n".join(one["message"] for one in latest if one["kind"] == "output")
            cut = "[cut]\n" if len(output) > OUTPUT_SHOWN else ""
            return {
                **screens.tile(target, held["status"], now, stages.takes_traffic(held)),
                "checks": [
                    {**check, "good": screens.well(check), "moment": moment(check["at"])}
                    for check in reversed(target["health_checks"])
                ],
                "output": f"{cut}{output[-OUTPUT_SHOWN:]}",
                "events": [one for one in reversed(latest) if one["kind"] not in SHOWN_ABOVE],
            }
    return None


def number(text: str | None) -> int | None:
    """Return the number of an event that an address names; None where it names none."""
    return int(text) if text and text.isdecimal() and len(text) < 10 else None
