"""What every socket does: authorise, listen to news, beat, and bound what a client can cause.

News come through the channel layer as soon as they are out. They may be lost, doubled or
late: the heartbeat has read from PostgreSQL whatever nobody told.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone
from redis.exceptions import RedisError

from dashboard.access import VIEW_DEPLOYMENT, user_of_session
from dashboard.troubles import troubles
from rollouts.models import Deployment
from rollouts.snapshots import Json, iso

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

HEARTBEAT = 5  # seconds; a lost event is noticed after so long
SUBSCRIBE_TIMEOUT = 1.0  # seconds that Redis may take; without it the heartbeat brings all
RESUBSCRIBE = 5.0  # seconds between attempts to subscribe
READ_TIMEOUT = 4.0  # seconds that PostgreSQL may take
CANCEL_AGAIN = 0.5  # seconds
UNCHECKED_LIMIT = 45.0  # seconds without a check of the session until the socket is closed
EVENTS_AT_ONCE = 500
MESSAGE_LIMIT = 256 * 1024  # bytes of several events; clients of Python take 1 MiB by default
EVENTS = '{{"type":"events","events":[{}]}}'
WAITING_LIMIT = 1_000  # events; the oldest give way and are read from PostgreSQL
SLOW_READER = 20.0  # seconds for a client to read what was written to it
FRAME_LIMIT = 64 * 1024  # bytes
FRAMES, FRAMES_WITHIN = 20, 10.0  # so many frames in so many seconds are still no flood

# Codes that browsers and daphne allow: 1000 and 3000 to 4999.
NOT_LOGGED_IN, GONE, TOO_SLOW, TOO_BIG, FLOOD, BROKEN = 4401, 4404, 4408, 4413, 4429, 4500

UNREADABLE = (OperationalError, InterfaceError, TimeoutError)  # PostgreSQL is away or too slow
UNHEARD = (RedisError, OSError, TimeoutError)  # so is Redis

# Sockets read with few connections, however many there are: the pages need the pool too.
readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sockets")


dumps = partial(json.dumps, separators=(",", ":"))


class Ended(Exception):
    """The socket has to be closed with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def reading(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return `function` as a coroutine that runs in one of the readers' threads."""

    def in_thread(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        finally:
            connection.close()  # back to the pool

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READ_TIMEOUT):
            return await loop.run_in_executor(readers, partial(in_thread, *args, **kwargs))

    return call


@reading
def admitted(session_key: str | None, deployment_id: str | None = None) -> bool:
    """Whether the session's user may see deployments, and the deployment exists."""
    user = user_of_session(session_key)
    if user is None or not user.has_perm(VIEW_DEPLOYMENT):
        return False
    return deployment_id is None or Deployment.objects.filter(pk=deployment_id).exists()


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # untyped library
    """What both sockets share: the door, news, heartbeat, and the limits on the client."""

    # The base class would subscribe before anything else and fail without Redis.
    channel_layer_alias = "subscribed by ourselves"
    group: str
    deployment_id: str | None = None

    async def __call__(self, scope: Json, receive: Any, send: Any) -> None:
        """Serve one socket; its tasks end with it, however it ends."""
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: deque[Json] = deque(maxlen=WAITING_LIMIT)
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()  # to subscribe, whether or not it went well
        self._frames: deque[float] = deque(maxlen=FRAMES + 1)
        self._unheard = False  # news come only with the heartbeat
        self._closing = False
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _end(self._tasks)

    async def connect(self) -> None:
        """Accept who may see; refuse everybody else before."""
        self._session = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME)
        try:
            welcome = await admitted(self._session, self.deployment_id)
        except UNREADABLE:
            welcome = False
        if not welcome:
            await self.close()
            return
        await self.accept()
        self._checked = self._now()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._serve())]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what the client says; close if it says too much."""
        size = len(bytes_data if bytes_data is not None else (text_data or "").encode())
        now = self._now()
        self._frames.append(now)
        flood = len(self._frames) > FRAMES and now - self._frames[0] < FRAMES_WITHIN
        if size > FRAME_LIMIT or flood:
            await self._end(TOO_BIG if size > FRAME_LIMIT else FLOOD)

    async def greet(self) -> None:
        """Send the first message."""
        raise NotImplementedError

    async def deliver(self, events: list[Json]) -> None:
        """Send what is new of `events`."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Send what PostgreSQL holds and was not sent."""
        raise NotImplementedError

    async def pulse(self) -> Json:
        """Return what the heartbeat says beside the time."""
        raise NotImplementedError

    def due(self) -> float | None:
        """Return when `settle` wants to run, if it does."""
        return None

    async def settle(self) -> None:
        """Do what was put off until `due`."""

    async def tell(self, message: Json) -> None:
        """Send one message, once the client has read those before it."""
        await self._write(dumps(message))

    async def tell_events(self, events: list[Json]) -> None:
        """Send `events` in as few messages as their limits allow; none where there are none."""
        waiting: list[str] = []
        size = 0
        for text in map(dumps, events):
            if waiting and (len(waiting) == EVENTS_AT_ONCE or size + len(text) > MESSAGE_LIMIT):
                await self._write(EVENTS.format(",".join(waiting)))
                waiting, size = [], 0
            waiting.append(text)
            size += len(text)
        if waiting:
            await self._write(EVENTS.format(",".join(waiting)))

    async def _write(self, text: str) -> None:
        reader = self.scope.get("reader")
        if reader is not None:
            try:
                async with asyncio.timeout(SLOW_READER):
                    await reader.ready()
            except TimeoutError:
                raise Ended(TOO_SLOW) from None
        await self.send(text_data=text)

    async def _listen(self) -> None:
        """Take news from the channel layer, and subscribe again where that fails."""
        layer = get_channel_layer()
        while True:
            channel = ""
            try:
                async with asyncio.timeout(SUBSCRIBE_TIMEOUT):
                    channel = await layer.new_channel()
                    await layer.group_add(self.group, channel)
                self._unheard = False
                self._tried.set()
                while True:
                    self._waiting.extend((await layer.receive(channel))["events"])
                    self._wake.set()
            except UNHEARD as error:
                log.info("No news from Redis for a socket: %s", error or "timed out")
                self._unheard = True
                self._tried.set()
            finally:
                with suppress(*UNHEARD):
                    async with asyncio.timeout(SUBSCRIBE_TIMEOUT):
                        await layer.group_discard(self.group, channel)
            await asyncio.sleep(RESUBSCRIBE)

    async def _serve(self) -> None:
        try:
            await self._talk()
        except Ended as ended:
            await self._end(ended.code)
        except UNREADABLE as error:
            log.warning("A socket ends, because PostgreSQL can't be read: %s", error or "timed out")
            await self._end(BROKEN)
        except Exception:
            log.exception("A socket broke")
            await self._end(BROKEN)

    async def _talk(self) -> None:
        troubles.look()
        # Subscribed first, read after: what happens between the two is in both, not in none.
        await self._tried.wait()
        await self.greet()
        beat = self._now() + HEARTBEAT
        while True:
            await self._news_or(min(beat, self.due() or beat))
            try:
                await self._turn(beat)
            except UNREADABLE as error:
                # Without a heartbeat the client sees that it is stale, and the next one heals.
                log.warning("A socket can't read PostgreSQL: %s", error or "timed out")
                if self._now() - self._checked > UNCHECKED_LIMIT:
                    raise Ended(BROKEN) from error
            if self._now() >= beat:
                beat = self._now() + HEARTBEAT

    async def _turn(self, beat: float) -> None:
        if self._waiting:
            events = list(self._waiting)
            self._waiting.clear()
            await self.deliver(events)
        due = self.due()
        if due is not None and self._now() >= due:
            await self.settle()
        if self._now() >= beat:
            await self._beat()

    async def _beat(self) -> None:
        """Check that the client may still see, send what was lost, and say that we live."""
        if not await admitted(self._session):
            raise Ended(NOT_LOGGED_IN)
        self._checked = self._now()
        await self.heal()
        told = await self.pulse()
        late = HEARTBEAT if self._unheard or troubles.redis_away else 0
        machinery = {"troubles": troubles.texts, "late": late}
        await self.tell({"type": "heartbeat", "at": iso(timezone.now()), **machinery, **told})
        troubles.look()

    async def _news_or(self, deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._wake.wait()
        self._wake.clear()

    async def _end(self, code: int) -> None:
        if not self._closing:
            self._closing = True
            await self.close(code)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel `tasks` until they end: on its way through redis-py a cancellation may get lost."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN)
