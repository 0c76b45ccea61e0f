"""Buttons of instances that are held out of rotation: try again, or put back."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from dashboard.access import DEPLOY
from dashboard.admin_keeping import log_changes
from dashboard.views import actor, allowed
from rollouts import actions, quarantine


@require_POST
@allowed(DEPLOY)
def retry(request: HttpRequest, name: str, instance: str) -> HttpResponseBase:
    """Deploy to the instance alone what the others run, and show how."""
    found = actions.service_named(name)
    try:
        begun = quarantine.retry(
            found,
            [instance],
            by=actor(request),
            user=request.user,  # type: ignore[arg-type]  # logged in
        )
    except (actions.Conflict, actions.Refused) as error:
        messages.error(request, f"{instance} was not tried again. {error}")
        return redirect("service", name)
    return redirect("deployment", begun.id)


@require_POST
@allowed(DEPLOY)
def release(request: HttpRequest, name: str, instance: str) -> HttpResponseBase:
    """Put the instance back into rotation as it is."""
    found = actions.service_named(name)
    try:
        back = quarantine.release(found, [instance], by=actor(request))
    except actions.Conflict as error:
        messages.error(request, f"{instance} was not put back. {error}")
    else:
        log_changes(request, back, "Put back into rotation.")
        messages.success(request, f"{instance} is back in rotation.")
    return redirect("service", name)
