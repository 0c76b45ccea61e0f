"""The deploy form and its plan: what is previewed is what is started, or it is asked again."""

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from dashboard import screens, snapshots, stages
from dashboard.access import DEPLOY
from dashboard.forms import DeployForm, differences, seen_of
from dashboard.rows import halves, service_row
from dashboard.times import duration
from dashboard.views import actor, allowed
from rollouts import actions
from rollouts.models import Deployment, Service
from rollouts.planning import names, steps_to_json
from rollouts.strategies import names_of

Json = dict[str, Any]

VERSIONS_OFFERED = 5


@require_http_methods(["GET", "POST"])
@allowed(DEPLOY)
def deploy(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show the form with its plan, or start what it says."""
    found = actions.service_named(name)
    if request.method == "GET":
        version = request.GET.get("version", "")
        form = DeployForm(found, initial={"version": version})
        if version:
            asked = DeployForm(found, {**form.untouched(), "version": version})
            return _form_page(request, found, form, **_drawn(found, asked))
        return _form_page(request, found, form)
    form = DeployForm(found, request.POST)
    if not form.is_valid() or "preview" in request.POST:
        return _form_page(request, found, form, **_drawn(found, form))
    return _started(request, found, form)


def _started(request: HttpRequest, found: Service, form: DeployForm) -> HttpResponseBase:
    """Start what a valid form says, unless the fleet is not as it was shown."""
    version, chosen, key = form.cleaned_data["version"], form.policy(), form.cleaned_data["key"]
    try:
        changed = _changed(found, form, version, chosen)
        if changed:
            drawn = _drawn(found, form)
            return _form_page(request, found, form, HTTPStatus.CONFLICT, changed=changed, **drawn)
        begun = actions.start(
            found,
            version,
            by=actor(request),
            user=request.user,  # type: ignore[arg-type]  # logged in
            policy=chosen,
            note=form.cleaned_data["note"],
            idempotency_key=key,
        )
    except actions.Refused as error:
        form.refuse(error.errors)
        return _form_page(request, found, form, HTTPStatus.UNPROCESSABLE_ENTITY)
    except actions.Conflict as error:
        conflict = {"text": str(error), "deployment": error.deployment_id}
        return _form_page(request, found, form, HTTPStatus.CONFLICT, conflict=conflict)
    return redirect("deployment", begun.id)


def _changed(found: Service, form: DeployForm, version: str, chosen: Json) -> list[str]:
    """Return what changed since the preview; nothing where this very click started it already."""
    previewed, key = form.cleaned_data["previewed"], form.cleaned_data["key"]
    if not previewed:
        return []
    changed = differences(previewed, actions.plan(found, version, chosen))
    if changed and found.deployments.filter(idempotency_key=key).exclude(idempotency_key=""):
        return []
    return changed


def _drawn(found: Service, form: DeployForm) -> Json:
    """Return the plan for what is in the form, or why there is none."""
    if not form.is_valid():
        return {"draft": None}
    try:
        draft = actions.plan(found, form.cleaned_data["version"], form.policy())
    except actions.Refused as error:
        return {"draft": None, "refused": error.errors}
    return {
        "draft": draft,
        "batches": _batches(draft),
        "expected": duration(draft.expected_seconds),
        "seen": seen_of(draft),
        "previous": _previous(draft),
        "strategy": draft.policy.strategy,
        "course": _course(draft),
        "between": _slots(draft),
    }


def _batches(draft: actions.Draft) -> list[Json]:
    """Return the batches with their zones, and with what is waited for before each."""
    steps = steps_to_json(draft.plan.steps)
    zoned = draft.policy.by_zone
    return [
        {
            "names": names_of(batch),
            "zone": stages.zone_words(batch[0].instance.zone) if zoned else "",
            "before": stages.before_batch(steps, number),
        }
        for number, batch in enumerate(draft.plan.batches, 1)
    ]


def _course(draft: actions.Draft) -> list[Json]:
    """Return what a canary or blue/green does, each with its instances and what is waited for."""
    if draft.policy.strategy == "rolling":
        return []
    planned = stages.planned(
        draft.policy.strategy,
        steps_to_json(draft.plan.steps),
        draft.policy.canary_steps,
        draft.plan.batches[0][0].instance.slot,
    )
    total = draft.plan.total
    return [{**one, "names": names(one["names"]), "total": total} for one in planned]


def _slots(draft: actions.Draft) -> Json | None:
    """Return which slot a blue/green deployment changes and which stays; None for others."""
    if draft.policy.strategy != "blue_green":
        return None
    mine = draft.plan.batches[0][0].instance.slot
    preview = draft.service.preview_url.replace("{slot}", mine)
    other = stages.OTHER_SLOT[mine]
    return {"mine": mine, "other": other, "least": draft.least_in_service, "preview": preview}


def _previous(draft: actions.Draft) -> str:
    """Return which versions a rollback leads back to."""
    known = {one.version for batch in draft.plan.batches for one in batch if one.version}
    return " and ".join(sorted(known)[:3])


def _form_page(
    request: HttpRequest,
    found: Service,
    form: DeployForm,
    status: HTTPStatus = HTTPStatus.OK,
    **more: Any,
) -> HttpResponse:
    recent = found.deployments.values_list("version", flat=True)[:50]
    row = service_row(snapshots.service_fields(found))
    context = {
        "service": row,
        "where": _where(row, form, more.get("draft")),
        "form": form,
        "versions": list(dict.fromkeys(recent))[:VERSIONS_OFFERED],
        "page": {"service": found.name, "total": row["total"]},
        **_obstacles(found),
        **more,
    }
    return render(request, "deploy.html", context, status=status)


def _where(row: Json, form: DeployForm, draft: actions.Draft | None) -> Json:
    """Return what the button says that is deployed to: now, and of either kind of strategy."""
    total = stages.plural(row["total"], "instance")
    fleet = f"{total} of {row['name']}"
    idle = next((half for half in halves(row) if half["idle"]), None)
    slot = f"the idle slot of {row['name']}"
    if idle:
        slot = f"{idle['slot']} of {row['name']} ({stages.plural(idle['total'], 'instance')})"
    strategy = draft.policy.strategy if draft else form.strategy()
    return {"fleet": fleet, "slot": slot, "now": slot if strategy == "blue_green" else fleet}


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
    form = DeployForm(found, request.POST if request.method == "POST" else request.GET)
    context = {
        "form": form,
        "service": {"name": found.name},
        **_obstacles(found),
        **_drawn(found, form),
    }
    return render(request, "parts/plan.html", context)
