"""Pages and buttons. A page is drawn from a snapshot; a button calls one action."""

from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django.views.defaults import page_not_found

from dashboard import attention, problems, screens, snapshots
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT, VIEW_SERVICE
from rollouts import actions
from rollouts.models import Deployment, Event, HealthCheck, Service
from rollouts.snapshots import check_fields, event_fields, one_moment, snapshot, summaries

Json = dict[str, Any]
View = Callable[..., HttpResponseBase]

LOG_SHOWN = 300  # last events in a page; the rest is fetched on demand
HISTORY_SHOWN = 25


def allowed(*rights: str) -> Callable[[View], View]:
    """Let in who is logged in and has all of `rights`; everybody else gets login or 403."""

    def decorate(view: View) -> View:
        @never_cache
        @login_required
        @permission_required(rights, raise_exception=True)
        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except actions.NotFound as error:
                raise Http404(str(error)) from None

        return answer

    return decorate


def actor(request: HttpRequest) -> str:
    """Return the name that goes into the log for who asks."""
    return request.user.get_username()


def may_deploy(request: HttpRequest) -> bool:
    """Whether the asker may start and stop deployments."""
    return request.user.has_perm(DEPLOY)


def wants_json(request: HttpRequest) -> bool:
    """Whether a script asks, which shows the answer itself."""
    return request.headers.get("Accept", "") == "application/json"


@require_GET
def healthz(request: HttpRequest) -> HttpResponse:
    """Say that the web process answers."""
    return HttpResponse("ok", content_type="text/plain")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer an address that nothing is at: programs in their form, people with a page."""
    if request.path.startswith("/api/"):
        return problems.problem(HTTPStatus.NOT_FOUND, "There is no such address; see /api/v1/docs.")
    return page_not_found(request, exception)


@require_GET
def queues(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Send on to where the queue's pages are."""
    return redirect("django_rq:home")


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
        "page": {**_page(), "deployments": running},
    }
    return render(request, "overview.html", context)


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
        {**one, "check": checks.get(one["name"]), "mixed": _differs(one, detail["versions"])}
        for one in detail["instances"]
    ]
    context = {
        "service": service_row(detail),
        "instances": instances,
        "cards": running,
        "history": history,
        "may_deploy": may_deploy(request),
        "page": {**_page(), "service": name, "deployments": _plain(running)},
    }
    return render(request, "service.html", context)


def _plain(cards: list[Json]) -> list[Json]:
    keys = ("id", "service", "status", "progress", "seq", "started_at", "created_at", "version")
    return [{key: one[key] for key in keys} for one in cards]


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


def _differs(instance: Mapping[str, Any], versions: Mapping[str, int]) -> bool:
    """Whether the instance runs something else than most do."""
    most = max(versions, key=lambda version: versions[version], default="")
    return bool(instance["active"]) and instance["version"] != most


def service_row(service: Mapping[str, Any]) -> Json:
    """Return what the overview shows of a service."""
    last = service["last_deployment"]
    look = screens.DEPLOYMENTS.get(last["status"]) if last else None
    return {
        **service,
        "mix": [
            {"version": version or "?", "count": count}
            for version, count in sorted(service["versions"].items(), key=lambda pair: -pair[1])
        ],
        "last": {**last, "look": look, "moment": screens.moment(last["created_at"])}
        if last
        else None,
        "until": screens.moment(service["lock"]["until"]),
    }


@require_GET
@allowed(VIEW_DEPLOYMENT)
def deployment(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
    """Show a deployment, running or ended."""
    return _deployment_page(request, deployment_id)


def _deployment_page(
    request: HttpRequest,
    deployment_id: str,
    status: HTTPStatus = HTTPStatus.OK,
    problem: str = "",
) -> HttpResponse:
    with one_moment():
        held = snapshot(actions.deployment_with(deployment_id))
        log = _log(deployment_id)
        failures = Event.objects.filter(deployment=deployment_id, kind="target").order_by("seq")
        broken = failures.filter(patch__targets__0__status="failed")[:1]
        failure = screens.first_failure(event_fields(event) for event in broken)
    now = timezone.now()
    chosen = request.GET.get("instance", "")
    head = screens.card(held, now)
    context = {
        "deployment": head,
        "lanes": screens.lanes(held, now),
        "across": screens.across(held["targets"]),
        "shares": screens.shares(held["traffic"], held["version"]),
        "failure": failure and {**failure, "moment": screens.moment(failure["at"])},
        "events": [_log_row(event) for event in log if event["message"]],
        "chosen": _panel(held, log, chosen, now),
        "stop": _stop_facts(head),
        "stop_open": "stop" in request.GET,
        "problem": problem,
        "may_deploy": may_deploy(request),
        "page": {
            **_page(),
            "snapshot": held,
            # Their patches are in the snapshot already.
            "events": [{**event, "patch": {}} for event in log],
            "failure": failure,
        },
    }
    return render(request, "deployment.html", context, status=status)


def _page() -> Json:
    """Return what every live page's scripts start from."""
    return {"now": timezone.now().isoformat(), "vocabulary": screens.vocabulary()}


def _log(deployment_id: str) -> list[Json]:
    """Return the last events, oldest first."""
    latest = Event.objects.filter(deployment=deployment_id).order_by("-seq")[:LOG_SHOWN]
    return [event_fields(event) for event in reversed(latest)]


def _log_row(event: Json) -> Json:
    return {**event, "moment": screens.moment(event["at"])}


def _panel(held: Json, log: list[Json], name: str, now: Any) -> Json | None:
    """Return what is known of one instance, for a page without scripts; None if none is chosen."""
    for target in held["targets"]:
        if target["instance"] == name:
            mine = [event for event in log if event.get("target") == name and event["message"]]
            return {
                **screens.tile(target, held["status"], now),
                "checks": [
                    {**check, "good": screens.well(check), "moment": screens.moment(check["at"])}
                    for check in reversed(target["health_checks"])
                ],
                "output": [event for event in mine if event["kind"] == "output"],
                "events": [_log_row(event) for event in mine if event["kind"] != "output"],
            }
    return None


def _stop_facts(head: Json) -> Json:
    """Return what each way of stopping leads to."""
    progress = head["progress"]
    updated, total = progress["updated"], progress["total"]
    return {
        "new": updated,
        "old": total - updated,
        "total": total,
        "mixed": 0 < updated < total,
        "back": head["previous_version"] or "their old versions",
    }


def button(action: Callable[..., Deployment], words: str) -> View:
    """Return the view of a button: POST only, one action, 409 where the state forbids it."""

    @require_POST
    @allowed(DEPLOY)
    def press(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
        given = {"mode": request.POST.get("mode", "")} if action is actions.cancel else {}
        seen = request.POST.get("seen", "")
        try:
            action(deployment_id, by=actor(request), seen=seen, **given)
        except actions.Conflict as error:
            return _answer(request, deployment_id, HTTPStatus.CONFLICT, str(error))
        except actions.Refused as error:
            return _answer(request, deployment_id, HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        if wants_json(request):
            return JsonResponse({"detail": words}, status=HTTPStatus.ACCEPTED)
        messages.success(request, words)
        return redirect("deployment", deployment_id)

    return press


def _answer(
    request: HttpRequest, deployment_id: str, status: HTTPStatus, text: str
) -> HttpResponseBase:
    if wants_json(request):
        return JsonResponse({"detail": text}, status=status)
    return _deployment_page(request, deployment_id, status, text)


cancel = button(actions.cancel, "Asked to stop. What is under way is brought to a safe end first.")
pause = button(actions.pause, "Asked to pause. The batch under way ends first.")
resume = button(actions.resume, "Asked to go on.")
roll_back = button(actions.roll_back, "Asked to roll back.")
