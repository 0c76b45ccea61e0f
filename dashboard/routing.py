"""Sockets: which consumer answers where, who is refused at the door, and how much may wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from channels.routing import URLRouter
from channels.sessions import CookieMiddleware
from django.urls import re_path

from dashboard.access import same_origin
from dashboard.consumers import DeploymentConsumer, OverviewConsumer

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
LIMITS = ("maxMessagePayloadSize", "maxFramePayloadSize")  # autobahn's names; 0 is none
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Reader:
    """The way to a client: of any size, but not faster than it reads.

    Daphne takes every message at once and lets them pile up in memory before a client that
    does not read. As Twisted's producer we hear when its buffer is full and when it is
    empty again. Under another server nothing is heard, and the client counts as fast.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._fast = asyncio.Event()
        self._fast.set()
        # Daphne's `send` is a partial of a method with its protocol.
        self._protocol: Any = next(iter(getattr(send, "args", ())), None)
        transport = getattr(self._protocol, "transport", None)
        if transport is not None and hasattr(transport, "registerProducer"):
            transport.unregisterProducer()  # the HTTP channel that the socket grew from
            transport.registerProducer(self, True)

    async def send(self, message: Message) -> None:
        """Send past daphne's limit of 1 MiB, which then holds again for what the client sends."""
        held = {name: getattr(self._protocol, name, None) for name in LIMITS}
        if None in held.values():
            await self._send(message)
            return
        vars(self._protocol).update(dict.fromkeys(LIMITS, 0))
        try:
            # It takes the message without yielding: nothing is read from the client meanwhile.
            await self._send(message)
        finally:
            vars(self._protocol).update(held)

    async def ready(self) -> None:
        """Wait until the client has read what was written before."""
        await self._fast.wait()

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's names
        """Hear that the buffer is full."""
        self._fast.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """Hear that the buffer is empty."""
        self._fast.set()

    def stopProducing(self) -> None:  # noqa: N802
        """Hear that the client is gone: nobody needs to wait for it."""
        self._fast.set()


async def refuse(scope: Message, receive: Receive, send: Send) -> None:
    """Refuse a socket before it is accepted."""
    await receive()
    await send({"type": "websocket.close"})


def guarded(application: Application) -> Application:
    """Return `application` behind the check of the origin, with a watch on slow readers."""

    async def guard(scope: Message, receive: Receive, send: Send) -> None:
        if not same_origin(dict(scope["headers"])):
            await refuse(scope, receive, send)
            return
        reader = Reader(send)
        await application({**scope, "reader": reader}, receive, reader.send)

    return guard


sockets = guarded(
    CookieMiddleware(
        URLRouter(
            [
                re_path(
                    r"^ws/deployments/(?P<deployment_id>deploy-[0-9a-f]{12})/$",
                    DeploymentConsumer.as_asgi(),
                ),
                re_path(r"^ws/overview/$", OverviewConsumer.as_asgi()),
                re_path(r"", refuse),  # type: ignore[arg-type]  # the stubs know views only
            ]
        )
    )
)
