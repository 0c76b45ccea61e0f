"""Who is held out: tried again alone, or put back, through a real HAProxy and the real engine."""

import asyncio
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client

from dashboard import schemas
from dashboard.models import ApiToken
from rollouts import actions, jobs, journal, ownership, quarantine
from rollouts.engine import Engine
from rollouts.engine_journal import DjangoJournal
from rollouts.lease import Lease
from rollouts.models import Deployment, Instance, Service, Target
from rollouts.policy import parse, stored
from rollouts.ports import Ports
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import DRIVER, make_service
from tests.integration.watching import make_user
from tests.servers import Balancer, StartHAProxy

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
]
D, T = DeploymentStatus, TargetStatus
NAMES = ("web-01", "web-02", "web-03")
RIGHTS = ("view_service", "view_deployment", "deploy_service")
WHY = "check 3 of 3 failed: 503"


class Well(BaseHTTPRequestHandler):
    """Answers 200, or 503 while the server of it is `sick`."""

    def do_GET(self) -> None:
        self.send_response(503 if getattr(self.server, "sick", False) else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def machines() -> Iterator[dict[str, ThreadingHTTPServer]]:
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), Well) for name in NAMES}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def balancer(machines: dict[str, ThreadingHTTPServer], haproxy: StartHAProxy) -> Balancer:
    return haproxy({name: server.server_port for name, server in machines.items()})


@pytest.fixture
def fleet(machines: dict[str, ThreadingHTTPServer], balancer: Balancer) -> Service:
    """Three instances on v2, of which web-02 was held out when that was deployed."""
    service = Service.objects.create(
        name="fleet",
        driver=DRIVER,
        balancer={"kind": "haproxy", "addresses": [balancer.address], "backend": "app"},
        policy={"health_check_interval": 0.05, "drain_timeout": 1, "batch_pause": 0},
    )
    for name, server in machines.items():
        Instance.objects.create(
            service=service,
            name=name,
            hostname="127.0.0.1",
            port=server.server_port,
            server=name,
            version="v2",
        )
    hold_out(service, "web-02")
    balancer.ask("set server app/web-02 state drain")
    return service


@pytest.fixture
def shop() -> Service:
    """The same in the inventory alone: nothing listens, and the balancer is out of reach."""
    service = make_service(3, version_source={})
    service.instances.update(version="v2")
    hold_out(service, "web-02")
    return service


def hold_out(service: Service, name: str) -> Deployment:
    """Have a deployment leave the instance out of rotation, as the engine stores it."""
    deployment = Deployment.objects.create(
        service=service,
        version="v2",
        previous_version="v1",
        policy=journal.policy_json(parse()),
        plan=[],
        started_by="ada",
        traffic={"requests": 0, "failed_requests": 0, "shares": {}, "observed": {}},
    )
    instance = service.instances.get(name=name)
    where = {"hostname": instance.hostname, "port": instance.port, "server": instance.server}
    Target.objects.create(
        deployment=deployment,
        instance=instance,
        name=name,
        batch=1,
        position=0,
        old_version="v1",
        new_version="v2",
        status=T.FAILED,
        touched=True,
        error=WHY,
        **where,
    )
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    journal.move_now(deployment.id, D.COMPLETED, "2 of 3 run v2.")
    service.instances.filter(name=name).update(version="v1", held_out=WHY)
    return deployment


def state(balancer: Balancer, server: str) -> str:
    """Return the status of `server` as HAProxy reports it."""
    rows = (line.split(",") for line in balancer.ask("show stat app 4 -1").splitlines())
    return next(fields[17] for fields in rows if fields[1:2] == [server])


def drive(deployment: Deployment) -> Deployment:
    """Drive it to its end with the adapters that it names, as a worker does."""
    claim = ownership.claim(deployment.pk, "a worker")
    assert claim is not None
    policy = stored(deployment.policy)

    async def run() -> None:
        lease = Lease(claim.deployment_id, claim.asked_at)
        written = DjangoJournal(claim, lease)
        try:
            async with jobs.adapters_for(deployment.adapters, policy, deployment.pk) as at:
                parts = (written, at.balancer, at.driver, at.probe, jobs.WallClock(), lease)
                await Engine(Ports(*parts)).run()
            await written.settle()
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(run())
    return Deployment.objects.get(pk=deployment.pk)


@pytest.fixture
def client() -> Client:
    user = make_user("ada", *RIGHTS)
    client = Client()
    client.force_login(user)
    return client


def rest(path: str, body: Any = None) -> Any:
    user = User.objects.filter(username="grace").first() or make_user("grace", *RIGHTS)
    headers = {"Authorization": f"Bearer {ApiToken.issue(user, 'test')[1]}"}
    return Client().post(
        f"/api/v1{path}", body or {}, content_type="application/json", headers=headers
    )


# --- trying again


def test_what_is_tried_again_gets_what_the_others_run_and_serves(
    fleet: Service, balancer: Balancer
) -> None:
    """It alone; the others are not touched, and it is held out no longer."""
    begun = quarantine.retry(fleet, ["web-02"], by="ada")
    assert (begun.version, begun.previous_version, begun.strategy) == ("v2", "v1", "rolling")
    ended = drive(begun)
    assert (ended.status, ended.reason) == (D.COMPLETED, "web-02 runs v2.")
    assert [one.name for one in ended.targets.all()] == ["web-02"]
    held = fleet.instances.get(name="web-02")
    assert (held.version, held.held_out) == ("v2", "")
    assert state(balancer, "web-02").startswith(("UP", "no check"))


def test_what_fails_again_stays_out_with_its_new_reason(
    fleet: Service, balancer: Balancer, machines: dict[str, ThreadingHTTPServer]
) -> None:
    """It goes back to nothing: nobody wants the old version beside the new one."""
    machines["web-02"].sick = True  # type: ignore[attr-defined]
    ended = drive(quarantine.retry(fleet, ["web-02"], by="ada", version="v3"))
    assert ended.status == D.FAILED
    assert ended.reason.startswith("0 of 1 instances run v3. Held out: web-02")
    assert "503" in fleet.instances.get(name="web-02").held_out
    assert not state(balancer, "web-02").startswith("UP")


def test_who_is_out_beside_takes_room(fleet: Service, balancer: Balancer) -> None:
    """Of three, two may be out: with two out nothing that serves is touched."""
    balancer.ask("set server app/web-03 state drain")
    policy = {"progress_deadline": 1, "healthy_deadline": 1, "allow_same_version": True}
    begun = actions.start(fleet, "v2", by="ada", policy=policy, instances=["web-01"])
    ended = drive(begun)
    assert ended.status == D.ROLLED_BACK
    told = begun.events.filter(message__startswith="Waiting for room").values_list("message")
    assert told.get() == ("Waiting for room: web-02, web-03 out, max_unavailable is 2.",)
    assert state(balancer, "web-01").startswith(("UP", "no check"))


def test_only_who_is_held_out_is_tried_again(shop: Service) -> None:
    """The others have a sentence, and what is not there another one."""
    with pytest.raises(actions.Conflict, match="Not held out: web-01"):
        quarantine.retry(shop, ["web-02", "web-01"], by="ada")
    with pytest.raises(actions.NotFound, match="no active instance web-99"):
        quarantine.retry(shop, ["web-99"], by="ada")
    assert not shop.deployments.exclude(status=D.COMPLETED).exists()


def test_nothing_is_tried_or_put_back_while_a_deployment_runs(shop: Service) -> None:
    """It says which one, so that one can wait for its end."""
    running = actions.start(shop, "v3", by="bob")
    for ask in (quarantine.retry, quarantine.release):
        with pytest.raises(actions.Conflict, match="wait for its end") as caught:
            ask(shop, ["web-02"], by="ada")
        assert caught.value.deployment_id == running.id


def test_without_any_other_version_one_has_to_be_named(shop: Service) -> None:
    """Nothing is guessed."""
    shop.instances.exclude(name="web-02").update(version="")
    with pytest.raises(actions.Refused) as caught:
        quarantine.retry(shop, ["web-02"], by="ada")
    assert "must be named" in caught.value.errors["version"]


def test_an_idle_slot_is_not_changed_in_parts(shop: Service) -> None:
    """It would get traffic."""
    shop.instances.update(slot="blue")
    shop.instances.filter(name="web-02").update(slot="green")
    shop.live_slot = "blue"
    shop.save()
    with pytest.raises(actions.Refused) as caught:
        quarantine.retry(shop, ["web-02"], by="ada", version="v2")
    assert caught.value.errors["instances"].startswith("in the idle slot: web-02")


# --- putting back


def test_what_is_put_back_serves_as_it_is_and_the_log_says_who_did_it(
    fleet: Service, balancer: Balancer
) -> None:
    """That of the deployment that held it out."""
    assert [one.name for one in quarantine.release(fleet, ["web-02"], by="ada")] == ["web-02"]
    held = fleet.instances.get(name="web-02")
    assert (held.version, held.held_out) == ("v1", "")
    assert state(balancer, "web-02").startswith(("UP", "no check"))
    last = fleet.deployments.get().events.last()
    assert last is not None
    assert last.message == "ada put web-02 back into rotation as it is."
    assert last.seq == fleet.deployments.get().seq


def test_what_is_sick_is_not_put_back(
    fleet: Service, balancer: Balancer, machines: dict[str, ThreadingHTTPServer]
) -> None:
    """Its reason stays too."""
    machines["web-02"].sick = True  # type: ignore[attr-defined]
    with pytest.raises(actions.Conflict, match="is not well and stays out: /health answered 503"):
        quarantine.release(fleet, ["web-02"], by="ada")
    assert fleet.instances.get(name="web-02").held_out == WHY
    assert not state(balancer, "web-02").startswith("UP")


# --- pages, REST and commands


def test_the_service_page_and_the_overview_show_who_is_held_out(
    client: Client, shop: Service
) -> None:
    """With the reason, since when, the deployment, and both buttons."""
    page = client.get("/services/shop/").content.decode()
    assert WHY in page
    assert "Out since" in page
    assert f"/deployments/{shop.deployments.get().id}/?instance=web-02" in page
    assert 'action="/services/shop/retry/web-02/"' in page
    assert 'action="/services/shop/release/web-02/"' in page
    assert "shop: web-02 is held out of rotation." in client.get("/").content.decode()


def test_while_a_deployment_runs_the_buttons_are_gone(client: Client, shop: Service) -> None:
    """The page says when they come back."""
    actions.start(shop, "v3", by="bob")
    page = client.get("/services/shop/").content.decode()
    assert "stays out while a deployment is running" in page
    assert "/retry/" not in page


def test_the_buttons_do_it(client: Client, fleet: Service) -> None:
    """Put back, and held out anew, try again; the admin's own history says who put it back."""
    answer = client.post("/services/fleet/release/web-02/", follow=True)
    assert "web-02 is back in rotation." in answer.content.decode()
    assert LogEntry.objects.get().change_message == "Put back into rotation."
    answer = client.post("/services/fleet/retry/web-02/", follow=True)
    assert "web-02 was not tried again. Not held out: web-02." in answer.content.decode()
    fleet.instances.filter(name="web-02").update(held_out=WHY)
    begun = client.post("/services/fleet/retry/web-02/")
    assert begun["Location"] == f"/deployments/{fleet.deployments.latest('created_at').id}/"


def test_the_buttons_are_for_those_who_may_deploy(shop: Service) -> None:
    """And for POST alone, from our own pages."""
    viewer, deployer = Client(), Client(enforce_csrf_checks=True)
    viewer.force_login(make_user("eve", "view_service", "view_deployment"))
    deployer.force_login(make_user("dora", "deploy_service"))
    for button in ("retry", "release"):
        path = f"/services/shop/{button}/web-02/"
        assert Client().post(path)["Location"].startswith("/login/")
        assert viewer.post(path).status_code == 403
        assert deployer.post(path).status_code == 403
        assert deployer.get(path).status_code == 405
    assert shop.instances.get(name="web-02").held_out == WHY


def test_rest_tells_who_is_held_out_and_puts_back(client: Client, fleet: Service) -> None:
    """The instance is given as it is after that."""
    detail = client.get("/api/v1/services/fleet").json()
    assert detail["held_out"] == ["web-02"]
    held = next(one["held_out"] for one in detail["instances"] if one["name"] == "web-02")
    assert held == {
        "reason": WHY,
        "since": held["since"],
        "deployment": fleet.deployments.get().id,
        "version": "v2",
    }
    assert held["since"].endswith("Z")
    schemas.ServiceDetail.model_validate(detail)
    answer = rest("/services/fleet/instances/web-02/release")
    assert (answer.status_code, answer.json()["held_out"]) == (200, None)
    assert LogEntry.objects.get().user.username == "grace"


def test_rest_tries_again(shop: Service) -> None:
    """It answers with the deployment; what is not there is 404, what is not held out 409."""
    answer = rest("/services/shop/instances/web-02/retry", {"version": "v3"})
    assert answer.status_code == 201
    assert answer["Location"] == f"/api/v1/deployments/{answer.json()['id']}"
    assert [one["instance"] for one in answer.json()["targets"]] == ["web-02"]


def test_rest_refuses_in_words(shop: Service) -> None:
    """What is not there is 404, what is not held out 409, and nothing is done."""
    for name, status in (("web-99", 404), ("web-01", 409), ("A;b", 404)):
        for what in ("retry", "release"):
            answer = rest(f"/services/shop/instances/{name}/{what}")
            assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)
    assert shop.deployments.count() == 1


def run(command: str, *arguments: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command(command, *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


def test_the_commands_do_the_same(fleet: Service) -> None:
    """With their exit status."""
    assert run("release", "fleet", "web-02") == (0, "web-02 is back in rotation.\n", "")
    status, _, told = run("release", "fleet", "web-02")
    assert (status, told.strip()) == (
        2,
        "service: Not held out: web-02. A deployment with `instances` changes any.",
    )
    fleet.instances.filter(name="web-02").update(held_out=WHY)
    status, out, _ = run("retry", "fleet", "web-02", "--to", "v3")
    assert status == 0
    assert Deployment.objects.get(pk=out.strip()).version == "v3"


# --- some instances alone


def test_only_the_named_are_targets_and_the_rest_of_the_fleet_is_counted() -> None:
    """Percentages are of the whole of it."""
    service = make_service(10)
    names = ["web-03", "web-07", "web-08"]
    policy = {"batch_size": "20%", "max_unavailable": "20%"}
    begun = actions.start(service, "v2", by="ada", policy=policy, instances=names)
    assert [(one.name, one.batch) for one in begun.targets.all()] == [
        *(("web-03", 1), ("web-07", 1), ("web-08", 2))
    ]
    assert begun.events.get().message == "ada asked for v2 on web-03, web-07, web-08 of shop."


def test_rest_plans_and_starts_some_alone() -> None:
    """Unknown names are 422, and a canary of some is too."""
    service = make_service(4)
    service.instances.filter(name__in=["web-02", "web-04"]).update(zone="b")
    asked = {"version": "v2", "instances": ["web-01", "web-02"], "policy": {"by_zone": True}}
    planned = rest("/services/shop/plan", asked).json()
    assert planned["batches"] == [["web-02"], ["web-01"]]
    assert planned["zones"] == ["b", ""]
    assert (planned["total"], planned["fleet"], planned["least_in_service"]) == (2, 4, 2)
    schemas.Draft.model_validate(planned)


def test_rest_refuses_what_can_not_be_changed_alone() -> None:
    """By its key, and nothing starts."""
    make_service()
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"instances": ["web-01", "web-99"]}, "not among the active instances: web-99"),
        ({"instances": []}, "name one at least"),
        ({"instances": ["web-01"], "strategy": "canary"}, "changes the fleet as a whole"),
        ({"instances": ["\0"]}, "not among the active instances"),
    ]
    for more, words in refusals:
        answer = rest("/services/shop/deployments", {"version": "v2", **more})
        assert answer.status_code == 422
        assert words in answer.json()["errors"]["instances"]
    assert not Deployment.objects.exists()


def test_deploy_takes_only() -> None:
    """Once for each instance."""
    make_service()
    status, out, _ = run("deploy", "shop", "v2", "--only", "web-02", "--only", "web-04")
    assert status == 0
    targets = Deployment.objects.get(pk=out.strip()).targets
    assert [one.name for one in targets.all()] == ["web-02", "web-04"]
