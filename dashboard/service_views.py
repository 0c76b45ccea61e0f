"""A service: what runs now and where, what was deployed before, and its slots swapped."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dashboard import screens, snapshots
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.rows import service_row
from dashboard.times import moment
from dashboard.views import actor, allowed, live_page, may_deploy
from rollouts import actions
from rollouts.models import HealthCheck, Service
from rollouts.snapshots import check_fields, one_moment, summaries

Json = dict[str, Any]

HISTORY_SHOWN = 25
CARD_KEYS = (
    *("id", "service", "version", "previous_version", "strategy", "status", "progress", "seq"),
    *("step", "approvals", "wish", "traffic", "started_at", "created_at"),
)


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def service(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what runs now, on which instances, and what was deployed before."""
    found = actions.service_named(name)
    now = timezone.now()
    with one_moment():
        detail = snapshots.service_detail(found)
        latest = found.deployments.select_related("service")[:HISTORY_SHOWN]
        history = [screens.card(one, now) for one in summaries(list(latest))]
        checks = _last_checks(found)
    running = [one for one in history if one["active"]]
    instances = [
        {**one, "check": checks.get(one["name"]), "mixed": _differs(one, detail)}
        for one in detail["instances"]
    ]
    held_out = [one for one in instances if one["held_out"] and one["active"]]
    context = {
        "service": service_row(detail),
        "instances": instances,
        "held_out": [{**one, "since": moment(one["held_out"]["since"])} for one in held_out],
        "cards": running,
        "history": history,
        "may_deploy": may_deploy(request),
        "swap_open": "swap" in request.GET,
        "page": {**live_page(), "service": name, "deployments": _plain(running)},
    }
    return render(request, "service.html", context)


def _plain(cards: list[Json]) -> list[Json]:
    return [{key: one[key] for key in CARD_KEYS} for one in cards]


def _last_checks(service: Service) -> dict[str, Json]:
    """Return the last health check of each instance, from whichever deployment made it."""
    latest = (
        HealthCheck.objects.filter(target__instance__service=service)
        .order_by("target__name", "-id")
        .distinct("target__name")
        .select_related("target")
    )
    return {
        check.target.name: {**check_fields(check), "good": check.ok, "moment": check.at}
        for check in latest
    }


def _differs(instance: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    """Whether the instance runs something else than most do, of its slot where it has one."""
    versions = service["slots"].get(instance["slot"]) or service["versions"]
    most = max(versions, key=lambda version: versions[version], default="")
    return bool(instance["active"]) and instance["version"] != most


@require_POST
@allowed(DEPLOY)
def swap(request: HttpRequest, name: str) -> HttpResponseBase:
    """Move the traffic to the idle slot, and show how."""
    found = actions.service_named(name)
    try:
        begun = actions.swap(found, by=actor(request), user=request.user)  # type: ignore[arg-type]
    except (actions.Conflict, actions.Refused) as error:
        messages.error(request, f"The slots were not swapped. {error}")
        return redirect("service", name)
    return redirect("deployment", begun.id)
