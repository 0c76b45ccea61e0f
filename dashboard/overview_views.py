"""The overview: what needs attention, what runs, and every service."""

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import attention, screens, snapshots
from dashboard.access import VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.rows import service_row
from dashboard.views import allowed, live_page, may_deploy


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def overview(request: HttpRequest) -> HttpResponseBase:
    """Show what needs attention, what runs, and every service."""
    held = snapshots.overview()
    now = timezone.now()
    query = request.GET.get("q", "").strip()[:100]
    services = [service_row(service) for service in held["services"]]
    running = held["deployments"]
    context = {
        "notices": [
            *attention.machinery(),
            *attention.of_deployments(running, now),
            *attention.of_services(held["services"]),
        ],
        "cards": [screens.card(one, now) for one in running],
        "services": [row for row in services if query.lower() in row["name"].lower()],
        "any_service": bool(services),
        "any_instance": any(row["total"] for row in services),
        "query": query,
        "may_deploy": may_deploy(request),
        "page": {**live_page(), "deployments": running},
    }
    return render(request, "overview.html", context)
