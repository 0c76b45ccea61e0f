"""News: on Redis as they are stored, soon, in order, and at nobody's cost."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.db import connection, transaction

from dashboard import live
from dashboard.local.supervision import Supervisor
from rollouts import actions, journal
from rollouts.models import Deployment
from rollouts.snapshots import events_after
from tests.integration.factories import make_service
from tests.servers import until

pytestmark = pytest.mark.django_db(transaction=True)
Heard = Callable[[], list[dict[str, Any]]]
NOWHERE = "unix:///nonexistent/lockgate-test.sock"


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """Let no thread outlive its test."""
    yield
    live.stop()


@pytest.fixture
def deployment(redis_client: redis.Redis) -> Deployment:
    begun = actions.start(make_service(), "v2", by="ada")
    live.flush()
    return begun


@pytest.fixture
def heard(redis_client: redis.Redis, deployment: Deployment) -> Iterator[Heard]:
    """What was published on the channel of the deployment so far."""
    messages: list[dict[str, Any]] = []
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(f"deploy:{deployment.id}")
        pubsub.get_message(timeout=5)  # the confirmation

        def read() -> list[dict[str, Any]]:
            while (message := pubsub.get_message(timeout=0.05)) is not None:
                messages.append(json.loads(message["data"]))
            return messages

        yield read


def note(deployment: Deployment, text: str = "something") -> None:
    journal.record_wish(deployment.id, None, "ada", text)


def test_an_event_is_published_exactly_as_it_is_stored(
    deployment: Deployment, heard: Heard
) -> None:
    """As JSON on `deploy:{id}`, without a wrapper."""
    actions.cancel(deployment.id, "stop", by="ada")
    until(heard)
    assert heard() == events_after(deployment.id, 1, 10)
    assert set(heard()[0]) == {"seq", "at", "kind", "patch", "message"}


def test_many_events_are_published_in_order(deployment: Deployment, heard: Heard) -> None:
    """Whatever the batches in which they leave."""
    for number in range(250):
        note(deployment, str(number))
    until(lambda: len(heard()) >= 250)
    assert [event["seq"] for event in heard()] == list(range(2, 252))


def test_nothing_is_published_before_its_commit(deployment: Deployment, heard: Heard) -> None:
    """Nor what is rolled back."""
    with transaction.atomic():
        note(deployment, "kept")
        assert live.flush() is None
        assert heard() == []
    with transaction.atomic():
        note(deployment, "never")
        transaction.set_rollback(True)
    until(heard)
    live.flush()
    assert [event["message"] for event in heard()] == ["kept"]


@pytest.fixture
def redis_at(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Send all news to the Redis at a URL, by a publisher that has not complained yet."""
    monkeypatch.setattr(live, "_publisher", live.Publisher())

    def move(url: str) -> None:
        live.stop()
        settings.REDIS_URL = url
        layer = RedisPubSubChannelLayer(hosts=[url])
        monkeypatch.setattr(live, "get_channel_layer", lambda: layer)

    yield move
    live.stop()


@pytest.fixture
def hanging() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    path = f"/tmp/lg-hanging-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(50)
        try:
            yield f"unix://{path}"
        finally:
            Path(path).unlink()


def test_nobody_waits_for_a_redis_that_is_away(
    deployment: Deployment, redis_at: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """All is out of the way at once, and the loss is told once, not with every event."""
    redis_at(NOWHERE)
    for _ in range(50):
        note(deployment)
    began = time.monotonic()
    live.flush()
    assert time.monotonic() - began < live.FLUSH_TIMEOUT
    told = [record for record in caplog.records if record.name == "dashboard.live"]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "did not reach Redis" in told[0].getMessage()


def test_a_redis_that_hangs_costs_a_bounded_time(
    deployment: Deployment, redis_at: Callable[[str], None], hanging: str
) -> None:
    """The writer waits for nothing, the end of a job for no longer than its limit."""
    redis_at(hanging)
    began = time.monotonic()
    note(deployment)
    assert time.monotonic() - began < live.PUBLISH_TIMEOUT
    assert live._publisher.flush(live.PUBLISH_TIMEOUT + 2)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the newest are dropped: a client reads them from PostgreSQL."""
    monkeypatch.setattr(live, "WAITING_LIMIT", 3)
    publisher = live.Publisher()
    monkeypatch.setattr(publisher, "_start", lambda: None)
    for seq in range(1, 6):
        publisher.put("deploy-000000000000", "shop", {"seq": seq, "patch": {}})
    assert [news.event["seq"] for news in publisher._take()] == [1, 2, 3]


def test_the_end_of_a_job_waits_for_its_news(deployment: Deployment, heard: Heard) -> None:
    """A work-horse leaves with os._exit, which asks no thread."""
    assert live.flush in journal.flushes
    note(deployment)
    live.flush()
    assert len(heard()) == 1


def test_a_forked_work_horse_publishes_with_a_thread_of_its_own(
    deployment: Deployment, heard: Heard
) -> None:
    """Its parent's thread and connections did not come along."""
    note(deployment, "from the parent")
    live.flush()
    connection.close()
    child = os.fork()
    if child == 0:
        try:
            note(deployment, "from the child")
            live.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    note(deployment, "from the parent again")
    until(lambda: len(heard()) >= 3)
    assert [event["message"] for event in heard()] == [
        "from the parent",
        "from the child",
        "from the parent again",
    ]


def test_it_goes_on_after_redis_was_restarted(
    deployment: Deployment, servers: Supervisor, redis_client: redis.Redis
) -> None:
    """The next event connects anew."""
    note(deployment)
    live.flush()
    servers.call("stopProcess", "redis", True)
    note(deployment)
    live.flush()
    servers.call("startProcess", "redis", True)
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(f"deploy:{deployment.id}")
        pubsub.get_message(timeout=5)
        note(deployment, "back")
        live.flush()
        message = pubsub.get_message(timeout=5)
    assert json.loads(message["data"])["message"] == "back"


def test_a_process_that_ends_at_once_still_tells(deployment: Deployment) -> None:
    """Stopping publishes what waits, and ends the thread."""
    note(deployment)
    live.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "live"]
    note(deployment)
    assert [thread for thread in threading.enumerate() if thread.name == "live"]
