"""Errors of the REST interface: RFC 9457, with every bad key and what would be right."""

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from rollouts.actions import Conflict, NotFound, Refused

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
LOGIN_HINT = "Log in, or send a valid token as 'Authorization: Bearer TOKEN'."


def problem(status: int, detail: str = "", **members: Any) -> HttpResponse:
    """Return an error; `members` such as `errors` are added to it."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail or title}
    response = HttpResponse(
        json.dumps({**body, **members}), status=status, content_type=CONTENT_TYPE
    )
    response["Cache-Control"] = "no-store"
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = 'Bearer realm="Lockgate"'
    return response


def as_problem(response: HttpResponse) -> HttpResponse:
    """Return `response`, as a problem if it is an error told in another way."""
    if response.status_code < 400 or response.get("Content-Type") == CONTENT_TYPE:
        return response
    allowed = response.get("Allow", "")
    told = problem(response.status_code, f"Allowed here: {allowed}." if allowed else "")
    if allowed:
        told["Allow"] = allowed
    return told


def refused(errors: Mapping[str, str]) -> HttpResponse:
    """Return 422 with each bad key and what would be right."""
    detail = "; ".join(f"{key}: {text}" for key, text in errors.items())
    return problem(422, detail, errors=dict(errors))


def handle_all(api: NinjaAPI) -> None:
    """Let `api` answer every exception with a problem."""
    handlers: dict[type[Exception], Any] = {
        Refused: lambda request, error: refused(error.errors),
        Conflict: _conflict,
        NotFound: lambda request, error: problem(404, str(error)),
        Http404: lambda request, error: problem(404, "There is no such page."),
        ValidationError: _invalid,
        AuthenticationError: lambda request, error: problem(401, LOGIN_HINT),
        PermissionDenied: lambda request, error: problem(403, str(error)),
        RequestDataTooBig: lambda request, error: problem(413),
        HttpError: _http_error,
        OperationalError: _unavailable,
        InterfaceError: _unavailable,
        Exception: _broken,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)


def _conflict(request: HttpRequest, error: Conflict) -> HttpResponse:
    named = {"deployment": error.deployment_id} if error.deployment_id else {}
    return problem(409, str(error), **named)


def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return problem(400, "The body must be JSON in UTF-8.")
    return problem(error.status_code, str(error))


def _unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    log.warning("PostgreSQL is out of reach: %s", error)
    response = problem(503, "The database is out of reach; try again soon.")
    response["Retry-After"] = "5"
    return response


def _broken(request: HttpRequest, error: Exception) -> HttpResponse:
    log.error("%s %s broke", request.method, request.path, exc_info=error)
    return problem(500, "Something broke here; the log says more.")


def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    return refused({_key(one["loc"]): _right(one) for one in error.errors})


def _key(where: Iterable[Any]) -> str:
    """Return the key that a client sent: without where it was and our parameter's name."""
    source, *path = where
    if source == "body" and len(path) > 1:
        path = path[1:]
    elif source == "body":
        path = ["body"]
    return ".".join(str(part)[:64] for part in path)


def _right(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not known here; see /api/v1/docs"
        case "model_attributes_type" | "model_type":
            return "must be a JSON object"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
            return text.replace("Input should be", "must be").replace("String should", "must")
