"""News: every committed event goes to Redis, and nobody waits for it.

The journal's listener puts an event into a bounded queue; one background thread with an
event loop of its own publishes it, as JSON on the Redis channel `deploy:{id}` and through
the channel layer to the sockets. News are never truth: what is lost on the way is read from
PostgreSQL by `seq`, so a failure here is logged now and then and otherwise forgotten.
"""

import asyncio
import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from dashboard.snapshots import without_targets
from rollouts import journal

log = logging.getLogger(__name__)

Json = dict[str, Any]

OVERVIEW_GROUP = "overview"
WAITING_LIMIT = 10_000  # events; beyond it the newest are dropped
BATCH = 100  # events published at once
PUBLISH_TIMEOUT = 1.0  # seconds for one batch
FLUSH_TIMEOUT = 2.0  # seconds that the end of a job or process waits for its news
COMPLAIN_EVERY = 30.0  # seconds between two log lines about lost news


@dataclass(frozen=True)
class News:
    """One event, and whose it is."""

    deployment: str
    service: str
    event: Json


def group_of(deployment_id: str) -> str:
    """Return the channel layer's group of one deployment."""
    return f"deployment.{deployment_id}"


def redis_channel(deployment_id: str) -> str:
    """Return the Redis channel that carries the events of one deployment."""
    return f"deploy:{deployment_id}"


class Publisher:
    """The background thread of one process; it starts with the first event."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._waiting: deque[News] = deque()
        self._pending = 0  # put and not yet published or given up
        self._lost = 0
        self._complained = -COMPLAIN_EVERY
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def put(self, deployment: str, service: str, event: Json) -> None:
        """Take one event to be published; never waits, never raises."""
        with self._lock:
            if self._pending >= WAITING_LIMIT:
                self._lost += 1
                return
            self._waiting.append(News(deployment, service, event))
            self._pending += 1
            if self._loop is None or self._wake is None:
                self._start()
            elif len(self._waiting) == 1:
                self._loop.call_soon_threadsafe(self._wake.set)

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait until all is published or given up; return whether it was in time."""
        with self._lock:
            return self._lock.wait_for(lambda: self._pending == 0, timeout)

    def stop(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Publish what waits, end the thread and close its connections, all within `timeout`."""
        with self._lock:
            if self._thread is None or self._loop is None or self._wake is None:
                return
            thread = self._thread
            self._stopping = True
            self._loop.call_soon_threadsafe(self._wake.set)
        thread.join(timeout)

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._wake.set()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, self._wake), name="live", daemon=True
        )
        self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._publish_all(wake))
        finally:
            with self._lock:
                self._thread = self._loop = self._wake = None
                self._stopping = False
            loop.close()  # closes the channel layer's connections of this loop too

    async def _publish_all(self, wake: asyncio.Event) -> None:
        # Its own retries would hold up the queue: the next event is the retry.
        redis = Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=PUBLISH_TIMEOUT,
            retry=Retry(NoBackoff(), 1),
        )
        try:
            while True:
                await wake.wait()
                wake.clear()
                while batch := self._take():
                    await self._publish(redis, batch)
                    self._settle(len(batch))
                if self._stopping:
                    return
        finally:
            await redis.aclose()

    def _take(self) -> list[News]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def _settle(self, count: int) -> None:
        with self._lock:
            self._pending -= count
            self._lock.notify_all()

    async def _publish(self, redis: Redis, batch: Sequence[News]) -> None:
        """Publish `batch` in order, for others and for the sockets at the same time."""
        sends = [_to_redis(redis, batch), _to_sockets(batch)]
        results = await asyncio.gather(*(_bounded(send) for send in sends), return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            self._lost += len(batch)
            self._complain(errors[0])

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained >= COMPLAIN_EVERY:
            self._complained = time.monotonic()
            why = str(error) or type(error).__name__
            log.warning("%d news did not reach Redis; screens read them later: %s", self._lost, why)
            self._lost = 0


async def _bounded(send: Awaitable[None]) -> None:
    async with asyncio.timeout(PUBLISH_TIMEOUT):
        await send


async def _to_redis(redis: Redis, batch: Sequence[News]) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for news in batch:
            pipe.publish(redis_channel(news.deployment), json.dumps(news.event))
        await pipe.execute()


async def _to_sockets(batch: Sequence[News]) -> None:
    layer = get_channel_layer()
    by_deployment: dict[str, list[Json]] = {}
    for news in batch:
        by_deployment.setdefault(news.deployment, []).append(news.event)
    for deployment, events in by_deployment.items():
        await layer.group_send(group_of(deployment), {"type": "news", "events": events})
    told = [
        {**without_targets(news.event), "deployment": news.deployment, "service": news.service}
        for news in batch
    ]
    await layer.group_send(OVERVIEW_GROUP, {"type": "news", "events": told})


_publisher = Publisher()


def listen(deployment: str, service: str, event: Json) -> None:
    """Take an event from the journal."""
    _publisher.put(deployment, service, event)


def flush() -> None:
    """Wait a bounded time until the news of this process are out."""
    _publisher.flush()


def stop() -> None:
    """End the background thread, if there is one; the next event starts another."""
    _publisher.stop()


def attach() -> None:
    """Hear of every event that this process commits."""
    if listen not in journal.listeners:
        journal.listeners.append(listen)
        journal.flushes.append(flush)
        atexit.register(stop)


def _forget_after_fork() -> None:
    # A forked work-horse has neither the thread nor the right to its parent's connections.
    global _publisher
    _publisher = Publisher()


os.register_at_fork(after_in_child=_forget_after_fork)
