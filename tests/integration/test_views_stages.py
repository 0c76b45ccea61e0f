"""Canary and blue/green on the pages: the rail, the split, what may be asked, and the form."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from dashboard import asking, attention, screens, snapshots, stages, traffic
from dashboard.step_lines import lines
from rollouts import actions, planning
from rollouts.models import Deployment, Service
from rollouts.policy import parse
from rollouts.snapshots import snapshot
from tests.integration.factories import make_service

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

Json = dict[str, Any]
NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LATER = (NOW + timedelta(seconds=42)).isoformat()
FORM = "/services/shop/deploy/"
CANARY = [{"share": 5, "bake": 60}, {"approve": True}, {"share": 100}]
COUNTED = {
    "old": {"answers": 4000, "errors": 3, "response_ms": 12.34, "response_pm": 0.5},
    "new": {"answers": 200, "errors": 1, "response_ms": None, "response_pm": None},
    "evidence": 3.21,
    "against_at": 100.0,
    "verdict": "too_little",
    "words": "about 90 more requests (2 min) needed",
    "unseen": "It can't show percentiles.",
}


def slotted(**fields: Any) -> Service:
    """Return a service whose first two instances are blue and live, the others green."""
    service = make_service(live_slot="blue", **fields)
    service.instances.filter(name__in=["web-01", "web-02"]).update(slot="blue")
    service.instances.filter(name__in=["web-03", "web-04"]).update(slot="green")
    return service


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


def started(service: Service, **policy: Any) -> Deployment:
    return actions.start(service, "v2", by="ada", policy=policy)


def at(deployment: Deployment, kind: str, place: int = 0, **fields: Any) -> Json:
    """Bring the deployment to its step of that kind, and return its snapshot."""
    kinds = [step["kind"] for step in deployment.plan]
    cursor = [number for number, one in enumerate(kinds) if one == kind][place]
    fields = {"status": "in_progress", "cursor": cursor, "started_at": timezone.now(), **fields}
    Deployment.objects.filter(pk=deployment.pk).update(**fields)
    return snapshot(Deployment.objects.select_related("service").get(pk=deployment.pk))


def canary(**policy: Any) -> Deployment:
    return started(make_service(), strategy="canary", **{"canary_steps": CANARY, **policy})


def blue_green(**policy: Any) -> Deployment:
    return started(slotted(name="slots"), strategy="blue_green", **policy)


def labels(held: Json) -> list[str]:
    return [stop["label"] for stop in stages.rail(held, NOW)]


# --- the rail


def test_a_canary_is_told_by_its_shares() -> None:
    """The batches that one share needs are one stop."""
    held = at(canary(batch_pause=1), "bake", waiting_until=NOW + timedelta(seconds=42))
    assert labels(held) == ["prepare", "5 %", "bake 1 min", "approve", "100 %", "restore weights"]
    drawn = screens.rail(held, NOW)
    assert [stop["word"] for stop in drawn] == ["done"] * 2 + ["under way"] + ["to come"] * 3
    assert [stop["glyph"] for stop in drawn[1:4]] == ["✓", "▶", "○"]
    assert [stop["current"] for stop in drawn] == [False, False, True, False, False, False]
    assert [stop["detail"] for stop in drawn[1:5]] == ["1 instance", "42 s left", "", "3 instances"]


SHARES = [{"share": 1}, {"share": 25}, {"share": 26, "bake": 5}, {"share": 80}, {"share": 100}]


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (
            {"strategy": "canary", "canary_steps": SHARES, "batch_pause": 1, "batch_size": 1},
            ["prepare", "1 %", "25 %", "26 %", "bake 5 s", "80 %", "100 %", "restore weights"],
        ),
        (
            {"strategy": "blue_green", "shift_steps": SHARES[2:], "batch_size": 1, "keep_old": 0},
            [
                *("prepare", "update green", "26 % to green", "bake 5 s"),
                *("80 % to green", "100 % to green"),
            ],
        ),
    ],
)
def test_every_step_of_a_plan_is_in_one_stop(policy: Json, names: list[str]) -> None:
    """Whatever shares were asked for, none twice and in their order."""
    held = at(started(slotted(), **policy), "shift")
    found = stages.stops(held)
    assert [step for stop in found for step in stop.steps] == held["steps"]
    assert [stop.first for stop in found] == [0, *(stop.end for stop in found[:-1])]
    assert labels(held) == names


def test_blue_green_names_its_slots() -> None:
    """Which one is updated, which one is kept and retired."""
    held = at(blue_green(approve=True, keep_old=600, retire_old=True), "approve")
    names = ["prepare", "update green", "approve", "100 % to green", "keep blue 10 min"]
    assert labels(held) == [*names, "retire blue"]
    drawn = screens.rail(held, NOW)
    assert drawn[2]["word"] == "waiting for approval"
    assert [stop["state"] for stop in drawn] == ["done"] * 2 + ["asks"] + ["coming"] * 3
    assert drawn[1]["detail"] == "2 instances"


@pytest.mark.parametrize(
    ("status", "states"),
    [
        ("pending", ["coming"] * 3),
        ("paused", ["done", "done", "paused"]),
        ("cancelled", ["done", "done", "left"]),
    ],
)
def test_a_stop_depends_on_the_whole(status: str, states: list[str]) -> None:
    """Nothing is under way that waits, is paused or has ended."""
    deployment = canary()
    kind = "prepare" if status == "pending" else "bake"
    ended = LATER if status == "cancelled" else None
    held = {**at(deployment, kind), "status": status, "completed_at": ended}
    assert [stop["state"] for stop in stages.rail(held, NOW)][:3] == states


def test_the_way_back_has_a_rail_of_its_own() -> None:
    """Of a canary the share goes first, of blue/green the traffic."""
    held = at(canary(), "bake")
    target = {"kind": "change", "batch": 1, "targets": ["web-01"], "share": None, "update": True}
    shift = {"kind": "shift", "share": 0, "old": []}
    held |= {"status": "rolling_back", "way_back": [shift, target, {"kind": "restore"}], "step": 1}
    assert labels(held) == ["all to v1", "bring back 1 instance", "restore weights"]
    assert [stop["state"] for stop in stages.rail(held, NOW)] == ["done", "now", "coming"]
    held = at(blue_green(), "shift")
    held |= {"status": "rolling_back", "way_back": [{**shift, "old": ["web-01"]}, target, target]}
    assert labels(held) == ["all to blue", "bring back 2 instances"]


def test_a_rolling_deployment_has_no_rail(client: Client) -> None:
    """Its batches say all."""
    deployment = started(make_service())
    assert labels(at(deployment, "change")) == []
    assert 'id="rail"' not in client.get(f"/deployments/{deployment.id}/").content.decode()


def test_the_rail_is_a_list_that_says_where_it_is(client: Client) -> None:
    """For those who hear it too: one item is the current step."""
    deployment = canary()
    at(deployment, "approve")
    text = client.get(f"/deployments/{deployment.id}/").content.decode()
    [rail] = re.findall(r'<ol class="rail".*?</ol>', text, re.DOTALL)
    assert rail.count("<li") == 6
    assert rail.count('aria-current="step"') == 1
    [current] = re.findall(r'<li[^>]*aria-current="step">.*?</li>', rail)
    assert "approve" in current
    assert "waiting for approval" in current
    assert "<title>! 0/4 shop v2</title>" in text
    assert "Approval is needed" in text


def test_batches_say_what_comes_before_them() -> None:
    """A pause, a bake or a person; not always the pause of the policy."""
    steps = at(canary(batch_pause=10), "bake")["steps"]
    assert [stages.before_batch(steps, batch) for batch in (1, 2, 3)] == [
        "",
        "after a bake of 1 min and approval",
        "after a pause of 10 s",
    ]


# --- the traffic


def test_a_slot_is_verified_before_it_serves() -> None:
    """The glyph of what has traffic is not shown before the shift; after it, it is."""
    deployment = blue_green(approve=True)
    deployment.targets.update(status="healthy", touched=True)
    before = screens.lanes(at(deployment, "approve"), NOW)[0]["tiles"][0]
    assert (before["word"], before["glyph"], before["detail"]) == ("verified", "◎", "no traffic")
    after = screens.lanes(at(deployment, "bake"), NOW)[0]["tiles"][0]
    assert (after["word"], after["glyph"]) == ("serving", "✓")


def test_an_instance_of_a_canary_serves_as_soon_as_it_is_healthy() -> None:
    """It enters with its part of the share, before the shift; on the way back it has none."""
    held = at(canary(), "change")
    assert stages.takes_traffic(held)
    assert stages.takes_traffic(at(Deployment.objects.get(), "shift", 1))
    shift = {"kind": "shift", "share": 0, "old": []}
    assert not stages.takes_traffic({**held, "way_back": [shift], "step": 1})
    unknown = {**held, "way_back": [shift], "step": 0}
    assert not stages.takes_traffic(unknown)
    assert stages.takes_traffic({**unknown, "traffic": {"shares": {"v2": 0.05}}})


def test_the_split_is_told_as_set_and_as_observed() -> None:
    """The two may differ, and both are of both versions; a rolling one has only what is set."""
    held = at(canary(), "bake")
    held["traffic"] = {
        "shares": {"v2": 0.05, "v1": 0.95},
        "observed": {"v1": 0.952, "v2": 0.048},
    }
    assert [(one["version"], one["words"]) for one in traffic.split_words(held)] == [
        ("v1", "set 95.0 %, observed 95.2 %"),
        ("v2", "set 5.0 %, observed 4.8 %"),
    ]
    assert stages.strategy_words(held) == "canary at 5 %"
    held["strategy"] = "rolling"
    assert [one["words"] for one in traffic.split_words(held)] == ["95 %", "5 %"]
    assert stages.strategy_words(held) == "rolling"


def test_both_sides_and_the_evidence_are_in_words() -> None:
    """With percents that say something, and what is needed beside what there is."""
    held = {**at(canary(), "bake"), "analysis": COUNTED}
    old, new = traffic.sides(held)
    assert (old["version"], old["answers"], old["errors"]) == ("v1", "4,000", "3 (0.08 %)")
    assert (old["time"], new["time"]) == ("12.3 ± 0.5", "–")
    assert new["errors"] == "1 (0.50 %)"
    found = traffic.evidence(held)
    assert found is not None
    assert found["words"] == "evidence 3.2 of 100 against v2"
    assert "about 90 more requests (2 min) needed" in found["verdict_words"]
    assert traffic.evidence({**held, "analysis": None}) is None
    assert traffic.errors_so_far(held)[0] == "v2: 200 answered, 1 (0.50 %) with errors."


def test_a_page_without_counted_traffic_shows_no_table(client: Client) -> None:
    """It is there, hidden, for what comes."""
    deployment = started(make_service())
    text = client.get(f"/deployments/{deployment.id}/").content.decode()
    assert re.search(r'<table class="sides" data-part="sides" hidden>', text)


# --- what may be asked


def test_a_promotion_says_what_it_moves(client: Client) -> None:
    """The dialog has both sides' figures, the next step and the end, and nothing bare."""
    steps = [{"share": 5, "bake": 60}, {"share": 75, "bake": 9}, {"share": 100}]
    deployment = canary(canary_steps=steps)
    words = asking.promotion(at(deployment, "bake"))
    assert words is not None
    assert words["facts"] == "From 5 % to 75 %: 1 more instance gets v2."
    assert (words["next"], words["end"]) == ("Promote to 75 %", "Promote to the end")
    assert words["end_facts"] == "From 5 % to 100 %: 3 more instances get v2."
    text = client.get(f"/deployments/{deployment.id}/?promote=1").content.decode()
    [dialog] = re.findall(r'<dialog id="promote".*?</dialog>', text, re.DOTALL)
    assert " open>" in dialog
    for part in ("Promote to 75 %", "Promote to the end", "Not yet", "No traffic was counted yet"):
        assert part in dialog
    assert ">Cancel<" not in text


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({}, True),
        ({"wish": "promote"}, False),
        ({"wish": "stop"}, False),
        ({"wish": "pause"}, False),
        ({"status": "paused"}, False),
        ({"way_back": []}, False),
    ],
)
def test_a_promotion_is_offered_only_while_something_is_waited_for(
    fields: Json, offered: bool
) -> None:
    """Neither twice, nor against another wish."""
    held = {**at(canary(), "bake"), **fields}
    assert bool(asking.promotion(held)) is offered
    assert asking.promotion(at(Deployment.objects.get(), "change")) is None


def test_what_moves_no_traffic_says_what_comes_then() -> None:
    """A bake before an approval only ends, an old slot is only let go."""
    held = at(canary(), "bake")
    words = asking.promotion(held)
    assert words is not None
    assert words["next"] == "End the bake"
    assert words["facts"] == "v2 keeps its 5 % of the traffic; then it waits for approval."
    words = asking.promotion(at(blue_green(keep_old=60), "bake", wish="promote_all"))
    assert words is not None
    assert (words["open"], words["end"]) == ("Let blue go…", "")


def test_a_decision_is_asked_for_in_words() -> None:
    """An approval always, too little traffic where the policy says so and the time is over."""
    ask = {"enabled": True, "alpha": 0.01, "min_requests": 50, "too_little": "ask"}
    held = at(canary(analysis=ask), "bake", waiting_until=NOW - timedelta(seconds=1))
    assert stages.decision(held, NOW) == ""
    held["analysis"] = COUNTED
    assert stages.decision(held, NOW).startswith(
        "The bake is over without a verdict: about 90 more"
    )
    assert stages.decision(held, NOW - timedelta(seconds=9)) == ""
    assert stages.rail(held, NOW)[2]["detail"] == "waits for more traffic"
    held["policy"]["analysis"]["too_little"] = "wait"
    assert stages.decision(held, NOW) == ""
    held = at(Deployment.objects.get(), "approve", waiting_until=NOW + timedelta(seconds=42))
    assert stages.decision(held, NOW).endswith("Without an answer it goes back in 42 s.")
    assert stages.decision({**held, "wish": "promote"}, NOW) == ""


def test_shifting_back_is_offered_once_the_traffic_was_shifted(client: Client) -> None:
    """And says to which version and slot, before anything is pressed."""
    deployment = blue_green(approve=True)
    deployment.targets.update(old_version="v0")
    assert asking.shift_back(at(deployment, "approve")) == ""
    held = at(deployment, "bake")
    assert asking.shift_back(held) == (
        "All traffic goes back to v1 on blue at once; green is then brought back to v0 off traffic."
    )
    assert asking.stopping(held, NOW)["back"] == asking.shift_back(held)
    text = client.get(f"/deployments/{deployment.id}/?back=1").content.decode()
    [dialog] = re.findall(r'<dialog id="back".*?</dialog>', text, re.DOTALL)
    assert " open>" in dialog
    assert f"/deployments/{deployment.id}/rollback/" in dialog
    assert "All traffic goes back to v1 on blue at once" in dialog
    assert asking.shift_back({**held, "wish": "rollback"}) == ""
    assert asking.shift_back({**held, "status": "completed"}) == ""


def test_aborting_a_canary_says_that_its_share_goes_first() -> None:
    """Unless too few are left on the old version to take all at once."""
    held = at(canary(), "bake")
    held["progress"] = {**held["progress"], "updated": 1, "healthy": 1}
    words = asking.stopping(held, NOW)
    assert words["word"] == "Abort canary, back to v1"
    assert words["back"].startswith("Its share goes to 0 first")
    assert words["here"] == "1 of 4 stay on v2, with 5 % of the traffic: a mixed fleet."
    held["progress"] = {**held["progress"], "updated": 3, "healthy": 3}
    assert asking.stopping(held, NOW)["back"].startswith("Too few are left on the old version")


def deployer(*rights: str) -> Client:
    user = User.objects.create_user(f"user{User.objects.count()}")
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client


def test_promote_is_a_button_with_a_right() -> None:
    """403 without; with it the wish is recorded, of the step that was seen and of no other."""
    deployment = canary()
    held = at(deployment, "approve")
    url = f"/deployments/{deployment.id}/promote/"
    form = {"seen": "in_progress", "step": str(held["step"]), "to": "end"}
    viewer = deployer("view_service", "view_deployment")
    assert viewer.post(url, form).status_code == 403
    assert Client().post(url, form)["Location"].startswith("/login/")
    client = deployer("view_service", "view_deployment", "deploy_service")
    assert client.get(url).status_code == 405
    stale = client.post(url, {**form, "step": "2"}, headers={"accept": "application/json"})
    assert stale.status_code == 409
    assert "has gone on since you looked" in stale.json()["detail"]
    assert client.post(url, {**form, "seen": "paused"}).status_code == 409
    answer = client.post(url, form, headers={"accept": "application/json"})
    assert answer.status_code == 202
    deployment.refresh_from_db()
    assert deployment.wish == "promote_all"


def test_promote_without_anything_to_wait_for_is_a_conflict(client: Client) -> None:
    """409, in words, as a page and for scripts and by REST."""
    deployment = canary()
    at(deployment, "change")
    url = f"/deployments/{deployment.id}/promote/"
    page = client.post(url, {"seen": "in_progress"})
    assert page.status_code == 409
    assert "waits for no approval and no bake" in page.content.decode()
    rest = f"/api/v1/deployments/{deployment.id}/promote"
    assert client.post(rest, {}, "application/json").status_code == 409
    at(deployment, "bake")
    body = json.dumps({"step": 1})
    assert client.post(rest, body, "application/json").status_code == 409
    body = json.dumps({"step": Deployment.objects.get().cursor})
    assert client.post(rest, body, "application/json").status_code == 202


def test_what_an_instance_reports_is_shown_as_text(client: Client) -> None:
    """Its version may be anything; in rail, dialogs, figures and plan it is no markup."""
    hostile = "<img src=x onerror=alert(1)>"
    for deployment in (canary(), blue_green(approve=True)):
        deployment.targets.update(old_version=hostile)
        Deployment.objects.filter(pk=deployment.pk).update(previous_version=hostile)
        for kind in ("shift", "approve", "bake"):
            at(deployment, kind, -1)
            for page in ("", "?promote=1", "?back=1", "?stop=1"):
                text = client.get(f"/deployments/{deployment.id}/{page}").content.decode()
                assert "<img" not in text
                assert "&lt;img" in text


# --- slots of a service


def test_a_service_shows_its_slots(client: Client) -> None:
    """Which is live, what each runs, where the idle one can be tried, and how to swap."""
    service = slotted(preview_url="https://{slot}.shop.example.com/")
    service.instances.filter(slot="green").update(version="v0")
    text = client.get("/services/shop/").content.decode()
    assert text.index("blue <span") < text.index("green <span")
    assert 'href="https://green.shop.example.com/"' in text
    assert "All traffic goes to green (v0) at once. Nothing is updated." in text
    assert "Swap slots…" in text
    assert 'class="version odd"' not in text
    assert "blue, live:" in client.get("/").content.decode()
    viewer = deployer("view_service", "view_deployment")
    assert "Swap" not in viewer.get("/services/shop/").content.decode()


def test_a_service_without_slots_has_nothing_to_swap(client: Client) -> None:
    """And says so where somebody tries."""
    make_service()
    assert "Swap" not in client.get("/services/shop/").content.decode()
    page = client.post("/services/shop/swap/", follow=True)
    assert "The slots were not swapped" in page.content.decode()
    assert 'role="alert"><span aria-hidden="true">✕</span> The slots' in page.content.decode()


def test_swap_is_a_button_with_a_right(client: Client) -> None:
    """403 without; with it what moves the traffic is shown; 409 by REST meanwhile."""
    service = slotted()
    viewer = deployer("view_service", "view_deployment")
    assert viewer.post("/services/shop/swap/").status_code == 403
    assert client.get("/services/shop/swap/").status_code == 405
    answer = client.post("/services/shop/swap/")
    deployment = Deployment.objects.get()
    assert answer["Location"] == f"/deployments/{deployment.id}/"
    held = at(deployment, "change")
    assert labels(held) == ["verify green", "100 % to green"]
    assert asking.stopping(held, NOW)["facts"].startswith("It changes no instance.")
    again = client.post("/services/shop/swap/", follow=True)
    assert "is active on shop" in again.content.decode()
    assert client.post("/api/v1/services/shop/swap").status_code == 409
    assert service.deployments.count() == 1
    assert "Swap slots…" not in client.get("/services/shop/").content.decode()


def test_two_slots_on_two_versions_are_no_mixed_fleet() -> None:
    """One slot on two versions is."""
    service = slotted()
    service.instances.filter(slot="green").update(version="v0")
    assert attention.of_services(snapshots.services_named()) == []
    service.instances.filter(name="web-04").update(version="v9")
    [notice] = attention.of_services(snapshots.services_named())
    assert notice.text == "green of shop runs a mix: 1 on v0, 1 on v9."


def test_the_overview_says_who_waits_for_approval(client: Client) -> None:
    """As what needs attention, and on the card."""
    deployment = canary()
    at(deployment, "approve", traffic={"requests": 1, "failed_requests": 0, "shares": {"v2": 0.05}})
    text = client.get("/").content.decode()
    assert "shop v2 waits for approval, canary at 5 %." in text
    assert '<span data-part="word">waiting for approval</span>' in text
    assert '<span class="faint" data-part="strategy">canary at 5 %</span>' in text
    at(deployment, "bake")
    assert "waits for approval" not in client.get("/").content.decode()


# --- the form


def filled(**values: str) -> dict[str, str]:
    return {"version": "v2", "auto_rollback": "on", "verify_version": "on", **values}


def test_the_keys_of_the_chosen_strategy_are_shown(client: Client) -> None:
    """The others are there, hidden, for who changes his mind."""
    make_service(policy={"strategy": "canary"})
    text = client.get(FORM).content.decode()
    assert 'data-strategy="canary">' in text
    assert 'data-strategy="blue_green" hidden>' in text
    assert re.search(r'<textarea name="canary_steps"[^>]*placeholder="5 % for 5 min\n25 %', text)
    assert "to 4 instances of shop" in re.sub(r"<[^>]+>", "", text)


def test_a_canary_is_planned_by_its_shares(client: Client) -> None:
    """With the instances that each share needs, and what is waited for after it."""
    make_service()
    form = filled(strategy="canary", canary_steps="\n".join(lines(CANARY)))
    text = client.post("/services/shop/plan/", form).content.decode()
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "5 % web-01 · 1 of 4 on v2 then bake 1 min then approve" in plain
    assert "100 % web-02, web-03, web-04 · 4 of 4 on v2" in plain


def test_blue_green_is_planned_by_its_slots(client: Client) -> None:
    """Which is updated and which stays, where it can be tried, for how long it is kept."""
    slotted(preview_url="https://{slot}.shop.example.com/")
    form = filled(strategy="blue_green", approve="on", keep_old="90")
    text = client.post("/services/shop/plan/", form).content.decode()
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "Updated green off traffic" in plain
    assert "blue, all 2 until the shift" in plain
    assert "https://green.shop.example.com/" in plain
    assert "update green web-03, web-04 then approve" in plain
    assert "100 % to green then keep blue 1 min 30 s" in plain
    page = client.post(FORM, {**form, "preview": "1"}).content.decode()
    button = re.sub(r"<[^>]+>", "", re.findall(r'<button[^>]*id="start".*?</button>', page)[0])
    assert button == "Deploy v2 to green of shop (2 instances)"
    assert 'data-strategy="canary" hidden>' in page


def test_what_is_wrong_in_a_strategy_is_said_at_its_field(client: Client) -> None:
    """Steps that are none, steps that can't be, and a service without slots."""
    make_service()
    answer = client.post(FORM, filled(strategy="canary", canary_steps="5 % for ever\n100 %"))
    assert answer.status_code == 422
    assert "step 1: “ever” is no time" in answer.context["form"].errors["canary_steps"][0]
    assert "5 % for ever\n100 %</textarea>" in answer.content.decode()
    # Shown although another strategy is chosen.
    answer = client.post(FORM, filled(canary_steps="5 %"))
    assert "the last share must be 100" in answer.context["form"].errors["canary_steps"][0]
    assert 'data-strategy="canary">' in answer.content.decode()
    answer = client.post(FORM, filled(strategy="blue_green"))
    assert "without a slot: web-01" in answer.context["form"].errors["strategy"][0]
    assert not Deployment.objects.exists()


def test_a_canary_is_started_with_what_was_typed(client: Client) -> None:
    """As lists and settings, not as text."""
    make_service()
    judged = {"analysis.enabled": "on", "analysis.alpha": "0.1", "analysis.too_little": "ask"}
    form = filled(strategy="canary", canary_steps="\n".join(lines(CANARY)), **judged)
    client.post(FORM, form)
    policy = Deployment.objects.get().policy
    assert policy["canary_steps"] == CANARY
    assert policy["analysis"] == {
        "enabled": True,
        "alpha": 0.1,
        "min_requests": 50,
        "too_little": "ask",
    }


def test_what_is_wrong_in_the_analysis_is_said_at_its_field_and_in_the_living_plan(
    client: Client,
) -> None:
    """As with any other key, although the policy has one for all of it."""
    make_service()
    form = filled(**{"analysis.alpha": "7", "analysis.min_requests": "many"})
    answer = client.post(FORM, form)
    assert answer.status_code == 422
    errors = answer.context["form"].errors
    assert errors["analysis.alpha"] == ["must be a probability from 0.000001 to 0.5"]
    assert errors["analysis.min_requests"] == ["must be a whole number from 1 to 10000000"]
    text = client.post("/services/shop/plan/", form).content.decode()
    assert 'data-refused="analysis.alpha"' in text
    assert "must be a whole number from 1 to 10000000" in text
    assert "Name a version" not in text


def test_planned_rows_leave_out_what_is_always_done() -> None:
    """A plan of any policy can be told."""
    policy = parse({"strategy": "canary"}, total=4)
    observed = [
        planning.Observed(one.fact(), "v1") for one in make_service().instances.order_by("name")
    ]
    steps = planning.steps_to_json(planning.plan("v2", observed, policy).steps)
    rows = stages.planned("canary", steps, policy.canary_steps, "")
    assert [row["label"] for row in rows] == ["5 %", "25 %", "100 %"]
    assert [row["reached"] for row in rows][-1] == 4
