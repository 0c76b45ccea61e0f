"""Pages of deployments, and their buttons, each of which calls one action."""

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dashboard import asking, log_views, screens, sizes, stages, traffic
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT
from dashboard.log_views import LAST
from dashboard.views import View, actor, allowed, live_page, may_deploy, wants_json
from rollouts import actions, policy
from rollouts.models import Deployment, Event, Service
from rollouts.snapshots import one_moment, snapshot

Json = dict[str, Any]


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
    now = timezone.now()
    with one_moment():
        found = actions.deployment_with(deployment_id)
        held = snapshot(found)
        context = drawn(request, held, found.service, now)
        failure = first_failure(deployment_id)
    offered = asking.offers(held, now)
    context |= {
        "failure": failure,
        "judged": found.is_active and policy.stored(found.policy).judging.enabled,
        **offered,
        "opened": asking.opened(held, offered, request.GET),
        "problem": problem,
        "may_deploy": may_deploy(request),
        "page": {
            **live_page(),
            "snapshot": held,
            "stops": stages.course(held),
            "failure": failure and {key: failure[key] for key in ("seq", "at", "message")},
        },
    }
    return render(request, "deployment.html", context, status=status)


def drawn(
    request: HttpRequest, held: Json, service: Service, now: datetime, until: int = LAST
) -> Json:
    """Return what a page shows of a deployment in that state, with what it said until an event."""
    return {
        "deployment": screens.card(held, now),
        "decision": stages.decision(held, now),
        "fleet": sizes.fleet(held, request.GET, now),
        "across": screens.across(held["targets"]),
        "rail": screens.rail(held, now),
        "preview": _preview(held, service),
        "traffic": _traffic(held),
        "events": log_views.lines(held["id"], request.GET, until),
        "wanted": {key: request.GET.get(f"log-{key}", "") for key in ("kind", "instance")},
        "kinds": log_views.KINDS,
        "chosen": log_views.known(held, request.GET.get("instance", ""), now, until),
    }


def first_failure(deployment_id: str) -> Json | None:
    """Return the first event that says that an instance failed."""
    events = Event.objects.filter(deployment=deployment_id, kind="target").order_by("seq")
    broken = events.filter(patch__targets__0__status="failed").first()
    return log_views.line(broken) if broken else None


def _preview(held: Json, service: Service) -> Json:
    """Return where the slot that is deployed to can be tried, if it is known."""
    slot, _ = stages.slots(held)
    return {"slot": slot, "url": service.preview_url.replace("{slot}", slot) if slot else ""}


def _traffic(held: Json) -> Json:
    """Return what the page shows of the traffic."""
    return {
        "bars": traffic.split(held),
        "words": traffic.split_words(held),
        "requests": f"{held['traffic']['requests']:,}",
        "failed": f"{held['traffic']['failed_requests']:,}",
        "sides": traffic.sides(held),
        "evidence": traffic.evidence(held),
    }


def button(action: Callable[..., Deployment], words: str) -> View:
    """Return the view of a button: POST only, one action, 409 where the state forbids it."""

    @require_POST
    @allowed(DEPLOY)
    def press(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
        given: dict[str, Any] = {}
        if action is actions.cancel:
            given["mode"] = request.POST.get("mode", "")
        if action is actions.promote:
            step = request.POST.get("step", "")
            given["to_end"] = request.POST.get("to", "") == "end"
            given["step"] = int(step) if step.isdecimal() and len(step) < 6 else None
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
promote = button(actions.promote, "Asked to promote.")
roll_back = button(actions.roll_back, "Asked to roll back.")
