"""Pages of deployments, and their buttons, each of which calls one action."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dashboard import asking, screens, sizes, stages, traffic
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT
from dashboard.times import moment
from dashboard.views import View, actor, allowed, live_page, may_deploy, wants_json
from rollouts import actions
from rollouts.models import Deployment, Event, Service
from rollouts.snapshots import event_fields, one_moment, snapshot

Json = dict[str, Any]

LOG_SHOWN = 300  # last events in a page; the rest is fetched on demand


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
        found = actions.deployment_with(deployment_id)
        held = snapshot(found)
        log = _log(deployment_id)
        failures = Event.objects.filter(deployment=deployment_id, kind="target").order_by("seq")
        broken = failures.filter(patch__targets__0__status="failed")[:1]
        failure = screens.first_failure(event_fields(event) for event in broken)
    now = timezone.now()
    offered = asking.offers(held, now)
    context = {
        "deployment": screens.card(held, now),
        "decision": stages.decision(held, now),
        "fleet": sizes.fleet(held, request.GET, now),
        "across": screens.across(held["targets"]),
        "rail": screens.rail(held, now),
        "preview": _preview(held, found.service),
        "traffic": _traffic(held),
        "failure": failure and {**failure, "moment": moment(failure["at"])},
        "events": [_log_row(event) for event in log if event["message"]],
        "chosen": _panel(held, log, request.GET.get("instance", ""), now),
        **offered,
        "opened": asking.opened(held, offered, request.GET),
        "problem": problem,
        "may_deploy": may_deploy(request),
        "page": {
            **live_page(),
            "snapshot": held,
            "stops": stages.course(held),
            # Their patches are in the snapshot already.
            "events": [{**event, "patch": {}} for event in log],
            "failure": failure,
        },
    }
    return render(request, "deployment.html", context, status=status)


def _log(deployment_id: str) -> list[Json]:
    """Return the last events, oldest first."""
    latest = Event.objects.filter(deployment=deployment_id).order_by("-seq")[:LOG_SHOWN]
    return [event_fields(event) for event in reversed(latest)]


def _log_row(event: Json) -> Json:
    return {**event, "moment": moment(event["at"])}


def _panel(held: Json, log: list[Json], name: str, now: Any) -> Json | None:
    """Return what is known of one instance, for a page without scripts; None if none is chosen."""
    for target in held["targets"]:
        if target["instance"] == name:
            mine = [event for event in log if event.get("target") == name and event["message"]]
            return {
                **screens.tile(target, held["status"], now, stages.takes_traffic(held)),
                "checks": [
                    {**check, "good": screens.well(check), "moment": moment(check["at"])}
                    for check in reversed(target["health_checks"])
                ],
                "output": [event for event in mine if event["kind"] == "output"],
                "events": [_log_row(event) for event in mine if event["kind"] != "output"],
            }
    return None


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
