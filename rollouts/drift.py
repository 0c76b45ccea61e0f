"""Drift: where instances and the balancer are not as the inventory says. Told, never mended.

A look stores what it found in `Instance.seen`, beside the inventory and never in it. What is told
of it is judged when it is read, against the inventory of that moment.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Now
from redis.exceptions import RedisError

from rollouts import facts, jobs, looks
from rollouts.adapters import SettingsError
from rollouts.facts import Answer, Server, ServerState
from rollouts.models import ACTIVE_VALUES, Deployment, Instance, Service, Target
from rollouts.policy import PolicyError, parse
from rollouts.snapshots import iso
from rollouts.states import TargetStatus

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two looks at a service
SERVICES_AT_ONCE = 5
ALL_WITHIN = 45.0  # seconds for all services; who is left out comes first the next time
AGAIN_AFTER = 1.0  # seconds until an instance that is not well is asked once more
LOCK = 0x10CC6A7E  # PostgreSQL's advisory lock of whoever looks; one is enough
JOB = "drift"


@dataclass(frozen=True)
class Expected:
    """What the inventory says of an instance.

    `idle` is whether it is of a slot without traffic; None where nobody knows which one that is.
    """

    version: str = ""
    digest: str = ""
    held_out: str = ""
    idle: bool | None = False


@dataclass(frozen=True)
class Seen:
    """What one look found; None for what was not told.

    `server` is how the balancer has the instance: ready, drain, maint, down, weightless, or
    unknown where it has no such server.
    """

    healthy: bool
    version: str | None = None
    digest: str = ""
    in_rotation: bool | None = None
    weight: int | None = None
    server: str | None = None
    error: str = ""
    balancer_error: str = ""

    @classmethod
    def of(cls, answer: Answer, heard: looks.BalancerHeard, server: Server | None) -> "Seen":
        """Return what an instance and its balancer answered, as it is stored."""
        known = server.serving if server else False
        return cls(
            healthy=answer.ok,
            version=None if answer.version is None else looks.shown(answer.version),
            digest=answer.digest,
            in_rotation=known if heard.report else None,
            weight=server.weight if server else None,
            server=_word(server) if heard.report else None,
            error=looks.shown(answer.error),
            balancer_error=heard.error,
        )

    @classmethod
    def stored(cls, raw: Mapping[str, Any]) -> "Seen":
        """Return what was stored; raise TypeError where it lacks what there must be."""
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in known})


def _word(server: Server | None) -> str:
    if server is None:
        return "unknown"
    if server.state is not ServerState.READY:
        return server.state.value
    if not server.up:
        return "down"
    return "ready" if server.weight else "weightless"


UNASKED = "the balancer could not be asked"
OUT = {
    "drain": "it drains",
    "maint": "in maintenance",
    "down": "the balancer finds it down",
    "weightless": "its weight is 0",
}


def differences(expected: Expected, seen: Seen) -> tuple[str, ...]:
    """Return in words what is not as the inventory says; nothing for what was not told."""
    health = "" if seen.healthy else f"not well: {seen.error}"
    words = [health, version_differs(expected, seen), rotation_differs(expected, seen)]
    return tuple(word for word in words if word)


def version_differs(expected: Expected, seen: Seen) -> str:
    """Return how what runs differs from what was verified last; "" where it does not."""
    if seen.healthy and seen.error:
        return f"nobody can tell what it runs: {seen.error}"
    if seen.version is not None and expected.version not in {"", seen.version}:
        return f"reports {seen.version}, verified was {expected.version}"
    if expected.digest and seen.digest not in {"", expected.digest}:
        return f"runs another build of {expected.version} than was verified: {seen.digest}"
    return ""


def rotation_differs(expected: Expected, seen: Seen) -> str:
    """Return how the balancer has it otherwise than deployments left it; "" where it does not."""
    if seen.balancer_error:
        return f"{UNASKED}: {seen.balancer_error}"
    if seen.server == "unknown":
        return "unknown to the balancer"
    if seen.in_rotation is None or expected.idle is None:
        return ""
    if seen.in_rotation:
        if expected.held_out:
            return f"in rotation though held out: {expected.held_out}"
        return "in rotation though its slot is idle" if expected.idle else ""
    if expected.held_out or expected.idle:
        return ""
    why = OUT.get(seen.server or "", "nobody says why")
    return f"out of rotation though no deployment left it out: {why}"


def expected(instance: Instance, service: Service, slots: set[str]) -> Expected:
    """Return what is stored of `instance`, its service having instances in these `slots`."""
    idle: bool | None = False
    if len(slots - {""}) > 1:
        idle = instance.slot != service.live_slot if service.live_slot else None
    return Expected(instance.version, instance.digest, instance.held_out, idle)


@dataclass(frozen=True)
class Subject:
    """A service as it is looked at: its adapters frozen, its active instances with what is stored.

    `asked_at` is the database's time, from before anything was asked.
    """

    service: Service
    frozen: Mapping[str, Any]
    instances: tuple[Instance, ...]
    asked_at: datetime

    @classmethod
    def of(cls, service: Service, instances: Sequence[Instance], asked_at: datetime) -> "Subject":
        """Return `service` with its active `instances`."""
        return cls(service, jobs.adapters_of(service), tuple(instances), asked_at)

    def expected(self, instance: Instance) -> Expected:
        """Return what the inventory says of one of its instances."""
        return expected(instance, self.service, {one.slot for one in self.instances})


async def look(subject: Subject, gate: asyncio.Semaphore) -> Mapping[str, Seen]:
    """Return what each active instance and the balancer say now; store nothing."""
    instances = [instance.fact() for instance in subject.instances]
    try:
        policy = parse(subject.service.policy)
        async with jobs.adapters_for(subject.frozen, policy) as at:

            async def ask(instance: facts.Instance) -> Answer:
                answer = await at.probe.ask(instance)
                if answer.ok:
                    return answer
                await asyncio.sleep(AGAIN_AFTER)
                return await at.probe.ask(instance)

            heard, answers = await looks.hear(at, instances, ask, gate)
    except (SettingsError, PolicyError) as error:
        wrong = looks.shown(f"the service's settings are wrong: {error}")
        return {one.name: Seen(healthy=True, error=wrong) for one in instances}
    seen = {}
    for one in instances:
        answer = looks.answer_of(answers[one.name])
        seen[one.name] = Seen.of(answer, heard, looks.server_of(heard, one.server))
    return seen


def enqueue() -> bool:
    """Have a worker look at every service that is at rest; return whether the queue took it."""
    try:
        if not looks.waits(JOB):
            looks.enqueue(look_at_all, name=JOB)
    except (RedisError, OSError) as error:
        log.warning("Nobody looks for drift now, the queue is out of reach: %s", error)
        return False
    return True


def last_end_of(service: str) -> QuerySet[Deployment, Any]:
    """Return when the last deployment ended, for a subquery on rows with `service` as its key."""
    ends = Deployment.objects.filter(service=OuterRef(service), completed_at__isnull=False)
    return ends.order_by("-completed_at").values("completed_at")[:1]


def last_end() -> datetime | None:
    """Return when a deployment ended last: what was seen of its service is out of date then."""
    ended: datetime | None = Deployment.objects.aggregate(at=Max("completed_at"))["at"]
    return ended


def look_at_all() -> None:
    """Look at every service that is due, and store what is seen. For a worker's job."""
    with alone() as mine:
        subjects = due() if mine else []
        if not subjects:
            return
        found: list[tuple[Subject, Mapping[str, Seen]]] = []
        try:
            looks.run(_look_at(subjects, found))
        except looks.GaveWay:
            log.info("The look for drift gave way to a deployment")
        for subject, seen in found:
            store(subject, seen)


@contextmanager
def alone() -> Iterator[bool]:
    """Yield whether nobody else looks, and keep others from it until the end of the block."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        mine = bool(cursor.fetchone()[0])
    try:
        yield mine
    finally:
        if mine:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def due() -> list[Subject]:
    """Return the services at rest that nobody looked at lately, the longest unseen first.

    Lately is also after the end of the last deployment.
    """
    active = Instance.objects.filter(active=True)
    at_rest = (
        Service.objects.exclude(deployments__status__in=ACTIVE_VALUES)
        .prefetch_related(Prefetch("instances", active, to_attr="active_instances"))
        .annotate(asked_at=Now(), ended_at=Subquery(last_end_of("pk")))
    )
    found = []
    for service in at_rest:
        instances, asked_at = service.active_instances, service.asked_at
        oldest = min((_seen_at(one) for one in instances), default=asked_at)
        changed = service.ended_at is not None and oldest <= service.ended_at
        if changed or asked_at - oldest > timedelta(seconds=INTERVAL / 2):
            found.append((oldest, Subject.of(service, instances, asked_at)))
    return [subject for _, subject in sorted(found, key=lambda pair: pair[0])]


def _seen_at(instance: Instance) -> datetime:
    at = instance.seen.get("at")
    return datetime.fromisoformat(at) if at else datetime.min.replace(tzinfo=UTC)


async def _look_at(
    subjects: Sequence[Subject], found: list[tuple[Subject, Mapping[str, Seen]]]
) -> None:
    """Add to `found` what is seen of `subjects`, each as soon as it is."""
    gate, services = asyncio.Semaphore(looks.AT_ONCE), asyncio.Semaphore(SERVICES_AT_ONCE)

    async def one(subject: Subject) -> None:
        async with services:
            try:
                async with asyncio.timeout(looks.WITHIN + looks.CLOSED_WITHIN):
                    found.append((subject, await look(subject, gate)))
            except Exception:  # of a foreign package too: it must not keep others from being seen
                log.exception("%s: the look for drift broke", subject.service.name)

    try:
        async with asyncio.timeout(ALL_WITHIN), asyncio.TaskGroup() as group:
            for subject in subjects:
                group.create_task(one(subject))
    except TimeoutError:
        log.warning("Not all services were looked at within %g s", ALL_WITHIN)


def store(subject: Subject, seen: Mapping[str, Seen]) -> None:
    """Store what was seen, unless a deployment has begun meanwhile: then it was of no state."""
    begun = Q(status__in=ACTIVE_VALUES) | Q(created_at__gte=subject.asked_at)
    if Deployment.objects.filter(begun, service=subject.service).exists():
        return
    moved = _moved(subject.instances)
    for instance in subject.instances:
        found = seen[instance.name]
        since = _since(instance, found, subject.asked_at, moved.get(instance.pk))
        instance.seen = {
            "at": iso(subject.asked_at),
            **asdict(found),
            "rotation_since": iso(since),
            "differs": bool(differences(subject.expected(instance), found)),
        }
    Instance.objects.bulk_update(subject.instances, ["seen"])


def _moved(instances: Iterable[Instance]) -> dict[int, datetime | None]:
    """Return by key when a deployment last took each out of rotation or put it back.

    With slots it is the traffic that moves and not the instance: a look alone tells when.
    """
    parts = Target.objects.filter(instance=OuterRef("pk")).exclude(status=TargetStatus.PENDING)
    parts = parts.exclude(deployment__strategy="blue_green").order_by("-id")
    rows = Instance.objects.filter(pk__in=[one.pk for one in instances])
    return dict(
        rows.annotate(moved=Subquery(parts.values("updated_at")[:1])).values_list("pk", "moved")
    )


def _since(
    instance: Instance, found: Seen, at: datetime, moved: datetime | None
) -> datetime | None:
    """Return since when it is in rotation or out of it, as `found` by a look `at` that time.

    None where nobody knows which. Who has moved it since the look before knows when; else it is
    the first look that found it so.
    """
    if found.in_rotation is None:
        return None
    if moved and moved > _seen_at(instance):
        return moved
    before = instance.seen
    if before.get("in_rotation") == found.in_rotation and before.get("rotation_since"):
        return datetime.fromisoformat(before["rotation_since"])
    return at


def told(
    services: Iterable[Service],
    slots: Mapping[int, Collection[str]],
    since: Mapping[int, datetime | None],
) -> Mapping[int, Mapping[str, list[str]]]:
    """Return by service and instance what the last look found otherwise than the inventory says.

    One query for all of `services`, which are at rest. `slots` are those in use; what was seen
    before `since`, the end of the last deployment, is of no account.
    """
    by_id = {service.pk: service for service in services}
    rows = Instance.objects.filter(service__in=by_id, active=True, seen__differs=True)
    found: dict[int, dict[str, list[str]]] = {pk: {} for pk in by_id}
    for row in rows.order_by("name"):
        after = [moment for moment in (since.get(row.service_id), row.version_at) if moment]
        if after and _seen_at(row) <= max(after):
            continue
        service = by_id[row.service_id]
        says = expected(row, service, set(slots[row.service_id]))
        if words := differences(says, Seen.stored(row.seen)):
            found[row.service_id][row.name] = list(words)
    return found
