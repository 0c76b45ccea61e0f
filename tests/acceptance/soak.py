"""Random kills on real parts, under load: `python -m tests.acceptance.soak [--kills 60]`.

Deployments of good and bad versions follow one another on a demo fleet, and in the middle of
each something is killed, stopped or emptied, chosen by `--seed`. Each must end as its version
deserves, with every instance whole, no gap in its events, and no request failed but those that
a killed balancer took along. Ends with status 1 at the first that does not, else prints how
often each was killed and how long it took to take over.
"""

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from tests.acceptance import victims
from tests.acceptance.running import Demo, running_demo, until

INSTANCES = 10
RATE = 40  # requests a second
MOST_KILLS_AT_ONCE = 3  # in one deployment
AWAY = 30.0  # seconds that PostgreSQL is gone, where it is
STOPPED = 14.0  # seconds; longer than a lease
TAKEN_OVER_WITHIN = 15.0  # seconds
ENDED_WITHIN = 240.0
POLICY = {
    "batch_pause": 0.5,
    "health_check_timeout": 1,
    "health_check_interval": 0.3,
    "min_healthy_time": 0.7,
    "healthy_deadline": 10,
    "drain_timeout": 3,
}

console = Console(highlight=False, soft_wrap=True)
Victim = Callable[[Demo], float]


def the_database_for_long(demo: Demo) -> float:
    """Keep PostgreSQL away for 30 s."""
    demo.supervised("stopProcess", "postgres")
    time.sleep(AWAY)
    demo.supervised("startProcess", "postgres")
    return time.time()


def a_worker_stopped_for_long(demo: Demo) -> float:
    """Stop whoever drives until another has taken over, then let it go on."""
    stopped = [each for horse in victims.horses(demo) for each in (horse.parent() or horse, horse)]
    for each in stopped:
        each.suspend()
    time.sleep(STOPPED)
    for each in stopped:
        each.resume()
    return time.time()


# What is killed, and how often relative to the others.
VICTIMS: dict[Victim, int] = {
    victims.the_horse: 4,
    victims.its_worker: 4,
    victims.worker_and_horse: 6,
    victims.dispatch: 2,
    victims.web: 2,
    victims.redis: 3,
    victims.all_that_redis_holds: 2,
    victims.database_connections: 3,
    victims.the_database: 2,
    victims.the_balancer: 3,
    victims.everything_of_ours: 2,
    the_database_for_long: 1,
    a_worker_stopped_for_long: 2,
}


@dataclass
class Tally:
    """What was done, and what was measured."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    takeovers: list[float] = field(default_factory=list)  # seconds
    requests: int = 0
    failed: int = 0  # though no balancer was killed
    lost_with_balancer: int = 0


class Failed(Exception):
    """Something did not end as it must."""


def one(demo: Demo, number: int, chance: random.Random, tally: Tally) -> None:
    """Run one deployment with its kills; raise Failed."""
    demo.whole()
    # The demo's engine has images of these.
    version = f"v{2 + number % 8}" + chance.choice(["", "", "", "-unhealthy", "-crash"])
    before = demo.settled()
    old = demo.versions()
    deployment = demo.start(version, **POLICY)
    try:
        done = hurt(demo, deployment, chance, tally)
        end = demo.ended(deployment, ENDED_WITHIN)
        demo.whole()
    except (Failed, pytest.fail.Exception) as failed:
        raise Failed(f"{failed}\n{last_words(demo, deployment)}") from failed
    tally.ends[end["status"]] += 1
    check(demo, end, old)
    after = demo.settled()
    tally.requests += after.requests - before.requests
    failed = after.failed - before.failed
    if victims.the_balancer in done:
        tally.lost_with_balancer += failed
    else:
        tally.failed += failed
        expect(failed == 0, f"{deployment}: {failed} requests failed")
    console.print(
        f"{sum(tally.kills.values()):3} kills  {version:14} {end['status']:12} "
        f"{', '.join(victim.__name__ for victim in done)}"
    )


def last_words(demo: Demo, deployment: str) -> str:
    """Return how far a deployment came, for who has to find out why."""
    state = demo.get(deployment)
    lines = [f"{deployment} {state['status']}: {state['reason']} ({state['waiting_for']})"]
    lines += [f"{one['instance']} {one['status']} {one['error']}" for one in state["targets"]]
    lines += [
        f"{event['seq']} {event['at']} {event['kind']} {event['message']}"
        for event in demo.events(deployment)[-40:]
        if event["message"]
    ]
    return "\n".join([*lines, *demo.statuses()])


def hurt(demo: Demo, deployment: str, chance: random.Random, tally: Tally) -> list[Victim]:
    """Kill up to three things in turn at random moments; return which."""
    done: list[Victim] = []
    for _ in range(chance.randint(1, MOST_KILLS_AT_ONCE)):
        time.sleep(chance.uniform(0.2, 3))
        state = demo.look(deployment)
        if state is not None and state["completed_at"]:
            break
        [victim] = chance.choices(list(VICTIMS), list(VICTIMS.values()))
        needs_a_horse = victim in {victims.the_horse, victims.its_worker, victims.worker_and_horse}
        if (needs_a_horse or victim is victims.everything_of_ours) and not victims.horses(demo):
            continue
        try:
            at = victim(demo)
        except AssertionError:
            continue  # it is dead already, of the kill before
        done.append(victim)
        tally.kills[victim.__name__] += 1
        if victim is victims.worker_and_horse:
            tally.takeovers += took_over(demo, deployment, at)
    return done


def took_over(demo: Demo, deployment: str, killed_at: float) -> list[float]:
    """Return the seconds from a kill to the successor's first event, nothing if it had ended."""

    def taken() -> dict[str, Any] | bool | None:
        state = demo.look(deployment)
        if state is None:
            return None
        for event in demo.events(deployment):
            at = datetime.fromisoformat(event["at"]).timestamp()
            if event["kind"] == "owner" and at > killed_at:
                return {"at": at}
        return bool(state["completed_at"])

    found = until(taken, 2 * TAKEN_OVER_WITHIN, f"{deployment} taken over")
    if found is True:
        return []
    seconds = found["at"] - killed_at
    expect(seconds <= TAKEN_OVER_WITHIN, f"{deployment}: taken over after {seconds:.1f} s")
    return [seconds]


def check(demo: Demo, end: dict[str, Any], old: set[str]) -> None:
    """The end is what the version deserves, and every instance is whole (S9)."""
    good = "-" not in end["version"]
    expected = "completed" if good else "rolled_back"
    expect(end["status"] == expected, f"{end['id']} ended {end['status']}: {end['reason']}")
    expect(demo.versions() == ({end["version"]} if good else old), f"{end['id']}: a mixed fleet")
    expect(demo.serving() == INSTANCES, f"{end['id']}: {demo.serving()} instances serve")
    expect(len(demo.events(end["id"])) == end["seq"], f"{end['id']}: events are missing")


def expect(holds: bool, text: str) -> None:
    if not holds:
        raise Failed(text)


def report(tally: Tally) -> None:
    """Print what was measured."""
    for name, count in tally.kills.most_common():
        console.print(f"{count:5} {name}")
    ends = ", ".join(f"{count} {status}" for status, count in tally.ends.items())
    console.print(f"{sum(tally.kills.values())} kills in {tally.ends.total()} deployments: {ends}.")
    console.print(
        f"{tally.requests:,} requests, {tally.failed} failed; "
        f"{tally.lost_with_balancer} more with a killed balancer."
    )
    if tally.takeovers:
        console.print(
            f"Takeover after kill -9 of worker and work-horse: median "
            f"{statistics.median(tally.takeovers):.1f} s, longest {max(tally.takeovers):.1f} s "
            f"of {len(tally.takeovers)}."
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=60, help="at least so many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is chosen")
    parser.add_argument("--driver", default="command", help="of the demo")
    chosen = parser.parse_args()
    console.print(f"seed {chosen.seed}")
    chance, tally = random.Random(chosen.seed), Tally()
    size = ("--instances", str(INSTANCES), "--rate", str(RATE))
    with running_demo(*size, "--driver", chosen.driver) as demo:
        number = 0
        try:
            while sum(tally.kills.values()) < chosen.kills:
                number += 1
                one(demo, number, chance, tally)
        except Failed as failed:
            console.print(str(failed), style="bold red", markup=False)
            return 1
        finally:
            report(tally)
    return 0


if __name__ == "__main__":
    sys.exit(main())
