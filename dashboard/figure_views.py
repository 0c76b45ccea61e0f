"""The figures of the team as a page: of all services or one, over 7, 30 or 90 days."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard import charts, figures
from dashboard.access import VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.views import allowed
from rollouts import actions
from rollouts.models import Service
from rollouts.snapshots import one_moment

Json = dict[str, Any]


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def shown(request: HttpRequest) -> HttpResponseBase:
    """Show the figures, and those of each service beside."""
    days = figures.asked(request.GET.get("days", ""))
    name = request.GET.get("service", "")
    service = actions.service_named(name) if name else None
    with one_moment():
        told = figures.of(service.pk if service else None, days)
        table = _table(days, request.GET) if service is None else {"items": []}
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
    asked = given.get("page", "")
    page = max(1, int(asked)) if asked.isdecimal() and len(asked) < 6 else 1
    rows, total = figures.by_service(days, page)
    size = figures.SERVICES_SHOWN
    pages = max(1, -(-total // size))
    items = [{**charts.listed(row), "url": _url(days, row["service"])} for row in rows]
    return {
        "items": items,
        "total": total,
        "first": (page - 1) * size + 1,
        "last": (page - 1) * size + len(items),
        "page": page,
        "pages": pages,
        "earlier": _url(days, page=page - 1) if page > 1 else "",
        "later": _url(days, page=page + 1) if page < pages else "",
        "start": _url(days),
        "end": _url(days, page=pages),
    }


def _url(days: int, service: str = "", page: int = 1) -> str:
    given = {"days": days, "service": service, "page": page if page > 1 else ""}
    return "?" + urlencode({key: value for key, value in given.items() if value})


def of_service(service: Service, text: str) -> Json:
    """Return what parts/figures.html draws of a service over the days that an address asks for."""
    return charts.board(figures.of(service.pk, figures.asked(text)), service.name)
