"""Pages and buttons on real PostgreSQL: who may see and do what, and what is never in a page."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client

from dashboard.attention import OVERLOOKED_AFTER
from rollouts import actions, journal
from rollouts.facts import Waiting
from rollouts.models import Deployment, Service
from rollouts.snapshots import snapshot
from rollouts.states import TargetStatus
from tests.integration.factories import make_service, owned_journal

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client"),
]

VIEWER = ("view_service", "view_deployment")
DEPLOYER = (*VIEWER, "deploy_service")
BUTTONS = ("cancel", "pause", "resume", "promote", "rollback")
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"

Login = Callable[..., Client]


@pytest.fixture
def service() -> Service:
    return make_service()


@pytest.fixture
def deployment(service: Service) -> Deployment:
    return actions.start(service, "v2", by="ada")


@pytest.fixture
def login() -> Login:
    """Return a client logged in with just these rights."""

    def make(*rights: str, **fields: bool) -> Client:
        user = User.objects.create_user(f"user{User.objects.count()}", **fields)
        user.user_permissions.set(Permission.objects.filter(codename__in=rights))
        client = Client()
        client.force_login(user)
        return client

    return make


class Inline(HTMLParser):
    """Finds what a strict content security policy would refuse to run or to apply."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        data = given.get("type") == "application/json"
        if tag == "style" or (tag == "script" and "src" not in given and not data):
            self.found.append(tag)
        self.found += [f"{tag} {key}" for key in given if key == "style" or key.startswith("on")]
        self.found += [
            f"{tag} {value}"
            for value in given.values()
            if value and value.strip().lower().startswith("javascript:")
        ]


def pages(service: Service, deployment: Deployment) -> list[str]:
    """Return every page that shows something."""
    return [
        "/",
        f"/services/{service.name}/",
        f"/services/{service.name}/deploy/",
        f"/services/{service.name}/deploy/?version=v3",
        f"/services/{service.name}/plan/?version=v3",
        f"/deployments/{deployment.id}/",
        f"/deployments/{deployment.id}/?stop=1&instance=web-01",
        f"/deployments/{deployment.id}/?promote=1",
        f"/services/{service.name}/?swap=1",
    ]


def test_every_page_needs_a_login(service: Service, deployment: Deployment) -> None:
    """Whoever is not logged in is sent to the login, and back to where he wanted."""
    for page in pages(service, deployment):
        answer = Client().get(page)
        assert answer.status_code == 302, page
        assert answer["Location"].startswith("/login/?next="), page
    for button in BUTTONS:
        answer = Client().post(f"/deployments/{deployment.id}/{button}/")
        assert answer["Location"].startswith("/login/?next="), button


def test_pages_are_for_those_who_may_see(
    service: Service, deployment: Deployment, login: Login
) -> None:
    """A login alone shows nothing of services and deployments."""
    for page in pages(service, deployment):
        assert login().get(page).status_code == 403, page


def test_a_viewer_sees_all_and_no_button(
    service: Service, deployment: Deployment, login: Login
) -> None:
    """What he may not do is not offered, and refused where he tries."""
    client = login(*VIEWER)
    for page in ("/", "/services/shop/", f"/deployments/{deployment.id}/"):
        text = client.get(page).content.decode()
        assert "v2" in text
        for offer in ("Deploy…", "/deploy/", "Stop deployment", "Pause"):
            assert offer not in text, f"{offer} in {page}"
    assert client.get("/services/shop/deploy/").status_code == 403
    assert client.post("/services/shop/deploy/", {"version": "v3"}).status_code == 403
    for button in BUTTONS:
        answer = client.post(f"/deployments/{deployment.id}/{button}/", {"mode": "stop"})
        assert answer.status_code == 403, button
    deployment.refresh_from_db()
    assert (deployment.wish, deployment.status) == ("", "pending")


@pytest.mark.parametrize("button", BUTTONS)
def test_a_button_is_never_pressed_by_a_link(
    button: str, deployment: Deployment, login: Login
) -> None:
    """GET on a button is 405 for everybody, and asks for nothing."""
    url = f"/deployments/{deployment.id}/{button}/"
    for client in (login(*DEPLOYER), Client()):
        assert client.get(url).status_code == 405
    deployment.refresh_from_db()
    assert deployment.seq == 1


def test_a_form_of_another_site_is_refused(service: Service, deployment: Deployment) -> None:
    """Without the token of the session nothing is started and nothing is stopped."""
    User.objects.create_superuser("root")
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="root"))
    for url in (f"/deployments/{deployment.id}/cancel/", "/services/shop/deploy/"):
        answer = client.post(url, {"mode": "stop", "version": "v3"})
        assert answer.status_code == 403, url
        assert b"nothing was done" in answer.content
    deployment.refresh_from_db()
    assert (deployment.status, Deployment.objects.count()) == ("pending", 1)


def test_no_page_holds_inline_code(service: Service, deployment: Deployment, login: Login) -> None:
    """The policy allows scripts and styles from files of our own only, and no page needs more."""
    client = login(*DEPLOYER)
    for page in [*pages(service, deployment), "/login/", "/nowhere/"]:
        answer = client.get(page)
        text = answer.content.decode()
        assert "default-src 'self'" in answer["Content-Security-Policy"], page
        assert "unsafe" not in answer["Content-Security-Policy"], page
        assert Inline(text).found == [], page
    assert Inline('<p style="x" onclick="y"><script>1</script>').found != []


def test_hostile_text_is_shown_as_text(service: Service, login: Login) -> None:
    """Notes, messages, errors and locks come from outside; none becomes markup."""
    Service.objects.filter(pk=service.pk).update(locked=False)
    deployment = actions.start(service, "v2", by=HOSTILE, note=HOSTILE)
    with journal.writing(deployment.id) as entry:
        entry.append("output", HOSTILE, target="web-01")
    deployment.targets.filter(name="web-01").update(error=HOSTILE)
    Deployment.objects.filter(pk=deployment.pk).update(reason=HOSTILE, status="paused")
    Service.objects.filter(pk=service.pk).update(locked=True, lock_reason=HOSTILE)
    client = login(*DEPLOYER)
    for page in pages(service, deployment):
        text = client.get(page).content.decode()
        assert "<img" not in text, page
        assert "<script>" not in text, page
        assert Inline(text).found == [], page
    assert "&lt;img src=x" in client.get(f"/deployments/{deployment.id}/").content.decode()


def test_the_page_carries_the_snapshot_it_was_drawn_from(
    deployment: Deployment, login: Login
) -> None:
    """So the socket can go on after its `seq`, and nothing is missed or applied twice."""
    text = login(*VIEWER).get(f"/deployments/{deployment.id}/").content.decode()
    [data] = re.findall(r'<script id="page" type="application/json">(.*?)</script>', text)
    held = json.loads(data)["snapshot"]
    assert held == json.loads(json.dumps(snapshot(Deployment.objects.get(pk=deployment.pk))))
    assert held["seq"] == deployment.seq


def test_tiles_say_their_state_in_words_and_glyphs(deployment: Deployment, login: Login) -> None:
    """A state is never its colour alone, and every instance has its tile."""
    told = owned_journal(deployment.id).target
    async_to_sync(told)("web-01", TargetStatus.DRAINING, "Draining web-01.")
    text = login(*VIEWER).get(f"/deployments/{deployment.id}/").content.decode()
    assert re.findall(r'data-instance="([^"]+)" data-state="([^"]+)"', text) == [
        ("web-01", "draining"),
        ("web-02", "waiting"),
        ("web-03", "waiting"),
        ("web-04", "waiting"),
    ]
    assert re.search(r'>⇣</span> <strong title="web-01"><bdi>web-01<', text)
    assert ">draining<" in text


def test_without_any_service_the_way_to_the_first_deployment_is_shown(login: Login) -> None:
    """Three steps, with links for who may take them."""
    text = login(is_superuser=True, is_staff=True).get("/").content.decode()
    for step in ("Add a service", "Add its instances", "Deploy a version"):
        assert step in text
    assert "/admin/rollouts/service/add/" in text
    assert "/admin/rollouts/service/add/" not in login(*VIEWER).get("/").content.decode()


def test_no_worker_is_said_on_the_overview(service: Service, login: Login) -> None:
    """Nobody should wait for a deployment that nothing will drive."""
    assert "No worker is alive" in login(*VIEWER).get("/").content.decode()


def test_a_dispatch_that_does_not_run_is_said_on_the_overview(
    service: Service, login: Login
) -> None:
    """What has been due for long, and of which nobody said what it waits for, was overlooked."""
    deployment = actions.start(service, "v2", by="ada")
    client = login(*VIEWER)
    assert "manage.py dispatch" not in client.get("/").content.decode()
    overlooked = Now() - timedelta(seconds=OVERLOOKED_AFTER + 1)
    Deployment.objects.filter(pk=deployment.pk).update(due_at=overlooked)
    assert "start “manage.py dispatch”" in client.get("/").content.decode()
    journal.tell_waiting(deployment.pk, Waiting.WORKER)
    assert "manage.py dispatch" not in client.get("/").content.decode()


def test_the_overview_finds_services_by_name(service: Service, login: Login) -> None:
    """The filter is in the URL, so that it can be shared."""
    make_service(name="billing")
    client = login(*VIEWER)
    text = client.get("/?q=BILL").content.decode()
    assert "/services/billing/" in text
    assert "/services/shop/" not in text
    assert "Show all" in client.get("/?q=nothing").content.decode()


@pytest.mark.parametrize(
    "page", ["/deployments/deploy-000000000000/", "/services/none/", "/services/none/deploy/"]
)
def test_what_does_not_exist_is_not_found(page: str, login: Login) -> None:
    """With a page of our own, not an error."""
    answer = login(*DEPLOYER).get(page)
    assert answer.status_code == 404
    assert b"There is no such page" in answer.content


def test_an_unknown_address_of_the_interface_is_a_problem(client: Client) -> None:
    """Outside of /api/v1 too a program gets RFC 9457 and where to read on, not a page."""
    answer = client.get("/api/v2/services")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert "/api/v1/docs" in answer.json()["detail"]


def test_a_name_is_locked_after_too_many_failed_logins(client: Client) -> None:
    """With a page that says how long; the right password does not help before."""
    User.objects.create_user("ada", password="the right one")
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answer = client.post("/login/", {"username": "ada", "password": "wrong"})
    assert answer.status_code == 429
    assert b"Wait 15 minutes" in answer.content
    answer = client.post("/login/", {"username": "ada", "password": "the right one"})
    assert answer.status_code == 429


def test_a_failed_login_keeps_the_name(client: Client) -> None:
    """And leads on to the password, which is what is typed again."""
    answer = client.post("/login/", {"username": 'ada"', "password": "wrong"})
    text = answer.content.decode()
    assert 'value="ada&quot;"' in text
    assert re.search(r'name="password"[^>]* autofocus', text)
    assert "wrong" not in text


def test_stop_is_asked_and_told(deployment: Deployment, login: Login) -> None:
    """The button calls the action with its mode; the page then shows what became of it."""
    url = f"/deployments/{deployment.id}/cancel/"
    answer = login(*DEPLOYER).post(url, {"mode": "stop", "seen": "pending"}, follow=True)
    assert b"Asked to stop" in answer.content
    deployment.refresh_from_db()
    assert deployment.status == "cancelled"


def test_a_button_drawn_from_another_state_says_what_changed(
    deployment: Deployment, login: Login
) -> None:
    """409, in words, as a page and for scripts; nothing is done."""
    url = f"/deployments/{deployment.id}/cancel/"
    client = login(*DEPLOYER)
    form = {"mode": "stop", "seen": "in_progress"}
    page = client.post(url, form)
    data = client.post(url, form, headers={"accept": "application/json"})
    assert (page.status_code, data.status_code) == (409, 409)
    assert "was in_progress when you looked and is pending now" in page.content.decode()
    assert "is pending now" in data.json()["detail"]
    deployment.refresh_from_db()
    assert (deployment.status, deployment.wish) == ("pending", "")


def test_an_unknown_way_to_stop_is_refused(deployment: Deployment, login: Login) -> None:
    """422 with what would be right."""
    answer = login(*DEPLOYER).post(f"/deployments/{deployment.id}/cancel/", {"mode": "explode"})
    assert answer.status_code == 422
    assert "must be one of: stop, roll_back" in answer.content.decode()


def test_the_queues_pages_are_for_superusers(login: Login) -> None:
    """They can start and delete jobs, and by themselves ask for no right but staff."""
    every = [codename for (codename,) in Permission.objects.values_list("codename")]
    for page in (
        "/admin/queues/",
        "/admin/queues/queues/0/",
        "/admin/queues/stats.json",
        "/admin/django_rq/dashboard/",
        "/admin/django_rq/dashboard/stats.json",
    ):
        assert login(*every, is_staff=True).get(page).status_code == 403, page
        assert Client().get(page)["Location"].startswith("/login/"), page
    root = login(is_staff=True, is_superuser=True)
    assert root.get("/admin/queues/").status_code == 200
    assert root.get("/admin/").status_code == 200


def test_healthz_answers_without_a_login() -> None:
    """A load balancer has no account."""
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok")


def test_logout_is_a_button_and_ends_the_session(login: Login) -> None:
    """No link of another site can log anybody out."""
    client = login(*VIEWER)
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").status_code == 302
    assert client.get("/").status_code == 302
