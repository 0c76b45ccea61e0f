"""Looks at a fleet from afar: what its balancer and every instance answer. They change nothing.

They are made in workers, from where deployments are made, out of a queue that is served last;
and a look that is under way gives way to a deployment that waits for a worker.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import django_rq
from redis.exceptions import RedisError
from rq.job import Job

from rollouts import jobs
from rollouts.facts import Answer, BalancerReport, Instance, Server
from rollouts.ports import BalancerError

log = logging.getLogger(__name__)
T = TypeVar("T")

QUEUE = "low"
AT_ONCE = 20  # instances asked at the same time
WITHIN = 20.0  # seconds for all of one service
ONE_WITHIN = 18.0  # seconds for one instance: a probe, and its driver after it
CLOSED_WITHIN = 2.0  # seconds for adapters to give back what they hold
JOB_LIMIT = 60  # seconds after which RQ ends a job that does not keep to all that
GIVE_WAY = 0.25  # seconds between two looks at the queue of deployments
MAX_SHOWN = 500  # characters of anything that was answered


class GaveWay(Exception):
    """The look was given up, because a deployment waits for a worker."""


class Missed(Exception):
    """An instance was not heard; `begun` says whether it was asked at all."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True)
class BalancerHeard:
    """What the balancer answered, or in `error` why it did not."""

    report: BalancerReport | None
    error: str = ""


def enqueue(function: Callable[..., Any], *arguments: Any, name: str, kept: int = 0) -> Job:
    """Have a worker call `function` when nothing else is to do; raise RedisError or OSError.

    Its id begins with `name`; what it returns is kept for `kept` seconds.
    """
    job: Job = django_rq.get_queue(QUEUE).enqueue(
        function,
        args=arguments,
        job_id=f"{name}-{secrets.token_hex(4)}",
        job_timeout=JOB_LIMIT,
        result_ttl=kept,
        failure_ttl=max(kept, JOB_LIMIT),
    )
    return job


def waits(name: str) -> bool:
    """Whether a job of this name is in the queue already; raise RedisError or OSError."""
    ids = django_rq.get_queue(QUEUE).get_job_ids()
    return any(job_id.rpartition("-")[0] == name for job_id in ids)


def run(look: Coroutine[Any, Any, T]) -> T:
    """Run `look` within a job; raise GaveWay as soon as a deployment waits for a worker."""
    return asyncio.run(_unless_wanted(look))


async def _unless_wanted(look: Coroutine[Any, Any, T]) -> T:
    looking = asyncio.create_task(look)
    wanted = asyncio.create_task(_deployment_waits())
    try:
        await asyncio.wait({looking, wanted}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        looking.cancel()
        wanted.cancel()
        await asyncio.wait({looking, wanted})
    if looking.cancelled():
        raise GaveWay
    return looking.result()


async def _deployment_waits() -> None:
    """Return once a deployment waits that no other worker has taken at once."""
    queue = django_rq.get_queue(jobs.QUEUE)
    while True:
        await asyncio.sleep(GIVE_WAY)
        try:
            if await asyncio.to_thread(queue.get_job_ids, 0, 1):
                return
        except (RedisError, OSError) as error:
            log.warning("Redis does not say whether a deployment waits: %s", error)


async def hear(
    at: jobs.Adapters,
    instances: Iterable[Instance],
    ask: Callable[[Instance], Awaitable[T]],
    gate: asyncio.Semaphore,
) -> tuple[BalancerHeard, Mapping[str, T | Missed]]:
    """Ask the balancer and every instance, at the same time and within WITHIN."""
    until = asyncio.get_running_loop().time() + WITHIN
    async with asyncio.TaskGroup() as group:
        heard = group.create_task(balancer(at))
        told = group.create_task(each(instances, ask, gate, until))
    return heard.result(), told.result()


async def balancer(at: jobs.Adapters) -> BalancerHeard:
    """Ask the balancer for all its servers; never raises for what it does."""
    try:
        async with asyncio.timeout(WITHIN / 2):
            return BalancerHeard(await at.balancer.report())
    except TimeoutError:
        return BalancerHeard(None, f"no answer within {WITHIN / 2:g} s")
    except BalancerError as error:
        return BalancerHeard(None, shown(str(error)))
    except Exception as error:  # of a foreign package too
        log.exception("A balancer broke at a look")
        return BalancerHeard(None, broke(error))


async def each(
    instances: Iterable[Instance],
    ask: Callable[[Instance], Awaitable[T]],
    gate: asyncio.Semaphore,
    until: float,
) -> Mapping[str, T | Missed]:
    """Ask all `instances`, as many at once as `gate` lets, `until` a time of the loop's clock.

    Returns what `ask` returned by the instance's name, or why it returned nothing.
    """
    loop = asyncio.get_running_loop()

    async def one(instance: Instance) -> T | Missed:
        try:
            async with asyncio.timeout_at(until):
                await gate.acquire()
        except TimeoutError:
            return Missed("not asked: the others took all the time", begun=False)
        began = loop.time()
        try:
            async with asyncio.timeout_at(min(until, began + ONE_WITHIN)):
                return await ask(instance)
        except TimeoutError:
            return Missed(f"no answer within {loop.time() - began:.0f} s", begun=True)
        except Exception as error:  # of a foreign package too
            log.exception("%s: looking at it broke", instance.name)
            return Missed(broke(error), begun=True)
        finally:
            gate.release()

    # Cancelled, a group waits for what its adapters still bring to an end; `gather` would not.
    async with asyncio.TaskGroup() as group:
        tasks = {instance.name: group.create_task(one(instance)) for instance in instances}
    return {name: task.result() for name, task in tasks.items()}


def shown(text: str) -> str:
    """Return what was answered from afar as one bounded printable piece."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ... (cut)"
    return "".join(each if each.isprintable() else " " for each in cut).strip()


def broke(error: Exception) -> str:
    """Return in words that an adapter did what none may do."""
    return shown(f"the adapter broke: {type(error).__name__}: {error}")


def server_of(heard: BalancerHeard, name: str) -> Server | None:
    """Return the balancer's server of this name; None where it has none or did not answer."""
    return heard.report.servers.get(name) if heard.report else None


def answer_of(heard: Answer | Missed) -> Answer:
    """Return what an instance answered; of one that was not heard that it is not well."""
    return Answer(0.0, ok=False, error=str(heard)) if isinstance(heard, Missed) else heard
