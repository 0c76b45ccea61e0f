"""Any deployment as it was at any event of it, and the moments that matter on its way."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard import deployment_views, log_views, screens, stages
from dashboard.access import VIEW_DEPLOYMENT
from dashboard.times import duration
from dashboard.views import allowed, live_page
from rollouts import actions
from rollouts.models import Deployment, Event
from rollouts.snapshots import iso, one_moment

Json = dict[str, Any]

FAILURES_SHOWN = 50  # of the marks of one deployment
WIDE = 3.6  # percent of the slider of a phone that a mark takes
HALF = 6  # pixels of the width of a mark
SPEEDS = (1, 4, 16, 64)
PROMOTED = screens.Look("↑", "promoted", "active")
FAILED = screens.Look("✕", "failed", "fail")


@require_GET
@allowed(VIEW_DEPLOYMENT)
def replay(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
    """Show a deployment as of the event that the address names, else as of its beginning."""
    with one_moment():
        found = actions.deployment_with(deployment_id)
        failure = deployment_views.first_failure(deployment_id)
        at = log_views.number(request.GET.get("at"))
        at = min(max(1, at or 1), found.seq)
        held = log_views.as_of(found, at)
        now = held.pop("now")
        context = deployment_views.drawn(request, held, found.service, now, at)
        shown = moment_of(found, at, now)
        marks = list(marks_of(found))
    seen = failure if failure and failure["seq"] <= at else None
    context |= {
        "replay": {**shown, "running": found.is_active, "speeds": SPEEDS, "failure": failure},
        "marks": marks,
        "marks_drawn": apart(marks),
        "failure": seen,
        "judged": bool(found.evidence),
        "keep": log_views.keep(at),
        "page": {
            **live_page(),
            "snapshot": held,
            "stops": stages.course(held),
            "failure": failure and {key: failure[key] for key in ("seq", "at", "message")},
            "last": found.seq,
        },
    }
    return render(request, "replay.html", context)


def moment_of(deployment: Deployment, at: int, now: datetime) -> Json:
    """Return where in its replay a deployment is, and the events before and after with words."""
    said = log_views.said(deployment.pk, {})
    latest = said.filter(seq__lte=at).order_by("-seq").first()
    before = said.filter(seq__lt=at).order_by("-seq").values_list("seq", flat=True).first()
    after = said.filter(seq__gt=at).order_by("seq").values_list("seq", flat=True).first()
    begun = deployment.started_at or deployment.created_at
    return {
        "seq": at,
        "last": deployment.seq,
        "now": now,
        "since": duration(max(0.0, (now - begun).total_seconds())),
        "words": latest.message if latest else "",
        "before": before,
        "after": after,
    }


def marks_of(deployment: Deployment) -> Iterator[Json]:
    """Yield the events that matter: failures, pauses, promotions, the way back, the end."""
    for event in _mattering(deployment.pk):
        look = _look(event)
        if look is not None:
            place = 100 * (event.seq - 1) / max(1, deployment.seq - 1)
            yield {
                "seq": event.seq,
                "at": iso(event.at),
                "message": event.message,
                "glyph": look.glyph,
                "word": look.word,
                "hue": look.hue,
                "x": f"{place:.2f}%",
                "place": place,
            }


def _mattering(deployment_id: str) -> list[Event]:
    events: QuerySet[Event] = Event.objects.filter(deployment=deployment_id).order_by("seq")
    failed = events.filter(kind="target", patch__targets__0__status="failed")[:FAILURES_SHOWN]
    promoted = Q(kind="wish", patch__wish__in=["promote", "promote_all"])
    turned = events.filter(Q(kind="status", patch__has_key="status") | promoted)
    return sorted([*failed, *turned], key=lambda event: event.seq)


def _look(event: Event) -> screens.Look | None:
    if event.kind == "target":
        return FAILED
    if event.kind == "wish":
        return PROMOTED
    return screens.DEPLOYMENTS.get(event.patch["status"])


def apart(marks: list[Json]) -> list[Json]:
    """Return the marks as a strip has room for them, those side by side as one group.

    Of one kind in a group the first alone is drawn. A group begins at its first mark, but where it
    would reach beyond the end it ends at its last.
    """
    groups: list[list[Json]] = []
    for mark in marks:
        group = groups[-1] if groups else []
        if not group or mark["place"] - group[0]["place"] >= WIDE * len(group):
            groups.append([mark])
        elif all(one["glyph"] != mark["glyph"] for one in group):
            group.append(mark)
    return [_placed(group) for group in groups]


def _placed(group: list[Json]) -> Json:
    first, last = group[0], group[-1]
    if first["place"] + WIDE * (len(group) - 1) > 100:
        return {"marks": group, "x": last["x"], "dx": HALF, "anchor": "end"}
    return {"marks": group, "x": first["x"], "dx": -HALF, "anchor": "start"}
