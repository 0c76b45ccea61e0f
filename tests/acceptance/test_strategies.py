"""`manage.py demo --once` by canary and by blue/green, as a person runs it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psycopg
import pytest
from django.core.management import CommandError, call_command

from tests.acceptance.running import ONCE_WITHIN, Demo, run_once, running_demo, until

ASKING_EVERY = 0.005  # seconds between two requests of a client


@pytest.mark.timeout(2 * ONCE_WITHIN)
def test_a_canary_deploys_a_good_version_and_stops_a_bad_one_at_its_first_share() -> None:
    """v2 reaches all. Of v3-errors one instance has 5 %, and its errors end with its traffic."""
    once = run_once("--strategy", "canary", "--instances", "3", "--rate", "200")
    assert once.returncode == 0, (once.results, once.said)
    good, bad = once.results
    assert (good["version"], good["status"], good["touched"]) == ("v2", "completed", 3)
    assert (good["failed_requests"], good["app_errors"], good["most_share"]) == (0, 0, 1)
    assert (bad["version"], bad["status"], bad["touched"]) == ("v3-errors", "rolled_back", 1)
    assert 1 <= bad["app_errors"] == bad["failed_requests"]
    # One in five of one in twenty.
    assert bad["app_errors"] / bad["requests"] < 0.02
    assert 0 < bad["most_share"] <= 0.06
    assert bad["errors_ended"] <= 2
    for result in (good, bad):
        assert result["strategy"] == "canary"
        assert result["slow_requests"] == 0
        assert 1 <= result["max_out"] <= 2
    assert "preview_url" not in once.ready
    assert not once.left


@pytest.mark.timeout(2 * ONCE_WITHIN)
def test_blue_green_deploys_to_the_idle_slot_unnoticed() -> None:
    """v2 goes to green alone and gets the traffic; v3-unhealthy, then on blue, never does."""
    once = run_once("--strategy", "blue_green", "--instances", "6", "--rate", "50")
    assert once.returncode == 0, (once.results, once.said)
    good, bad = once.results
    assert (good["version"], good["status"], good["touched"]) == ("v2", "completed", 3)
    assert (bad["version"], bad["status"]) == ("v3-unhealthy", "rolled_back")
    assert (good["most_share"], bad["most_share"]) == (1, 0)
    assert 1 <= bad["touched"] <= 3
    for result in (good, bad):
        assert result["strategy"] == "blue_green"
        assert result["requests"] > 0
        assert (result["failed_requests"], result["slow_requests"]) == (0, 0)
        assert result["max_out"] <= 2
    assert once.ready["preview_url"].startswith("http://{slot}.localhost:")
    assert "green.localhost" in once.said
    assert not once.left


@pytest.fixture(scope="module")
def slots() -> Iterator[Demo]:
    """A demo of two slots, of two instances each."""
    with running_demo("--strategy", "blue_green", "--instances", "4", "--rate", "40") as demo:
        yield demo


def answering(demo: Demo, slot: str = "") -> set[str]:
    """Return what answers at the preview address of a slot, or at the one of all traffic."""
    # Not every resolver knows names below localhost, as every browser does.
    headers = {"Host": f"{slot}.localhost"} if slot else {}
    with httpx.Client(base_url=demo.ready["balancer_url"], headers=headers, timeout=5) as client:
        return {client.get("/").text.strip() for _ in range(8)}


@dataclass(frozen=True)
class Slots:
    """Which slot has the traffic, and the instances of both."""

    live: str
    idle: str
    members: dict[str, list[str]]

    @classmethod
    def of(cls, demo: Demo) -> "Slots":
        shop = demo.client.get("/api/v1/services/shop").raise_for_status().json()
        members: dict[str, list[str]] = {"blue": [], "green": []}
        for one in shop["instances"]:
            members[one["slot"]].append(one["name"])
        [idle] = members.keys() - {shop["live_slot"]}
        return cls(shop["live_slot"], idle, members)

    def on(self, slot: str, version: str) -> set[str]:
        """Return what a slot answers that runs `version`."""
        return {f"{name} {version}" for name in self.members[slot]}


@pytest.mark.timeout(2 * ONCE_WITHIN)
def test_a_version_can_be_tried_while_it_waits_for_the_shift(slots: Demo) -> None:
    """At the idle slot's address, while all traffic is served by the other; then they change."""
    where, old = Slots.of(slots), answering(slots)
    assert answering(slots, where.live) == old
    deployment = slots.start("v2", approve=True)
    until(lambda: slots.get(deployment)["progress"]["healthy"] == 2, 30, "the slot is verified")
    assert answering(slots) == old
    assert answering(slots, where.idle) == where.on(where.idle, "v2")
    until(lambda: slots.act(deployment, "promote").status_code == 202, 10, "it is promoted")
    assert slots.ended(deployment)["status"] == "completed"
    assert answering(slots) == where.on(where.idle, "v2")
    assert answering(slots, where.live) == old
    assert Slots.of(slots).live == where.idle


@dataclass
class Client:
    """Asks through the balancer, one request after another, and keeps who answered when."""

    url: str
    heard: list[tuple[float, int, str]] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask within the block."""
        over = threading.Event()

        def ask() -> None:
            with httpx.Client(timeout=5) as client:
                while not over.wait(ASKING_EVERY):
                    answer = client.get(self.url)
                    version = answer.text.split()[-1]
                    self.heard.append((time.time(), answer.status_code, version))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def last(self, version: str) -> float:
        """Return when `version` answered last, in seconds since the epoch."""
        return max(at for at, _, heard in self.heard if heard == version)

    def heard_of(self, version: str) -> int:
        """Return how often `version` answered."""
        return sum(heard == version for _, _, heard in self.heard)


@pytest.mark.timeout(2 * ONCE_WITHIN)
def test_shifting_back_returns_all_traffic_within_a_second(slots: Demo) -> None:
    """From the click to the last answer of the new version, at the client: no request fails.

    Nobody holds the deployment then: it is parked while the old slot is kept warm.
    """
    before, where = slots.settled(), Slots.of(slots)
    [old] = {answer.split()[-1] for answer in answering(slots)}
    deployment = slots.start("v8", keep_old=120)
    until(lambda: answering(slots) == where.on(where.idle, "v8"), 30, "the shift")
    until(lambda: not owner_of(slots, deployment), 10, "it is parked")
    client = Client(slots.ready["balancer_url"])
    with client.asking():
        until(lambda: client.heard_of("v8") > 20, 10, "the new slot answers")
        clicked = time.time()
        assert slots.act(deployment, "rollback").status_code == 202
        until(lambda: client.heard_of(old) > 100, 10, "the old slot answers")
    assert client.last("v8") - clicked < 1
    assert {status for _, status, _ in client.heard} == {200}
    assert slots.ended(deployment)["status"] == "rolled_back"
    assert Slots.of(slots).live == where.live
    after = slots.settled()
    assert after.requests > before.requests
    assert (after.failed, after.slow) == (before.failed, before.slow)


def owner_of(demo: Demo, deployment: str) -> str:
    """Return which process holds a deployment, "" for none."""
    with psycopg.connect(demo.ready["database_url"]) as connection:
        query = "SELECT owner FROM rollouts_deployment WHERE id = %s"
        [row] = connection.execute(query, [deployment]).fetchall()
    return str(row[0])


@pytest.mark.parametrize("count", [1, 5])
def test_halves_that_are_none_are_refused(count: int) -> None:
    """An odd number of instances is told before anything starts."""
    with pytest.raises(CommandError, match="--instances must be an even number"):
        call_command("demo", strategy="blue_green", instances=count)
