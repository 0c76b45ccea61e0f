"""REST on real PostgreSQL: shapes, status codes, and a problem for every error."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from dashboard import live, schemas
from dashboard.models import ApiToken
from rollouts import actions, journal
from rollouts.models import Deployment, Event, Service
from rollouts.snapshots import consistent_snapshot, event_fields
from rollouts.states import DeploymentStatus
from tests.integration.factories import make_service
from tests.integration.watching import make_user

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client", "quiet"),
]
RIGHTS = ("view_service", "view_deployment", "deploy_service")
NO_SUCH = "deploy-000000000000"
CONTROLS = ("cancel", "pause", "resume", "promote", "rollback")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """News are tested elsewhere."""
    monkeypatch.setattr(journal, "listeners", [])


@pytest.fixture
def service() -> Service:
    return make_service()


@pytest.fixture
def user() -> User:
    return make_user("ada", *RIGHTS)


class Caller:
    """Calls `/api/v1` with a token, and checks that every error is a problem."""

    def __init__(self, client: Client, token: str = "") -> None:
        self.client = client
        self.token = token

    def __call__(
        self, method: str, path: str, body: Any = None, status: int = 200, **headers: str
    ) -> Any:
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = self.client.generic(
            method,
            f"/api/v1{path}",
            "" if body is None else body if isinstance(body, str) else json.dumps(body),
            content_type="application/json",
            headers={**given, **headers},
        )
        assert response.status_code == status, response.content[:2_000]
        self.response: HttpResponse = response  # type: ignore[assignment]
        answer = json.loads(response.content)
        if status >= 400:
            check_problem(response, answer)
        return answer

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        return self("GET", path, None, status, **headers)

    def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        return self("POST", path, body, status, **headers)


def check_problem(response: Any, answer: dict[str, Any]) -> None:
    """Check what RFC 9457 asks for."""
    assert response["Content-Type"] == "application/problem+json"
    assert answer["status"] == response.status_code
    assert answer["type"]
    assert answer["title"]
    assert answer["detail"]


@pytest.fixture
def api(client: Client, user: User) -> Caller:
    return Caller(client, ApiToken.issue(user, "test")[1])


@pytest.fixture
def deployment(service: Service) -> Deployment:
    return actions.start(service, "v2", by="ada")


def strict(schema: Any, data: Any) -> None:
    """Check that `data` is what the description of the interface says, and no more."""
    assert schema.model_validate(data).model_dump(exclude_unset=True) == data


# --- reading


def test_services_are_listed_with_versions_lock_and_active_deployment(
    api: Caller, service: Service
) -> None:
    """By name, in the shape that is described."""
    make_service(2, "api")
    service.instances.filter(name="web-01").update(version="v2")
    service.instances.filter(name="web-04").update(active=False)
    begun = actions.start(service, "v3", by="ada")
    answer = api.get("/services")
    strict(schemas.Services, answer)
    assert [one["name"] for one in answer["items"]] == ["api", "shop"]
    shop = answer["items"][1]
    assert shop["versions"] == {"v1": 2, "v2": 1}
    assert shop["total"] == 3
    assert shop["active_deployment"] == begun.id
    assert shop["last_deployment"]["version"] == "v3"
    assert shop["lock"] == {"locked": False, "reason": "", "by": "", "until": None}
    assert answer["items"][0]["last_deployment"] is None


def test_a_service_is_given_with_its_instances_and_lock(api: Caller, service: Service) -> None:
    """As the inventory knows them; nothing is probed for it."""
    Service.objects.update(locked=True, lock_reason="holidays", locked_by="bob")
    answer = api.get("/services/shop")
    strict(schemas.ServiceDetail, answer)
    assert answer["lock"]["reason"] == "holidays"
    first = answer["instances"][0]
    assert (first["name"], first["address"], first["version"]) == ("web-01", "127.0.0.1:9", "v1")


def test_services_can_be_read_page_by_page(api: Caller) -> None:
    """Each once."""
    for name in ("a", "b", "c"):
        make_service(1, name)
    assert pages(api, "/services?limit=2") == [["a", "b"], ["c"]]


def pages(api: Caller, path: str, key: str = "name") -> list[list[Any]]:
    """Return the keys of the items of each page."""
    found, cursor = [], ""
    while cursor is not None:
        answer = api.get(path + cursor)
        found.append([item[key] for item in answer["items"]])
        cursor = answer["next"] and f"&cursor={answer['next']}"
    return found


def test_the_snapshot_is_the_same_that_sockets_give(api: Caller, deployment: Deployment) -> None:
    """In the shape that is described."""
    answer = api.get(f"/deployments/{deployment.id}")
    assert answer == consistent_snapshot(deployment.id)
    strict(schemas.Snapshot, answer)


def test_a_snapshot_never_mixes_two_moments(deployment: Deployment) -> None:
    """What is committed while it is read is in it as a whole or not at all: here, not."""
    before = consistent_snapshot(deployment.id)
    threads: list[threading.Thread] = []

    def write() -> None:
        journal.move_now(deployment.id, DeploymentStatus.CANCELLED, "Stopped.")
        deployment.targets.update(error="later")
        connection.close()

    def meanwhile(execute: Any, sql: str, *rest: Any) -> Any:
        answer = execute(sql, *rest)
        if not threads and "rollouts_deployment" in sql:
            threads.append(threading.Thread(target=write))
            threads[0].start()
            threads[0].join(30)
        return answer

    with connection.execute_wrapper(meanwhile):
        assert consistent_snapshot(deployment.id) == before
    assert consistent_snapshot(deployment.id)["status"] == "cancelled"


def many(service: Service, count: int) -> list[str]:
    """Return the ids of `count` deployments that ended, newest first."""
    ids = []
    for number in range(count):
        begun = actions.start(service, f"v{number + 2}", by="ada")
        actions.cancel(begun.id, "stop", by="ada")
        ids.insert(0, begun.id)
    return ids


def test_deployments_are_listed_newest_first_page_by_page(api: Caller, service: Service) -> None:
    """Stable: one that starts meanwhile does not shift the pages."""
    ids = many(service, 5)
    first = api.get("/deployments?limit=2")
    strict(schemas.Deployments, first)
    many(service, 1)
    second = api.get(f"/deployments?limit=2&cursor={first['next']}")
    third = api.get(f"/deployments?limit=2&cursor={second['next']}")
    read = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert read == ids
    assert third["next"] is None


def test_deployments_of_the_same_moment_are_each_listed_once(api: Caller, service: Service) -> None:
    """The order is that of the ids then."""
    ids = many(service, 4)
    moment = Deployment.objects.get(pk=ids[0]).created_at
    Deployment.objects.update(created_at=moment)
    read = pages(api, "/deployments?limit=1", "id")
    assert read == [[pk] for pk in sorted(ids, reverse=True)]


def test_deployments_are_filtered_by_service_and_status(api: Caller, service: Service) -> None:
    """Several statuses are separated by commas."""
    [ended] = many(service, 1)
    running = actions.start(make_service(2, "api"), "v9", by="ada").id
    assert pages(api, "/deployments?service=shop", "id") == [[ended]]
    assert pages(api, "/deployments?status=pending", "id") == [[running]]
    assert pages(api, "/deployments?status=pending,cancelled", "id") == [[running, ended]]
    assert pages(api, "/deployments?service=api&status=cancelled", "id") == [[]]
    assert pages(api, "/deployments?service=%00", "id") == [[]]


def test_a_list_takes_as_many_queries_for_many_as_for_one(
    api: Caller, service: Service, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    """A page of 200 must not become a thousand queries."""
    many(service, 6)
    with django_assert_max_num_queries(12):
        assert len(api.get("/deployments")["items"]) == 6
    with django_assert_max_num_queries(12):
        api.get("/services")


def test_events_are_read_in_order_from_any_number_on(api: Caller, deployment: Deployment) -> None:
    """`next` is the `after` of the next page, and null at the end."""
    for number in range(4):
        journal.record_wish(deployment.id, None, "ada", str(number))
    path = f"/deployments/{deployment.id}/events"
    first = api.get(f"{path}?limit=3")
    strict(schemas.Events, first)
    assert [event["seq"] for event in first["items"]] == [1, 2, 3]
    assert first["next"] == 3
    second = api.get(f"{path}?limit=3&after=3")
    assert [event["seq"] for event in second["items"]] == [4, 5]
    assert second["next"] is None
    assert second["items"] == [event_fields(event) for event in Event.objects.filter(seq__gt=3)]
    assert api.get(f"{path}?after=99") == {"items": [], "next": None}


# --- doing


def test_a_start_answers_201_and_the_deployment(api: Caller, service: Service) -> None:
    """With where to find it, and who asked."""
    body = {"version": "v2", "policy": {"batch_size": 1}, "note": "friday"}
    answer = api.post("/services/shop/deployments", body, 201)
    strict(schemas.Snapshot, answer)
    assert answer["status"] == "pending"
    assert (answer["version"], answer["note"], answer["started_by"]) == ("v2", "friday", "ada")
    assert answer["policy"]["batch_size"] == 1
    assert api.response["Location"] == f"/api/v1/deployments/{answer['id']}"
    assert Deployment.objects.get().user == User.objects.get()


def test_the_same_idempotency_key_gives_the_same_deployment(api: Caller, service: Service) -> None:
    """Also after its end; another key is another wish."""
    body = {"version": "v2"}
    first = api.post("/services/shop/deployments", body, 201, **{"Idempotency-Key": "k1"})
    again = api.post("/services/shop/deployments", body, 200, **{"Idempotency-Key": "k1"})
    assert again["id"] == first["id"]
    actions.cancel(first["id"], "stop", by="ada")
    again = api.post("/services/shop/deployments", body, 200, **{"Idempotency-Key": "k1"})
    assert (again["id"], again["status"]) == (first["id"], "cancelled")
    other = api.post("/services/shop/deployments", body, 201, **{"Idempotency-Key": "k2"})
    assert other["id"] != first["id"]


def test_a_second_start_is_told_which_deployment_is_active(api: Caller, service: Service) -> None:
    """In words and as `deployment`."""
    first = api.post("/services/shop/deployments", {"version": "v2"}, 201)
    problem = api.post("/services/shop/deployments", {"version": "v3"}, 409)
    assert problem["deployment"] == first["id"]
    assert first["id"] in problem["detail"]
    assert Deployment.objects.count() == 1


def test_a_locked_service_answers_409_with_the_reason(api: Caller, service: Service) -> None:
    """And names no deployment."""
    Service.objects.update(locked=True, lock_reason="holidays", locked_by="bob")
    problem = api.post("/services/shop/deployments", {"version": "v2"}, 409)
    assert "locked by bob: holidays" in problem["detail"]
    assert "deployment" not in problem


def test_every_bad_key_is_named_at_once(api: Caller, service: Service) -> None:
    """With what would be right; nothing is stored."""
    body = {
        "version": "--flag",
        "strategy": "big_bang",
        "policy": {"batch_size": 0, "drain_timeout": "long", "batchsize": 2},
    }
    errors = api.post("/services/shop/deployments", body, 422)["errors"]
    assert set(errors) == {"version", "strategy", "batch_size", "drain_timeout", "batchsize"}
    assert "must be one of: rolling" in errors["strategy"]
    assert not Deployment.objects.exists()


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({}, "version"),
        (None, "version"),
        ({"version": 42}, "version"),
        ({"version": None}, "version"),
        ({"version": "v2", "polciy": {}}, "polciy"),
        ({"version": "v2", "policy": []}, "policy"),
        ({"version": "v2", "policy": "x"}, "policy"),
        ({"version": "v2", "strategy": 1}, "strategy"),
        ({"version": "v2", "note": "x" * 501}, "note"),
        ({"version": "v2", "note": "a\0b"}, "note"),
        ({"version": "v2", "note": "\x1b[2J"}, "note"),
        ('{"version": "v2", "note": "\\ud800"}', "note"),
        ([], "body"),
        ("null", "body"),
        ('"v2"', "body"),
        ('{"version": "v2", "policy": {"batch_pause": NaN}}', "batch_pause"),
        ('{"version": "v2", "policy": {"batch_pause": 1e999}}', "batch_pause"),
    ],
)
def test_a_body_that_is_wrong_is_refused_by_key(
    api: Caller, service: Service, body: Any, key: str
) -> None:
    """Nothing is guessed, nothing is stored."""
    assert key in api.post("/services/shop/deployments", body, 422)["errors"]
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("body", ["{", "x", "\x00", "[" * 60_000, "1" * 5_000, "{'a': 1}"])
def test_what_is_no_json_answers_400(api: Caller, service: Service, body: str) -> None:
    """Deep nesting and endless numbers included."""
    api.post("/services/shop/deployments", body, 400)


def test_a_body_beyond_the_limit_answers_413(api: Caller, service: Service) -> None:
    """Before it is parsed."""
    api.post("/services/shop/deployments", " " * 65_537, 413)


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "\xff"])
def test_an_idempotency_key_that_is_none_is_refused(
    api: Caller, service: Service, key: str
) -> None:
    """Visible ASCII, at most 200 characters."""
    headers = {"Idempotency-Key": key}
    problem = api.post("/services/shop/deployments", {"version": "v2"}, 422, **headers)
    assert set(problem["errors"]) == {"Idempotency-Key"}


def test_a_plan_says_what_would_happen_and_changes_nothing(api: Caller, service: Service) -> None:
    """The same planner that a start uses."""
    answer = api.post("/services/shop/plan", {"version": "v2", "policy": {"batch_size": 1}})
    strict(schemas.Draft, answer)
    assert answer["batches"] == [["web-01"], ["web-02"], ["web-03"], ["web-04"]]
    assert answer["least_in_service"] == 2
    assert answer["expected_seconds"] > 0
    assert any("unhealthy" in warning for warning in answer["warnings"])
    assert not Deployment.objects.exists()


def test_a_plan_warns_of_what_is_in_the_way(api: Caller, service: Service) -> None:
    """A lock and a running deployment refuse a start, not a plan."""
    begun = actions.start(service, "v2", by="bob")
    Service.objects.update(locked=True, lock_reason="holidays")
    warnings = " ".join(api.post("/services/shop/plan", {"version": "v3"})["warnings"])
    assert begun.id in warnings
    assert "locked: holidays" in warnings


def test_a_plan_is_refused_by_key(api: Caller, service: Service) -> None:
    """As a start would be."""
    assert "version" in api.post("/services/shop/plan", {"version": "$(id)"}, 422)["errors"]


def running(deployment: Deployment) -> Deployment:
    return journal.move_now(deployment.id, DeploymentStatus.IN_PROGRESS, "Started.")


@pytest.mark.parametrize("mode", ["stop", "roll_back"])
def test_a_cancel_is_taken_with_202_as_a_wish(
    api: Caller, deployment: Deployment, mode: str
) -> None:
    """The engine turns it into status."""
    running(deployment)
    answer = api.post(f"/deployments/{deployment.id}/cancel", {"mode": mode}, 202)
    strict(schemas.Snapshot, answer)
    assert (answer["wish"], answer["wish_by"], answer["status"]) == (mode, "ada", "in_progress")


def test_a_cancel_before_the_start_ends_it_at_once(api: Caller, deployment: Deployment) -> None:
    """No worker is needed for that."""
    answer = api.post(f"/deployments/{deployment.id}/cancel", {"mode": "stop"}, 202)
    assert answer["status"] == "cancelled"


@pytest.mark.parametrize("body", [None, {}, {"mode": "now"}, {"mode": None}, {"mod": "stop"}])
def test_a_cancel_without_its_mode_is_refused(
    api: Caller, deployment: Deployment, body: Any
) -> None:
    """There is no default: the two ways are too different."""
    problem = api.post(f"/deployments/{deployment.id}/cancel", body, 422)
    assert "mode" in problem["errors"]
    assert Deployment.objects.get().wish == ""


def test_pause_resume_and_rollback_are_taken_with_202(api: Caller, deployment: Deployment) -> None:
    """With an empty body or without one."""
    running(deployment)
    path = f"/deployments/{deployment.id}"
    assert api.post(f"{path}/pause", None, 202)["wish"] == "pause"
    assert api.post(f"{path}/resume", {}, 202)["wish"] == ""
    assert api.post(f"{path}/rollback", None, 202)["wish"] == "rollback"


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_can_be_asked_of_what_has_ended(
    api: Caller, deployment: Deployment, control: str
) -> None:
    """409 says how it ended."""
    actions.cancel(deployment.id, "stop", by="ada")
    body = {"mode": "stop"} if control == "cancel" else None
    problem = api.post(f"/deployments/{deployment.id}/{control}", body, 409)
    assert "has ended: cancelled" in problem["detail"]


def test_what_the_state_forbids_answers_409(api: Caller, deployment: Deployment) -> None:
    """And changes nothing."""
    path = f"/deployments/{deployment.id}"
    assert "not paused" in api.post(f"{path}/resume", None, 409)["detail"]
    assert "no approval" in api.post(f"{path}/promote", None, 409)["detail"]
    assert Deployment.objects.get().seq == 1


def test_who_acts_on_an_old_look_is_told(api: Caller, deployment: Deployment) -> None:
    """`seen` is the status that the asker saw."""
    running(deployment)
    body = {"mode": "stop", "seen": "pending"}
    problem = api.post(f"/deployments/{deployment.id}/cancel", body, 409)
    assert "was pending when you looked and is in_progress now" in problem["detail"]


# --- who may


def test_without_a_login_the_answer_is_401(client: Client, deployment: Deployment) -> None:
    """For reading and for doing, with the way to log in."""
    stranger = Caller(client)
    stranger.get("/services", 401)
    assert stranger.response["WWW-Authenticate"].startswith("Bearer")
    stranger.get(f"/deployments/{deployment.id}", 401)
    stranger.post("/services/shop/deployments", {"version": "v2"}, 401)
    stranger.post(f"/deployments/{deployment.id}/cancel", {"mode": "stop"}, 401)


@pytest.mark.parametrize("token", ["x", "lockgate_", "lockgate_ä", "a b", " "])
def test_a_wrong_token_answers_401_whatever_the_cookie_says(
    client: Client, user: User, token: str
) -> None:
    """Who shows a token means it."""
    client.force_login(user)
    Caller(client).get("/services", 401, Authorization=f"Bearer {token}")


def test_a_token_of_somebody_deactivated_answers_401(api: Caller, user: User) -> None:
    """At once."""
    api.get("/services")
    User.objects.update(is_active=False)
    api.get("/services", 401)


def test_a_viewer_may_look_and_not_touch(client: Client, deployment: Deployment) -> None:
    """403 names the right that is lacking, also where the body is wrong."""
    viewer = make_user("eve", "view_service", "view_deployment")
    eve = Caller(client, ApiToken.issue(viewer, "test")[1])
    eve.get("/services/shop")
    eve.get(f"/deployments/{deployment.id}")
    eve.get(f"/deployments/{deployment.id}/events")
    assert "deploy_service" in eve.post("/services/shop/deployments", {}, 403)["detail"]
    for control in CONTROLS:
        eve.post(f"/deployments/{deployment.id}/{control}", None, 403)
    assert Deployment.objects.get().seq == 1


def test_who_has_no_right_sees_nothing(client: Client, deployment: Deployment) -> None:
    """Being logged in is not enough."""
    nobody = Caller(client, ApiToken.issue(make_user("eve"), "test")[1])
    for path in ("/services", "/services/shop", "/deployments", f"/deployments/{deployment.id}"):
        nobody.get(path, 403)
    nobody.post("/services/shop/plan", {"version": "v2"}, 403)


def test_a_session_reads_without_and_acts_with_its_csrf_token(
    user: User, deployment: Deployment
) -> None:
    """A page of somebody else can make the browser send the cookie, not the token."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    session = Caller(client)
    session.get("/services")
    path = f"/deployments/{deployment.id}/cancel"
    assert "CSRF" in session.post(path, {"mode": "stop"}, 403)["detail"]
    client.cookies["csrftoken"] = token = "a" * 32
    session.post(path, {"mode": "stop"}, 403, **{"X-CSRFToken": "b" * 32})
    foreign = {"X-CSRFToken": token, "Origin": "http://evil.example"}
    session.post(path, {"mode": "stop"}, 403, **foreign)
    assert Deployment.objects.get().status == "pending"
    session.post(path, {"mode": "stop"}, 202, **{"X-CSRFToken": token})
    assert Deployment.objects.get().status == "cancelled"


# --- errors


@pytest.mark.parametrize(
    "path",
    [
        "/services/nope",
        "/services/%00",
        "/services/x%0Ay",
        "/services/" + "x" * 5_000,
        f"/deployments/{NO_SUCH}",
        f"/deployments/{NO_SUCH}/events",
        "/deployments/nope",
        "/deployments/%00",
        "/nope",
        "/",
        "/services/",
        "/services/shop/nope",
    ],
)
def test_what_is_not_there_answers_404(api: Caller, service: Service, path: str) -> None:
    """As a problem, addresses that do not exist included."""
    api.get(path, 404)


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_of_an_unknown_deployment_answer_404(api: Caller, control: str) -> None:
    """Well-formed or not."""
    api.post(
        f"/deployments/{NO_SUCH}/{control}", {"mode": "stop"} if control == "cancel" else {}, 404
    )
    api.post(f"/deployments/x/{control}", {"mode": "stop"} if control == "cancel" else {}, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/deployments/{id}/cancel"),
        ("GET", "/services/shop/plan"),
        ("DELETE", "/deployments/{id}"),
        ("PUT", "/services/shop"),
        ("POST", "/services"),
        ("POST", "/openapi.json"),
        ("POST", "/docs"),
    ],
)
def test_a_method_that_is_not_meant_answers_405(
    api: Caller, deployment: Deployment, method: str, path: str
) -> None:
    """With those that are."""
    problem = api(method, path.format(id=deployment.id), None, 405)
    assert api.response["Allow"] in problem["detail"]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/deployments?limit=0", "limit"),
        ("/deployments?limit=201", "limit"),
        ("/deployments?limit=x", "limit"),
        ("/deployments?limit=1e9", "limit"),
        ("/deployments?status=done", "status"),
        ("/deployments?status=pending,", "status"),
        ("/deployments?cursor=x", "cursor"),
        ("/deployments?cursor=%00", "cursor"),
        ("/deployments?cursor=ä", "cursor"),
        ("/deployments?cursor=MjAyNi0wMS0wMXxkZXBsb3k", "cursor"),
        ("/services?limit=0", "limit"),
        ("/services?cursor=!!!", "cursor"),
        ("/deployments/{id}/events?after=-1", "after"),
        ("/deployments/{id}/events?after=99999999999999999999", "after"),
        ("/deployments/{id}/events?limit=1001", "limit"),
    ],
)
def test_a_bad_question_is_refused_by_key(
    api: Caller, deployment: Deployment, path: str, key: str
) -> None:
    """Limits are bounded, cursors are our own."""
    assert set(api.get(path.format(id=deployment.id), 422)["errors"]) == {key}


def test_what_breaks_here_says_nothing_of_the_inside(
    api: Caller, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says more."""

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the password is secret")

    monkeypatch.setattr(actions, "plan", broken)
    problem = api.post("/services/shop/plan", {"version": "v2"}, 500)
    assert "secret" not in json.dumps(problem)
    assert "the password is secret" in caplog.text


def test_the_description_names_every_call(client: Client) -> None:
    """And needs no login, because it tells nothing of anybody."""
    description = Caller(client).get("/openapi.json")
    assert description["openapi"].startswith("3.")
    paths = {path.removeprefix("/api/v1") for path in description["paths"]}
    controls = {f"/deployments/{{deployment_id}}/{control}" for control in CONTROLS}
    assert paths == controls | {
        "/services",
        "/services/{name}",
        "/services/{name}/plan",
        "/services/{name}/swap",
        "/services/{name}/deployments",
        "/services/{name}/check",
        "/services/{name}/instances/{instance}/retry",
        "/services/{name}/instances/{instance}/release",
        "/deployments",
        "/deployments/{deployment_id}",
        "/deployments/{deployment_id}/events",
        "/figures",
    }


def test_the_docs_work_without_inline_code(client: Client) -> None:
    """Under `default-src 'self'` a browser runs none."""
    response = client.get("/api/v1/docs")
    page = response.content.decode()
    assert response.status_code == 200
    assert "'unsafe-inline'" not in response["Content-Security-Policy"]
    scripts = page.split("<script")[1:]
    assert len(scripts) == 3
    assert all('src="/static/' in one or 'type="application/json"' in one for one in scripts)
    assert "http://" not in page
    assert "https://" not in page
    assert " onload" not in page


def test_a_start_reaches_the_queue_and_the_news(
    api: Caller, service: Service, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the commit, and whether or not anybody listens."""
    heard: list[tuple[str, str, int]] = []
    monkeypatch.setattr(
        journal, "listeners", [lambda pk, name, event: heard.append((pk, name, event["seq"]))]
    )
    begun = api.post("/services/shop/deployments", {"version": "v2"}, 201)
    assert heard == [(begun["id"], "shop", 1)]
    assert redis_client.llen("rq:queue:default") == 1
    assert live.listen not in journal.listeners
