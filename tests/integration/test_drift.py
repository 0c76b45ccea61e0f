"""Looks for drift on real PostgreSQL, Redis and HAProxy: stored, told, and nothing changed."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from django.db import connection
from django.utils import timezone

from dashboard import snapshots
from rollouts import actions, drift, jobs, journal, looks
from rollouts.dispatch import Dispatch
from rollouts.models import Instance, Service
from rollouts.snapshots import iso
from rollouts.states import DeploymentStatus
from tests.integration.factories import make_service
from tests.integration.little_fleet import LittleServer, little_servers, ports, states, stored
from tests.servers import Balancer, StartHAProxy

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client", "quick"),
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not well is asked once more at once, and there are no news."""
    monkeypatch.setattr(drift, "AGAIN_AFTER", 0.0)
    monkeypatch.setattr(journal, "listeners", [])


@pytest.fixture
def machines() -> Iterator[list[LittleServer]]:
    with little_servers(3) as running:
        yield running


@pytest.fixture
def balancer(machines: list[LittleServer], haproxy: StartHAProxy) -> Balancer:
    return haproxy(ports(machines))


@pytest.fixture
def fleet(machines: list[LittleServer], balancer: Balancer) -> Service:
    return stored(machines, balancer)


def told(service: Service) -> dict[str, list[str]]:
    """Return what is told of `service` now."""
    last = service.deployments.first()
    since = {service.pk: last.completed_at if last else None}
    return dict(drift.told([service], {service.pk: {""}}, since)[service.pk])


def look_again() -> None:
    """Look, as if the last look were long ago."""
    for instance in Instance.objects.exclude(seen={}):
        then = timezone.now() - timedelta(seconds=drift.INTERVAL)
        instance.seen["at"] = then.isoformat()
        instance.save()
    drift.look_at_all()


def test_what_differs_is_stored_and_told_and_nothing_is_changed(
    fleet: Service, machines: list[LittleServer], balancer: Balancer
) -> None:
    """Neither at the balancer nor in the inventory: a person decides."""
    machines[0].version = "v0"
    machines[1].sick = True
    balancer.ask("set server app/web-03 state drain")
    before = states(balancer)
    drift.look_at_all()
    assert told(fleet) == {
        "web-01": ["reports v0, verified was v1"],
        "web-02": ["not well: /health answered 503"],
        "web-03": ["out of rotation though no deployment left it out: it drains"],
    }
    first, second, third = fleet.instances.order_by("name")
    assert (first.seen["version"], first.seen["in_rotation"], first.seen["weight"]) == (
        "v0",
        True,
        100,
    )
    assert not second.seen["healthy"]
    assert third.seen["server"] == "drain"
    assert {one.version for one in (first, second, third)} == {"v1"}
    assert states(balancer) == before


def test_what_was_mended_is_told_no_more(fleet: Service, machines: list[LittleServer]) -> None:
    """At the next look."""
    machines[0].version = "v0"
    drift.look_at_all()
    assert set(told(fleet)) == {"web-01"}
    machines[0].version = "v1"
    look_again()
    assert told(fleet) == {}


def test_what_is_told_follows_the_inventory_of_now(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """A version that was verified after the look needs no second look."""
    machines[0].version = "v2"
    drift.look_at_all()
    assert set(told(fleet)) == {"web-01"}
    fleet.instances.filter(name="web-01").update(version="v2", version_at=timezone.now())
    assert told(fleet) == {}


def test_what_was_seen_before_the_end_of_a_deployment_is_told_no_more(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """The deployment changed what was seen."""
    machines[0].version = "v0"
    drift.look_at_all()
    deployment = actions.start(fleet, "v2", by="ada")
    journal.move_now(deployment.pk, DeploymentStatus.CANCELLED, "Stopped.")
    assert told(fleet) == {}
    look_again()
    assert set(told(fleet)) == {"web-01"}


def test_a_service_is_left_alone_while_a_deployment_of_it_is_active(fleet: Service) -> None:
    """Then the deployment itself looks, and what is half done is no drift."""
    actions.start(fleet, "v2", by="ada")
    assert drift.due() == []
    drift.look_at_all()
    assert all(one.seen == {} for one in fleet.instances.all())


def test_what_was_seen_while_a_deployment_began_is_not_stored(fleet: Service) -> None:
    """Even if it has ended by then."""
    [subject] = drift.due()
    deployment = actions.start(fleet, "v2", by="ada")
    journal.move_now(deployment.pk, DeploymentStatus.CANCELLED, "Stopped.")
    seen = {one.name: drift.Seen(healthy=False) for one in subject.instances}
    drift.store(subject, seen)
    assert all(one.seen == {} for one in fleet.instances.all())


def test_an_instance_that_was_deleted_meanwhile_keeps_no_other_from_being_seen(
    fleet: Service,
) -> None:
    """A look takes seconds, and the inventory may change within them."""
    [subject] = drift.due()
    fleet.instances.filter(name="web-01").delete()
    drift.store(subject, {one.name: drift.Seen(healthy=True) for one in subject.instances})
    assert [one.seen["healthy"] for one in fleet.instances.all()] == [True, True]


def test_each_service_is_looked_at_once_in_an_interval_however_many_ask(fleet: Service) -> None:
    """Several dispatchers may run; the longest unseen comes first."""
    other = make_service(1, name="other")
    drift.look_at_all()
    assert drift.due() == []
    before = timezone.now() - timedelta(seconds=drift.INTERVAL)
    for service, older in ((fleet, 1), (other, 2)):
        for instance in service.instances.all():
            at = before - timedelta(seconds=older)
            instance.seen["at"] = at.isoformat()
            instance.save()
    assert [subject.service for subject in drift.due()] == [other, fleet]


def test_two_never_look_at_the_same_time(fleet: Service) -> None:
    """The second does nothing, and the lock is gone with its holder."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with drift.alone() as mine:
            assert mine
            held.set()
            over.wait(20)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    drift.look_at_all()
    assert all(one.seen == {} for one in fleet.instances.all())
    over.set()
    holder.join()
    drift.look_at_all()
    assert all(one.seen["healthy"] for one in fleet.instances.all())


def test_a_balancer_that_does_not_answer_is_told_as_such(fleet: Service) -> None:
    """And the instances' own answers are stored all the same."""
    fleet.balancer["addresses"] = ["unix:/nonexistent/lockgate-test.sock"]
    fleet.save()
    drift.look_at_all()
    words = [word for words in told(fleet).values() for word in words]
    assert len(words) == 3
    assert all(word.startswith("the balancer could not be asked: ") for word in words)
    assert all(one.seen["healthy"] for one in fleet.instances.all())


def test_settings_that_are_wrong_by_now_are_told_and_keep_nobody_else_from_being_seen(
    fleet: Service,
) -> None:
    """Such as those of a driver whose package is gone."""
    broken = make_service(1, name="broken")
    Service.objects.filter(pk=broken.pk).update(driver={"kind": "gone"})
    drift.look_at_all()
    broken.refresh_from_db()
    [word] = told(broken)["web-01"]
    assert "settings are wrong" in word
    assert all(one.seen["healthy"] for one in fleet.instances.all())


def test_a_look_gives_way_to_a_deployment_that_waits(
    fleet: Service, machines: list[LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no other worker takes it; and the look is made again later."""
    monkeypatch.setattr(looks, "GIVE_WAY", 0.01)
    monkeypatch.setattr(drift, "AGAIN_AFTER", 20.0)
    actions.start(make_service(name="other"), "v2", by="ada")
    machines[0].sick = True
    before = timezone.now()
    drift.look_at_all()
    assert timezone.now() - before < timedelta(seconds=10)
    assert all(one.seen == {} for one in fleet.instances.all())


def test_dispatch_has_a_worker_look_once_an_interval_and_asks_for_the_last_end_alone(
    fleet: Service, redis_client: redis.Redis, django_assert_num_queries: object
) -> None:
    """The queue is its own, and holds one look at most: there may be no worker for days."""
    both = Dispatch(), Dispatch()
    with django_assert_num_queries(4):  # type: ignore[operator]
        for one in (*both, *both):
            one.look_for_drift()
    assert redis_client.llen(f"rq:queue:{looks.QUEUE}") == 1
    assert jobs.enqueued() == set()


def test_after_the_end_of_a_deployment_its_service_is_looked_at_again_at_once(
    fleet: Service, redis_client: redis.Redis
) -> None:
    """Nobody has to wait a minute to read what is in rotation."""
    drift.look_at_all()
    dispatch = Dispatch()
    dispatch.look_for_drift()
    redis_client.flushdb()
    dispatch.look_for_drift()
    assert redis_client.llen(f"rq:queue:{looks.QUEUE}") == 0
    assert drift.due() == []
    deployment = actions.start(fleet, "v2", by="ada")
    journal.move_now(deployment.pk, DeploymentStatus.CANCELLED, "Stopped.")
    dispatch.look_for_drift()
    assert redis_client.llen(f"rq:queue:{looks.QUEUE}") == 1
    drift.look_at_all()
    assert snapshots.service_detail(fleet)["instances"][0]["seen"]["healthy"]


def test_since_when_an_instance_is_in_rotation_is_kept_from_look_to_look(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """It is the first look that found it so, until another finds it otherwise."""

    def since() -> list[str]:
        fleet.refresh_from_db()
        rows = snapshots.service_detail(fleet)["instances"]
        return [row["seen"]["rotation_since"] for row in rows]

    drift.look_at_all()
    first = since()
    assert first == [row["seen"]["at"] for row in snapshots.service_detail(fleet)["instances"]]
    look_again()
    assert since() == first
    instance = fleet.instances.first()
    assert instance is not None
    instance.seen["in_rotation"] = False
    instance.save()
    look_again()
    assert since()[0] > first[0]
    assert since()[1:] == first[1:]


def test_since_when_is_when_a_deployment_put_it_back(fleet: Service) -> None:
    """The deployment knows to the moment; a part that it never touched tells nothing."""
    drift.look_at_all()
    deployment = actions.start(fleet, "v2", by="ada")
    journal.move_now(deployment.pk, DeploymentStatus.CANCELLED, "Stopped.")
    back = timezone.now()
    deployment.targets.filter(name="web-01").update(status="healthy", updated_at=back)
    drift.look_at_all()
    rows = {one.name: one.seen for one in fleet.instances.all()}
    assert rows["web-01"]["rotation_since"] == iso(back)
    assert rows["web-02"]["rotation_since"] < rows["web-01"]["rotation_since"]


def test_dispatch_goes_on_where_redis_takes_no_look(
    fleet: Service, redis_client: redis.Redis
) -> None:
    """A look is worth nothing beside a deployment."""
    redis_client.config_set("maxmemory", 1)
    try:
        Dispatch().look_for_drift()
    finally:
        redis_client.config_set("maxmemory", 0)
    assert redis_client.llen(f"rq:queue:{looks.QUEUE}") == 0
