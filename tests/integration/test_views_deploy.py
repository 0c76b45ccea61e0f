"""The deploy form on real PostgreSQL: what is typed, what is refused where, and what is started."""

import json
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from dashboard.forms import FIELDS, OF_STRATEGIES, SHOWN_AT_ONCE, differences, seen_of
from rollouts import actions
from rollouts.models import Deployment, Instance, Service
from tests.integration.factories import make_service

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client"),
]

FORM = "/services/shop/deploy/"


@pytest.fixture
def service() -> Service:
    return make_service()


@pytest.fixture
def client(service: Service) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


def filled(**values: str) -> dict[str, str]:
    """Return the form as a browser sends it: the switches that are on by default, and `values`."""
    return {
        "version": "v2",
        **{knob.key: "on" for knob in FIELDS if knob.kind == "switch" and knob.default},
        "key": "one-click",
        **values,
    }


def test_the_form_is_drawn_from_the_knobs(client: Client) -> None:
    """Every key is there, with the help of the policy and the default of the service."""
    text = client.get(FORM).content.decode()
    for knob in FIELDS:
        assert f'name="{knob.key}"' in text, knob.key
    folded = text[text.index("<details") : text.index("</details>")]
    assert {knob.key for knob in FIELDS if f'name="{knob.key}"' in folded} == {
        knob.key for knob in FIELDS if knob.key not in SHOWN_AT_ONCE | OF_STRATEGIES
    }
    assert "Deploy <span" in text
    assert "to 4 instances of shop" in re.sub(r"<[^>]+>", "", text)


def test_the_defaults_are_those_of_the_service(service: Service, client: Client) -> None:
    """What its own policy says comes before what all services share."""
    Service.objects.filter(pk=service.pk).update(policy={"batch_pause": 77})
    assert 'placeholder="77"' in client.get(FORM).content.decode()


def test_the_plan_beside_what_was_not_started_is_of_what_was_asked_for(
    service: Service, client: Client
) -> None:
    """Why there is none where it was refused, the plan where somebody else was first."""
    text = client.post(FORM, filled(batch_size="99")).content.decode()
    assert 'data-refused="batch_size"' in text
    assert "Name a version" not in text
    actions.start(service, "v7", by="bob")
    answer = client.post(FORM, filled())
    assert answer.status_code == 409
    assert "web-01, web-02" in answer.content.decode()


def test_a_version_in_the_address_is_drawn_with_its_plan(client: Client) -> None:
    """The link "Deploy v1 again" leads to a form that says what it would do."""
    text = client.get(f"{FORM}?version=v9").content.decode()
    assert 'value="v9"' in text
    assert "2 of 4 at least" in text
    assert "web-01, web-02" in text


def test_a_start_leads_to_the_deployment(client: Client) -> None:
    """With what was typed as its policy, note and person."""
    answer = client.post(FORM, filled(batch_size="1", batch_pause="0.5", note="friday"))
    deployment = Deployment.objects.get()
    assert answer["Location"] == f"/deployments/{deployment.id}/"
    assert (deployment.version, deployment.note, deployment.started_by) == ("v2", "friday", "ann")
    assert (deployment.policy["batch_size"], deployment.policy["batch_pause"]) == (1, 0.5)
    assert deployment.policy["auto_rollback"] is True


def test_a_percentage_and_a_switch_are_understood(client: Client) -> None:
    """A box that is not ticked is not sent by a browser: that is off."""
    form = filled(batch_size="25%")
    del form["auto_rollback"]
    client.post(FORM, form)
    policy = Deployment.objects.get().policy
    assert (policy["batch_size"], policy["auto_rollback"]) == ("25%", False)


def test_a_double_submit_starts_one(client: Client) -> None:
    """Both clicks lead to the same deployment."""
    first, second = client.post(FORM, filled()), client.post(FORM, filled())
    assert first["Location"] == second["Location"]
    assert Deployment.objects.count() == 1


def test_each_form_has_a_key_of_its_own(client: Client) -> None:
    """Or the second deployment would be taken for a double click of the first."""
    keys = [
        re.findall(r'name="key" value="([^"]+)"', client.get(FORM).content.decode())
        for _ in range(2)
    ]
    assert all(len(key) == 1 and len(key[0]) > 16 for key in keys)
    assert keys[0] != keys[1]


def test_refusals_stand_at_their_fields(client: Client) -> None:
    """All at once, each with its key and what would be right; nothing is started."""
    answer = client.post(
        FORM, filled(version="-x", batch_size="3", drain_timeout="long", health_check_path="x")
    )
    assert answer.status_code == 422
    errors = answer.context["form"].errors
    assert set(errors) == {"version", "batch_size", "drain_timeout", "health_check_path"}
    assert "must be a number of seconds" in errors["drain_timeout"][0]
    assert all(key in errors[key][0] for key in errors)
    text = answer.content.decode()
    assert "<details open" in text
    assert 'value="long"' in text
    assert not Deployment.objects.exists()


def test_what_belongs_to_no_field_is_said_above_the_form(service: Service, client: Client) -> None:
    """Such as a service without instances."""
    service.instances.update(active=False)
    answer = client.post(FORM, filled())
    assert answer.status_code == 422
    assert "instances: the service has no active instance" in answer.content.decode()


def test_an_empty_version_is_refused(client: Client) -> None:
    """And says so at its field."""
    answer = client.post(FORM, filled(version=""))
    assert answer.context["form"].errors["version"]
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("version", ["1;id", "$(id)", "{{7*7}}", "<script>", "x" * 10_000])
def test_a_hostile_version_starts_nothing(version: str, client: Client) -> None:
    """It is shown as it was typed, and not run, rendered or stored."""
    answer = client.post(FORM, filled(version=version))
    assert answer.status_code == 422
    assert "<script>" not in answer.content.decode()
    assert not Deployment.objects.exists()


def test_an_active_deployment_is_named_and_linked(service: Service, client: Client) -> None:
    """The second of two people is told about the first."""
    first = actions.start(service, "v2", by="ada")
    answer = client.post(FORM, filled(version="v3"))
    text = answer.content.decode()
    assert answer.status_code == 409
    assert f'href="/deployments/{first.id}/"' in text
    assert "started by ada" in text
    assert Deployment.objects.count() == 1


def test_a_lock_is_named_with_its_reason(service: Service, client: Client) -> None:
    """Who locked it, and why."""
    Service.objects.filter(pk=service.pk).update(
        locked=True, lock_reason="moving house", locked_by="bob", locked_until=None
    )
    answer = client.post(FORM, filled())
    assert answer.status_code == 409
    assert "shop is locked by bob: moving house." in answer.content.decode()


def test_a_fleet_that_changed_since_the_preview_is_asked_again(
    service: Service, client: Client
) -> None:
    """The difference is shown with the new plan; the second click, which has seen it, starts."""
    text = client.post("/services/shop/plan/", filled()).content.decode()
    seen = _seen(text)
    service.instances.filter(name="web-03").update(version="v7")
    service.instances.filter(name="web-04").update(active=False)
    answer = client.post(FORM, filled(previewed=seen))
    assert answer.status_code == 409
    shown = answer.content.decode()
    assert "web-03 runs v7 now, it was v1." in shown
    assert "web-04 is no longer part of it." in shown
    assert not Deployment.objects.exists()
    assert client.post(FORM, filled(previewed=_seen(shown))).status_code == 302
    assert Deployment.objects.count() == 1


def _seen(text: str) -> str:
    [value] = re.findall(r'id="seen" value="([^"]*)"', text)
    return value.replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&")


def test_a_double_click_is_one_even_if_the_fleet_moved_meanwhile(
    service: Service, client: Client
) -> None:
    """The first click itself changes the fleet: that is no reason to ask again."""
    seen = _seen(client.post("/services/shop/plan/", filled()).content.decode())
    first = client.post(FORM, filled(previewed=seen))
    service.instances.filter(name="web-01").update(version="v2", version_at=timezone.now())
    second = client.post(FORM, filled(previewed=seen))
    assert second["Location"] == first["Location"]


@pytest.mark.parametrize("junk", ["x", "{}", "[]", '{"version": 1}', "null", '{"batches": [[]]}'])
def test_a_broken_preview_tells_nothing(junk: str, service: Service) -> None:
    """It comes from a browser and may be anything."""
    assert differences(junk, actions.plan(service, "v2")) == []


def test_a_preview_of_other_inputs_tells_nothing_about_the_fleet(service: Service) -> None:
    """What differs there was typed by the person himself."""
    other = json.loads(seen_of(actions.plan(service, "v2", {"batch_size": 1})))
    assert differences(json.dumps(other), actions.plan(service, "v2")) == []
    some = seen_of(actions.plan(service, "v2", instances=["web-01"]), ["web-01"])
    assert differences(some, actions.plan(service, "v2")) == []


def test_the_plan_is_drawn_as_a_piece_of_the_page(service: Service, client: Client) -> None:
    """Batches, least in rotation and warnings, or the refusals with their keys; no start."""
    good = client.post("/services/shop/plan/", filled()).content.decode()
    assert "2 of 4 at least" in good
    assert "<html" not in good
    bad = client.post("/services/shop/plan/", filled(batch_size="9")).content.decode()
    assert 'data-refused="batch_size"' in bad
    assert client.get("/services/shop/plan/?version=v2").status_code == 200
    assert not Deployment.objects.exists()


def test_without_scripts_the_plan_is_shown_by_a_button(client: Client) -> None:
    """It starts nothing."""
    text = client.post(FORM, filled(preview="1")).content.decode()
    assert "2 of 4 at least" in text
    assert not Deployment.objects.exists()


# --- what the plan says


def plan_of(client: Client, **values: str) -> str:
    """Return the plan for what is typed, as a piece of the page."""
    return client.post("/services/shop/plan/", filled(**values)).content.decode()


def batch_rows(plan: str) -> list[str]:
    """Return the rows of the list of batches as texts."""
    part = plan.split('<ol class="batches">')[1].split("</ol>")[0]
    texts = [re.sub(r"<[^>]+>", "", row) for row in part.split("<li>")[1:]]
    return [" ".join(text.split()) for text in texts]


def test_each_batch_says_who_serves_meanwhile_and_when_it_begins(client: Client) -> None:
    """Counted from the start, with what is waited for before it."""
    rows = batch_rows(plan_of(client, batch_size="1", batch_pause="20", max_unavailable="1"))
    assert rows[0] == "Batch 1 web-01 · 3 of 4 in rotation at once"
    assert rows[1] == "Batch 2 web-02 · 3 of 4 in rotation · after a pause of 20 s +25 s"
    assert rows[3].endswith("+1 min 15 s")


def test_the_expected_time_says_what_it_is_known_from(service: Service, client: Client) -> None:
    """A guess as long as nothing was measured; then the last one, then the median."""
    assert "a guess: no deployment was measured yet" in plan_of(client)
    for number, words in enumerate(["as the last one took", "median of the last two"]):
        began = timezone.now() - timedelta(hours=9 - number)
        Deployment.objects.create(
            service=service,
            version=f"v0.{number}",
            status="completed",
            policy={"min_healthy_time": 0, "slow_start": 0},
            plan=[{"kind": "change", "batch": 1, "targets": ["web-01"]}],
            started_at=began,
            completed_at=began + timedelta(seconds=40),
        )
        plan = plan_of(client)
        assert words in plan
        assert "about 1 min 15 s" in plan  # two batches of 40 s, to the quarter of a minute


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "back to v1 at the first failure"),
        ({"rollback_threshold": "0"}, "back to v1 at the first failure"),
        ({"rollback_threshold": "50"}, "if the first one fails, then when more than 50 %"),
        ({"rollback_threshold": "34"}, "at a failure among the first 2, then when more than 34 %"),
        ({"rollback_threshold": "100"}, "back to v1 when more than 100 %"),
        ({"rollback_threshold": "50", "max_unavailable": "1", "batch_size": "1"}, "first failure"),
        ({"auto_rollback": ""}, "switched off: a bad version stays"),
        ({"strategy": "canary"}, "at the first failure, or when the traffic speaks against it"),
    ],
)
def test_the_way_back_is_worded_from_the_policy(
    values: dict[str, str], words: str, client: Client
) -> None:
    """Of how many failures lead back: the engine counts them among those updated so far."""
    assert words in plan_of(client, **values)


def test_blue_green_names_the_slots(service: Service, client: Client) -> None:
    """Which is updated, which stays in rotation and how long it stays warm."""
    for number, slot in enumerate(("blue", "green", "blue", "green"), 1):
        service.instances.filter(name=f"web-0{number}").update(slot=slot)
    Service.objects.filter(pk=service.pk).update(live_slot="blue")
    plan = re.sub(r"<[^>]+>", "", plan_of(client, strategy="blue_green", keep_old="120"))
    assert "green off traffic" in plan
    assert "blue, all 2 until the shift" in plan
    assert "returns to blue at the first failure; blue stays warm for 2 min" in plan


def test_a_large_plan_shows_its_ends_and_the_rest_on_demand(client: Client) -> None:
    """A thousand instances by two: 15 rows of 500, and one picture that says so in words."""
    service = make_service(0, "large")
    Instance.objects.bulk_create(
        Instance(
            service=service,
            name=f"web-{number:04}",
            server=f"web-{number:04}",
            hostname="127.0.0.1",
            port=1 + number,
            version="v1",
        )
        for number in range(1, 1001)
    )
    answer = client.post("/services/large/plan/", filled(batch_pause="1", batch_size="2"))
    plan = answer.content.decode()
    rows = batch_rows(plan)
    assert len(rows) == 16
    assert rows[12] == "and 485 more"
    assert rows[15].startswith("Batch 500 web-0999, web-1000 · 998 of 1000 in rotation")
    assert "500 batches, 499 pauses." in plan
    assert 1 < plan.count("<rect") <= 60
    everything = filled(batch_pause="1", batch_size="2", preview="all")
    assert len(batch_rows(client.post("/services/large/plan/", everything).content.decode())) == 500


def test_the_picture_fills_its_width_in_the_order_of_the_plan(client: Client) -> None:
    """Batches and what is waited for between them."""
    plan = plan_of(client, batch_pause="10")
    kinds = re.findall(r'<rect class="block (\w+)"', plan)
    assert kinds == ["change", "pause", "change"]
    widths = [float(width) for width in re.findall(r'<rect class="block.*?width="([\d.]+)%', plan)]
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert widths == pytest.approx([25, 50, 25], abs=0.1)


def test_some_instances_alone_are_planned_and_started(client: Client) -> None:
    """The button says how many; what the planner refuses of them stands at their field."""
    plan = plan_of(client, instances=" web-02 , web-03")
    assert batch_rows(plan)[0].startswith("Batch 1 web-02, web-03")
    assert 'id="where" value="2 instances of shop"' in plan
    assert 'data-refused="instances"' in plan_of(client, instances="web-99")
    answer = client.post(FORM, filled(instances="web-99"))
    assert "not among the active instances: web-99" in answer.context["form"].errors["instances"][0]
    assert "<details open" in answer.content.decode()
    client.post(FORM, filled(instances="web-02, web-03", previewed=_seen(plan)))
    assert list(Deployment.objects.get().targets.values_list("name", flat=True)) == [
        "web-02",
        "web-03",
    ]


def test_a_script_is_told_where_the_deployment_is(client: Client) -> None:
    """Rather than sent there, so that it can forget what was typed."""
    answer = client.post(FORM, filled(), headers={"Accept": "application/json"})
    assert answer.status_code == 201
    assert answer.json() == {"url": f"/deployments/{Deployment.objects.get().id}/"}
    refused = client.post(FORM, filled(key="2"), headers={"Accept": "application/json"})
    assert refused.status_code == 409


def test_only_an_untouched_form_takes_back_what_was_typed_before(client: Client) -> None:
    """A version in the address, and what was refused, come before it."""
    assert "data-fresh" in client.get(FORM).content.decode()
    assert "data-fresh" not in client.get(f"{FORM}?version=v9").content.decode()
    assert "data-fresh" not in client.post(FORM, filled(version="")).content.decode()
