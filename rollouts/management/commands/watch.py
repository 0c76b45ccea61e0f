"""`manage.py watch ID`: follow a deployment from a terminal; its end is the exit status."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import InterfaceError, OperationalError, connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rollouts import actions
from rollouts.models import Deployment
from rollouts.snapshots import Json, apply, consistent_snapshot, events_after
from rollouts.states import TERMINAL, DeploymentStatus

EXIT = {
    DeploymentStatus.COMPLETED: 0,
    DeploymentStatus.ROLLED_BACK: 1,
    DeploymentStatus.FAILED: 1,
    DeploymentStatus.CANCELLED: 3,
}
REFUSED = 2
INTERRUPTED = 130
EVENTS_AT_ONCE = 500
LOOK_EVERY = 1.0  # seconds; news from Redis make it sooner
REDIS_TIMEOUT = 1.0  # seconds
# What a terminal would obey rather than show: driver output may hold anything.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Waker:
    """Waits for the next look at PostgreSQL: until Redis has news, or its time has come."""

    def __init__(self, deployment_id: str) -> None:
        self._channel = f"deploy:{deployment_id}"
        self._redis = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=REDIS_TIMEOUT,
            socket_timeout=REDIS_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._pubsub: Any = None

    def wait(self, seconds: float = LOOK_EVERY) -> None:
        """Return after `seconds`, or sooner where there are news."""
        began = time.monotonic()
        try:
            if self._pubsub is None:
                self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(self._channel)
            while (left := began + seconds - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left) is not None:
                    return
        except (RedisError, OSError):
            self.close()
            time.sleep(max(0, began + seconds - time.monotonic()))

    def close(self) -> None:
        """Give up the subscription; the next wait makes another."""
        pubsub, self._pubsub = self._pubsub, None
        with suppress(RedisError, OSError):
            if pubsub is not None:
                pubsub.close()
            self._redis.close()


class Follower:
    """Tells what happens to one deployment until it ends."""

    def __init__(self, deployment_id: str, out: TextIO) -> None:
        self._id = deployment_id
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._held: Json = {}
        self._away = False

    def follow(self, *, from_the_start: bool = False) -> int:
        """Follow until the end; return the exit status. Raises Deployment.DoesNotExist."""
        self._held = consistent_snapshot(self._id)
        held = self._held
        self._say(f"{held['service']}: {held['previous_version'] or '?'} -> {held['version']}")
        seen = 0 if from_the_start else held["seq"]
        waker = Waker(self._id)
        try:
            with self._bar() as bar:
                while True:
                    seen = self._catch_up(seen, bar)
                    if DeploymentStatus(self._held["status"]) in TERMINAL:
                        break
                    waker.wait()
        finally:
            waker.close()
        self._say(f"{self._id} is {self._held['status']}: {self._held['reason']}")
        return EXIT[DeploymentStatus(self._held["status"])]

    def _catch_up(self, seen: int, bar: Progress) -> int:
        """Tell the events after `seen`; return the last one told."""
        try:
            while events := events_after(self._id, seen, EVENTS_AT_ONCE):
                for event in events:
                    self._tell(event)
                self._held = apply(self._held, [e for e in events if e["seq"] > self._held["seq"]])
                seen = events[-1]["seq"]
            self._away = False
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if not self._away:
                self._say(f"PostgreSQL is out of reach, the screen is stale: {error}")
            self._away = True
        self._draw(bar)
        return seen

    def _tell(self, event: Json) -> None:
        if not event["message"]:
            return
        target = event.get("target", "")
        whose = f"{target}: " if event["kind"] == "output" else ""
        for line in event["message"].splitlines():
            self._say(f"{event['at'][11:19]} {whose}{line}")

    def _say(self, text: str) -> None:
        self._console.print(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text), soft_wrap=True)

    @contextmanager
    def _bar(self) -> Iterator[Progress]:
        """A bar below the lines, where this is a terminal; the lines alone elsewhere."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        terminal = self._console.is_terminal
        with Progress(*columns, console=self._console, disable=not terminal) as bar:
            self._task = bar.add_task("", total=self._held["progress"]["total"])
            yield bar

    def _draw(self, bar: Progress) -> None:
        progress = self._held["progress"]
        back = self._held["status"] in {
            DeploymentStatus.ROLLING_BACK,
            DeploymentStatus.ROLLED_BACK,
        }
        done = progress["rolled_back"] if back else progress["healthy"]
        batch = f"batch {progress['batch']} of {progress['batches']}"
        status = self._held["status"].replace("_", " ")
        bar.update(self._task, completed=done, description=f"{status}, {batch}")


class Command(BaseCommand):
    """Follow a deployment until it ends."""

    help = (
        "Follow a deployment. Exit status: 0 completed, 1 rolled back or failed, "
        "2 there is no such deployment, 3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the id."""
        parser.add_argument("id", help="such as deploy-0123456789ab")

    def handle(self, *args: Any, **options: Any) -> None:
        """Follow, and exit with what became of it."""
        sys.exit(self.watch(options["id"], options.get("stdout") or sys.stdout))

    def watch(self, deployment_id: str, out: TextIO) -> int:
        """Return the exit status."""
        try:
            if "\0" in deployment_id:
                raise Deployment.DoesNotExist
            return Follower(deployment_id, out).follow()
        except Deployment.DoesNotExist:
            self.stderr.write(f"id: there is no deployment {deployment_id!r}")
            return REFUSED
        except KeyboardInterrupt:
            self.stderr.write(goes_on(deployment_id))
            return INTERRUPTED


def asked(
    command: BaseCommand,
    ask: Callable[[], Deployment],
    whose: str,
    out: TextIO,
    *,
    watch: bool,
    begins: bool = False,
) -> int:
    """Ask for a deployment, or something of one; follow it where wanted; return the exit status.

    `whose` is the argument that a refusal without a key is about. One that `begins` is named on
    `out`, and followed from its first event.
    """
    try:
        deployment = ask()
    except (actions.NotFound, actions.Conflict) as error:
        command.stderr.write(f"{whose}: {error}")
        return REFUSED
    except actions.Refused as error:
        for key, text in error.errors.items():
            command.stderr.write(f"{key}: {text}")
        return REFUSED
    if begins:
        print(deployment.id, file=out, flush=True)
    if not watch:
        return 0
    try:
        return Follower(deployment.id, out).follow(from_the_start=begins)
    except KeyboardInterrupt:
        command.stderr.write(goes_on(deployment.id))
        return INTERRUPTED


def goes_on(deployment_id: str) -> str:
    """Return what to tell whoever stops watching."""
    return f"The deployment goes on: 'manage.py watch {deployment_id}' follows it again."
