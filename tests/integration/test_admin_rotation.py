"""Instances in and out of rotation by hand, through a real HAProxy."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client

from rollouts import steering
from rollouts.models import Instance, Service
from tests.integration.admin_pages import (
    act,
    admin,
    make_deployment,
    messages,
    shop,
    staff,
)
from tests.integration.factories import DRIVER
from tests.servers import Balancer, StartHAProxy

__all__ = ["admin", "shop"]
# Real commits: the row lock is seen from another connection.
pytestmark = pytest.mark.django_db(transaction=True)


class Well(BaseHTTPRequestHandler):
    """Answers 200, or 503 while the server of it is `sick`."""

    def do_GET(self) -> None:
        sick = getattr(self.server, "sick", False)
        self.send_response(503 if sick else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def instances() -> Iterator[list[ThreadingHTTPServer]]:
    """Two little web servers."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Well) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def balancer(instances: list[ThreadingHTTPServer], haproxy: StartHAProxy) -> Balancer:
    """A real one in front of them."""
    ports = {f"web-{n:02}": one.server_port for n, one in enumerate(instances, 1)}
    return haproxy(ports)


@pytest.fixture
def fleet(instances: list[ThreadingHTTPServer], balancer: Balancer) -> Service:
    """The service that they are, in the inventory."""
    service = Service.objects.create(
        name="fleet",
        driver=DRIVER,
        balancer={"kind": "haproxy", "addresses": [balancer.address], "backend": "app"},
    )
    for number, one in enumerate(instances, 1):
        name = f"web-{number:02}"
        Instance.objects.create(
            service=service, name=name, hostname="127.0.0.1", port=one.server_port, server=name
        )
    return service


def state(balancer: Balancer, server: str) -> str:
    """Return the status of `server` as HAProxy reports it."""
    for line in balancer.ask("show stat app 4 -1").splitlines():
        fields = line.split(",")
        if fields[1:2] == [server]:
            return fields[17]
    raise AssertionError(server)


def test_an_instance_is_taken_out_of_rotation_and_put_back(
    admin: Client, fleet: Service, balancer: Balancer
) -> None:
    """The balancer itself says so, and the log who did it."""
    first = fleet.instances.get(name="web-01")
    assert messages(act(admin, "take_out_of_rotation", [first])) == ["Out of rotation: web-01."]
    assert state(balancer, "web-01").startswith("DRAIN")
    assert state(balancer, "web-02").startswith(("UP", "no check"))
    assert messages(act(admin, "put_back", [first])) == ["Back in rotation: web-01."]
    assert state(balancer, "web-01").startswith(("UP", "no check"))
    assert list(LogEntry.objects.values_list("change_message", flat=True)) == [
        "Back in rotation.",
        "Out of rotation.",
    ]


def test_nothing_is_steered_while_a_deployment_of_the_service_is_active(
    admin: Client, fleet: Service, balancer: Balancer
) -> None:
    """The deployment counts what is out; nobody takes more out behind its back."""
    deployment = make_deployment(fleet)
    for action in ("take_out_of_rotation", "put_back"):
        [told] = messages(act(admin, action, list(fleet.instances.all())))
        assert f"fleet is left alone: {deployment.pk} is running" in told
    assert state(balancer, "web-01").startswith(("UP", "no check"))


def test_the_last_one_in_rotation_stays(admin: Client, fleet: Service, balancer: Balancer) -> None:
    """Together as well as one after the other."""
    for told in messages(act(admin, "take_out_of_rotation", list(fleet.instances.all()))):
        assert "nothing of the service would be in rotation" in told
    assert state(balancer, "web-01").startswith(("UP", "no check"))
    assert state(balancer, "web-02").startswith(("UP", "no check"))


def test_a_sick_instance_is_not_put_back(
    admin: Client, fleet: Service, balancer: Balancer, instances: list[ThreadingHTTPServer]
) -> None:
    """The balancer would send traffic before its own first check."""
    first = fleet.instances.get(name="web-01")
    act(admin, "take_out_of_rotation", [first])
    instances[0].sick = True  # type: ignore[attr-defined]
    [told] = messages(act(admin, "put_back", [first]))
    assert "fleet/web-01 (web-01): is not well and stays out: /health answered 503" in told
    assert not state(balancer, "web-01").startswith("UP")


def test_a_server_that_the_balancer_does_not_know_is_named(admin: Client, fleet: Service) -> None:
    """And those that it knows are steered."""
    Instance.objects.filter(name="web-02").update(server="web-99")
    first, second = fleet.instances.order_by("name")
    [told] = messages(act(admin, "put_back", [first, second]))[1:]
    assert "fleet/web-02 (web-99):" in told
    assert "knows no server web-99" in told


def test_a_balancer_out_of_reach_is_an_error_for_each_server(admin: Client, shop: Service) -> None:
    """In words, at once."""
    told = messages(act(admin, "take_out_of_rotation", list(shop.instances.all())[:2]))
    assert len(told) == 2
    assert all("can't be reached" in words for words in told)
    assert told[0].startswith("shop/web-01 (web-01):")


def test_settings_that_are_wrong_by_now_are_told_for_each(admin: Client, shop: Service) -> None:
    """Such as those of an adapter whose package is gone: a sentence, not an error page."""
    Service.objects.filter(pk=shop.pk).update(balancer={"kind": "gone"})
    told = messages(act(admin, "take_out_of_rotation", list(shop.instances.all())[:2]))
    assert len(told) == 2
    assert all("balancer.kind: must be one of" in words for words in told)


def test_no_deployment_starts_while_somebody_steers(
    fleet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The insert of one waits for the row of its service."""
    seen: list[bool] = []
    original = steering.async_to_sync

    def watch(call: object) -> object:
        def look() -> None:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    "SELECT 1 FROM rollouts_service WHERE id = %s FOR KEY SHARE SKIP LOCKED",
                    [fleet.pk],
                )
                seen.append(cursor.fetchone() is None)
            connection.close()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return original(call)  # type: ignore[arg-type]

    monkeypatch.setattr(steering, "async_to_sync", watch)
    outcome = steering.steer(Instance.objects.filter(name="web-01"), out=True, by="ada")
    assert [one.name for one in outcome.done] == ["web-01"]
    assert seen == [True]


def test_steering_needs_the_right_to_deploy(fleet: Service, balancer: Balancer) -> None:
    """To change the inventory is not enough."""
    first = fleet.instances.get(name="web-01")
    editor = staff("eddy", "view_instance", "change_instance")
    act(editor, "take_out_of_rotation", [first])
    assert state(balancer, "web-01").startswith(("UP", "no check"))
    deployer = staff("dora", "view_instance", "deploy_service")
    told = messages(act(deployer, "take_out_of_rotation", [first]))
    assert told == ["Out of rotation: web-01."]


def test_too_many_at_once_are_refused(
    admin: Client, fleet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A click must end in bounded time."""
    monkeypatch.setattr(steering, "MOST", 1)
    [told] = messages(act(admin, "take_out_of_rotation", list(fleet.instances.all())))
    assert told == "Nothing was done: choose at most 1 instances."
