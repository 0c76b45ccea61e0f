"""The figures of the team as a page: of all services or one, over 7, 30 or 90 days."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard import charts, figures, paging
from dashboard.access import VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.views import allowed
from rollouts import actions
from rollouts.models import Service
from rollouts.snapshots import one_moment

Json = dict[str, Any]

SERVICES_SHOWN = 100


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def shown(request: HttpRequest) -> HttpResponseBase:
    """Show the figures, and those of each service beside."""
    days = figures.asked(request.GET.get("days", ""))
    name = request.GET.get("service", "")
    service = actions.service_named(name) if name else None
    with one_moment():
        told = figures.of(service.pk if service else None, days)
        table = _table(days, request.GET) if service is None else {"rows": []}
    context = {
        "board": charts.board(told, name),
        "periods": [
            {"days": one, "url": _url(one, name), "on": one == days} for one in figures.PERIODS
        ],
        "all": _url(days),
        "table": table,
    }
    return render(request, "figures.html", context)


def _table(days: int, given: Mapping[str, str]) -> Json:
    """Return the page of the table by service that the address asks for."""
    asked = {"days": str(days), "page": given.get("page", "")}
    page = paging.paged(figures.by_service(days), asked, size=SERVICES_SHOWN)
    rows = [{**charts.listed(row), "url": _url(days, row["service"])} for row in page["rows"]]
    return {**page, "rows": rows}


def _url(days: int, service: str = "") -> str:
    return paging.query({"days": str(days), "service": service})


def of_service(service: Service, text: str) -> Json:
    """Return what parts/figures.html draws of a service over the days that an address asks for."""
    return charts.board(figures.of(service.pk, figures.asked(text)), service.name)
