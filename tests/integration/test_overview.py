"""The overview: what is wrong with where to go, what is known of the services, and no more."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from rollouts import actions
from rollouts.models import Deployment, Instance, Service
from rollouts.snapshots import iso
from tests.integration.factories import DRIVER, NOBODY_THERE, make_service
from tests.integration.past import ended

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

VIEWER = ("view_service", "view_deployment")
Look = Callable[..., str]


@pytest.fixture
def look() -> Look:
    """Return the overview's text as whoever has these rights sees it."""

    def get(address: str = "/", *rights: str) -> str:
        user, _ = User.objects.get_or_create(username="ada")
        allowed = Permission.objects.filter(codename__in=(*VIEWER, *rights))
        user.user_permissions.set(allowed)
        client = Client()
        client.force_login(user)
        answer = client.get(address)
        assert answer.status_code == 200
        return answer.content.decode()

    return get


@pytest.fixture
def shop() -> Service:
    return make_service(4)


def seen(service: Service, at: datetime | None = None, **found: Any) -> None:
    """Store that a worker looked at all of the service's instances and found them well."""
    for one in service.instances.all():
        one.seen = {
            "at": iso(at or timezone.now()),
            "healthy": True,
            "version": None,
            "digest": "",
            "in_rotation": True,
            "weight": 1,
            "server": "ready",
            "error": "",
            "balancer_error": "",
            "differs": False,
            **found,
        }
        one.save()


def words(page: str) -> str:
    """Return what a page says, without its markup."""
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def listed(page: str) -> list[str]:
    """Return the services of the table."""
    return re.findall(r'<tr data-key="([^"]+)"', page)


def row(page: str, name: str) -> str:
    """Return what the table says of a service."""
    found = re.search(rf'<tr data-key="{name}".*?</tr>', page, re.DOTALL)
    assert found
    return words(found.group())


def notices(page: str) -> list[tuple[str, str, str]]:
    """Return what needs attention: the sentence, where to go, and what that is called."""
    found = re.findall(r'<li class="notice.*?</li>', page, re.DOTALL)
    told = []
    for one in found:
        link = re.search(r'<a href="([^"]+)"[^>]*>([^<]+)</a>', one)
        sentence = re.search(r"<p>(.*?)</p>", one)
        assert sentence
        told.append((unescape(sentence.group(1)), *(link.groups() if link else ("", ""))))
    return told


def test_it_says_who_is_in_rotation_and_well_as_last_seen(shop: Service, look: Look) -> None:
    """Of all that are active; one that drains is missing, and one that is not well."""
    seen(shop)
    assert "4 / 4 4 / 4" in row(look(), "shop")
    first = shop.instances.get(name="web-01")
    first.seen |= {"in_rotation": False, "healthy": False}
    first.save()
    assert "! 3 / 4 ! 3 / 4" in row(look(), "shop")


def test_it_does_not_guess_who_is_in_rotation(shop: Service, look: Look) -> None:
    """Unknown: before the first look, where one was not looked at, where the balancer said
    nothing, and after a deployment that ended since.
    """
    unknown = "? unknown / 4 ? unknown / 4"
    assert unknown in row(look(), "shop")
    seen(shop)
    shop.instances.filter(name="web-02").update(seen={})
    assert unknown in row(look(), "shop")
    seen(shop, in_rotation=None)
    assert "? unknown / 4 4 / 4" in row(look(), "shop")
    seen(shop, at=timezone.now() - timedelta(minutes=5))
    assert "4 / 4 4 / 4" in row(look(), "shop")
    ended(shop, "completed", timezone.now() - timedelta(minutes=2), 60).save()
    assert unknown in row(look(), "shop")


def test_of_a_running_deployment_its_targets_say_who_is_out(shop: Service, look: Look) -> None:
    """Those under way and those that failed are, whatever was seen before; nothing else is."""
    seen(shop)
    deployment = actions.start(shop, "v2", by="ada")
    deployment.targets.filter(name="web-01").update(status="updating", touched=True)
    deployment.targets.filter(name="web-02").update(status="failed", touched=True)
    said = row(look(), "shop")
    assert "2 / 4 2 / 4" in said
    assert "!" not in said, "what a deployment does is nothing wrong"
    deployment.targets.filter(name="web-01").update(status="healthy")
    shop.instances.filter(name="web-03").update(seen={})
    assert "3 / 4 ? unknown / 4" in row(look(), "shop")


def test_an_idle_slot_is_not_expected_in_rotation(look: Look) -> None:
    """Half of a blue/green fleet is out of rotation, and nothing is wrong with it."""
    shop = make_service(4, live_slot="blue")
    for one in shop.instances.all():
        one.slot = "blue" if one.name < "web-03" else "green"
        one.save()
    seen(shop)
    shop.instances.filter(slot="green").update(
        seen={**shop.instances.first().seen, "in_rotation": False}  # type: ignore[union-attr]
    )
    assert "2 / 2 4 / 4" in row(look(), "shop")


def test_what_needs_attention_says_where_to_go(shop: Service, look: Look) -> None:
    """Each in a sentence, with a link that says what one does there; what is broken comes first."""
    shop.instances.filter(name="web-01").update(version="v2")
    shop.instances.filter(name="web-02").update(held_out="its check failed")
    failed = ended(shop, "failed", timezone.now() - timedelta(hours=1), 60)
    failed.save()
    found = notices(look())[1:]  # that no worker is alive comes first
    assert found == [
        (
            "shop: the deployment of v2 failed and left the fleet as it is.",
            f"/deployments/{failed.pk}/",
            "What failed",
        ),
        (
            "shop: web-02 is held out of rotation.",
            "/services/shop/#held-out",
            "Retry or put back",
        ),
        ("shop runs a mix: 3 on v1, 1 on v2.", "/services/shop/", "Which runs what"),
    ]


def test_a_balancer_out_of_reach_is_one_thing(shop: Service, look: Look) -> None:
    """However many instances could not be told of; with the way to check the fleet."""
    seen(shop, in_rotation=None, balancer_error="connection refused", differs=True)
    text, url, do = notices(look())[1]
    assert text == "shop: its balancer is out of reach: connection refused"
    assert (url, do) == ("/services/shop/check/", "Check the fleet")
    assert len(notices(look())) == 2


def test_a_pause_needs_attention_after_ten_minutes(shop: Service, look: Look) -> None:
    """Not before: somebody who pauses looks, for a while."""
    deployment = actions.start(shop, "v2", by="ada")
    paused = Deployment.objects.filter(pk=deployment.pk)
    for minutes, said in ((9, False), (11, True)):
        at = timezone.now() - timedelta(minutes=minutes)
        paused.update(status="paused", created_at=at)
        assert ("shop v2 has been paused for 11 min." in look()) is said


def test_calm_is_said_and_only_where_it_is_so(
    shop: Service, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how many services; not while a worker is missing, and not of versions unknown."""
    make_service(1, name="billing")
    ended(shop, "completed", timezone.now() - timedelta(hours=1), 60).save()
    assert "one version each" not in look()
    monkeypatch.setattr("rollouts.workers.alive", lambda: 1)
    assert "All 2 services are on one version each. Nothing is running." in words(look())
    Instance.objects.filter(service__name="billing").update(version="")
    assert "Nothing needs attention. Nothing is running." in words(look())
    actions.start(shop, "v2", by="ada")
    assert "Nothing is running" not in look()


def test_filters_stand_in_the_address(shop: Service, look: Look) -> None:
    """By name, by what needs attention, runs or is locked; each link keeps the name."""
    for name in ("billing", "mailing", "search"):
        make_service(2, name=name)
    actions.start(Service.objects.get(name="mailing"), "v2", by="ada")
    Service.objects.filter(name="search").update(locked=True, lock_reason="Black Friday")
    shop.instances.filter(name="web-01").update(version="v2")
    assert listed(look("/?show=attention")) == ["shop"]
    assert listed(look("/?show=running")) == ["mailing"]
    assert listed(look("/?show=locked")) == ["search"]
    page = look("/?q=LING")
    assert listed(page) == ["billing", "mailing"]
    assert 'href="?q=LING&amp;show=running#services"' in page
    assert listed(look("/?q=LING&show=running")) == ["mailing"]
    empty = words(look("/?q=shop&show=locked"))
    assert "No service of “locked” has “shop” in its name. Show all" in empty
    assert listed(look("/?show=bogus&page=x")) == ["billing", "mailing", "search", "shop"]


def test_thousands_of_services_are_paged_with_as_many_queries_as_one(look: Look) -> None:
    """A page has a hundred rows and ways to the others; the number of queries does not grow."""
    make_service(2, name="aaa")
    with CaptureQueriesContext(connection) as few:
        look()
    made = Service.objects.bulk_create(
        Service(name=f"svc-{number:04}", driver=DRIVER, balancer=NOBODY_THERE)
        for number in range(2_000)
    )
    Instance.objects.bulk_create(
        Instance(service=one, name="web-01", server="web-01", hostname="h", port=9, version="v1")
        for one in made
    )
    now = timezone.now()
    Deployment.objects.bulk_create(
        ended(one, "failed", now - timedelta(hours=1), 60) for one in made
    )
    with CaptureQueriesContext(connection) as many:
        page = look()
    assert len(many) <= len(few)
    assert len(listed(page)) == 100
    assert "1–100 of 2001 services" in words(page)
    assert len(notices(page)) == 20
    assert "1981 more" in words(page)
    last = look("/?page=21")
    assert listed(last) == ["svc-1999"]
    assert listed(look("/?page=99999")) == ["svc-1999"]
    assert listed(look("/?q=svc-01&page=1"))[0] == "svc-0100"


def test_the_steps_lead_on_as_each_is_done(look: Look) -> None:
    """One is next, with its button; they go with the first deployment."""
    rights = ("add_service", "add_instance", "deploy_service")
    assert "Add a service</a>" in look("/", *rights)
    shop = make_service(0)
    page = look("/", *rights)
    assert "Add a service</a>" not in page
    assert "Add an instance</a>" in page
    make_service(1, name="billing")
    page = look("/", *rights)
    assert "Deploy to billing</a>" in page
    assert "fleet.yaml" not in page
    ended(shop, "cancelled", timezone.now(), 1).save()
    assert "To the first deployment" not in look("/", *rights)


@pytest.mark.parametrize("instances", [None, 0, 1])
def test_who_may_not_is_told_which_right_it_takes(instances: int | None, look: Look) -> None:
    """At each of the steps, and no button that would refuse."""
    if instances is not None:
        make_service(instances)
    right = {None: "Can add service", 0: "Can add instance", 1: "Can start and stop deployments"}
    page = look()
    assert right[instances] in page
    assert "button primary" not in page


def test_the_figures_have_a_page_with_a_table_of_services(shop: Service, look: Look) -> None:
    """Over the period that the address names, of all or one."""
    billing = make_service(1, name="billing")
    now = timezone.now()
    Deployment.objects.bulk_create(
        [
            ended(shop, "completed", now - timedelta(hours=1), 60),
            ended(billing, "failed", now - timedelta(days=20), 60),
        ]
    )
    month = words(look("/figures/"))
    assert "2 deployments in 30 days: 1 completed, 0 rolled back, 1 failed." in month
    assert "1 not whole yet" in month
    week = look("/figures/?days=7")
    assert "1 deployment in 7 days" in words(week)
    assert 'href="?days=7&amp;service=shop"' in week
    one = words(look("/figures/?days=90&service=billing"))
    assert "Figures of billing" in one
    assert "1 deployment in 90 days" in one
    # On the overview too, with what the charts show said in words.
    overview = look()
    assert "<desc" in overview
    assert "Deployments a week" in overview


def test_programs_get_the_figures_too(shop: Service) -> None:
    """With the period before and every bar; what is no period or no service is refused."""
    user = User.objects.create_user("ada")
    client = Client()
    client.force_login(user)
    assert client.get("/api/v1/figures").status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_deployment"))
    ended(shop, "rolled_back", timezone.now() - timedelta(minutes=5), 60).save()
    found = client.get("/api/v1/figures?days=7&service=shop").json()
    assert (found["days"], found["service"], found["unit"]) == (7, "shop", "day")
    assert (found["now"]["failure_rate"], found["now"]["time_to_restore"]) == (1.0, 60.0)
    assert found["before"]["deployments"] == 0
    assert len(found["bars"]) == 7
    assert client.get("/api/v1/figures?days=8").status_code == 422
    assert client.get("/api/v1/figures?service=none").status_code == 404
