"""Where RQ enters: real adapters wired to the engine. A job is just another caller.

The queue carries hints: what a job does is decided by what PostgreSQL holds when it runs.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import django_rq
from django.conf import settings
from django.db import connection
from redis.exceptions import RedisError

from rollouts import balancers, drivers, journal
from rollouts.change import Ports
from rollouts.engine import Engine
from rollouts.engine_journal import DjangoJournal
from rollouts.facts import Instance
from rollouts.models import Deployment, Service
from rollouts.policy import Policy, parse
from rollouts.probes import HttpProbe, refuse_host, version_source

log = logging.getLogger(__name__)

QUEUE = "default"
LOCK_SPACE = 0x10C6  # keeps our advisory locks apart from anybody else's


class WallClock:
    """The time of this machine."""

    def now(self) -> float:
        return time.time()


def adapters_of(service: Service) -> dict[str, Any]:
    """Return the settings of the adapters of `service`, to be frozen with a deployment."""
    return {
        "driver": service.driver,
        "balancer": service.balancer,
        "version_source": service.version_source,
    }


def probe_of(adapters: Mapping[str, Any], policy: Policy) -> HttpProbe:
    """Return the probe that frozen settings describe; it is an async context manager."""
    networks = settings.INSTANCE_NETWORKS
    return HttpProbe(
        version_source(adapters["version_source"]),
        policy,
        time.time,
        lambda address: refuse_host(address, networks),
    )


async def warm_up() -> None:
    """Load what the first probe and the first connection of a process would load, some 0.2 s."""
    nobody = Instance("nobody", "127.0.0.1", 9, "nobody")  # discard: nothing listens there
    async with probe_of({"version_source": {}}, parse()) as probe:
        await probe.ask(nobody)


def enqueue(deployment_id: str) -> bool:
    """Give a worker the hint to drive the deployment; return whether the queue took it."""
    try:
        django_rq.get_queue(QUEUE).enqueue(drive, deployment_id, result_ttl=0)
    except RedisError as error:
        log.warning("%s is saved, but the queue is out of reach: %s", deployment_id, error)
        return False
    return True


def drive(deployment_id: str) -> None:
    """Drive the deployment to its end; do nothing where somebody else does."""
    with _driving(deployment_id) as mine:
        if mine:
            asyncio.run(_drive(deployment_id))
        else:
            log.info("%s is driven by another worker already", deployment_id)
    for flush in journal.flushes:
        flush()


async def _drive(deployment_id: str) -> None:
    deployment = await Deployment.objects.aget(pk=deployment_id)
    policy = Policy(**deployment.policy)
    adapters = deployment.adapters
    async with probe_of(adapters, policy) as probe:
        ports = Ports(
            journal=DjangoJournal(deployment_id),
            balancer=balancers.make(adapters["balancer"]),
            driver=drivers.make(adapters["driver"]),
            probe=probe,
            clock=WallClock(),
        )
        await Engine(ports).run()


@contextmanager
def _driving(deployment_id: str) -> Iterator[bool]:
    """Hold the advisory lock of the deployment; yield whether it was free.

    It is held on this thread's own connection, apart from the journal's, and is free again
    as soon as this process is gone.
    """
    key = zlib.crc32(deployment_id.encode()) - 2**31
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_SPACE, key])
        mine = bool(cursor.fetchone()[0])
        try:
            yield mine
        finally:
            if mine:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK_SPACE, key])
