"""The dialogs of a deployment's page, fetched when they are opened.

Without scripts the page itself comes with the one that its address opens.
"""

from http import HTTPStatus

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import asking, screens
from dashboard.access import DEPLOY
from dashboard.views import allowed
from rollouts import actions
from rollouts.snapshots import bare_snapshot, one_moment


@require_GET
@allowed(DEPLOY)
def dialog(request: HttpRequest, deployment_id: str) -> HttpResponseBase:
    """Draw the dialog that the address asks for, as of now; 409 where there is nothing to ask."""
    with one_moment():
        held = bare_snapshot(actions.deployment_with(deployment_id))
    now = timezone.now()
    offered = asking.offers(held, now)
    name = asking.opened(held, offered, request.GET)
    if not name:
        detail = f"Nothing is to be asked of it any more: {screens.look_of(held).word}."
        return JsonResponse({"detail": detail}, status=HTTPStatus.CONFLICT)
    context = {"deployment": screens.card(held, now), **offered}
    return render(request, f"parts/{name}.html", context)
