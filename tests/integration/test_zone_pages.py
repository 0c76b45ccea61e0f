"""Zones on the pages: in the form, in its plan, and on the way."""

import pytest
from django.test import Client

from dashboard import asking
from rollouts import actions
from rollouts.models import Deployment, Service
from rollouts.snapshots import snapshot
from rollouts.states import DeploymentStatus
from tests.integration.factories import make_service
from tests.integration.watching import make_user

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client"),
]
ZONED = {"by_zone": True, "zone_order": ["b"], "zone_bake": 40, "batch_pause": 3, "batch_size": 1}


@pytest.fixture
def service() -> Service:
    """Five instances: two in zone a, two in b, one without a zone."""
    service = make_service(5)
    service.instances.filter(name__in=["web-01", "web-03"]).update(zone="a")
    service.instances.filter(name__in=["web-02", "web-04"]).update(zone="b")
    return service


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_user("ada", "view_service", "view_deployment", "deploy_service"))
    return client


def typed(**more: str) -> dict[str, str]:
    """Return what a browser sends of the form, the zones typed as a person does."""
    zones = {"by_zone": "on", "zone_order": " b , a", "zone_bake": "40", "batch_size": "1"}
    return {"version": "v2", "strategy": "rolling", "auto_rollback": "on", **zones, **more}


def test_the_plan_names_the_zone_of_each_batch_and_what_is_waited_for(
    client: Client, service: Service
) -> None:
    """In the order that was asked for, those without a zone at the end."""
    plan = client.post("/services/shop/plan/", typed(batch_pause="3")).content.decode()
    rows = [
        row.split("</li>")[0] for row in plan.split('<ol class="batches">')[1].split("<li>")[1:]
    ]
    found = [(f"web-0{n}" in row, row) for row, n in zip(rows, (2, 4, 1, 3, 5), strict=True)]
    assert all(there for there, _ in found)
    zones = ["zone b", "zone b", "zone a", "zone a", "without a zone"]
    assert all(f"<strong>{zone}</strong>" in row for zone, row in zip(zones, rows, strict=True))
    waits = ["", "after a pause of 3 s", "after a bake of 40 s", "after a pause of 3 s"]
    assert all(words in row for words, row in zip(waits, rows, strict=False))


def test_a_zone_that_is_not_there_is_said_at_its_field(client: Client, service: Service) -> None:
    """With those that there are."""
    plan = client.post("/services/shop/plan/", typed(zone_order="b, x")).content.decode()
    assert 'data-refused="zone_order"' in plan
    assert "no active instance is in x; zones are: a, b" in plan


def test_what_was_typed_is_started(client: Client, service: Service) -> None:
    """The order of the zones as a list, and the service's own shown as its default."""
    client.post("/services/shop/deploy/", typed())
    policy = Deployment.objects.get().policy
    assert (policy["by_zone"], policy["zone_order"], policy["zone_bake"]) == (True, ["b", "a"], 40)
    service.policy = {**service.policy, "zone_order": ["b", "a"]}
    service.save()
    assert "Default b, a." in client.get("/services/shop/deploy/").content.decode()


def test_the_lanes_name_their_zones_where_they_are_kept_apart(
    client: Client, service: Service
) -> None:
    """And nowhere else; the snapshot has the zone of every target."""
    begun = actions.start(service, "v2", by="ada", policy=ZONED)
    page = client.get(f"/deployments/{begun.id}/").content.decode()
    assert "<strong>Batch 1 · zone b</strong>" in page
    assert "<strong>Batch 5 · without a zone</strong>" in page
    assert [one["zone"] for one in snapshot(begun)["targets"]] == ["b", "b", "a", "a", ""]
    actions.cancel(begun.id, "stop", by="ada")
    other = actions.start(service, "v2", by="ada")
    assert "· zone" not in client.get(f"/deployments/{other.id}/").content.decode()


def test_a_bake_between_zones_is_ended_by_words_of_its_own(service: Service) -> None:
    """What comes next, and how many are left."""
    begun = actions.start(service, "v2", by="ada", policy=ZONED)
    place = [step["kind"] for step in begun.plan].index("bake")
    begun.status, begun.cursor = DeploymentStatus.IN_PROGRESS, place
    words = asking.promotion(snapshot(begun))
    assert words is not None
    assert (words["open"], words["title"]) == ("End the bake…", "End the bake?")
    assert words["facts"] == "v2 is watched no longer; 2 instances (zone a) come next."
    assert words["end_facts"] == "Without a bake between: 3 more instances get v2."
