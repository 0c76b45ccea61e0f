"""A client of the sockets, as strict as the contract: each event once, in order, none missed."""

import json
from collections.abc import Callable
from typing import Any

from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client

from dashboard.routing import sockets
from rollouts.snapshots import Json, apply

PATIENCE = 20.0  # seconds for a message


def make_user(name: str = "ada", *rights: str) -> User:
    """Return a stored user with these rights of the domain, such as `view_deployment`."""
    user = User.objects.create_user(name)  # no password: hashing takes its time
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return user


def session_of(user: User) -> str:
    """Return the key of a session in which `user` is logged in."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def communicator(path: str, session: str = "", **headers: str) -> WebsocketCommunicator:
    """Return a socket that is not connected yet, as our own page would open it."""
    all_headers = {
        "host": "testserver",
        "origin": "http://testserver",
        "cookie": f"{settings.SESSION_COOKIE_NAME}={session}",
        **headers,
    }
    return WebsocketCommunicator(
        sockets,
        path,
        headers=[(key.encode(), value.encode()) for key, value in all_headers.items() if value],
    )


class Screen:
    """What a page holds of one deployment: the snapshot with every patch applied."""

    def __init__(self, receive: Callable[[], Any]) -> None:
        self._receive = receive
        self.held: Json = {}
        self.events: list[Json] = []
        self.messages: list[Json] = []
        self.last = 0

    async def read(self) -> Json:
        """Take one message; fail on an event that is doubled, missing or out of order."""
        message: Json = json.loads(await self._receive())
        self.messages.append(message)
        if message["type"] == "snapshot":
            self.held = message["deployment"]
            self.last = self.held["seq"]
        for event in message.get("events", []):
            assert event["seq"] == self.last + 1
            self.last = event["seq"]
            self.events.append(event)
            if self.held:
                self.held = apply(self.held, [event])
        return message

    async def until(self, seq: int) -> None:
        """Take messages until the event `seq` is there."""
        while self.last < seq:
            await self.read()

    async def until_type(self, kind: str) -> Json:
        """Take messages until one of this type; return it."""
        while (message := await self.read())["type"] != kind:
            pass
        return message


def screen_of(socket: WebsocketCommunicator, last: int = 0) -> Screen:
    """Return the screen behind a connected socket, which holds the events up to `last`."""
    screen = Screen(lambda: socket.receive_from(timeout=PATIENCE))
    screen.last = last
    return screen
