"""Preflight on real servers: what is looked at, by whom, and what pages, REST and terminal say."""

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client

from dashboard import schemas
from dashboard.fleet_views import drawn
from dashboard.local.places import CHECKOUT
from rollouts import actions, journal, looks, preflight
from rollouts.facts import Instance as Fact
from rollouts.models import Instance, Service
from tests.environment import PLACES
from tests.integration.factories import make_service
from tests.integration.little_fleet import LittleServer, little_servers, ports, states, stored
from tests.integration.watching import make_user
from tests.servers import Balancer, StartHAProxy

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client", "quiet"),
]
VIEWER = ("view_service", "view_deployment")
DEPLOYER = (*VIEWER, "deploy_service")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """News are tested elsewhere."""
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
    """A fleet of which all is well, with a driver that can tell whether a version is there."""
    return stored(machines, balancer, driver=driver())


@pytest.fixture
def silent(fleet: Service) -> Iterator[None]:
    """Let web-01 take connections and never answer, for as long as one may wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet.instances.filter(name="web-01").update(port=listener.getsockname()[1])
        Service.objects.filter(pk=fleet.pk).update(policy={"health_check_timeout": 15})
        yield


def driver(artifact: str = "test {version} = v1") -> dict[str, Any]:
    """Return a driver for which `artifact` holds of the versions that are there."""
    return {"kind": "command", "update": ["true", "{version}"], "artifact": artifact.split()}


def looked(service: Service) -> preflight.Preflight:
    service.refresh_from_db()
    return asyncio.run(preflight.look_at(service))


def not_well(found: preflight.Preflight) -> dict[tuple[str, str], str]:
    """Return what is not told to be well, by whose and what: its mark and its detail."""
    ticks = [("", tick) for tick in found.fleet]
    ticks += [(name, tick) for name, mine in found.instances.items() for tick in mine]
    marks = {False: "no", None: "?"}
    return {
        (whose, tick.what): f"{marks[tick.ok]}: {tick.detail}"
        for whose, tick in ticks
        if tick.ok is not True
    }


# --- what is looked at


def test_of_a_fleet_that_is_well_all_is_told_and_nothing_changed(
    fleet: Service, balancer: Balancer
) -> None:
    """The fleet's own ticks first, then those of each instance, the driver's included."""
    before = states(balancer)
    found = looked(fleet)
    assert found.ok
    assert not_well(found) == {}
    assert [tick.what for tick in found.fleet] == [
        "balancer answers",
        "balancer knows every instance",
        "inventory knows every server",
    ]
    assert list(found.instances) == ["web-01", "web-02", "web-03"]
    assert [tick.what for tick in found.instances["web-01"]] == [
        "answers",
        "programs there",
        "old version there",
        "version",
        "rotation",
    ]
    assert states(balancer) == before != []
    assert all(one.seen == {} for one in fleet.instances.all())


def test_a_way_back_that_is_missing_is_found_before_it_is_needed(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """It is the version that the instance reports, rather than the one that was verified last."""
    machines[1].version = "v0"
    found = looked(fleet)
    assert not found.ok
    told = not_well(found)
    assert set(told) == {("web-02", "old version there"), ("web-02", "version")}
    assert told["web-02", "old version there"].startswith("no: v0: ")
    assert told["web-02", "version"] == "?: reports v0, verified was v1"


def test_an_instance_that_is_not_well_is_named(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """Of its version nothing is said then; its driver is asked about the last one verified."""
    machines[0].sick = True
    told = not_well(looked(fleet))
    assert told["web-01", "answers"] == "no: /health answered 503"
    assert ("web-01", "old version there") not in told


def test_balancer_and_inventory_must_agree(fleet: Service, machines: list[LittleServer]) -> None:
    """Who is missing at the balancer is wrong; who is there without being known is only told."""
    fleet.instances.filter(name="web-01").update(server="elsewhere")
    fleet.instances.filter(name="web-02").update(active=False)
    told = not_well(looked(fleet))
    assert told == {
        ("", "balancer knows every instance"): (
            "no: not elsewhere: add them to the balancer, or correct the inventory"
        ),
        ("", "inventory knows every server"): (
            "?: not web-01: no deployment looks after what they may get"
        ),
    }


def test_a_balancer_that_does_not_answer_is_wrong_and_the_rest_is_looked_at(
    fleet: Service,
) -> None:
    """One broken part does not hide another."""
    fleet.balancer["addresses"] = ["unix:/nonexistent/lockgate-test.sock"]
    fleet.save()
    found = looked(fleet)
    assert set(not_well(found)) == {("", "balancer answers")}
    assert all(found.instances.values())


def test_an_instance_out_of_rotation_is_told_and_holds_nobody_back(
    fleet: Service, balancer: Balancer
) -> None:
    """It counts as out; a deployment may even cure it."""
    balancer.ask("set server app/web-03 state maint")
    found = looked(fleet)
    assert found.ok
    assert not_well(found) == {
        ("web-03", "rotation"): "?: out of rotation though no deployment left it out: "
        "in maintenance"
    }


def test_that_nobody_says_which_version_runs_is_told(fleet: Service) -> None:
    """Once for the fleet, since it is of the service's settings."""
    Service.objects.filter(pk=fleet.pk).update(version_source={})
    found = looked(fleet)
    assert found.ok
    assert set(not_well(found)) == {("", "version")}


def test_settings_that_are_wrong_by_now_are_told(fleet: Service) -> None:
    """Such as those of a package that is gone."""
    Service.objects.filter(pk=fleet.pk).update(driver={"kind": "gone"})
    told = not_well(looked(fleet))
    assert told["", "settings"].startswith(
        "no: of driver, balancer or policy are wrong: driver.kind"
    )


def test_a_service_without_instances_is_not_well() -> None:
    """There is nothing to deploy to."""
    assert ("", "instances") in not_well(looked(make_service(0)))


def test_who_hangs_costs_no_more_than_the_time_for_all(
    fleet: Service, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are told all the same."""
    monkeypatch.setattr(looks, "WITHIN", 1.0)
    found = looked(fleet)
    assert not_well(found) == {("web-01", "answers"): "no: no answer within 1 s"}
    assert found.fleet[0].ok


def test_at_most_so_many_instances_are_asked_at_once_and_one_that_breaks_is_told() -> None:
    """Whatever a foreign adapter raises; who had no turn in time was not asked."""
    most = now = 0

    async def ask(instance: Fact) -> str:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        if instance.name == "web-07":
            raise KeyError("oops")
        return instance.name

    async def all_of(count: int, within: float) -> Any:
        facts = [Fact(f"web-{n:02}", "127.0.0.1", 9, "web") for n in range(count)]
        gate = asyncio.Semaphore(3)
        return await looks.each(facts, ask, gate, asyncio.get_running_loop().time() + within)

    heard = asyncio.run(all_of(9, within=20.0))
    assert most == 3
    assert heard["web-01"] == "web-01"
    assert str(heard["web-07"]) == "the adapter broke: KeyError: 'oops'"
    late = asyncio.run(all_of(9, within=-1.0))
    assert {str(one) for one in late.values()} == {
        "not asked: the others took all the time",
        "no answer within 0 s",
    }


# --- who looks, and who may ask


@contextmanager
def worker(tmp_path: Path) -> Iterator[None]:
    """Run a real worker of this test's database until the end of the block."""
    name = connection.settings_dict["NAME"]
    env = {**os.environ, "DATABASE_URL": f"{PLACES.database_url.rsplit('/', 1)[0]}/{name}"}
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"],
            cwd=CHECKOUT,
            env=env,
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def client_of(*rights: str) -> Client:
    client = Client()
    client.force_login(make_user("-".join(rights) or "nobody", *rights))
    return client


def posted(client: Client, service: Service, status: int = 200) -> Any:
    """Return what REST answers to a check."""
    path = f"/api/v1/services/{service.name}/check"
    response = client.post(path, content_type="application/json")
    assert response.status_code == status, response.content
    return json.loads(response.content)


def test_a_worker_looks_for_rest_and_for_the_page(
    fleet: Service,
    machines: list[LittleServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From where deployments are made: it has the keys, the programs and the network."""
    monkeypatch.setattr(preflight, "BEGUN_WITHIN", 20.0)  # it has to start first
    machines[2].sick = True
    client = client_of(*DEPLOYER)
    with worker(tmp_path):
        answer = posted(client, fleet)
        page = client.post(f"/services/{fleet.name}/check/").content.decode()
    assert schemas.Preflight.model_validate(answer).model_dump(exclude_unset=True) == answer
    assert answer["checked_from"] == socket.gethostname()
    assert not answer["ok"]
    wrong = [tick for tick in answer["ticks"] if tick["ok"] is False]
    assert wrong == [
        {"instance": "web-03", "what": "answers", "ok": False, "detail": "/health answered 503"}
    ]
    assert "1 thing wrong" in page
    assert "2 instances: all well" in page


def test_without_a_worker_the_answer_says_so_and_nothing_is_left_in_the_queue(
    fleet: Service, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment would wait as well; a look that nobody waits for is not made."""
    monkeypatch.setattr(preflight, "BEGUN_WITHIN", 0.1)
    answer = posted(client_of(*DEPLOYER), fleet)
    [tick] = answer["ticks"]
    assert (tick["what"], tick["ok"]) == ("a worker looks", False)
    assert "none took it" in tick["detail"]
    assert redis_client.llen(f"rq:queue:{looks.QUEUE}") == 0


def test_without_redis_the_answer_says_so(fleet: Service, redis_client: redis.Redis) -> None:
    """A full one is as good as none."""
    redis_client.config_set("maxmemory", 1)
    try:
        [tick] = posted(client_of(*DEPLOYER), fleet)["ticks"]
    finally:
        redis_client.config_set("maxmemory", 0)
    assert tick["detail"].startswith("Redis is out of reach")


def test_a_check_gives_way_to_a_deployment_that_waits(
    fleet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be made again; and no program that it began is left behind."""
    monkeypatch.setattr(looks, "GIVE_WAY", 0.01)
    Service.objects.filter(pk=fleet.pk).update(driver=driver("sleep 60"))
    actions.start(make_service(name="other"), "v2", by="ada")
    [tick] = preflight.work(fleet.name)["ticks"]
    assert "gave way to a deployment" in tick["detail"]


def test_only_who_may_deploy_may_have_a_fleet_checked(fleet: Service) -> None:
    """It logs in to hosts. A GET of the page looks at nothing."""
    viewer, nobody = client_of(*VIEWER), Client()
    path = f"/services/{fleet.name}/check/"
    assert posted(viewer, fleet, status=403)["status"] == 403
    assert posted(nobody, fleet, status=401)["status"] == 401
    assert viewer.post(path).status_code == viewer.get(path).status_code == 403
    assert nobody.post(path).status_code == 302
    assert Client(enforce_csrf_checks=True).post(path).status_code == 403
    page = client_of(*DEPLOYER).get(path)
    assert page.status_code == 200
    assert "Check fleet" in page.content.decode()
    assert (
        client_of("deploy_service", "view_service").post("/services/nowhere/check/").status_code
        == 404
    )


def test_what_drivers_say_is_text_on_the_page(fleet: Service) -> None:
    """A detail that looks like markup is shown, not obeyed."""
    Service.objects.filter(pk=fleet.pk).update(driver=driver("cat /<script>alert(1)</script>"))
    found = drawn(preflight.work(fleet.name))
    page = render_to_string("parts/preflight.html", {"found": found, "service": {"name": "x"}})
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in page


# --- pages


def test_deploy_form_and_service_page_offer_the_check_to_who_may_deploy(fleet: Service) -> None:
    """The form begins with one; the service page waits for the button."""
    page = client_of(*DEPLOYER).get(f"/services/{fleet.name}/deploy/").content.decode()
    assert 'action="/services/little/check/"' in page
    assert "data-at-once" in page
    page = client_of("deploy_service", "view_service", "view_deployment").get(
        f"/services/{fleet.name}/"
    )
    assert "data-preflight" in page.content.decode()
    assert "data-at-once" not in page.content.decode()
    page = client_of(*VIEWER).get(f"/services/{fleet.name}/")
    assert "data-preflight" not in page.content.decode()


# --- terminal


def checked(name: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of `check_fleet`."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command("check_fleet", name, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


def test_the_terminal_prints_a_line_for_each_thing_and_exits_with_what_was_found(
    fleet: Service, machines: list[LittleServer]
) -> None:
    """0 all well, 1 something is wrong, 2 there is no such service."""
    status, out, _ = checked(fleet.name)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "✓ balancer answers"
    assert "✓ web-02 old version there: v1" in lines
    assert lines[-1] == "All well."
    machines[0].sick = True
    status, out, _ = checked(fleet.name)
    assert status == 1
    assert "✕ web-01 answers: /health answered 503" in out
    status, _, err = checked("nowhere")
    assert status == 2
    assert "no service 'nowhere'" in err


def test_instances_that_differ_are_attention_and_in_rest(fleet: Service) -> None:
    """The overview says what, and the service's page shows it at the instance."""
    at = "2026-01-01T00:00:00Z"
    seen = {"at": at, "healthy": True, "version": "v0", "digest": "", "in_rotation": True}
    seen |= {"weight": 100, "server": "ready", "error": "", "balancer_error": ""}
    Instance.objects.filter(name="web-01").update(seen={**seen, "differs": True})
    Instance.objects.filter(name="web-02").update(seen={**seen, "version": "v1", "differs": False})
    client = client_of(*VIEWER)
    word = "reports v0, verified was v1"
    assert f"little, web-01: {word}." in client.get("/").content.decode()
    page = client.get(f"/services/{fleet.name}/").content.decode()
    assert page.count(word) == 1
    answer = json.loads(client.get(f"/api/v1/services/{fleet.name}").content)
    assert schemas.ServiceDetail.model_validate(answer).model_dump(exclude_unset=True) == answer
    assert answer["drift"] == {"web-01": [word]}
    assert answer["looked_at"] == at
    assert [one["drift"] for one in answer["instances"]] == [[word], [], []]
    assert [one["seen"] and one["seen"]["version"] for one in answer["instances"]] == [
        "v0",
        "v1",
        None,
    ]
    deployment = actions.start(fleet, "v2", by="ada")
    deployment.targets.filter(name="web-01").update(status="draining")
    answer = json.loads(client.get(f"/api/v1/services/{fleet.name}").content)
    assert answer["drift"] == {}
    changed, left, unseen = answer["instances"]
    assert (changed["seen"], changed["part"]["status"]) == (None, "draining")
    assert (left["seen"]["version"], left["part"], unseen["seen"]) == ("v1", None, None)
