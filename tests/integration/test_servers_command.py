"""`manage.py servers` on real PostgreSQL and real HAProxies: what differs, and made to match."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command

from rollouts import actions
from rollouts.balancers import haproxy_servers
from rollouts.models import Instance, Service
from tests.integration.factories import make_service
from tests.servers import Balancer, StartHAProxy, until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
]


class Well(BaseHTTPRequestHandler):
    """An instance that answers 200 to everything; /hold is not ended before `release`."""

    release = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.release.wait(20)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def listening() -> Iterator[int]:
    """Yield the port of an instance that is well."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Of three instances that are well."""
    with listening() as one, listening() as two, listening() as three:
        yield [one, two, three]


def config(names: dict[str, int]) -> Callable[[Path, int], str]:
    """Return what makes the configuration of an HAProxy whose backend has these servers."""
    servers = "".join(
        f"    server {name} 127.0.0.1:{port} weight 100\n" for name, port in names.items()
    )
    return lambda admin, port: (
        f'global\n    stats socket "{admin}" level admin\n'
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 20s\n"
        f"    timeout server 20s\nfrontend web\n    bind 127.0.0.1:{port}\n"
        f"    default_backend app\nbackend app\n    balance roundrobin\n{servers}"
    )


def service_of(ports: list[int], *pair: Balancer, **settings: Any) -> Service:
    """Return a service with an instance at each port, behind all of `pair`."""
    balancer = {
        "kind": "haproxy",
        "addresses": [one.address for one in pair],
        "backend": "app",
        "add": "check inter 50ms",
    }
    service = make_service(0, balancer=balancer | settings)
    for number, port in enumerate(ports, 1):
        Instance.objects.create(
            service=service,
            name=f"web-{number:02}",
            server=f"web-{number:02}",
            hostname="127.0.0.1",
            port=port,
        )
    return service


def run(*arguments: str) -> tuple[int, list[str], str]:
    """Return exit status, lines and errors of the command for the service shop."""
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit) as left:
        call_command("servers", "shop", *arguments, stdout=out, stderr=err)
    return int(left.value.code or 0), out.getvalue().splitlines(), err.getvalue()


def states(balancer: Balancer) -> dict[str, tuple[str, str]]:
    """Return the admin state and the weight of each server."""
    rows = [line.split() for line in balancer.ask("show servers state app").splitlines()[2:]]
    return {row[3]: (row[6], row[7]) for row in rows if row}


def test_what_is_missing_is_added_at_each_of_a_pair(
    haproxy: StartHAProxy, ports: list[int]
) -> None:
    """In rotation, with full weight, where it was lacking; --check tells and changes nothing."""
    full = {"web-01": ports[0], "web-02": ports[1], "web-03": ports[2]}
    first, second = haproxy({}, config({"web-01": ports[0]})), haproxy({}, config(full))
    service_of(ports, first, second)
    status, lines, errors = run("--check")
    assert (status, errors) == (1, "")
    assert lines == [
        f"+ web-02 is missing at HAProxy at {first.address}",
        f"+ web-03 is missing at HAProxy at {first.address}",
        "They differ still.",
    ]
    assert list(states(first)) == ["web-01"]
    status, lines, errors = run()
    assert (status, errors) == (0, "")
    assert sorted(lines[2:4]) == ["web-02 is added.", "web-03 is added."]
    assert states(first) == states(second) == dict.fromkeys(full, ("0", "100"))
    assert run() == (0, ["The backend matches the inventory."], "")


def test_who_is_not_well_is_not_added(
    haproxy: StartHAProxy, ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy's own check decides; nothing of it is left behind."""
    monkeypatch.setattr(haproxy_servers, "ADD_TIMEOUT", 0.3)
    balancer = haproxy({}, config({"web-01": ports[0]}))
    service_of([ports[0], 9], balancer)
    status, lines, errors = run()
    assert (status, lines[-1]) == (1, "They differ still.")
    assert "web-02 was not added" in errors
    assert "did not find it well within 0.3 s" in errors
    assert list(states(balancer)) == ["web-01"]


def test_a_server_of_the_idle_slot_is_added_without_weight(
    haproxy: StartHAProxy, ports: list[int]
) -> None:
    """A slot that has no traffic gets none by that."""
    balancer = haproxy({}, config({"web-01": ports[0]}))
    service = service_of(ports, balancer, add="check inter 50ms weight 60")
    service.instances.filter(name="web-03").update(slot="green")
    service.instances.exclude(name="web-03").update(slot="blue")
    assert run()[0] == 0
    assert {name: weight for name, (_, weight) in states(balancer).items()} == {
        "web-01": "100",
        "web-02": "60",
        "web-03": "0",
    }


def test_surplus_is_removed_only_with_prune(haproxy: StartHAProxy, ports: list[int]) -> None:
    """An inactive instance is surplus too; one at another address is told and left alone."""
    names = {"web-01": ports[0], "web-02": ports[0], "web-03": ports[2], "old": ports[1]}
    balancer = haproxy({}, config(names))
    service = service_of(ports, balancer)
    service.instances.filter(name="web-03").update(active=False)
    where = f"HAProxy at {balancer.address}"
    told = [
        f"~ web-02 is 127.0.0.1:{ports[0]} at {where}, and 127.0.0.1:{ports[1]} in the inventory",
        f"- web-03 at {where} is no active instance",
        f"- old at {where} is no active instance",
    ]
    hint = "; --prune removes it"
    status, lines, _ = run()
    assert (status, lines[:3]) == (1, [told[0], told[1] + hint, told[2] + hint])
    assert set(states(balancer)) == set(names)
    status, lines, errors = run("--prune")
    assert (status, errors) == (1, "")
    assert lines == [*told, "old is removed.", "web-03 is removed.", "They differ still."]
    assert set(states(balancer)) == {"web-01", "web-02"}


def test_who_has_open_sessions_is_not_removed(
    haproxy: StartHAProxy, ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, drained, and the request goes on."""
    monkeypatch.setattr(haproxy_servers, "REMOVE_TIMEOUT", 0.2)
    balancer = haproxy({}, config({"web-01": ports[0], "old": ports[1]}))
    balancer.ask("set server app/web-01 state drain")
    with held(balancer):
        balancer.ask("set server app/web-01 state ready")
        service_of(ports[:1], balancer)
        status, _, errors = run("--prune")
    assert status == 1
    assert "old still has 1 sessions" in errors
    assert states(balancer)["old"][0] == "8"
    assert run("--prune")[0] == 0


@contextmanager
def held(balancer: Balancer) -> Iterator[None]:
    """Keep one request open meanwhile; it ends well."""
    Well.release.clear()
    answers: list[int] = []
    client = threading.Thread(
        target=lambda: answers.append(
            httpx.get(f"{balancer.url}/hold", trust_env=False).status_code
        )
    )
    client.start()
    until(lambda: ",1," in balancer.ask("show stat app 4 -1").split("old,")[1][:8])
    try:
        yield
    finally:
        Well.release.set()
        client.join()
    assert answers == [200]


def test_the_last_in_rotation_are_not_pruned(haproxy: StartHAProxy, ports: list[int]) -> None:
    """Where no active instance serves, what is surplus carries the traffic."""
    balancer = haproxy({}, config({"web-01": ports[0], "old": ports[1]}))
    balancer.ask("set server app/web-01 state drain")
    service_of(ports[:1], balancer)
    status, _, errors = run("--prune")
    assert (status, errors) == (
        2,
        "Nothing is removed: no active instance would be left in rotation.\n",
    )
    assert states(balancer)["old"] == ("0", "100")


def test_nothing_is_changed_during_a_deployment(haproxy: StartHAProxy, ports: list[int]) -> None:
    """It is named; --check looks all the same."""
    balancer = haproxy({}, config({"web-01": ports[0], "web-02": ports[1], "old": ports[2]}))
    service = service_of(ports[:2], balancer)
    service.instances.update(version="v1")
    deployment = actions.start(service, "v2", by="ada")
    status, lines, errors = run("--prune")
    assert (status, lines) == (2, [])
    assert errors == f"{deployment.id} is running: wait for its end, or stop it first.\n"
    assert run("--check")[0] == 1
    assert set(states(balancer)) == {"web-01", "web-02", "old"}


def test_without_options_nothing_is_added(haproxy: StartHAProxy, ports: list[int]) -> None:
    """What a server needs beside its address only its configuration knows; told once."""
    balancer = haproxy({}, config({"web-01": ports[0]}))
    service = service_of(ports, balancer)
    del service.balancer["add"]
    service.save()
    status, _, errors = run()
    assert status == 1
    assert errors == "the balancer's setting `add` says what is added, and is missing.\n"
    assert list(states(balancer)) == ["web-01"]


def test_servers_that_a_rule_names_are_added_and_found(
    haproxy: StartHAProxy, ports: list[int]
) -> None:
    """In the backend they are called as the rule says; what has the bare name is surplus."""
    balancer = haproxy({}, config({"srv_web-01": ports[0], "web-02": ports[1]}))
    service_of(ports[:2], balancer, server="srv_{name}")
    status, lines, errors = run("--prune")
    assert (status, errors) == (0, "")
    assert lines[-3:] == [
        "web-02 is added.",
        "web-02 is removed.",
        "The backend matches the inventory.",
    ]
    assert set(states(balancer)) == {"srv_web-01", "srv_web-02"}


@pytest.mark.parametrize("service", ["nope", "shop"])
def test_what_can_not_be_compared_is_refused(db: None, service: str) -> None:
    """A service that is not known, and one whose HAProxy can't be reached."""
    make_service()
    err = StringIO()
    with pytest.raises(SystemExit) as left:
        call_command("servers", service, stdout=StringIO(), stderr=err)
    assert left.value.code == 2
    words = "There is no service 'nope'" if service == "nope" else "can't be reached"
    assert words in err.getvalue()
