"""Canary and blue/green on real PostgreSQL: what a person may ask, and what a shift leaves."""

import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connections
from django.test import Client

from dashboard import schemas
from dashboard.models import ApiToken
from rollouts import actions
from rollouts.engine_journal import DjangoJournal, rollout_of
from rollouts.facts import BalancerReport, Change, Finding, Server, ServerState, Shift, Wish
from rollouts.models import Deployment, Service
from rollouts.planning import steps_from_json
from rollouts.snapshots import Json, apply, event_fields, snapshot
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import aowned_journal, make_service
from tests.integration.watching import make_user
from tests.servers import Balancer, StartHAProxy

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
]
D, T = DeploymentStatus, TargetStatus
CANARY = {
    "strategy": "canary",
    "canary_steps": [{"share": 25, "bake": 60}, {"approve": True}, {"share": 100}],
    "analysis": {"min_requests": 20},
}


@pytest.fixture
async def closed() -> AsyncIterator[None]:
    """Close the connection of the thread in which async writes run."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def canary() -> Deployment:
    return actions.start(make_service(), "v2", by="ada", policy=CANARY)


def with_slots() -> Service:
    """Return a service whose first two instances are blue, and live, the others green."""
    service = make_service()
    service.instances.update(slot="green")
    service.instances.filter(name__in=["web-01", "web-02"]).update(slot="blue")
    service.live_slot = "blue"
    service.save()
    return service


@pytest.fixture
def blue_green() -> Deployment:
    return actions.start(with_slots(), "v2", by="ada", policy={"strategy": "blue_green"})


def at(deployment: Deployment, kind: str, status: D = D.IN_PROGRESS) -> int:
    """Put the deployment at its first step of a kind; return which one that is."""
    deployment.refresh_from_db()
    place = [step["kind"] for step in deployment.plan].index(kind)
    Deployment.objects.filter(pk=deployment.pk).update(status=status, cursor=place)
    return place


def held(deployment: Deployment) -> Deployment:
    return Deployment.objects.select_related("service").get(pk=deployment.pk)


# --- promote


@pytest.mark.parametrize("kind", ["prepare", "shift", "change", "restore"])
def test_promoting_what_waits_for_nothing_is_refused(canary: Deployment, kind: str) -> None:
    """The answer says so, and nothing is recorded."""
    at(canary, kind)
    with pytest.raises(actions.Conflict, match="waits for no approval and no bake"):
        actions.promote(canary.id, by="ada")
    assert held(canary).wish == ""


@pytest.mark.parametrize("status", [D.PENDING, D.PAUSED, D.ROLLING_BACK])
def test_promoting_out_of_season_is_refused(canary: Deployment, status: D) -> None:
    """Only what goes on can be promoted."""
    at(canary, "bake", status)
    with pytest.raises(actions.Conflict, match="waits for no approval"):
        actions.promote(canary.id, by="ada")


def test_promoting_what_is_being_stopped_is_refused(canary: Deployment) -> None:
    """It says who stops it."""
    at(canary, "bake")
    actions.cancel(canary.id, "stop", by="bob")
    with pytest.raises(actions.Conflict, match="being stopped by bob"):
        actions.promote(canary.id, by="ada")


async def test_a_promotion_is_answered_by_the_step_that_it_leads_to(
    closed: None, canary: Deployment
) -> None:
    """The next bake is not skipped too; to the end it stays on record, for all that come."""
    for kind, to_end, kept in (("bake", False, ""), ("approve", True, Wish.PROMOTE_ALL.value)):
        place = await sync_to_async(at)(canary, kind)
        await sync_to_async(actions.promote)(canary.id, by="ada", to_end=to_end)
        writer = await aowned_journal(canary.id)
        await writer.step(place, 5_000.0, "Still here.")
        assert (await sync_to_async(held)(canary)).wish.startswith("promote")
        await writer.step(place + 1, None, "On.")
        assert (await sync_to_async(held)(canary)).wish == kept


# --- traffic


def report(answers: dict[str, tuple[int, int]], weight: int = 100) -> BalancerReport:
    """Return what the balancer shows: answers and errors by server."""
    servers = {
        name: Server(name, ServerState.READY, True, 0, weight, 100, *counted)
        for name, counted in answers.items()
    }
    return BalancerReport(servers, sum(count for count, _ in answers.values()))


async def on_the_new_version(writer: DjangoJournal, name: str) -> None:
    for status in (T.DRAINING, T.UPDATING, T.HEALTH_CHECKING):
        await writer.target(name, status, "On.", touched=status is T.UPDATING)
    await writer.target(name, T.HEALTHY, "Serves.", version="v2")


async def test_both_sides_are_counted_and_a_worse_one_is_condemned_for_good(
    closed: None, canary: Deployment
) -> None:
    """From when it takes traffic, over the balancer's counters; the page holds the same."""
    writer = await aowned_journal(canary.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    await on_the_new_version(writer, "web-01")
    old = ("web-02", "web-03", "web-04")
    for look in range(2):
        counts = dict.fromkeys(old, (1000 + 30 * look, 50))
        await writer.traffic(report({**counts, "web-01": (500 + 10 * look, 100 + 8 * look)}))
    await writer.settle()
    current = await sync_to_async(held)(canary)
    shown = await sync_to_async(snapshot)(current)
    assert shown["analysis"]["old"]["answers"] == 30 * 3
    assert shown["analysis"]["new"]["errors"] == 8
    assert shown["analysis"]["verdict"] == "against"
    assert (await writer.read()).judgement.finding is Finding.AGAINST
    for look in range(60):  # it is well again, as if somebody had restarted it by hand
        counts = dict.fromkeys(old, (2000 + 300 * look, 50))
        await writer.traffic(report({**counts, "web-01": (900 + 100 * look, 200)}))
    assert (await writer.read()).judgement.finding is Finding.AGAINST
    events = [event_fields(e) async for e in canary.events.order_by("seq")]
    client: Json = apply({}, events)
    assert client == await sync_to_async(lambda: snapshot(held(canary)))()


async def test_the_observed_share_is_counted_anew_after_each_shift(
    closed: None, canary: Deployment
) -> None:
    """What was answered before, with other weights, says nothing of it."""
    writer = await aowned_journal(canary.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    await on_the_new_version(writer, "web-01")
    for look in range(2):
        await writer.traffic(report({"web-01": (50 * look, 0), "web-02": (50 * look, 0)}))
    await writer.settle()
    assert (await sync_to_async(held)(canary)).traffic["observed"] == {"v1": 0.5, "v2": 0.5}
    place = await sync_to_async(at)(canary, "shift")
    await writer.step(place + 1, None, "25 % of the traffic.")
    await writer.traffic(report({"web-01": (60, 0), "web-02": (80, 0)}))
    await writer.settle()
    assert (await sync_to_async(held)(canary)).traffic["observed"] == {"v1": 0.75, "v2": 0.25}


async def test_nothing_is_counted_for_or_against_on_the_way_back(
    closed: None, canary: Deployment
) -> None:
    """The verdict that led there stays as it was."""
    writer = await aowned_journal(canary.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    await on_the_new_version(writer, "web-01")
    await writer.traffic(report({"web-01": (0, 0), "web-02": (0, 0)}))
    await writer.begin_way_back([Change(1, ("web-01",))], D.ROLLED_BACK, "Back.")
    await writer.traffic(report({"web-01": (90, 90), "web-02": (90, 0)}))
    assert (await writer.read()).judgement.finding is Finding.TOO_LITTLE


# --- slots


async def test_the_live_slot_changes_with_the_shift_and_back_with_the_way_back(
    closed: None, blue_green: Deployment
) -> None:
    """In the transaction of the step that is done."""

    async def live() -> str:
        return (await Service.objects.aget()).live_slot

    writer = await aowned_journal(blue_green.id)
    await writer.move(D.IN_PROGRESS, "Started.")
    steps = steps_from_json(blue_green.plan)
    [last] = [n for n, step in enumerate(steps) if isinstance(step, Shift) and step.share == 100]
    await writer.step(last, None, "Verified.")
    assert await live() == "blue"
    await writer.step(last + 1, None, "Shifted.")
    assert await live() == "green"
    back = Shift(0, ("web-01", "web-02"))
    await writer.begin_way_back([back], D.ROLLED_BACK, "Back.")
    assert await live() == "green"
    await writer.step(1, None, "Shifted back.")
    assert await live() == "blue"


def test_a_swap_is_a_deployment_that_updates_nothing() -> None:
    """Of the idle slot's version, on the idle slot's instances."""
    service = with_slots()
    service.instances.filter(slot="green").update(version="v0")
    swap = actions.swap(service, by="ada")
    assert (swap.version, swap.previous_version, swap.strategy) == ("v0", "v1", "blue_green")
    assert sorted(target.name for target in swap.targets.all()) == ["web-03", "web-04"]
    changes = [step for step in steps_from_json(swap.plan) if isinstance(step, Change)]
    assert [step.update for step in changes] == [False]


def test_a_swap_is_refused_where_a_start_is() -> None:
    """Without slots, while another deployment is active, and while the service is locked."""
    plain = make_service()
    with pytest.raises(actions.Refused) as caught:
        actions.swap(plain, by="ada")
    assert "every active instance in slot" in caught.value.errors["strategy"]
    actions.start(plain, "v2", by="ada")
    with pytest.raises(actions.Conflict, match="is active on shop"):
        actions.swap(plain, by="bob")
    Service.objects.all().update(locked=True)
    Deployment.objects.all().update(status="cancelled", completed_at="2026-11-24T12:00:00Z")
    plain.refresh_from_db()
    with pytest.raises(actions.Conflict, match="shop is locked"):
        actions.swap(plain, by="bob")


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"strategy": "blue_green"}, "without a slot: web-01"),
        ({"strategy": "canary", "canary_steps": [{"share": 50}, {"share": 5}]}, "must rise"),
        ({"strategy": "canary", "canary_steps": [{"share": 500}]}, "up to 100"),
        ({"strategy": "red_black"}, "must be one of: rolling, canary, blue_green"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(policy: Json, complaint: str) -> None:
    """Each with its key."""
    with pytest.raises(actions.Refused) as caught:
        actions.start(make_service(), "v2", by="ada", policy=policy)
    assert complaint in " ".join(caught.value.errors.values())
    assert not Deployment.objects.exists()


def test_a_preview_is_of_the_slot_that_is_idle() -> None:
    """Nobody knows which one before the first blue/green deployment."""
    service = with_slots()
    service.preview_url = "https://{slot}.shop.example.com/"
    assert service.preview_of_idle == "https://green.shop.example.com/"
    service.live_slot = "green"
    assert service.preview_of_idle == "https://blue.shop.example.com/"
    service.live_slot = ""
    assert service.preview_of_idle == ""


@pytest.mark.parametrize(
    "url", ["https://shop.example.com/", "{slot}", "javascript:{slot}", "https://{slot}.x/{y}", " "]
)
def test_a_preview_address_without_a_slot_is_refused(url: str) -> None:
    """Or one that is no address of a page."""
    service = with_slots()
    service.preview_url = url
    with pytest.raises(ValidationError) as caught:
        service.full_clean()
    assert "preview_url" in caught.value.message_dict


# --- upgrades


def test_a_deployment_of_an_earlier_release_goes_on(canary: Deployment) -> None:
    """Its frozen policy lacks the keys that came later; they have their defaults."""
    old: dict[str, Any] = {
        key: value
        for key, value in canary.policy.items()
        if key not in {"canary_steps", "shift_steps", "analysis", "keep_old", "retire_old"}
    }
    Deployment.objects.filter(pk=canary.pk).update(policy=old)
    rollout = rollout_of(held(canary), canary.targets.all())
    assert rollout.policy.keep_old == 600
    assert rollout.policy.judging.min_requests == 50


async def test_the_old_slot_has_its_share_though_it_is_no_target(
    closed: None, blue_green: Deployment
) -> None:
    """It has the traffic."""
    writer = await aowned_journal(blue_green.id)
    idle = report({"web-03": (0, 0), "web-04": (0, 0)}, weight=0).servers
    live = report({"web-01": (5, 0), "web-02": (5, 0)}).servers
    await writer.traffic(BalancerReport({**live, **idle}))
    await writer.settle()
    assert (await sync_to_async(held)(blue_green)).traffic["shares"] == {"v1": 1.0}


# --- over REST and from a terminal


class Rest:
    """REST with the token of somebody who has these rights."""

    def __init__(self, client: Client, *rights: str) -> None:
        self.client = client
        user = make_user("eve", *rights)
        self.headers = {"Authorization": f"Bearer {ApiToken.issue(user, 'test')[1]}"}

    def post(self, path: str, status: int, **body: Any) -> Json:
        """Post and return the answer, whose status has to be this."""
        answer = self.client.post(
            f"/api/v1{path}", body, content_type="application/json", headers=self.headers
        )
        assert answer.status_code == status, answer.content
        return dict(answer.json())


@pytest.mark.parametrize(("to", "wish"), [("next", "promote"), ("end", "promote_all")])
def test_rest_promotes_to_the_next_step_or_to_the_end(
    client: Client, canary: Deployment, to: str, wish: str
) -> None:
    """And answers with the snapshot, in which the wish stands."""
    at(canary, "approve")
    answer = Rest(client, "deploy_service").post(f"/deployments/{canary.id}/promote", 202, to=to)
    assert (answer["wish"], answer["wish_by"]) == (wish, "eve")
    assert schemas.Snapshot.model_validate(answer).model_dump(exclude_unset=True) == answer


def test_rest_refuses_to_promote_on_an_old_look_or_without_the_right(
    client: Client, canary: Deployment
) -> None:
    """409 says what it is by now; 403 and 422 change nothing either."""
    at(canary, "bake")
    path = f"/deployments/{canary.id}/promote"
    Rest(client, "view_deployment").post(path, 403)
    User.objects.all().delete()
    rest = Rest(client, "deploy_service")
    assert "was paused when you looked" in rest.post(path, 409, seen="paused")["detail"]
    rest.post(path, 422, to="the moon")
    assert held(canary).wish == ""


def test_rest_plans_a_canary_with_its_steps(client: Client) -> None:
    """As they would be stored; a plan changes nothing."""
    make_service()
    answer = Rest(client, "view_service").post(
        "/services/shop/plan", 200, version="v2", policy=CANARY
    )
    assert [step["kind"] for step in answer["steps"]][:4] == ["prepare", "shift", "change", "shift"]
    assert answer["strategy"] == "canary"
    assert not Deployment.objects.exists()


def test_rest_swaps_the_slots(client: Client) -> None:
    """201 with the deployment that does so; 422 without slots, 403 without the right."""
    with_slots()
    Rest(client, "view_service").post("/services/shop/swap", 403)
    User.objects.all().delete()
    rest = Rest(client, "deploy_service")
    answer = rest.post("/services/shop/swap", 201)
    assert (answer["strategy"], answer["status"]) == ("blue_green", "pending")
    assert "is active" in rest.post("/services/shop/swap", 409)["detail"]
    make_service(name="plain")
    assert "strategy" in rest.post("/services/plain/swap", 422)["errors"]


def run(command: str, *arguments: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command(command, *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


def test_a_canary_is_started_promoted_and_brought_back_from_a_terminal() -> None:
    """Steps are given as JSON; what the state forbids is refused with exit status 2."""
    make_service()
    steps = json.dumps(CANARY["canary_steps"])
    words = ("--strategy", "canary", "--set", f"canary_steps={steps}")
    status, out, err = run("deploy", "shop", "v2", *words)
    assert (status, err) == (0, "")
    canary = Deployment.objects.get(pk=out.strip())
    assert canary.policy["canary_steps"] == CANARY["canary_steps"]
    status, _, err = run("promote", canary.id)
    assert status == 2
    assert "waits for no approval and no bake" in err
    at(canary, "approve")
    assert run("promote", canary.id, "--to-end") == (0, "", "")
    assert held(canary).wish == "promote_all"
    assert run("rollback", canary.id) == (0, "", "")
    assert held(canary).wish == "rollback"
    assert run("rollback", "deploy-000000000000")[0] == 2


def test_slots_are_swapped_from_a_terminal() -> None:
    """The id is printed; without slots it is refused by name."""
    with_slots()
    status, out, err = run("swap", "shop")
    assert (status, err) == (0, "")
    assert Deployment.objects.get(pk=out.strip()).strategy == "blue_green"
    status, _, err = run("swap", "shop")
    assert status == 2
    assert "is active on shop" in err
    make_service(name="plain")
    status, _, err = run("swap", "plain")
    assert (status, err.startswith("strategy: ")) == (2, True)


# --- what the balancer can show


def configured(mode: str, *weights: int) -> Callable[[Path, int], str]:
    """Return the configuration of an HAProxy with a server of each weight, where nobody serves."""
    servers = "\n".join(
        f"    server web-{n:02} 127.0.0.1:9 weight {weight}" for n, weight in enumerate(weights, 1)
    )

    def config(admin: Path, port: int) -> str:
        return (
            f'global\n    stats socket "{admin}" level admin\n'
            f"defaults\n    mode {mode}\n    timeout connect 1s\n    timeout client 5s\n"
            f"    timeout server 5s\nfrontend web\n    bind 127.0.0.1:{port}\n"
            f"    default_backend app\nbackend app\n{servers}\n"
        )

    return config


def draft(balancer: Balancer, name: str, **policy: Any) -> actions.Draft:
    settings = {"kind": "haproxy", "addresses": [balancer.address], "backend": "app"}
    return actions.plan(make_service(name=name, balancer=settings), "v2", {**CANARY, **policy})


def test_a_balancer_that_counts_no_answers_is_told_before_the_start(haproxy: StartHAProxy) -> None:
    """In TCP mode it knows connections alone: the new version will not be judged."""
    uncounted = "does not count what its servers answer"
    same = (100, 100, 100, 100)
    assert uncounted in " ".join(draft(haproxy({}, configured("tcp", *same)), "tcp").warnings)
    assert uncounted not in " ".join(draft(haproxy({}, configured("http", *same)), "http").warnings)


def test_a_plan_goes_by_the_weights_of_the_balancer(haproxy: StartHAProxy) -> None:
    """Small instances can't carry what one of many equal ones can."""
    steps = [{"share": 20, "bake": 1}, {"share": 100}]
    uneven = draft(haproxy({}, configured("http", 10, 10, 100, 100)), "uneven", canary_steps=steps)
    assert any("3 instances get the new version" in warning for warning in uneven.plan.warnings)
    even = draft(haproxy({}, configured("http", 50, 50, 50, 50)), "even", canary_steps=steps)
    assert not any("get the new version" in warning for warning in even.plan.warnings)
