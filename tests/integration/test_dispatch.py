"""Dispatch on real PostgreSQL and Redis: what is due and driven by nobody gets a job."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.db import connection
from django.db.models.functions import Now

from dashboard.local import redis_server
from dashboard.local.places import CHECKOUT
from dashboard.local.supervision import Supervisor
from rollouts import actions, dispatch, jobs, journal, ownership
from rollouts.dispatch import Dispatch
from rollouts.facts import Waiting
from rollouts.models import Deployment, Event
from rollouts.states import DeploymentStatus
from tests.environment import PLACES
from tests.integration.factories import make_service
from tests.servers import until

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture
def deployment(redis_client: redis.Redis) -> Deployment:
    """A deployment whose job was lost with all that Redis held."""
    deployment = actions.start(make_service(), "v2", by="ada")
    assert jobs.enqueued() == {deployment.pk}
    redis_client.flushall()
    return deployment


@pytest.fixture
def redis_away(deployment: Deployment, servers: Supervisor) -> Iterator[None]:
    """Stop Redis for the time of a test."""
    servers.call("stopProcess", redis_server.NAME)
    yield
    servers.launch(redis_server.NAME)
    until(lambda: redis_server.answers(PLACES), what="Redis is back")


def move(deployment: Deployment, **fields: object) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(**fields)


def messages(deployment: Deployment) -> list[str]:
    events = Event.objects.filter(deployment=deployment).order_by("seq")
    return list(events.values_list("message", flat=True))


def test_what_lost_its_job_gets_another(deployment: Deployment) -> None:
    """The queue may be lost at any time: PostgreSQL knows what is due."""
    Dispatch().look()
    assert jobs.enqueued() == {deployment.pk}


def test_a_job_that_waits_in_the_queue_is_not_doubled(
    deployment: Deployment, redis_client: redis.Redis
) -> None:
    """However often one looks, and however many do."""
    for each in (one := Dispatch(), one, Dispatch()):
        each.look()
    assert redis_client.llen(f"rq:queue:{jobs.QUEUE}") == 1


def test_a_job_just_taken_from_the_queue_has_time_to_claim(
    deployment: Deployment, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one follows only once the first should have been there long ago."""
    looks = Dispatch()
    looks.look()
    redis_client.flushall()
    looks.look()
    assert jobs.enqueued() == set()
    monkeypatch.setattr(dispatch, "AGAIN_AFTER", 0.0)
    looks.look()
    assert jobs.enqueued() == {deployment.pk}


def test_what_is_driven_gets_none_until_its_owner_is_gone(deployment: Deployment) -> None:
    """Gone is whoever lets the lease end."""
    ownership.claim(deployment.pk, "somebody")
    Dispatch().look()
    assert jobs.enqueued() == set()
    move(deployment, lease_until=Now() - timedelta(seconds=0.1))
    Dispatch().look()
    assert jobs.enqueued() == {deployment.pk}


def test_what_is_due_in_a_moment_is_looked_at_on_time(deployment: Deployment) -> None:
    """Rather than at the next regular look."""
    move(deployment, due_at=Now() + timedelta(seconds=dispatch.AHEAD + 0.3))
    assert 0 < Dispatch().look() <= 0.3


def test_what_is_parked_gets_a_job_when_its_time_has_come(deployment: Deployment) -> None:
    """A little before, so that the worker is there on time; not earlier."""
    move(deployment, due_at=Now() + timedelta(hours=1))
    Dispatch().look()
    assert jobs.enqueued() == set()
    move(deployment, due_at=Now() + timedelta(seconds=dispatch.AHEAD / 2))
    Dispatch().look()
    assert jobs.enqueued() == {deployment.pk}


def test_what_has_ended_gets_none(deployment: Deployment) -> None:
    """Whatever its row says of times."""
    journal.move_now(deployment.pk, DeploymentStatus.CANCELLED, "Stopped.")
    move(deployment, due_at=Now())
    Dispatch().look()
    assert jobs.enqueued() == set()


def test_at_rest_a_look_is_one_query_however_many_are_parked(
    redis_client: redis.Redis, django_assert_num_queries: object
) -> None:
    """A hundred deployments that wait for a person cost no job, and no second query."""
    for number in range(100):
        service = make_service(1, name=f"shop-{number}", policy={"allow_downtime": True})
        move(actions.start(service, "v2", by="ada"), status="paused", due_at=None)
    redis_client.flushall()
    looks = Dispatch()
    with django_assert_num_queries(1):  # type: ignore[operator]
        assert looks.look() == dispatch.POLL >= 1.0
    assert jobs.enqueued() == set()


@pytest.mark.usefixtures("redis_away")
def test_without_redis_the_page_says_what_it_waits_for(deployment: Deployment) -> None:
    """Once, however often one looks."""
    for _ in range(3):
        Dispatch().look()
    assert messages(deployment)[1:] == ["Saved, starts when Redis is back."]
    assert Deployment.objects.get(pk=deployment.pk).waiting_for == Waiting.REDIS


def test_a_full_redis_is_as_good_as_none(deployment: Deployment, redis_client: redis.Redis) -> None:
    """The job that it does not take is given to it once it has room."""
    redis_client.config_set("maxmemory", 1)
    try:
        Dispatch().look()
        assert Deployment.objects.get(pk=deployment.pk).waiting_for == Waiting.REDIS
    finally:
        redis_client.config_set("maxmemory", 0)
    Dispatch().look()
    assert jobs.enqueued() == {deployment.pk}


def test_without_a_worker_the_page_says_so_and_its_end_too(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: a worker may take a moment."""
    looks = Dispatch()
    looks.look()
    assert Deployment.objects.get(pk=deployment.pk).waiting_for == ""
    move(deployment, due_at=Now() - timedelta(seconds=dispatch.TOLD_AFTER + 1))
    looks.look()
    assert "Waiting for a worker: all are busy, or none is alive." in messages(deployment)
    ownership.claim(deployment.pk, "somebody")
    assert Deployment.objects.get(pk=deployment.pk).waiting_for == ""
    assert messages(deployment)[-1] == "Worker somebody has it."


def test_it_looks_until_it_is_told_to_stop(deployment: Deployment, tmp_path: Path) -> None:
    """It says by a file that it lives, and ends at once and in order at SIGTERM and Ctrl-C."""
    name = connection.settings_dict["NAME"]
    env = {**os.environ, "DATABASE_URL": f"{PLACES.database_url.rsplit('/', 1)[0]}/{name}"}
    for told in (signal.SIGTERM, signal.SIGINT):
        alive = tmp_path / told.name
        command = [sys.executable, "manage.py", "dispatch", "--alive", str(alive)]
        with subprocess.Popen(command, cwd=CHECKOUT, env=env) as process:
            try:
                until(alive.exists, what="it has looked")
                assert jobs.enqueued() == {deployment.pk}
                process.send_signal(told)
                assert process.wait(20) == 0
            finally:
                process.kill()
