"""What a person may ask, on real PostgreSQL: every refusal names its key and starts nothing."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import ProtectedError
from django.utils import timezone

from rollouts import actions, journal
from rollouts.models import Deployment, Event, Service
from rollouts.states import DeploymentStatus
from tests.integration.factories import make_service

pytestmark = pytest.mark.django_db(transaction=True)
D = DeploymentStatus


@pytest.fixture
def service() -> Service:
    return make_service()


def refused(service: Service, version: str = "v2", **policy: Any) -> dict[str, str]:
    """Return the errors of a start that must be refused, and check that nothing was stored."""
    with pytest.raises(actions.Refused) as caught:
        actions.start(service, version, by="ada", policy=policy)
    assert not Deployment.objects.exists()
    assert not Event.objects.exists()
    return caught.value.errors


def test_a_start_is_stored_with_its_plan_targets_and_first_event(service: Service) -> None:
    """Everything that a worker needs is there before any worker hears of it."""
    deployment = actions.start(service, "v2", by="ada", note="friday")
    deployment.refresh_from_db()
    assert (deployment.status, deployment.previous_version, deployment.seq) == ("pending", "v1", 1)
    assert [t.batch for t in deployment.targets.all()] == [1, 1, 2, 2]
    assert {t.old_version for t in deployment.targets.all()} == {"v1"}
    assert [step["kind"] for step in deployment.plan] == ["prepare", "change", "change"]


def test_an_unknown_service_is_named_with_the_known_ones(service: Service) -> None:
    """The answer helps to find the right one."""
    with pytest.raises(actions.NotFound, match=r"no service 'shpo'\. Known: shop"):
        actions.service_named("shpo")


@pytest.mark.parametrize(
    "version",
    ["1;id", "$(id)", "`id`", "v1\n", "--flag", "../x", "x" * 10_000, "{{7*7}}", "<script>", ""],
)
def test_a_hostile_version_is_refused(service: Service, version: str) -> None:
    """Nothing is queued and nothing is stored."""
    assert "must begin with a letter or digit" in refused(service, version)["version"]


def test_version_and_policy_are_refused_together(service: Service) -> None:
    """All that is wrong is named in one answer."""
    errors = refused(service, "-x", batch_size=3, drain_timeout="long")
    assert set(errors) == {"version", "batch_size", "drain_timeout"}


def test_a_batch_over_max_unavailable_is_refused(service: Service) -> None:
    """With both numbers."""
    assert (
        "batch of 3, larger than max_unavailable (2)"
        in refused(service, batch_size=3)["batch_size"]
    )


def test_adapters_that_do_not_fit_the_instances_are_refused(service: Service) -> None:
    """What can only be told of settings and instances together is told before anything starts."""
    service.balancer = {**service.balancer, "server": "srv_{zone}"}
    service.save()
    assert "balancer.server" in refused(service)


def test_what_needs_weights_is_refused_where_there_are_none(service: Service) -> None:
    """A canary through a balancer without weights would be found out at its first share."""
    service.balancer = {"kind": "none", "ready_path": "/ready"}
    service.save()
    errors = refused(service, strategy="canary", slow_start=5)
    assert errors["strategy"].startswith("canary shifts traffic by weights")
    assert "set it to 0" in errors["slow_start"]


def test_no_active_instance_is_refused(service: Service) -> None:
    """Inactive ones do not count."""
    service.instances.update(active=False)
    assert "no active instance" in refused(service)["instances"]


def test_a_single_instance_is_refused_without_the_allowance() -> None:
    """And allowed with it."""
    single = make_service(1)
    assert "allow_downtime" in refused(single)
    assert actions.start(single, "v2", by="ada", policy={"allow_downtime": True})


def test_the_same_version_everywhere_is_refused_without_the_flag(service: Service) -> None:
    """And allowed with it."""
    assert "runs v1 already" in refused(service, "v1")["allow_same_version"]
    assert actions.start(service, "v1", by="ada", policy={"allow_same_version": True})


def test_another_active_deployment_is_named(service: Service) -> None:
    """Who comes second is told about the first, and by whom it was started."""
    first = actions.start(service, "v2", by="ada")
    with pytest.raises(actions.Conflict, match=rf"{first.id} .*started by ada") as caught:
        actions.start(service, "v3", by="bob")
    assert caught.value.deployment_id == first.id


def test_a_locked_service_says_why_and_until_when(service: Service) -> None:
    """A lock whose time is over holds no longer."""
    service.locked, service.lock_reason, service.locked_by = True, "stocktaking", "eve"
    service.locked_until = timezone.now() + timedelta(hours=1)
    service.save()
    with pytest.raises(actions.Conflict, match=r"locked by eve until .*stocktaking"):
        actions.start(service, "v2", by="ada")
    service.locked_until = timezone.now() - timedelta(seconds=1)
    service.save()
    assert actions.start(service, "v2", by="ada")


def test_a_double_click_starts_one_deployment(service: Service) -> None:
    """Eight requests with one key at the same moment get the same deployment."""
    got: list[str] = []

    def click() -> None:
        try:
            got.append(actions.start(service, "v2", by="ada", idempotency_key="k1").id)
        finally:
            connection.close()

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 8
    assert len(set(got)) == 1
    assert Deployment.objects.count() == 1


def test_a_pending_deployment_is_cancelled_while_no_worker_is_alive(service: Service) -> None:
    """It ends at once, with nothing touched."""
    deployment = actions.start(service, "v2", by="ada")
    ended = actions.cancel(deployment.id, "roll_back", by="bob")
    assert ended.status == D.CANCELLED
    assert ended.reason == "Stopped by bob before anything was touched."
    assert ended.completed_at is not None


def test_a_button_drawn_from_another_state_changes_nothing(service: Service) -> None:
    """The answer says what changed."""
    deployment = actions.start(service, "v2", by="ada")
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    with pytest.raises(actions.Conflict, match="was pending when you looked and is in_progress"):
        actions.cancel(deployment.id, "stop", by="ada", seen="pending")
    deployment.refresh_from_db()
    assert deployment.wish == ""


def test_resume_takes_back_a_pause_that_has_not_begun(service: Service) -> None:
    """And is refused where nothing is paused."""
    deployment = actions.start(service, "v2", by="ada")
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    with pytest.raises(actions.Conflict, match="not paused"):
        actions.resume(deployment.id, by="ada")
    actions.pause(deployment.id, by="ada")
    assert actions.resume(deployment.id, by="ada").wish == ""


def test_a_deployment_that_is_being_stopped_can_not_be_paused(service: Service) -> None:
    """A stop is not forgotten for a pause."""
    deployment = actions.start(service, "v2", by="ada")
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    actions.cancel(deployment.id, "stop", by="ada")
    with pytest.raises(actions.Conflict, match="is being stopped by ada"):
        actions.pause(deployment.id, by="bob")


def test_what_a_running_deployment_needs_can_not_be_deleted(service: Service) -> None:
    """While it runs; afterwards an instance may go, and the history stays."""
    deployment = actions.start(service, "v2", by="ada")
    instance = service.instances.get(name="web-01")
    with pytest.raises(ProtectedError):
        instance.delete()
    with pytest.raises(ProtectedError):
        service.delete()
    actions.cancel(deployment.id, "stop", by="ada")
    instance.delete()
    assert deployment.targets.get(name="web-01").instance is None


def test_editing_the_inventory_changes_the_next_deployment_only(service: Service) -> None:
    """What a running one does is frozen with it (S12)."""
    deployment = actions.start(service, "v2", by="ada")
    service.policy = {"batch_size": 1}
    service.driver = {"kind": "command", "update": ["false"]}
    service.save()
    service.instances.filter(name="web-01").update(hostname="10.9.9.9")
    deployment.refresh_from_db()
    assert deployment.policy["batch_size"] == 2
    assert deployment.adapters["driver"]["update"][0] == "true"
    assert deployment.targets.get(name="web-01").hostname == "127.0.0.1"


def test_a_plan_changes_nothing_and_warns(service: Service) -> None:
    """It tells of instances that are unhealthy and of a balancer out of reach."""
    draft = actions.plan(service, "v2")
    assert draft.least_in_service == 2
    assert draft.expected_seconds > 0
    assert any("balancer does not answer" in warning for warning in draft.warnings)
    assert any("unhealthy now" in warning for warning in draft.warnings)
    assert not Deployment.objects.exists()


def test_a_balancer_that_does_not_count_judges_nothing() -> None:
    """The plan says so, and no bake waits for traffic that nobody will ever see."""
    draft = actions.plan(make_service(balancer={"kind": "none", "ready_path": "/ready"}), "v2")
    assert not draft.policy.judging.enabled
    assert any("does not count" in warning for warning in draft.warnings)
