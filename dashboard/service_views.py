"""A service: what runs now and where, what was deployed before, its slots and its lock."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dashboard import charts, figures, fleet_rows, paging, screens, snapshots
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.admin_keeping import log_changes
from dashboard.rows import service_row
from dashboard.times import moment
from dashboard.views import actor, allowed, live_page, may_deploy
from rollouts import actions, locking
from rollouts.models import ACTIVE_VALUES, Deployment, HealthCheck, Instance, Service, Target
from rollouts.snapshots import check_fields, one_moment, summaries

Json = dict[str, Any]

CHANGE = "rollouts.change_service"
HISTORY_SHOWN = 25
CARD_KEYS = (
    *("id", "service", "version", "previous_version", "strategy", "status", "progress", "seq"),
    *("step", "approvals", "wish", "traffic", "started_at", "created_at"),
)
# What is large and not shown in a list.
UNSHOWN = ("adapters", "way_back", "evidence", "counters")
LOCKED_FOR = {
    "": "until it is unlocked",
    "1800": "for 30 min",
    "3600": "for 1 h",
    "14400": "for 4 h",
    "43200": "for 12 h",
    "86400": "for a day",
    "604800": "for a week",
}


@require_GET
@allowed(VIEW_DEPLOYMENT, VIEW_SERVICE)
def service(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what runs now, on which instances, and what was deployed before."""
    found = actions.service_named(name)
    given = {key: str(value) for key, value in request.GET.items() if value}
    with one_moment():
        detail = snapshots.service_detail(found)
        fleet = _fleet(found, detail, given)
        history = _history(found, given)
        active = found.deployments.filter(status__in=ACTIVE_VALUES)
        told = figures.of(found.pk, figures.USUAL)
        running = _cards(active.select_related("service").defer(*UNSHOWN))
    row = service_row(detail)
    for half in row["halves"]:
        half["bar"] = fleet_rows.version_bar(detail["slots"][half["slot"]])
    held_out = [one for one in detail["instances"] if one["held_out"] and one["active"]]
    context = {
        "service": row,
        "bar": fleet_rows.version_bar(detail["versions"]),
        "fleet": fleet,
        "held_out": [{**one, "since": moment(one["held_out"]["since"])} for one in held_out],
        "cards": running,
        "history": history,
        "board": charts.board(told, name),
        "may_deploy": may_deploy(request),
        "may_lock": _may_lock(request),
        "may_unlock": locking.may_unlock(found, actor(request), request.user.has_perm(CHANGE)),
        "locked_for": LOCKED_FOR,
        "swap_open": "swap" in request.GET,
        "lock_open": "lock" in request.GET,
        "page": {**live_page(), "service": name, "deployments": _plain(running)},
    }
    return render(request, "service.html", context)


def _plain(cards: list[Json]) -> list[Json]:
    return [{key: one[key] for key in CARD_KEYS} for one in cards]


def _cards(deployments: Iterable[Deployment]) -> list[Json]:
    now = timezone.now()
    return [screens.card(one, now) for one in summaries(list(deployments))]


def _fleet(found: Service, detail: Mapping[str, Any], given: Mapping[str, str]) -> Json:
    """Return the instances that the address asks for, with the last check of each."""
    rows = [fleet_rows.row(one, detail) for one in detail["instances"]]
    listed = fleet_rows.listed(rows, given)
    checks = last_checks(found, [one["name"] for one in listed["rows"]])
    for one in listed["rows"]:
        one["check"] = checks.get(one["name"])
    return listed


def last_checks(service: Service, names: Sequence[str]) -> dict[str, Json]:
    """Return the last health check of each of these instances, whichever deployment made it.

    Each is found by index, from the last part of the instance in a deployment backwards: what
    older ones have in store is never read.
    """
    of_part = HealthCheck.objects.filter(target=OuterRef("pk")).order_by("-id").values("pk")[:1]
    parts = Target.objects.filter(instance=OuterRef("pk")).annotate(checked=Subquery(of_part))
    last = parts.filter(checked__isnull=False).order_by("-id").values("checked")[:1]
    wanted = Instance.objects.filter(service=service, name__in=names)
    keys = dict(wanted.annotate(last=Subquery(last)).values_list("last", "name"))
    checks = HealthCheck.objects.filter(pk__in=[key for key in keys if key])
    return {
        keys[check.pk]: {**check_fields(check), "good": check.ok, "moment": check.at}
        for check in checks
    }


def _history(found: Service, given: Mapping[str, str]) -> Json:
    """Return the deployments that the address asks for, newest first."""
    chosen = {"status": given.get("status", ""), "to": given.get("to", "").strip()[:128]}
    past = found.deployments.order_by("-created_at", "-id")
    everything = past.exists()
    if chosen["status"] in screens.DEPLOYMENTS:
        past = past.filter(status=chosen["status"])
    if chosen["to"]:
        past = past.filter(version__icontains=chosen["to"].replace("\0", ""))
    rows = past.select_related("service").defer(*UNSHOWN)
    page = paging.paged(rows, given, "past", HISTORY_SHOWN)
    cards = _cards(page["rows"])
    others = {key: text for key, text in given.items() if key not in {*chosen, "past"}}
    return {
        **page,
        "rows": [{**one, "moment": moment(one["created_at"])} for one in cards],
        "any": everything,
        "chosen": chosen,
        "filtered": any(chosen.values()),
        "statuses": [(value, look.word) for value, look in screens.DEPLOYMENTS.items()],
        "others": others,
        "cleared": paging.query(others),
    }


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


def _may_lock(request: HttpRequest) -> bool:
    return request.user.has_perm(DEPLOY) or request.user.has_perm(CHANGE)


@require_POST
@allowed(VIEW_SERVICE)
def lock(request: HttpRequest, name: str) -> HttpResponseBase:
    """Lock the service with a reason, for as long as was chosen."""
    if not _may_lock(request):
        raise PermissionDenied
    found = actions.service_named(name)
    seconds = request.POST.get("for", "")
    ends = bool(seconds) and seconds in LOCKED_FOR
    until = timezone.now() + timedelta(seconds=int(seconds)) if ends else None
    try:
        held = locking.lock(
            found, by=actor(request), reason=request.POST.get("reason", ""), until=until
        )
    except (actions.Conflict, actions.Refused) as error:
        messages.error(request, f"It was not locked. {error}")
    else:
        end = f" until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        log_changes(request, [held], f"Locked{end}: {held.lock_reason}")
        messages.success(request, f"{name} is locked: no deployment of it starts.")
    return redirect("service", name)


@require_POST
@allowed(VIEW_SERVICE)
def unlock(request: HttpRequest, name: str) -> HttpResponseBase:
    """Take the lock back that was shown."""
    if not _may_lock(request):
        raise PermissionDenied
    found = actions.service_named(name)
    any_lock = request.user.has_perm(CHANGE)
    try:
        held = locking.unlock(
            found, by=actor(request), any_lock=any_lock, seen=request.POST.get("seen", "")
        )
    except actions.Conflict as error:
        messages.error(request, f"It was not unlocked. {error}")
    else:
        log_changes(request, [held], f"Unlocked; it was locked: {held.lock_reason}")
        messages.success(request, f"{name} is unlocked: deployments of it may start.")
    return redirect("service", name)
