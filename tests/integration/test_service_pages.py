"""A service's page on real PostgreSQL: its instances and history by the page, and its lock."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dashboard import snapshots
from rollouts import actions
from rollouts.models import Deployment, HealthCheck, Instance, Service, Target
from rollouts.snapshots import iso
from tests.integration.factories import make_service
from tests.integration.watching import make_user

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client"),
]
PAGE = "/services/shop/"
VIEWER = ("view_service", "view_deployment")
DEPLOYER = (*VIEWER, "deploy_service")


@pytest.fixture
def service() -> Service:
    return make_service(0)


@pytest.fixture
def login() -> Callable[..., Client]:
    def make(name: str, *rights: str) -> Client:
        client = Client()
        client.force_login(make_user(name, *rights))
        return client

    return make


@pytest.fixture
def client(login: Callable[..., Client]) -> Client:
    return login("dora", *DEPLOYER)


def add_instances(service: Service, count: int) -> list[Instance]:
    """Store instances in three zones, every tenth on another version; all are seen in rotation."""
    at = timezone.now().isoformat()
    return Instance.objects.bulk_create(
        Instance(
            service=service,
            name=f"web-{number:03}",
            server=f"web-{number:03}",
            hostname=f"10.0.{number // 200}.{number % 200 + 1}",
            port=80,
            zone="abc"[number % 3],
            version="v1" if number % 10 else "v0",
            seen=seen(at, version="v1" if number % 10 else "v0"),
        )
        for number in range(1, count + 1)
    )


def seen(at: str, **found: Any) -> dict[str, Any]:
    """Return what a look finds of an instance that is well and in rotation, but for `found`."""
    well = {"healthy": True, "version": "v1", "digest": "", "in_rotation": True, "weight": 100}
    return {"at": at, **well, "server": "ready", "error": "", "balancer_error": "", **found}


def add_deployments(service: Service, count: int, **fields: Any) -> list[Deployment]:
    """Store deployments that ended, an hour after another; the last one ended a day ago."""
    then = timezone.now() - timedelta(days=1, hours=count)
    return Deployment.objects.bulk_create(
        Deployment(
            service=service,
            policy={"min_healthy_time": 0, "slow_start": 0},
            plan=[],
            started_by="ann",
            traffic={"requests": 0, "failed_requests": 0, "shares": {}, "observed": {}},
            created_at=then + timedelta(hours=number),
            started_at=then + timedelta(hours=number),
            completed_at=then + timedelta(hours=number, minutes=4),
            **{"version": f"v{number}", "status": "completed", **fields},
        )
        for number in range(count)
    )


def rows(page: str, heading: str = "instances") -> list[str]:
    """Return the keys of the rows of a list of the page."""
    part = page.split(f'data-sync="{heading}"')[1].split("</section>")[0]
    return re.findall(r'<tr data-key="([^"]+)"', part)


def test_instances_are_paged_by_fifty(service: Service, client: Client) -> None:
    """With links to the other pages, and none where there is one page alone."""
    add_instances(service, 120)
    first, last = (client.get(f"{PAGE}{query}").content.decode() for query in ("", "?page=3"))
    assert (len(rows(first)), len(rows(last))) == (50, 20)
    assert "1–50 of 120 instances" in first
    assert 'rel="next" href="?page=2#instances"' in first
    assert 'rel="prev" href="?page=2#instances"' in last
    assert 'rel="next"' not in last
    few = client.get(f"{PAGE}?zone=a").content.decode()
    assert len(rows(few)) == 40
    assert "Pages of instances" not in few


@pytest.mark.parametrize("page", ["0", "-1", "999", "x", "1e3", "9" * 50])
def test_a_page_that_is_not_there_is_the_nearest(
    page: str, service: Service, client: Client
) -> None:
    """The address is typed by people."""
    add_instances(service, 60)
    assert len(rows(client.get(PAGE, {"page": page}).content.decode())) in {10, 50}


def test_instances_are_filtered_by_what_the_address_says(service: Service, client: Client) -> None:
    """By state, zone, version and name; the filters together; what is chosen is shown so."""
    at = timezone.now().isoformat()
    add_instances(service, 30)
    named = service.instances.get
    Instance.objects.filter(pk=named(name="web-001").pk).update(held_out="failed")
    Instance.objects.filter(pk=named(name="web-002").pk).update(active=False)
    Instance.objects.filter(pk=named(name="web-003").pk).update(
        seen=seen(at, in_rotation=False, server="maint")
    )
    Instance.objects.filter(pk=named(name="web-004").pk).update(
        seen=seen(at, version="v7", differs=True)
    )
    Instance.objects.filter(pk=named(name="web-005").pk).update(seen={})
    for query, expected in {
        "state=held": ["web-001"],
        "state=inactive": ["web-002"],
        "state=out": ["web-003"],
        "state=drift": ["web-004"],
        "state=unseen": ["web-005"],
        "version=v0": ["web-010", "web-020", "web-030"],
        "version=v0&zone=b": ["web-010"],
        "q=WEB-01": [f"web-01{digit}" for digit in range(10)],
        "q=10.0.0.8": ["web-007"],
        "state=in&q=web-00": ["web-001", "web-004", "web-006", "web-007", "web-008", "web-009"],
    }.items():
        assert rows(client.get(f"{PAGE}?{query}").content.decode()) == expected, query
    chosen = client.get(f"{PAGE}?state=drift&zone=b").content.decode()
    assert 'aria-current="true"><span class="glyph" aria-hidden="true">≠</span> drifting' in chosen
    assert '<option value="b" selected>' in chosen
    assert "reports v7, verified was v1" in chosen


def test_a_running_deployment_says_how_each_instance_is(service: Service, client: Client) -> None:
    """What it has begun with by its own word and since when, the others as seen last."""
    add_instances(service, 5)
    deployment = actions.start(service, "v2", by="ada", policy={"allow_same_version": True})
    since = timezone.now() - timedelta(days=1)
    for name, status in (("web-001", "draining"), ("web-002", "failed"), ("web-003", "healthy")):
        deployment.targets.filter(name=name).update(status=status, updated_at=since)
    page = client.get(PAGE).content.decode()
    said = {
        key: re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part))
        for key, part in re.findall(r'<tr data-key="(web[^"]+)"(.*?)</tr>', page, re.DOTALL)
    }
    day = f"since {since.day} {since:%b %H:%M} UTC"
    assert f"draining {day}" in said["web-001"]
    assert f"failed {day}" in said["web-002"]
    assert f"in rotation {day}" in said["web-003"]
    assert "in rotation" in said["web-004"]
    assert rows(client.get(f"{PAGE}?state=changing").content.decode()) == ["web-001"]
    parts = {one["name"]: one["part"] for one in snapshots.service_detail(service)["instances"]}
    assert parts["web-004"] is None
    assert parts["web-002"] == {"status": "failed", "since": iso(since)}


def test_nothing_that_fits_is_said_with_a_way_out(service: Service, client: Client) -> None:
    """The other list's filters stay."""
    add_instances(service, 20)
    page = client.get(f"{PAGE}?q=nowhere&status=failed").content.decode()
    assert "No instance fits." in page
    assert 'href="?status=failed#instances"' in page


def test_hostile_filters_are_shown_as_text(service: Service, client: Client) -> None:
    """They come with an address that anybody may send."""
    add_instances(service, 20)
    hostile = "\"><script>alert('x')</script>"
    query = dict.fromkeys(("q", "to", "zone", "version", "state", "status", "other"), hostile)
    assert "<script>alert" not in client.get(PAGE, query).content.decode()
    assert client.get(PAGE, {"to": "a\0b", "q": "\0"}).status_code == 200


def test_history_is_paged_and_filtered(service: Service, client: Client) -> None:
    """25 a page, by state and version; each with its replay."""
    add_instances(service, 1)
    good = add_deployments(service, 60)
    [bad] = add_deployments(service, 1, version="v99", status="failed", reason="web-001: 503")
    first = client.get(PAGE).content.decode()
    assert len(rows(first, "history")) == 25
    assert "1–25 of 61 deployments" in first
    assert 'rel="next" href="?past=2#history"' in first
    assert f'href="/deployments/{good[-1].pk}/replay/"' in first
    failed = client.get(f"{PAGE}?status=failed").content.decode()
    assert rows(failed, "history") == [bad.pk]
    assert "web-001: 503" in failed
    assert rows(client.get(f"{PAGE}?to=99").content.decode(), "history") == [bad.pk]
    assert len(rows(client.get(f"{PAGE}?past=3").content.decode(), "history")) == 11
    assert "No deployment fits." in client.get(f"{PAGE}?to=none").content.decode()


def test_the_last_check_is_that_of_the_latest_deployment_that_checked(
    service: Service, client: Client
) -> None:
    """With its code and how long it took; a later deployment that came to none hides nothing."""
    instances = add_instances(service, 2)
    old, checked, unchecked = add_deployments(service, 3)
    for deployment, codes in ((old, [500]), (checked, [503, 200]), (unchecked, [])):
        target = Target.objects.create(
            deployment=deployment,
            instance=instances[0],
            name="web-001",
            hostname="10.0.0.2",
            port=80,
            server="web-001",
            batch=1,
            position=0,
            new_version="v1",
        )
        for code in codes:
            HealthCheck.objects.create(
                target=target, at=timezone.now(), ok=code == 200, status=code, latency_ms=12.4
            )
    page = client.get(PAGE).content.decode()
    part = page.split('data-key="web-001"')[1].split("</tr>")[0]
    assert re.search(r"✓</span> 200.*12 ms", part)
    assert "503" not in part
    assert "never checked" in page.split('data-key="web-002"')[1].split("</tr>")[0]


def test_the_queries_do_not_grow_with_the_fleet_or_the_history(
    service: Service, client: Client
) -> None:
    """A thousand instances are asked for with as many queries as ten."""

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(PAGE).status_code == 200
        return len(captured)

    add_instances(service, 10)
    add_deployments(service, 2)
    few = queries()
    service.instances.all().delete()
    add_instances(service, 1000)
    add_deployments(service, 200, version="many")
    assert queries() == few


def test_a_service_without_instances_says_what_comes_next(
    service: Service, login: Callable[..., Client]
) -> None:
    """To each what he may do; nothing to filter, to check or to deploy."""
    page = login("root", *DEPLOYER, "add_instance").get(PAGE).content.decode()
    assert "Add its instances" in page
    assert "/admin/rollouts/instance/add/" in page
    assert "Nothing was deployed yet." in page
    assert "/deploy/" not in page
    assert "Somebody who may change the inventory" in login("v", *VIEWER).get(PAGE).content.decode()
    add_instances(service, 1)
    assert "Deploy the first version" in login("d", *DEPLOYER).get(PAGE).content.decode()


# --- the lock


def test_who_may_deploy_locks_with_a_reason_and_an_end(service: Service, client: Client) -> None:
    """It is told on the page and in the history of the admin, and no deployment starts."""
    add_instances(service, 2)
    page = client.post(f"{PAGE}lock/", {"reason": "moving  house", "for": "3600"}, follow=True)
    text = page.content.decode()
    assert "by dora until" in text
    assert ": moving house." in text
    service.refresh_from_db()
    assert service.locked_until is not None
    assert timedelta(minutes=59) < service.locked_until - timezone.now() < timedelta(minutes=61)
    with pytest.raises(actions.Conflict, match="locked by dora"):
        actions.start(service, "v2", by="ann")
    assert "moving house" in LogEntry.objects.get().change_message
    client.post(f"{PAGE}unlock/", {"seen": "moving house"})
    service.refresh_from_db()
    assert (service.locked, service.lock_reason, service.locked_by) == (False, "", "")
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize("reason", ["", "   ", "x" * 201, "a\0b"])
def test_a_lock_without_a_good_reason_is_refused(
    reason: str, service: Service, client: Client
) -> None:
    """Whoever comes later has to read why."""
    page = client.post(f"{PAGE}lock/", {"reason": reason}, follow=True).content.decode()
    assert "It was not locked." in page
    service.refresh_from_db()
    assert not service.locked


def test_a_lock_is_not_taken_over(
    service: Service, client: Client, login: Callable[..., Client]
) -> None:
    """Nor taken back by who read another reason, or is neither its owner nor may change it."""
    client.post(f"{PAGE}lock/", {"reason": "mine"})
    other = login("eve", *DEPLOYER)
    told = other.post(f"{PAGE}lock/", {"reason": "no, mine"}, follow=True).content.decode()
    assert "locked already by dora" in told
    assert f'action="{PAGE}unlock/"' not in told
    told = other.post(f"{PAGE}unlock/", {"seen": "mine"}, follow=True).content.decode()
    assert "was locked by dora" in told
    operator = login("op", *VIEWER, "change_service")
    told = operator.post(f"{PAGE}unlock/", {"seen": "another"}, follow=True).content.decode()
    assert "for another reason now: mine" in told
    service.refresh_from_db()
    assert service.lock_reason == "mine"
    operator.post(f"{PAGE}unlock/", {"seen": "mine"})
    service.refresh_from_db()
    assert not service.locked
    told = operator.post(f"{PAGE}unlock/", {"seen": "mine"}, follow=True).content.decode()
    assert "not locked any more" in told


def test_a_lock_that_is_over_may_be_set_anew(service: Service, client: Client) -> None:
    """It holds nobody any more."""
    over = timezone.now() - timedelta(minutes=1)
    Service.objects.filter(pk=service.pk).update(locked=True, locked_by="bob", locked_until=over)
    client.post(f"{PAGE}lock/", {"reason": "again", "for": "junk"})
    service.refresh_from_db()
    assert (service.locked_by, service.locked_until) == ("dora", None)


def test_a_viewer_neither_locks_nor_unlocks(service: Service, login: Callable[..., Client]) -> None:
    """And sees no button of it; a GET changes nothing."""
    viewer = login("vera", *VIEWER)
    assert "lock/" not in viewer.get(PAGE).content.decode().split("<main")[1]
    for path in ("lock/", "unlock/"):
        assert viewer.post(f"{PAGE}{path}", {"reason": "x"}).status_code == 403
        assert viewer.get(f"{PAGE}{path}").status_code == 405
        assert Client().post(f"{PAGE}{path}")["Location"].startswith("/login/")
