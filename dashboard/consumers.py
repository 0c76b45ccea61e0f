"""The two sockets: a snapshot, then every event in order, each exactly once.

Each event is weighed by its `seq`: what was sent is dropped, and a gap is read from
PostgreSQL.
"""

from urllib.parse import parse_qs

from dashboard import snapshots
from dashboard.live import OVERVIEW_GROUP, group_of
from dashboard.sockets import EVENTS_AT_ONCE, GONE, Ended, LiveConsumer, reading
from rollouts.models import Deployment
from rollouts.snapshots import Json, consistent_snapshot, events_after, one_moment

SERVICES_EVERY = 1.0  # seconds between two looks at the services, while they change


@reading
def missed(deployment_id: str, seq: int) -> list[Json]:
    """Return the next events after `seq`."""
    return events_after(deployment_id, seq, EVENTS_AT_ONCE)


@reading
def opening(deployment_id: str, after: int | None) -> Json:
    """Return the first message: the events after `after`, or the snapshot."""
    with one_moment():
        if after is not None:
            held = Deployment.objects.filter(pk=deployment_id, seq__gte=after).exists()
            if held:
                events = events_after(deployment_id, after, EVENTS_AT_ONCE)
                return {"type": "events", "events": events}
        return {"type": "snapshot", "deployment": consistent_snapshot(deployment_id)}


class DeploymentConsumer(LiveConsumer):
    """`/ws/deployments/{id}/?after=SEQ`: one deployment."""

    async def connect(self) -> None:
        """Find out which deployment, and what the client holds of it."""
        self.deployment_id = self.id = self.scope["url_route"]["kwargs"]["deployment_id"]
        self.group = group_of(self.id)
        self.sent = 0
        await super().connect()

    async def greet(self) -> None:
        """Send the snapshot, or the events that the client missed, even if there are none."""
        after = _number(self.scope["query_string"], "after")
        try:
            message = await opening(self.id, after)
        except Deployment.DoesNotExist:
            raise Ended(GONE) from None
        events = message.get("events")
        if not events:
            await self.tell(message)
            self.sent = after or 0 if events == [] else message["deployment"]["seq"]
            return
        await self.tell_events(events)
        self.sent = events[-1]["seq"]
        if len(events) == EVENTS_AT_ONCE:
            await self.heal()

    async def deliver(self, events: list[Json]) -> None:
        """Send those not sent yet; where some are missing between, read them."""
        fresh = {event["seq"]: event for event in events if event["seq"] > self.sent}
        if fresh and max(fresh) - self.sent == len(fresh):
            await self.tell_events([fresh[seq] for seq in sorted(fresh)])
            self.sent = max(fresh)
        elif fresh:
            await self.heal()

    async def heal(self) -> None:
        """Send what PostgreSQL holds and was not sent, a bounded number at a time."""
        while events := await missed(self.id, self.sent):
            await self.tell_events(events)
            self.sent = events[-1]["seq"]
            if len(events) < EVENTS_AT_ONCE:
                return

    async def pulse(self) -> Json:
        """Return the number of the last event."""
        return {"seq": self.sent}


@reading
def overview_with_progress() -> tuple[Json, dict[str, snapshots.Progress]]:
    """Return the overview and how far each deployment is, at the same moment."""
    with one_moment():
        return snapshots.overview(), snapshots.progress_of_all()


progress_of_all = reading(snapshots.progress_of_all)
services_now = reading(snapshots.services_named)


class OverviewConsumer(LiveConsumer):
    """`/ws/overview/`: all services and running deployments.

    Each event also names its `deployment` and `service`; the patch of a "created" one holds
    the whole summary. Where services changed a message has them all, as `services`.
    """

    group = OVERVIEW_GROUP

    async def greet(self) -> None:
        """Send the snapshot of all."""
        overview, progress = await overview_with_progress()
        self.sent = {pk: one.seq for pk, one in progress.items()}
        self._services: list[Json] = overview["services"]
        self._services_due: float | None = None
        await self.tell({"type": "snapshot", "overview": overview})

    async def deliver(self, events: list[Json]) -> None:
        """Send those not sent yet; where some are missing between, read them."""
        ready: list[Json] = []
        reached = dict(self.sent)
        gap = False
        for event in sorted(events, key=lambda event: int(event["seq"])):
            sent = reached.get(event["deployment"], 0)
            if event["seq"] == sent + 1:
                reached[event["deployment"]] = event["seq"]
                ready.append(event)
            gap = gap or event["seq"] > sent + 1
        await self._tell_all(ready)
        self.sent = reached
        if gap:
            await self.heal()

    async def heal(self) -> None:
        """Send what PostgreSQL holds of any deployment and was not sent."""
        progress = await progress_of_all(list(self.sent))
        for pk, held in progress.items():
            while self.sent.get(pk, 0) < held.seq:
                events = await missed(pk, self.sent.get(pk, 0))
                if not events:
                    break
                whose = {"deployment": pk, "service": held.service}
                await self._tell_all(
                    [{**snapshots.without_targets(event), **whose} for event in events]
                )
                self.sent[pk] = events[-1]["seq"]
        self.sent = {pk: seq for pk, seq in self.sent.items() if _has_news(progress.get(pk))}

    async def pulse(self) -> Json:
        """Return how far each deployment is, and the services where they changed."""
        await self.settle()
        return {"seq": sum(self.sent.values()), "seqs": self.sent}

    def due(self) -> float | None:
        """Return when to look at the services, after an event that may have changed them."""
        return self._services_due

    async def settle(self) -> None:
        """Send the services where they changed."""
        self._services_due = None
        services = await services_now()
        if services != self._services:
            self._services = services
            await self.tell({"type": "events", "events": [], "services": services})

    async def _tell_all(self, events: list[Json]) -> None:
        changing = any(event["kind"] in {"created", "status", "target"} for event in events)
        if changing and self._services_due is None:
            self._services_due = self._now() + SERVICES_EVERY
        await self.tell_events(events)


def _has_news(held: snapshots.Progress | None) -> bool:
    return held is not None and not held.settled


def _number(query: bytes, key: str) -> int | None:
    """Return the number that `query` gives for `key`; None where it gives none."""
    text = parse_qs(query.decode("latin-1")).get(key, [""])[-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
