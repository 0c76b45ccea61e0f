"""`demo --once`: one good deployment, one bad one, and what the load saw of them.

It goes the way of everybody else, through REST of the running web, and measures from outside:
the load counts answers, the balancer's own statistics say who was out.
"""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from dashboard.local import haproxy_server, load
from dashboard.local.errors import LocalError
from dashboard.local.hosting import Processes
from dashboard.local.places import Places
from dashboard.local.showcase import SERVICE, policy
from dashboard.local.stack import say
from rollouts.policy import defaults

POLL = 0.2  # seconds between two looks at the deployment
SAMPLE = 0.1  # seconds between two looks at the balancer
PATIENCE = 600.0  # seconds for one deployment
SETTLE = load.TIMEOUT + 5  # seconds until the requests under way have ended
ENDED = {"completed", "rolled_back", "failed", "cancelled"}
GOING_BACK = {"rolling_back", "rolled_back", "failed"}
ERRORS = "-errors"  # of a version whose health is fine
ERRORS_END = 2.0  # seconds from the begin of the way back to the last error of its application
SHARE_SLACK = 0.01  # weights are whole numbers


@dataclass(frozen=True)
class Script:
    """What is deployed by a strategy to so many instances, and what must become of it."""

    strategy: str
    instances: int

    @property
    def acts(self) -> tuple[tuple[str, str], ...]:
        """Return the versions in their order, each with the status it must end in."""
        bad = f"v3{ERRORS}" if self.strategy == "canary" else "v3-unhealthy"
        return ("v2", "completed"), (bad, "rolled_back")

    @property
    def limits(self) -> Mapping[str, Any]:
        """Return every key of the policy that the versions are deployed with."""
        return {**defaults(), **policy(self.strategy)}

    @property
    def first_share(self) -> float:
        """Return the percentage of the traffic that a canary gets first."""
        return float(next(s["share"] for s in self.limits["canary_steps"] if "share" in s))

    def may_touch(self, expected: str) -> range:
        """Return how many instances may be given a version that ends as `expected`."""
        whole = self.instances // 2 if self.strategy == "blue_green" else self.instances
        if expected == "completed":
            return range(whole, whole + 1)
        if self.strategy == "canary":
            return range(1, max(1, math.ceil(self.first_share * self.instances / 100)) + 1)
        if self.strategy == "blue_green":
            return range(1, whole + 1)
        return range(1, int(self.limits["batch_size"]) + 1)


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
    strategy: str
    app_errors: int  # of `failed_requests`: answers of the application itself
    most_share: float  # of the traffic that the version was ever given, from 0 to 1
    errors_ended: float | None  # after its way back began; None for no error or no way back

    def went_well(self, expected: str, script: Script) -> bool:
        """Whether it ended as `expected`, within its limits and unnoticed by the load."""
        return (
            self.status == expected
            and self.requests > 0
            and self.slow_requests == 0
            and self.max_out <= int(script.limits["max_unavailable"])
            and self.touched in script.may_touch(expected)
            and (
                self._bore_errors(script)
                if self.version.endswith(ERRORS)
                else self.failed_requests == 0
            )
        )

    def _bore_errors(self, script: Script) -> bool:
        """Whether nothing but the application failed, for a small share and a short time."""
        return (
            self.failed_requests == self.app_errors
            and self.most_share <= script.first_share / 100 + SHARE_SLACK
            and (self.errors_ended or 0) <= ERRORS_END
        )


@dataclass
class Seen:
    """What the snapshots of a deployment have shown so far."""

    most_share: float = 0.0
    went_back_at: float | None = None  # seconds since the epoch

    def note(self, snapshot: Mapping[str, Any]) -> None:
        """Take in what `snapshot` says, which is of now."""
        shares = snapshot["traffic"].get("shares", {})
        self.most_share = max(self.most_share, shares.get(snapshot["version"], 0.0))
        if self.went_back_at is None and snapshot["status"] in GOING_BACK:
            self.went_back_at = time.time()

    def errors_ended(self, before: load.Counts, after: load.Counts) -> float | None:
        """Return the seconds from the begin of the way back to the application's last error."""
        if self.went_back_at is None or after.app_errors == before.app_errors:
            return None
        return round(after.last_app_error_at - self.went_back_at, 2)


def run(
    places: Places, hosting: Processes, url: str, token: str, rate: float, script: Script
) -> bool:
    """Deploy all of the script, printing a line of JSON for each; return whether all went well.

    Raises LocalError where the web or the load can't be asked any more.
    """
    headers = {"Authorization": f"Bearer {token}"}
    well = True
    with httpx.Client(
        base_url=f"{url}/api/v1", headers=headers, timeout=30, trust_env=False
    ) as client:
        for version, expected in script.acts:
            flowing(places, rate)
            result, reason = deploy(places, hosting, client, version)
            flowing(places, rate)
            print(json.dumps(asdict(result)), flush=True)
            if not result.went_well(expected, script):
                say(f"{version} should have ended as {expected}, unnoticed: {reason}")
                well = False
    return well


def deploy(
    places: Places, hosting: Processes, client: httpx.Client, version: str
) -> tuple[Result, str]:
    """Deploy `version`, wait for the end, return what was seen and why; raise LocalError."""
    before = load.read(places.counts)
    began, seen = time.monotonic(), Seen()
    with most_out(places) as most, hosting.watching(version) as touched:
        snapshot = _start(client, version)
        while snapshot["status"] not in ENDED:
            if time.monotonic() - began > PATIENCE:
                raise LocalError(f"{snapshot['id']} did not end within {PATIENCE:g} s.")
            time.sleep(POLL)
            snapshot = _look(client, snapshot)
            seen.note(snapshot)
        seconds = time.monotonic() - began
        given = touched()
    after = settled(places)
    result = Result(
        deployment=snapshot["id"],
        version=version,
        status=snapshot["status"],
        seconds=round(seconds, 2),
        requests=after.requests - before.requests,
        failed_requests=after.failed - before.failed,
        slow_requests=after.slow - before.slow,
        max_out=most[0],
        touched=len(given),
        strategy=snapshot["strategy"],
        app_errors=after.app_errors - before.app_errors,
        most_share=seen.most_share,
        errors_ended=seen.errors_ended(before, after),
    )
    return result, snapshot["reason"]


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
