"""Where RQ enters: real adapters wired to the engine. A job is just another caller.

The queue carries hints: what a job does is decided by what PostgreSQL holds when it runs.
"""

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import django_rq
from asgiref.sync import sync_to_async
from django.conf import settings
from redis.exceptions import RedisError

from rollouts import balancers, drivers, journal, ownership
from rollouts.adapters import SettingsError, Surroundings
from rollouts.engine import Engine
from rollouts.engine_journal import DjangoJournal
from rollouts.facts import Instance
from rollouts.hostkeys import ConfirmedHosts
from rollouts.lease import Lease
from rollouts.models import Deployment, Service
from rollouts.policy import Policy, parse, stored
from rollouts.ports import Balancer, Driver, LeaseLost, Ports, Probe
from rollouts.probes import HttpProbe, WithDriver, refuse_host, version_source

log = logging.getLogger(__name__)
T = TypeVar("T")

QUEUE = "default"
FAILED_KEPT = 3600  # seconds that the queue remembers a job that broke
AGAIN_AFTER = 10.0  # seconds until a deployment whose job broke is taken up again


class WallClock:
    """The time of this machine."""

    def now(self) -> float:
        return time.time()


def adapters_of(service: Service) -> dict[str, Any]:
    """Return what the adapters of `service` are made of, to be frozen with a deployment."""
    return {
        "driver": service.driver,
        "balancer": service.balancer,
        "version_source": service.version_source,
        "instances": [asdict(one.fact()) for one in service.instances.filter(active=True)],
    }


@dataclass(frozen=True)
class Adapters:
    """What stands between the engine and the real world, for one event loop.

    `health` asks instances alone; `probe` has the driver say what they run too, where it can. A
    driver may need keys that only workers have.
    """

    driver: Driver
    balancer: Balancer
    health: Probe
    probe: Probe


@asynccontextmanager
async def adapters_for(
    frozen: Mapping[str, Any], policy: Policy, deployment_id: str = ""
) -> AsyncIterator[Adapters]:
    """Yield the adapters that `frozen` describes, as `adapters_of` returned it.

    Raises SettingsError where they can't be made, for these instances or on this machine.
    """
    around = Surroundings(
        instances=tuple(Instance(**one) for one in frozen.get("instances", ())),
        known_hosts=ConfirmedHosts(),
        deployment=deployment_id,
        refuses=_refuses,
    )
    async with AsyncExitStack() as stack:
        driver = _made(drivers.make, frozen, "driver", around)
        stack.push_async_callback(driver.aclose)
        balancer = _made(balancers.make, frozen, "balancer", around)
        stack.push_async_callback(balancer.aclose)
        probe = await stack.enter_async_context(_http_probe(frozen["version_source"], policy))
        told = WithDriver(probe, driver, policy.health_check_timeout)
        yield Adapters(driver, balancer, probe, told)


def _made(
    make: Callable[[Mapping[str, Any], Surroundings], T],
    frozen: Mapping[str, Any],
    key: str,
    around: Surroundings,
) -> T:
    try:
        return make(frozen[key], around)
    except SettingsError as error:
        named = {f"{key}.{name}": text for name, text in error.errors.items()}
        raise SettingsError(named) from error


def _http_probe(source: Mapping[str, Any], policy: Policy) -> HttpProbe:
    return HttpProbe(version_source(source), policy, time.time, _refuses)


def _refuses(address: str) -> str | None:
    return refuse_host(address, settings.INSTANCE_NETWORKS)


async def warm_up() -> None:
    """Load what the first probe and the first connection of a process would load, some 0.2 s."""
    nobody = Instance("nobody", "127.0.0.1", 9, "nobody")  # discard: nothing listens there
    async with _http_probe({}, parse()) as probe:
        await probe.ask(nobody)


def enqueue(deployment_id: str) -> bool:
    """Give a worker the hint to drive the deployment; return whether the queue took it."""
    job_id = f"{deployment_id}-{secrets.token_hex(4)}"
    try:
        django_rq.get_queue(QUEUE).enqueue(
            drive, deployment_id, job_id=job_id, result_ttl=0, failure_ttl=FAILED_KEPT
        )
    except (RedisError, OSError) as error:
        log.warning("%s is saved, but the queue is out of reach: %s", deployment_id, error)
        return False
    return True


def enqueued() -> set[str]:
    """Return the deployments that the queue holds a hint for; raise RedisError or OSError."""
    return {job_id.rpartition("-")[0] for job_id in django_rq.get_queue(QUEUE).get_job_ids()}


def drive(deployment_id: str) -> None:
    """Drive the deployment until it ends or is parked; do nothing where it wants no owner."""
    try:
        claimed = ownership.claim(deployment_id, ownership.owner_name())
    except Deployment.DoesNotExist:
        claimed = None
    if claimed is None:
        log.info("%s wants no worker now", deployment_id)
        return
    try:
        asyncio.run(_drive(claimed))
    finally:
        for flush in journal.flushes:
            flush()


async def _drive(claimed: ownership.Claim) -> None:
    """Drive what was claimed; at SIGTERM end what is under way and hand over at once."""
    driving = asyncio.create_task(_drive_while_mine(claimed))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, driving.cancel)
    try:
        await driving
    except LeaseLost as error:
        log.warning("%s; nothing more is done here", error)
    except asyncio.CancelledError:
        told = f"Worker {claimed.owner} was told to stop and hands over."
        if await sync_to_async(ownership.give_back)(claimed, told):
            enqueue(claimed.deployment_id)
    except Exception as error:
        log.exception("%s: driving it broke", claimed.deployment_id)
        told = (
            f"Worker {claimed.owner} ran into an error ({type(error).__name__}: {error}); "
            f"it is taken up again in {AGAIN_AFTER:g} s."
        )
        await sync_to_async(ownership.give_back)(claimed, told, AGAIN_AFTER)
        raise


async def _drive_while_mine(claimed: ownership.Claim) -> None:
    """Run the engine as long as the lease is kept; raise LeaseLost when it is not."""
    deployment = await Deployment.objects.aget(pk=claimed.deployment_id)
    policy = stored(deployment.policy)
    lease = Lease(claimed.deployment_id, claimed.asked_at)
    async with adapters_for(deployment.adapters, policy, deployment.id) as adapters:
        ports = Ports(
            journal=DjangoJournal(claimed, lease),
            balancer=adapters.balancer,
            driver=adapters.driver,
            probe=adapters.probe,
            clock=WallClock(),
            lease=lease,
        )
        running = asyncio.create_task(Engine(ports).run())
        keeping = asyncio.create_task(lease.keep(lambda: ownership.renew(claimed)))
        try:
            await asyncio.wait({running, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, keeping):
                task.cancel()
            await asyncio.wait({running, keeping})
        for task in (running, keeping):
            if not task.cancelled():
                task.result()
