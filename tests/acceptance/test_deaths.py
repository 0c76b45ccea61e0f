"""Whatever is killed in the middle of a deployment, on the whole real system under load:
the fleet ends whole, no request is lost but those that the balancer itself took along, and the
log says who was lost and who took over.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psutil
import pytest
from redis import Redis

from dashboard.local import haproxy_server
from tests.acceptance import victims
from tests.acceptance.running import Demo, until
from tests.acceptance.test_troubles import QUICK
from tests.acceptance.victims import horses, worker_and_horse

INSTANCES = 6
TAKEN_OVER_WITHIN = 15.0  # seconds
fresh = iter(range(1, 1000))
Json = dict[str, Any]
VICTIMS = [
    victims.the_horse,
    victims.its_worker,
    victims.dispatch,
    victims.web,
    victims.everything_of_ours,
    victims.redis,
    victims.all_that_redis_holds,
    victims.room_in_redis,
    victims.the_database,
    victims.database_connections,
]


@pytest.fixture(autouse=True)
def whole(demo: Demo) -> Iterator[None]:
    """Everything runs before a test, and again after it."""
    demo.whole()
    yield
    with Redis.from_url(demo.ready["redis_url"]) as client:
        client.config_set("maxmemory", 0)
    demo.whole()


def begun(demo: Demo, **policy: Any) -> str:
    """Return a deployment of a fresh version of which one instance is being updated."""
    # Long enough for a machine on which many such tests run.
    calm = {"healthy_deadline": 20}
    deployment = demo.start(f"d{next(fresh)}", **{**QUICK, **calm, **policy})

    def updating() -> bool:
        return any(target["status"] == "updating" for target in demo.get(deployment)["targets"])

    until(updating, 30, "an instance is being updated")
    return deployment


def check_completed(demo: Demo, deployment: str, end: Json) -> None:
    """Everybody runs the new version and serves, and no event is missing."""
    assert end["status"] == "completed", end["reason"]
    assert demo.versions() == {end["version"]}
    assert demo.serving() == INSTANCES
    assert len(demo.events(deployment)) == end["seq"]


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.__name__)
def test_a_deployment_outlives_a_kill(demo: Demo, victim: Callable[[Demo], float]) -> None:
    """Every instance gets the new version, and no client sees anything."""
    failed = demo.settled().failed
    deployment = begun(demo)
    victim(demo)
    check_completed(demo, deployment, demo.ended(deployment))
    assert demo.settled().failed == failed


def test_a_deployment_that_waits_holds_no_worker(demo: Demo) -> None:
    """It is parked between two batches, and a wish is acted on within 2 s all the same."""
    deployment = begun(demo, batch_pause=600)
    until(lambda: demo.get(deployment)["waiting_until"], 30, "the pause after the first batch")
    until(lambda: not horses(demo), 5, "no work-horse is left")
    assert demo.act(deployment, "cancel", mode="roll_back").status_code == 202
    until(lambda: demo.get(deployment)["status"] != "in_progress", 2, "acted on")
    assert demo.ended(deployment)["status"] == "cancelled"


def test_a_successor_takes_over_within_15_seconds_and_says_so(demo: Demo) -> None:
    """From the kill of worker and work-horse to the successor's first event."""
    failed = demo.settled().failed
    deployment = begun(demo)
    killed = worker_and_horse(demo)
    check_completed(demo, deployment, demo.ended(deployment))
    assert demo.settled().failed == failed
    [taken] = [event for event in demo.events(deployment) if event["kind"] == "owner"]
    assert "was lost at" in taken["message"]
    assert "taken over at" in taken["message"]
    assert datetime.fromisoformat(taken["at"]).timestamp() - killed <= TAKEN_OVER_WITHIN


def test_a_worker_that_is_told_to_stop_hands_over_at_once(demo: Demo) -> None:
    """SIGTERM ends the call under way; the successor goes on within 5 s, without a lease lost."""
    deployment = begun(demo)
    [horse] = horses(demo)
    told = time.time()
    (horse.parent() or horse).terminate()
    check_completed(demo, deployment, demo.ended(deployment))
    events = [event for event in demo.events(deployment) if event["kind"] == "owner"]
    assert "was told to stop and hands over" in events[0]["message"]
    gone_on = next(
        event
        for event in demo.events(deployment)
        if event["seq"] > events[0]["seq"] and event["kind"] == "target"
    )
    assert datetime.fromisoformat(gone_on["at"]).timestamp() - told <= 5


def test_a_worker_that_was_stopped_for_longer_than_its_lease_does_no_harm(demo: Demo) -> None:
    """SIGSTOP, and SIGCONT once another has it: the first writes and does nothing more."""
    failed = demo.settled().failed
    deployment = begun(demo, batch_pause=2)
    stopped = [each for horse in horses(demo) for each in (horse.parent() or horse, horse)]
    assert stopped
    for each in stopped:
        each.suspend()
    try:
        until(lambda: taken_over(demo, deployment), TAKEN_OVER_WITHIN, "another takes over")
    finally:
        for each in stopped:
            each.resume()
    until(lambda: not stopped[1].is_running(), 10, "the first one gives up")
    check_completed(demo, deployment, demo.ended(deployment))
    owners = [event for event in demo.events(deployment) if event["kind"] == "owner"]
    assert len(owners) == 1
    assert demo.settled().failed == failed


def taken_over(demo: Demo, deployment: str) -> bool:
    return any(event["kind"] == "owner" for event in demo.events(deployment))


def test_a_balancer_that_was_killed_is_told_again(demo: Demo) -> None:
    """What it loses is lost with it; who is under update gets no traffic from the new one."""
    deployment = begun(demo, min_healthy_time=2)
    before = demo.processes("haproxy.cfg")
    victims.the_balancer(demo)
    check_completed(demo, deployment, demo.ended(deployment))
    assert demo.processes("haproxy.cfg") != before


def test_a_balancer_that_comes_back_with_an_older_state_is_told_who_serves(demo: Demo) -> None:
    """What was written down of it while two were drained drains them again after a kill."""
    deployment = begun(demo, batch_pause=3)
    demo_itself = psutil.Process(demo.process.pid)
    demo_itself.suspend()  # which writes the balancer's state down every second
    try:
        until(lambda: demo.statuses().count("DRAIN") == 2, 5, "both are drained")
        haproxy_server.save_state(demo.places)
        drained = demo.places.haproxy_state.read_text()
        until(lambda: demo.get(deployment)["progress"]["healthy"] == 2, 30, "a batch is done")
        assert demo.places.haproxy_state.read_text() == drained
        victims.the_balancer(demo)
        check_completed(demo, deployment, demo.ended(deployment))
    finally:
        demo_itself.resume()
    messages = [event["message"] for event in demo.events(deployment)]
    assert "The balancer no longer had web-01, web-02 as it was told: told again." in messages


def test_a_click_while_redis_is_down_is_saved_and_starts_when_it_is_back(demo: Demo) -> None:
    """The answer is 201, the page says what it waits for, and nobody has to click again."""
    demo.supervised("stopProcess", "redis")
    try:
        deployment = demo.start(f"d{next(fresh)}", **QUICK)
        state = demo.get(deployment)
        assert (state["status"], state["waiting_for"]) == ("pending", "redis")
        said = [event["message"] for event in demo.events(deployment)]
        assert any("Saved, starts when Redis is back" in message for message in said)
    finally:
        demo.supervised("startProcess", "redis")
    check_completed(demo, deployment, demo.ended(deployment))
    assert demo.get(deployment)["waiting_for"] == ""


def test_a_wish_is_kept_while_nobody_lives_who_could_follow_it(demo: Demo) -> None:
    """Stopped with every worker gone: the page says so, and the next worker stops it."""
    deployment = begun(demo, batch_pause=3)
    with demo.without_workers():
        assert demo.act(deployment, "cancel", mode="roll_back").status_code == 202
        until(lambda: demo.get(deployment)["waiting_for"] == "worker", 20, "it waits for a worker")
        assert demo.get(deployment)["status"] == "in_progress"
    end = demo.ended(deployment)
    assert end["status"] == "cancelled", end["reason"]
    assert len(demo.versions()) == 1
    assert demo.versions() != {end["version"]}
