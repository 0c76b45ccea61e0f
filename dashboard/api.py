"""REST: the same actions as the pages, under `/api/v1`.

Answers are drawn by the same functions as pages and sockets; `schemas` describes them, and
a test holds the two together.
"""

import json
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, URLResolver, re_path
from ninja import Body, HeaderEx, NinjaAPI, P, QueryEx
from ninja.errors import AuthenticationError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from dashboard import schemas, snapshots
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT, VIEW_SERVICE
from dashboard.admin_keeping import log_changes
from dashboard.models import ApiToken
from dashboard.problems import as_problem, handle_all, problem
from rollouts import actions, journal, quarantine
from rollouts.models import Deployment, Service
from rollouts.planning import steps_to_json
from rollouts.snapshots import Json, consistent_snapshot, events_after, one_moment, summaries
from rollouts.states import DeploymentStatus
from rollouts.strategies import names_of
from rollouts.validators import NAME

BODY_LIMIT = 64 * 1024  # bytes
LIST_LIMIT = 200
EVENTS_LIMIT = 1_000
DEPLOYMENT_ID = re.compile(r"deploy-[0-9a-f]{12}")
PROBLEMS = {frozenset({401, 403, 404, 409, 422}): schemas.Problem}

Limit = QueryEx[int, P(ge=1, le=LIST_LIMIT)]
IdempotencyKey = HeaderEx[
    str | None,
    P(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,200}$", description="Any text."),
]
View = Callable[..., HttpResponse]


class Api(NinjaAPI):
    """Ninja, with a problem for every error, those from outside of its views included."""

    def _get_urls(self) -> list[URLResolver | URLPattern]:
        # The last one: what is no address of ours must not become a page of HTML.
        nowhere = re_path(r"", _nowhere)
        return [*map(_guarded, super()._get_urls()), nowhere]


def _guarded(pattern: Any) -> URLPattern:
    """Return `pattern` with its view behind the limits, its errors told as problems."""
    read_only = pattern.name in {"openapi-json", "openapi-view"}
    view = _bounded(pattern.callback, read_only)
    return URLPattern(pattern.pattern, view, pattern.default_args, pattern.name)


def _bounded(view: View, read_only: bool) -> View:
    @wraps(view)
    def bounded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if read_only and request.method not in {"GET", "HEAD"}:
            return as_problem(HttpResponseNotAllowed(["GET", "HEAD"]))
        length = request.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > BODY_LIMIT or len(request.body) > BODY_LIMIT:
            return problem(413, f"A body may have at most {BODY_LIMIT} bytes.")
        if request.method == "POST" and not request.body:
            request._body = b"{}"  # so that missing keys are named
        try:
            return as_problem(view(request, *args, **kwargs))
        except Http404:
            return _nowhere(request)

    bounded.csrf_exempt = True  # type: ignore[attr-defined]  # SessionAuth checks it
    return bounded


def _nowhere(request: HttpRequest) -> HttpResponse:
    return problem(404, f"There is no {request.path}; see /api/v1/docs.")


_nowhere.csrf_exempt = True  # type: ignore[attr-defined]  # 404 whoever asks


class TokenAuth(HttpBearer):
    """`Authorization: Bearer TOKEN`, with the rights of the token's user."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        """Return the token's user; a wrong token is refused whatever the cookies say."""
        held = ApiToken.accept(token)
        if held is None:
            raise AuthenticationError
        request.user = held.user
        return _permitted(held.user, self.permission)


class SessionAuth(APIKeyCookie):
    """The session cookie of the pages, with CSRF."""

    param_name = "sessionid"

    def __init__(self, permission: str) -> None:
        super().__init__(csrf=True)
        self.permission = permission

    def _get_key(self, request: HttpRequest) -> str | None:
        return None  # the middleware has read it already

    def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        """Return the user who is logged in: first who it is, then whether the page was ours."""
        if not request.user.is_authenticated:
            return None
        if check_csrf(request) is not None:
            raise PermissionDenied(
                "The CSRF check failed: send the cookie's token as X-CSRFToken, from our own pages."
            )
        return _permitted(request.user, self.permission)


def _permitted(user: Any, permission: str) -> Any:
    if not user.has_perm(permission):
        raise PermissionDenied(f"{user.get_username()} lacks the right {permission}.")
    return user


def may(permission: str) -> list[Callable[[HttpRequest], Any]]:
    """Return the ways to prove that one has `permission`."""
    return [TokenAuth(permission), SessionAuth(permission)]


api = Api(
    title="Lockgate",
    version="1",
    description="Start, follow and stop deployments. Errors are problems (RFC 9457).",
    docs_url="/docs",
    urls_namespace="api-1",
)
handle_all(api)


def answer(data: Json, status: int = 200) -> HttpResponse:
    """Return `data` as it is: its shape is that of the screens, not copied field by field."""
    return HttpResponse(json.dumps(data), status=status, content_type="application/json")


def _service(name: str) -> Service:
    if not NAME.fullmatch(name):
        raise actions.NotFound("There is no service of that name.")
    return actions.service_named(name)


def _checked(deployment_id: str) -> str:
    if not DEPLOYMENT_ID.fullmatch(deployment_id):
        raise actions.NotFound("There is no such deployment.")
    return deployment_id


def _snapshot(deployment_id: str) -> Json:
    try:
        return consistent_snapshot(_checked(deployment_id))
    except Deployment.DoesNotExist:
        raise actions.NotFound(f"There is no deployment {deployment_id!r}.") from None


@api.get("/services", auth=may(VIEW_SERVICE), response={200: schemas.Services, **PROBLEMS})
def list_services(
    request: HttpRequest, limit: Limit = LIST_LIMIT, cursor: str = ""
) -> HttpResponse:
    """All services, by name."""
    after = _decoded(cursor, 1)[0] if cursor else ""
    with one_moment():
        services = list(Service.objects.filter(name__gt=after)[: limit + 1])
        items = snapshots.services_fields(services[:limit])
    more = len(services) > limit
    return answer({"items": items, "next": _cursor(items[-1]["name"]) if more else None})


@api.get(
    "/services/{name}", auth=may(VIEW_SERVICE), response={200: schemas.ServiceDetail, **PROBLEMS}
)
def get_service(request: HttpRequest, name: str) -> HttpResponse:
    """One service with its instances."""
    with one_moment():
        return answer(snapshots.service_detail(_service(name)))


@api.post(
    "/services/{name}/plan", auth=may(VIEW_SERVICE), response={200: schemas.Draft, **PROBLEMS}
)
def plan(request: HttpRequest, name: str, payload: Body[schemas.Plan]) -> HttpResponse:
    """What a deployment would do. Changes nothing."""
    draft = actions.plan(_service(name), payload.version, payload.layer(), payload.instances)
    batches = draft.plan.batches
    return answer(
        {
            "service": name,
            "version": draft.version,
            "strategy": draft.policy.strategy,
            "total": draft.plan.total,
            "fleet": draft.plan.fleet,
            "batches": [list(names_of(batch)) for batch in batches],
            "zones": [batch[0].instance.zone for batch in batches if draft.policy.by_zone],
            "steps": steps_to_json(draft.plan.steps),
            "least_in_service": draft.least_in_service,
            "expected_seconds": round(draft.expected_seconds, 1),
            "warnings": [*_in_the_way(draft.service), *draft.warnings],
            "policy": journal.policy_json(draft.policy),
        }
    )


def _in_the_way(service: Service) -> list[str]:
    """Return what would refuse a start now, though a plan can be made."""
    fields = snapshots.service_fields(service)
    warnings = []
    if active := fields["active_deployment"]:
        warnings.append(f"{active} is active on {service.name}: nothing starts before its end.")
    if fields["lock"]["locked"]:
        warnings.append(f"{service.name} is locked: {fields['lock']['reason'] or 'no reason told'}")
    return warnings


@api.post(
    "/services/{name}/deployments",
    auth=may(DEPLOY),
    response={frozenset({200, 201}): schemas.Snapshot, **PROBLEMS},
)
def start(
    request: HttpRequest,
    name: str,
    payload: Body[schemas.Start],
    key: IdempotencyKey = None,
) -> HttpResponse:
    """Start a deployment: 201. The same `Idempotency-Key` gives the same one again: 200."""
    service = _service(name)
    known = bool(key) and service.deployments.filter(idempotency_key=key).exists()
    deployment = actions.start(
        service,
        payload.version,
        by=request.user.get_username(),
        user=request.auth,  # type: ignore[attr-defined]
        policy=payload.layer(),
        instances=payload.instances,
        note=payload.note,
        idempotency_key=key or "",
    )
    return _begun(deployment, 200 if known else 201)


def _begun(deployment: Deployment, status: int = 201) -> HttpResponse:
    """Return the snapshot of a deployment that was started, and where it is."""
    response = answer(_snapshot(deployment.id), status)
    response["Location"] = f"/api/v1/deployments/{deployment.id}"
    return response


@api.post("/services/{name}/swap", auth=may(DEPLOY), response={201: schemas.Snapshot, **PROBLEMS})
def swap(request: HttpRequest, name: str) -> HttpResponse:
    """Move the traffic to the idle slot as it is: 201 and the deployment that does so."""
    by, user = request.user.get_username(), request.auth  # type: ignore[attr-defined]
    return _begun(actions.swap(_service(name), by=by, user=user))


@api.post(
    "/services/{name}/instances/{instance}/retry",
    auth=may(DEPLOY),
    response={201: schemas.Snapshot, **PROBLEMS},
)
def retry(
    request: HttpRequest, name: str, instance: str, payload: Body[schemas.Retry]
) -> HttpResponse:
    """Try an instance that is held out again: 201 and the deployment of it alone."""
    by, user = request.user.get_username(), request.auth  # type: ignore[attr-defined]
    begun = quarantine.retry(
        _service(name), [_named(instance)], by=by, user=user, version=payload.version
    )
    return _begun(begun)


@api.post(
    "/services/{name}/instances/{instance}/release",
    auth=may(DEPLOY),
    response={200: schemas.Instance, **PROBLEMS},
)
def release(request: HttpRequest, name: str, instance: str) -> HttpResponse:
    """Put an instance that is held out back into rotation as it is, if it is well."""
    by = request.user.get_username()
    [back] = quarantine.release(_service(name), [_named(instance)], by=by)
    log_changes(request, [back], "Put back into rotation.")
    back.refresh_from_db()
    return answer(snapshots.instance_fields(back, None))


def _named(instance: str) -> str:
    if not NAME.fullmatch(instance):
        raise actions.NotFound("There is no instance of that name.")
    return instance


@api.get("/deployments", auth=may(VIEW_DEPLOYMENT), response={200: schemas.Deployments, **PROBLEMS})
def list_deployments(
    request: HttpRequest,
    service: str = "",
    status: QueryEx[str, P(description="One status, or several separated by commas.")] = "",
    limit: Limit = 50,
    cursor: str = "",
) -> HttpResponse:
    """Deployments, newest first."""
    wanted = Deployment.objects.select_related("service")
    if service:
        # A name that can't be one must not reach PostgreSQL, which refuses some characters.
        wanted = wanted.filter(service__name=service if NAME.fullmatch(service) else "")
    if status:
        wanted = wanted.filter(status__in=_statuses(status))
    if cursor:
        wanted = wanted.filter(_older_than(cursor))
    with one_moment():
        found = list(wanted.order_by("-created_at", "-id")[: limit + 1])
        items = summaries(found[:limit])
    last = found[limit - 1] if len(found) > limit else None
    following = _cursor(last.created_at.isoformat(), last.id) if last else None
    return answer({"items": items, "next": following})


def _statuses(text: str) -> list[str]:
    names = text.split(",")
    known = [status.value for status in DeploymentStatus]
    if not set(names) <= set(known):
        raise actions.Refused({"status": f"must be one of: {', '.join(known)}"})
    return names


def _older_than(cursor: str) -> Q:
    at, pk = _decoded(cursor, 2)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise _bad_cursor() from None
    if moment.tzinfo is None or not DEPLOYMENT_ID.fullmatch(pk):
        raise _bad_cursor()
    return Q(created_at__lt=moment) | Q(created_at=moment, id__lt=pk)


def _cursor(*parts: str) -> str:
    return urlsafe_b64encode("|".join(parts).encode()).decode().rstrip("=")


def _decoded(cursor: str, count: int) -> list[str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split("|")
    except ValueError:
        raise _bad_cursor() from None
    if len(parts) != count or not all(part.isprintable() for part in parts):
        raise _bad_cursor()
    return parts


def _bad_cursor() -> actions.Refused:
    return actions.Refused({"cursor": "must be the 'next' of an earlier answer"})


@api.get(
    "/deployments/{deployment_id}",
    auth=may(VIEW_DEPLOYMENT),
    response={200: schemas.Snapshot, **PROBLEMS},
)
def get_deployment(request: HttpRequest, deployment_id: str) -> HttpResponse:
    """The snapshot, as of event `seq`."""
    return answer(_snapshot(deployment_id))


@api.get(
    "/deployments/{deployment_id}/events",
    auth=may(VIEW_DEPLOYMENT),
    response={200: schemas.Events, **PROBLEMS},
)
def list_events(
    request: HttpRequest,
    deployment_id: str,
    after: QueryEx[int, P(ge=0, le=2**31 - 1)] = 0,
    limit: QueryEx[int, P(ge=1, le=EVENTS_LIMIT)] = 100,
) -> HttpResponse:
    """The events after `after`, in order of `seq`."""
    deployments: QuerySet[Deployment] = Deployment.objects.filter(pk=_checked(deployment_id))
    if not deployments.exists():
        raise actions.NotFound(f"There is no deployment {deployment_id!r}.")
    items = events_after(deployment_id, after, limit + 1)
    more = len(items) > limit
    items = items[:limit]
    return answer({"items": items, "next": items[-1]["seq"] if more else None})


def _asked(path: str) -> Callable[[View], View]:
    """Return the decorator of something that may be asked of a running deployment."""
    decorator: Callable[[View], View] = api.post(
        f"/deployments/{{deployment_id}}/{path}",
        auth=may(DEPLOY),
        response={202: schemas.Snapshot, **PROBLEMS},
    )
    return decorator


@_asked("cancel")
def cancel(request: HttpRequest, deployment_id: str, payload: Body[schemas.Cancel]) -> HttpResponse:
    """Stop: leave what is done, or bring everything back."""
    by = request.user.get_username()
    actions.cancel(_checked(deployment_id), payload.mode, by=by, seen=payload.seen)
    return answer(_snapshot(deployment_id), 202)


@_asked("pause")
def pause(request: HttpRequest, deployment_id: str, payload: Body[schemas.Ask]) -> HttpResponse:
    """Let the batch under way end, and wait."""
    by = request.user.get_username()
    actions.pause(_checked(deployment_id), by=by, seen=payload.seen)
    return answer(_snapshot(deployment_id), 202)


@_asked("resume")
def resume(request: HttpRequest, deployment_id: str, payload: Body[schemas.Ask]) -> HttpResponse:
    """Go on after a pause."""
    by = request.user.get_username()
    actions.resume(_checked(deployment_id), by=by, seen=payload.seen)
    return answer(_snapshot(deployment_id), 202)


@_asked("promote")
def promote(
    request: HttpRequest, deployment_id: str, payload: Body[schemas.Promote]
) -> HttpResponse:
    """Go past an approval that is waited for, or the rest of a bake."""
    actions.promote(
        _checked(deployment_id),
        by=request.user.get_username(),
        to_end=payload.to == "end",
        seen=payload.seen,
        step=payload.step,
    )
    return answer(_snapshot(deployment_id), 202)


@_asked("rollback")
def roll_back(request: HttpRequest, deployment_id: str, payload: Body[schemas.Ask]) -> HttpResponse:
    """Bring every instance back to its old version; of blue/green, shift the traffic back first."""
    by = request.user.get_username()
    actions.roll_back(_checked(deployment_id), by=by, seen=payload.seen)
    return answer(_snapshot(deployment_id), 202)
