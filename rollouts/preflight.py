"""What must hold before any deployment, looked at before one: it changes nothing.

A worker looks, from where deployments are made: the same keys, programs and networks. Who asks
waits for it. The engine asks the driver for the same once more before its first step.
"""

import asyncio
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone
from redis.exceptions import RedisError
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus

from rollouts import drift, facts, jobs, looks
from rollouts.adapters import SettingsError
from rollouts.cautions import names
from rollouts.facts import Answer, Tick
from rollouts.models import Instance, Service
from rollouts.policy import Policy, PolicyError, parse
from rollouts.snapshots import Json, iso

BEGUN_WITHIN = 5.0  # seconds for a worker to take it
ANSWER_EVERY = 0.1  # seconds between two looks at what became of it
ANSWER_KEPT = 60  # seconds
JOB = "check"


@dataclass(frozen=True)
class Preflight:
    """What was found: ticks of the fleet as a whole, and those of each instance by name."""

    at: datetime
    fleet: tuple[Tick, ...] = ()
    instances: Mapping[str, tuple[Tick, ...]] = field(default_factory=dict)
    looked_from: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was found that does not hold."""
        ticks = [*self.fleet, *(tick for one in self.instances.values() for tick in one)]
        return all(tick.ok is not False for tick in ticks)

    def as_json(self) -> Json:
        """Return it as REST gives it: the ticks of the fleet first."""
        ticks = [_json(tick) for tick in self.fleet]
        for name, found in self.instances.items():
            ticks += [{"instance": name, **_json(tick)} for tick in found]
        return {
            "ok": self.ok,
            "checked_at": iso(self.at),
            "checked_from": self.looked_from,
            "ticks": ticks,
        }


def _json(tick: Tick) -> Json:
    return {"what": looks.shown(tick.what), "ok": tick.ok, "detail": looks.shown(tick.detail)}


async def look(subject: drift.Subject, known: frozenset[str] = frozenset()) -> Preflight:
    """Look at the fleet of a service, within some 20 s; never raises for what it finds.

    `known` are the balancer's servers that belong to instances which are not active.
    """
    at, here = timezone.now(), socket.gethostname()
    fleet: list[Tick] = []
    instances: dict[str, tuple[Tick, ...]] = {}
    if not subject.instances:
        fleet.append(Tick("instances", False, "none is active: add one to the inventory"))
    try:
        policy = parse(subject.service.policy)
        async with (
            asyncio.timeout(looks.WITHIN + looks.CLOSED_WITHIN),
            jobs.adapters_for(subject.frozen, policy) as adapters,
        ):
            one = _Look(subject, adapters, policy)
            heard, told = await one.hear()
            fleet += [*_balancer_ticks(subject, known, heard), *one.version_ticks()]
            for instance in subject.instances:
                instances[instance.name] = one.ticks(instance, told[instance.name], heard)
    except (SettingsError, PolicyError) as error:
        fleet.append(Tick("settings", False, f"of driver, balancer or policy are wrong: {error}"))
    except TimeoutError:
        if not fleet:
            fleet.append(Tick("answers", False, f"none within {looks.WITHIN:g} s"))
    return Preflight(at, tuple(fleet), instances, here)


@dataclass(frozen=True)
class _Heard:
    """What an instance answered, and what its driver said."""

    answer: Answer
    driver: Sequence[Tick]


class _Look:
    """One look: it asks, and draws ticks from what was said."""

    def __init__(self, subject: drift.Subject, adapters: jobs.Adapters, policy: Policy) -> None:
        self._subject = subject
        self._old = {one.name: one.last_seen_version for one in subject.instances}
        self._adapters = adapters
        self._verified = policy.verify_version

    async def hear(self) -> tuple[looks.BalancerHeard, Mapping[str, _Heard | looks.Missed]]:
        """Ask the balancer, and every instance with its driver."""
        return await looks.hear(
            self._adapters,
            [one.fact() for one in self._subject.instances],
            self._ask,
            asyncio.Semaphore(looks.AT_ONCE),
        )

    async def _ask(self, instance: facts.Instance) -> _Heard:
        """Ask an instance, then its driver about the version that it would go back to."""
        answer = await self._adapters.probe.ask(instance)
        old = answer.version or self._old[instance.name]
        return _Heard(answer, await self._adapters.driver.preflight(instance, old))

    def version_ticks(self) -> list[Tick]:
        """Return what there is to say where nobody verifies which version an instance runs."""
        if not self._verified:
            return [Tick("version", None, "is not verified: verify_version is off")]
        if not self._adapters.probe.reports_version:
            why = "nobody says which one runs, so that it can't be verified"
            return [Tick("version", None, f"{why}: see `version` in the service's inventory")]
        return []

    def ticks(
        self, instance: Instance, heard: _Heard | looks.Missed, balancer: looks.BalancerHeard
    ) -> tuple[Tick, ...]:
        """Return all that was found about one instance."""
        if isinstance(heard, looks.Missed):
            return (Tick("answers", False if heard.begun else None, str(heard)),)
        answer = heard.answer
        seen = drift.Seen.of(answer, balancer, looks.server_of(balancer, instance.server))
        expected = self._subject.expected(instance)
        ticks = [_answers(answer), *heard.driver]
        if answer.ok and not self.version_ticks():
            differs = drift.version_differs(expected, seen)
            ok = None if differs else True
            ticks.append(
                Tick("version", False if seen.error else ok, differs or seen.version or "")
            )
        if seen.server not in {None, "unknown"}:
            differs = drift.rotation_differs(expected, seen)
            ticks.append(Tick("rotation", None if differs else True, differs or _rotation(seen)))
        return tuple(ticks)


def _answers(answer: Answer) -> Tick:
    if not answer.ok:
        return Tick("answers", False, answer.error)
    took = f" in {answer.latency_ms:.0f} ms" if answer.latency_ms is not None else ""
    return Tick("answers", True, f"{answer.code or 'well'}{took}")


def _rotation(seen: drift.Seen) -> str:
    return f"in, weight {seen.weight}" if seen.in_rotation else f"out: {seen.server}"


def _balancer_ticks(
    subject: drift.Subject, known: frozenset[str], heard: looks.BalancerHeard
) -> list[Tick]:
    """Return whether the balancer answers, and whether it and the inventory agree."""
    if heard.report is None:
        return [Tick("balancer answers", False, heard.error)]
    servers = heard.report.servers
    mine = [one.server for one in subject.instances]
    missing = [name for name in mine if name not in servers]
    surplus = [name for name in servers if name not in {*mine, *known}]
    knows, known_there = f"all {len(mine)}", f"all {len(servers)}"
    if missing:
        knows = f"not {names(missing)}: add them to the balancer, or correct the inventory"
    if surplus:
        known_there = f"not {names(surplus)}: no deployment looks after what they may get"
    return [
        Tick("balancer answers", True),
        Tick("balancer knows every instance", not missing, knows),
        Tick("inventory knows every server", None if surplus else True, known_there),
    ]


def look_at(service: Service) -> Coroutine[Any, Any, Preflight]:
    """Return the look at a service as it is stored now, still to be awaited."""
    rows = list(service.instances.all())
    active = [one for one in rows if one.active]
    known = frozenset(one.server for one in rows if not one.active)
    return look(drift.Subject.of(service, active, timezone.now()), known)


def work(service_name: str) -> Json:
    """Look at a service within a worker's job."""
    try:
        return looks.run(look_at(Service.objects.get(name=service_name))).as_json()
    except looks.GaveWay:
        return _nobody("it gave way to a deployment that waited for a worker: check again")


def ask_worker(service: Service) -> Json:
    """Have a worker look, and return what it found, or why there is nothing. Takes up to 30 s."""
    try:
        job = looks.enqueue(work, service.name, name=JOB, kept=ANSWER_KEPT)
        return _answer(job)
    except InvalidJobOperation:
        return _nobody("the queue lost it: check again")
    except (RedisError, OSError) as error:
        return _nobody(f"Redis is out of reach, which gives it to a worker: {error}")


def _answer(job: Job) -> Json:
    """Return what a worker makes of `job`; raise RedisError, OSError or InvalidJobOperation."""
    asked = time.monotonic()
    while (waited := time.monotonic() - asked) < looks.JOB_LIMIT:
        status = job.get_status()
        if status is JobStatus.FINISHED:
            return dict(job.return_value() or {})
        if status is JobStatus.FAILED:
            return _nobody("its look broke: the worker's log says why")
        if status is JobStatus.QUEUED and waited > BEGUN_WITHIN:
            job.delete()
            return _nobody(
                f"none took it within {BEGUN_WITHIN:g} s: all are busy, or none is alive; "
                "a deployment would wait as well"
            )
        time.sleep(ANSWER_EVERY)
    return _nobody(f"no answer within {looks.JOB_LIMIT} s")


def _nobody(why: str) -> Json:
    """Return the answer where no worker looked."""
    return Preflight(timezone.now(), (Tick("a worker looks", False, why),)).as_json()
