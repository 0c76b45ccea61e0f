"""Deployments that ended long ago, stored as if they had been."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rollouts.journal import policy_json
from rollouts.models import Deployment, Service
from rollouts.policy import parse

BATCH = 5_000
POLICY = policy_json(parse({}))
# Of forty, as a team with a bad year has them.
ENDS = ("completed",) * 34 + ("rolled_back",) * 3 + ("failed",) * 2 + ("cancelled",)
# As large as those of a fleet of twenty, so that a row takes as much room.
ADAPTERS = {
    "instances": [{"name": f"web-{number:02}", "host": "127.0.0.1"} for number in range(20)]
}


def ended(
    service: Service, status: str, begun: datetime, seconds: float, version: str = "v2"
) -> Deployment:
    """Return a deployment, not stored yet, that began then and took so long."""
    return Deployment(
        service=service,
        version=version,
        previous_version="v1",
        status=status,
        policy=POLICY,
        plan=[],
        adapters=ADAPTERS,
        started_by="ada",
        created_at=begun,
        started_at=begun,
        completed_at=begun + timedelta(seconds=seconds),
    )


def plant(services: Sequence[Service], count: int, until: datetime, within: timedelta) -> None:
    """Store `count` deployments of these services, spread evenly over the time `within`."""
    made = _spread(services, count, until, within)
    while batch := [one for _, one in zip(range(BATCH), made, strict=False)]:
        Deployment.objects.bulk_create(batch)


def _spread(
    services: Sequence[Service], count: int, until: datetime, within: timedelta
) -> Iterator[Deployment]:
    for number in range(count):
        begun = until - within * ((number + 1) / (count + 1))
        # Every service has ends of every kind.
        status = ENDS[(number + number // len(services)) * 7 % len(ENDS)]
        seconds = 60 + number * 37 % 600
        yield ended(services[number % len(services)], status, begun, seconds, f"v{number}")
