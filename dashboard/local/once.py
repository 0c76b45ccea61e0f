"""`demo --once`: one good deployment, one bad one, and what the load saw of them.

It goes the way of everybody else, through REST of the running web, and measures from outside:
the load counts answers, the balancer's own statistics say who was out.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from dashboard.local import fleet, haproxy_server, load
from dashboard.local.errors import LocalError
from dashboard.local.places import Places
from dashboard.local.showcase import POLICY, SERVICE
from rollouts.policy import defaults

POLL = 0.2  # seconds between two looks at the deployment
SAMPLE = 0.1  # seconds between two looks at the balancer
PATIENCE = 600.0  # seconds for one deployment
SETTLE = load.TIMEOUT + 5  # seconds until the requests under way have ended
ENDED = {"completed", "rolled_back", "failed", "cancelled"}
# What is deployed, and what must become of it.
SCRIPT = (("v2", "completed"), ("v3-unhealthy", "rolled_back"))


@dataclass(frozen=True)
class Result:
    """What one deployment did, as `--once` prints it. Times in seconds."""

    deployment: str
    version: str
    status: str
    seconds: float
    requests: int
    failed_requests: int
    slow_requests: int
    max_out: int
    touched: int

    def went_well(self, expected: str) -> bool:
        """Whether it ended as `expected`, within its limits and unnoticed by the load."""
        limits = {**defaults(), **POLICY}
        most_touched = limits["batch_size"] if expected == "rolled_back" else self.touched
        return (
            self.status == expected
            and self.requests > 0
            and self.failed_requests == self.slow_requests == 0
            and self.max_out <= int(limits["max_unavailable"])
            and self.touched <= int(most_touched)
        )


def run(places: Places, url: str, token: str, rate: float) -> bool:
    """Deploy all of the script, printing a line of JSON for each; return whether all went well.

    Raises LocalError where the web or the load can't be asked any more.
    """
    headers = {"Authorization": f"Bearer {token}"}
    well = True
    with httpx.Client(
        base_url=f"{url}/api/v1", headers=headers, timeout=30, trust_env=False
    ) as client:
        for version, expected in SCRIPT:
            flowing(places, rate)
            result = deploy(places, client, version)
            flowing(places, rate)
            print(json.dumps(asdict(result)), flush=True)
            well = well and result.went_well(expected)
    return well


def deploy(places: Places, client: httpx.Client, version: str) -> Result:
    """Deploy `version`, wait for the end and return what was seen; raise LocalError."""
    before = load.read(places.counts)
    updates = len(fleet.history(places).read_text().splitlines())
    began = time.monotonic()
    with most_out(places) as most:
        snapshot = _start(client, version)
        while snapshot["status"] not in ENDED:
            if time.monotonic() - began > PATIENCE:
                raise LocalError(f"{snapshot['id']} did not end within {PATIENCE:g} s.")
            time.sleep(POLL)
            snapshot = _look(client, snapshot)
        seconds = time.monotonic() - began
    after = settled(places)
    return Result(
        deployment=snapshot["id"],
        version=version,
        status=snapshot["status"],
        seconds=round(seconds, 2),
        requests=after.requests - before.requests,
        failed_requests=after.failed - before.failed,
        slow_requests=after.slow - before.slow,
        max_out=most[0],
        touched=len(fleet.updated(places, version, updates)),
    )


def _start(client: httpx.Client, version: str) -> dict[str, Any]:
    try:
        answer = client.post(f"/services/{SERVICE}/deployments", json={"version": version})
    except httpx.HTTPError as error:
        raise LocalError(f"The web does not take a deployment: {error}.") from error
    if answer.status_code != 201:
        raise LocalError(f"{version} was refused: {answer.status_code} {answer.text[:2000]}")
    return dict(answer.json())


def _look(client: httpx.Client, last: dict[str, Any]) -> dict[str, Any]:
    """Return the deployment as it is now, or as it was where the web does not answer."""
    try:
        answer = client.get(f"/deployments/{last['id']}")
    except httpx.HTTPError:
        return last
    return dict(answer.json()) if answer.status_code == 200 else last


@contextmanager
def most_out(places: Places) -> Iterator[list[int]]:
    """Yield a list of one number: the most servers out of rotation at once so far."""
    most = [0]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE):
            try:
                most[0] = max(most[0], len(haproxy_server.out_of_rotation(places.haproxy_socket)))
            except OSError:
                continue

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def settled(places: Places) -> load.Counts:
    """Return the counts once all requests sent until now have ended; raise LocalError."""
    sent = load.read(places.counts).requests
    return _counts(places, lambda counts: counts.settled >= sent, "the load's requests do not end")


def flowing(places: Places, rate: float) -> load.Counts:
    """Return once half a second's worth of requests came through; raise LocalError."""
    answered = load.read(places.counts).answered
    return _counts(
        places, lambda counts: counts.answered >= answered + rate / 2, "the load does not flow"
    )


def _counts(places: Places, holds: Any, complaint: str) -> load.Counts:
    deadline = time.monotonic() + SETTLE
    while not holds(counts := load.read(places.counts)):
        if time.monotonic() > deadline:
            raise LocalError(f"Nothing is measured any more: {complaint}.")
        time.sleep(load.PUBLISH / 2)
    return counts
