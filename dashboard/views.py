"""What the views share: who is let in, who asks, and how; and the pages that belong to none."""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from django.views.defaults import page_not_found

from dashboard import problems, screens, sizes, traffic
from dashboard.access import DEPLOY
from rollouts import actions

Json = dict[str, Any]
View = Callable[..., HttpResponseBase]


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


def live_page() -> Json:
    """Return what every live page's scripts start from."""
    vocabulary = {
        **screens.vocabulary(),
        "sizes": sizes.vocabulary(),
        "verdicts": traffic.VERDICTS,
    }
    return {"now": timezone.now().isoformat(), "vocabulary": vocabulary}
