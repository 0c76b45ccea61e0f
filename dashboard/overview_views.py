"""The overview: what runs, what needs a person, and every service. What is chosen of the services
stands in the address, so that it can be reloaded, kept and shared, and works without scripts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import attention, charts, figures, paging, screens, snapshots, standing
from dashboard.access import VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.attention import Notice
from dashboard.rows import service_row
from dashboard.views import allowed, live_page, may_deploy
from rollouts.models import Service
from rollouts.snapshots import one_moment

Json = dict[str, Any]

PAGE = 100  # services
NOTICES_SHOWN = 20
CARDS_SHOWN = 24
SHOWS = {"": "All", "attention": "Needs attention", "running": "Running", "locked": "Locked"}


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def overview(request: HttpRequest) -> HttpResponseBase:
    """Show what runs, what needs attention, and the services."""
    now = timezone.now()
    with one_moment():
        held = snapshots.overview()
        services, running = held["services"], held["deployments"]
        notices = _notices(held, now)
        listed = _listed(services, notices, request.GET)
        stands = standing.of(listed["rows"])
        told = figures.of(None, figures.USUAL, now)
    steps = _steps(services)
    context = {
        "notices": notices[:NOTICES_SHOWN],
        "notices_all": len(notices),
        "notices_more": max(0, len(notices) - NOTICES_SHOWN),
        "cards": [screens.card(one, now) for one in running[:CARDS_SHOWN]],
        "cards_more": max(0, len(running) - CARDS_SHOWN),
        "running": len(running),
        "calm": "" if notices or running or steps else _calm(services),
        "services": [_row(one, stands) for one in listed.pop("rows")],
        "listed": listed,
        "board": charts.board(told),
        "steps": steps,
        "may_deploy": may_deploy(request),
        "page": {**live_page(), "deployments": running[:CARDS_SHOWN]},
    }
    return render(request, "overview.html", context)


def _notices(held: Mapping[str, Any], now: Any) -> list[Notice]:
    """Return all that needs attention, what is broken before what waits."""
    found = [
        *attention.machinery(),
        *attention.of_deployments(held["deployments"], now),
        *attention.of_services(held["services"]),
    ]
    return sorted(found, key=lambda notice: notice.hue != "fail")


def _listed(
    services: Sequence[Json], notices: Sequence[Notice], given: Mapping[str, str]
) -> dict[str, Any]:
    """Return the page of services that the address asks for, and the ways to others."""
    query = given.get("q", "").strip()[:100]
    show = given.get("show", "")
    show = show if show in SHOWS else ""
    troubled = {notice.service for notice in notices}
    named = [one for one in services if query.lower() in one["name"].lower()]
    of_each = {
        "": named,
        "attention": [one for one in named if one["name"] in troubled],
        "running": [one for one in named if one["active_deployment"]],
        "locked": [one for one in named if one["lock"]["locked"]],
    }
    asked = {"q": query, "show": show}
    return {
        **paging.paged(of_each[show], {**asked, "page": given.get("page", "")}, size=PAGE),
        "query": query,
        "show": show,
        "show_words": SHOWS[show].lower(),
        "filters": [
            {
                "word": word,
                "count": len(of_each[key]),
                "url": paging.query(asked, show=key),
                "on": key == show,
            }
            for key, word in SHOWS.items()
            if not key or of_each[key] or key == show
        ],
        "all": len(services),
    }


def _row(service: Json, stands: Mapping[str, Json]) -> Json:
    return {**service_row(service), "stands": stands[service["name"]]}


def _calm(services: Sequence[Json]) -> str:
    """Return in a sentence that all is well, and no more than is known; "" without instances."""
    used = [one for one in services if one["total"]]
    if not used:
        return ""
    # What runs a mix would need attention; the two slots of a service may differ.
    known = all(version for one in used for version in one["versions"])
    nothing = "Nothing is running."
    if not known:
        return f"Nothing needs attention. {nothing}"
    if len(used) == 1:
        return f"{used[0]['name']} is on one version. {nothing}"
    return f"All {len(used):,} services are on one version each. {nothing}"


def _steps(services: Sequence[Json]) -> Json | None:
    """Return how far it is to the first deployment; None where there has been one."""
    if any(one["last_deployment"] for one in services):
        return None
    ready = next((one["name"] for one in services if one["total"]), "")
    name = services[0]["name"] if services else ""
    return {
        "service": name,
        "key": Service.objects.filter(name=name).values_list("pk", flat=True).first(),
        "ready": ready,
        "at": 3 if ready else 2 if services else 1,
    }
