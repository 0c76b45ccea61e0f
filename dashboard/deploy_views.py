"""The deploy form and its plan: what is previewed is what is started, or it is asked again."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from dashboard import planned, screens, snapshots, stages
from dashboard.access import DEPLOY
from dashboard.forms import DeployForm, differences, seen_of
from dashboard.rows import halves, service_row
from dashboard.views import actor, allowed, wants_json
from rollouts import actions
from rollouts.models import Deployment, Service

Json = dict[str, Any]

VERSIONS_OFFERED = 5
RECENT = 50  # deployments in which they are looked for
ALL = "all"  # what the button says that shows every batch of a large plan


@require_http_methods(["GET", "POST"])
@allowed(DEPLOY)
def deploy(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show the form with its plan, or start what it says."""
    found = actions.service_named(name)
    if request.method == "GET":
        version = request.GET.get("version", "")
        form = DeployForm(found, initial={"version": version})
        if version:
            form.fresh = False
            asked = DeployForm(found, {**form.untouched(), "version": version})
            return _form_page(request, found, form, **_drawn(found, asked))
        return _form_page(request, found, form)
    form = DeployForm(found, request.POST)
    if not form.is_valid() or "preview" in request.POST:
        drawn = _drawn(found, form, request.POST.get("preview") == ALL)
        status = HTTPStatus.OK if form.is_valid() else HTTPStatus.UNPROCESSABLE_ENTITY
        return _form_page(request, found, form, status, **drawn)
    return _started(request, found, form)


def _started(request: HttpRequest, found: Service, form: DeployForm) -> HttpResponseBase:
    """Start what a valid form says, unless the fleet is not as it was shown."""
    version, chosen, key = form.cleaned_data["version"], form.policy(), form.cleaned_data["key"]
    only = form.only()
    try:
        changed = _changed(found, form)
        if changed:
            drawn = _drawn(found, form)
            return _form_page(request, found, form, HTTPStatus.CONFLICT, changed=changed, **drawn)
        begun = actions.start(
            found,
            version,
            by=actor(request),
            user=request.user,  # type: ignore[arg-type]  # logged in
            policy=chosen,
            instances=only,
            note=form.cleaned_data["note"],
            idempotency_key=key,
        )
    except actions.Refused as error:
        form.refuse(error.errors)
        refused = {"refused": error.errors}
        return _form_page(request, found, form, HTTPStatus.UNPROCESSABLE_ENTITY, **refused)
    except actions.Conflict as error:
        conflict = {"text": str(error), "deployment": error.deployment_id}
        drawn = _drawn(found, form)
        return _form_page(request, found, form, HTTPStatus.CONFLICT, conflict=conflict, **drawn)
    if wants_json(request):
        address = reverse("deployment", args=[begun.id])
        return JsonResponse({"url": address}, status=HTTPStatus.CREATED)
    return redirect("deployment", begun.id)


def _changed(found: Service, form: DeployForm) -> list[str]:
    """Return what changed since the preview; nothing where this very click started it already."""
    previewed, key = form.cleaned_data["previewed"], form.cleaned_data["key"]
    if not previewed:
        return []
    only = form.only()
    draft = actions.plan(found, form.cleaned_data["version"], form.policy(), only)
    changed = differences(previewed, draft, only)
    if changed and found.deployments.filter(idempotency_key=key).exclude(idempotency_key=""):
        return []
    return changed


def _drawn(found: Service, form: DeployForm, everything: bool = False) -> Json:
    """Return the plan for what is in the form, or why there is none."""
    if not form.is_valid():
        return {"draft": None, "refused": form.refusals()}
    only = form.only()
    try:
        draft = actions.plan(found, form.cleaned_data["version"], form.policy(), only)
    except actions.Refused as error:
        return {"draft": None, "refused": error.errors}
    return {
        "draft": draft,
        "batches": planned.batches(draft, everything),
        "expected": planned.expected(draft),
        "gist": planned.gist(draft),
        "measured": planned.measured(draft),
        "seen": seen_of(draft, only),
        "way_back": planned.way_back(draft),
        "picture": planned.picture(draft),
        "course": planned.course(draft),
        "between": _slots(draft),
        "chosen": only,
    }


def _slots(draft: actions.Draft) -> Json | None:
    """Return which slot a blue/green deployment changes and which stays; None for others."""
    if draft.policy.strategy != "blue_green":
        return None
    mine = draft.plan.batches[0][0].instance.slot
    preview = draft.service.preview_url.replace("{slot}", mine)
    other = stages.OTHER_SLOT[mine]
    return {"mine": mine, "other": other, "least": draft.least_in_service, "preview": preview}


def _form_page(
    request: HttpRequest,
    found: Service,
    form: DeployForm,
    status: HTTPStatus = HTTPStatus.OK,
    **more: Any,
) -> HttpResponse:
    recent = found.deployments.values_list("version", flat=True)[:RECENT]
    row = service_row(snapshots.service_fields(found))
    context = {
        "service": row,
        "where": _where(row, form, more.get("draft"), more.get("chosen")),
        "form": form,
        "versions": [
            {"version": version, "running": row["versions"].get(version, 0)}
            for version in list(dict.fromkeys(recent))[:VERSIONS_OFFERED]
        ],
        "page": {"service": found.name, "total": row["total"]},
        **_obstacles(found),
        **more,
    }
    return render(request, "deploy.html", context, status=status)


def _where(
    row: Json, form: DeployForm, draft: actions.Draft | None, only: Sequence[str] | None = None
) -> Json:
    """Return what the button says that is deployed to: now, and of either kind of strategy."""
    total = stages.plural(row["total"], "instance")
    fleet = f"{total} of {row['name']}"
    idle = next((half for half in halves(row) if half["idle"]), None)
    slot = f"the idle slot of {row['name']}"
    if idle:
        slot = f"{idle['slot']} of {row['name']} ({stages.plural(idle['total'], 'instance')})"
    strategy = draft.policy.strategy if draft else form.strategy()
    now = slot if strategy == "blue_green" else fleet
    if draft and only:
        now = f"{stages.plural(draft.plan.total, 'instance')} of {row['name']}"
    return {"fleet": fleet, "slot": slot, "now": now}


def _obstacles(found: Service) -> Json:
    """Return what stands in the way of a start, whatever is in the form."""
    active = Deployment.objects.filter(
        service=found, status__in=sorted(screens.ACTIVE_VALUES)
    ).first()
    word = screens.DEPLOYMENTS[active.status].word if active else ""
    return {"lock": snapshots.lock_fields(found), "active": active, "active_word": word}


@require_http_methods(["GET", "POST"])
@allowed(DEPLOY)
def plan(request: HttpRequest, name: str) -> HttpResponseBase:
    """Draw the plan for what is in the form just now, as a piece of the page."""
    found = actions.service_named(name)
    given = request.POST if request.method == "POST" else request.GET
    form = DeployForm(found, given)
    drawn = _drawn(found, form, given.get("preview") == ALL)
    row = service_row(snapshots.service_fields(found))
    context = {
        "form": form,
        "service": row,
        "where": _where(row, form, drawn["draft"], drawn.get("chosen")),
        **_obstacles(found),
        **drawn,
    }
    return render(request, "parts/plan.html", context)
