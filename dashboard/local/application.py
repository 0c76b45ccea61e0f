"""The application itself as supervised programs: the web, dispatch and the workers."""

import http.client
import secrets
import sys

import django_rq
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DatabaseError, connections
from redis.exceptions import RedisError

from dashboard.local.environment import write_secret
from dashboard.local.errors import LocalError
from dashboard.local.places import Places
from dashboard.local.stack import LOOPBACK, Stack
from dashboard.local.supervision import Program

WEB = "web"
DISPATCH = "dispatch"
WORKERS = 2
WEB_CONNECTIONS = 10  # as many backends of PostgreSQL; each worker has its own beside them
ADMIN = "admin"
START_PATIENCE = 60.0  # seconds


def worker_names() -> list[str]:
    """Return the names of the workers."""
    return [f"worker-{number}" for number in range(1, WORKERS + 1)]


def programs(places: Places, port: int) -> list[Program]:
    """Return the web on `port`, dispatch and the workers; they stop in the reverse order."""
    python = sys.executable
    return [
        Program(
            WEB,
            (python, "-m", "daphne", "-b", LOOPBACK, "-p", str(port), "dashboard.asgi:application"),
            environment={"DATABASE_POOL": str(WEB_CONNECTIONS)},
        ),
        Program(
            DISPATCH,
            (python, "manage.py", "dispatch", "--alive", str(places.dispatch_alive)),
            group="scheduler",
        ),
        *(
            # What a worker that is cut off leaves half done, its successor finishes.
            Program(name, (python, "manage.py", "worker"), group="worker", stop_seconds=5)
            for name in worker_names()
        ),
    ]


def migrate() -> None:
    """Bring the database to the shape of this version; raise LocalError where it can't be."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        raise LocalError(f"The database can't be prepared: {error}") from error
    finally:
        connections.close_all()


def collect() -> None:
    """Lay out the static files as they are sent; what an earlier version sent is forgotten."""
    call_command("collectstatic", interactive=False, verbosity=0, clear=True)


def check_redis() -> None:
    """Raise LocalError unless the Redis of the settings answers."""
    try:
        django_rq.get_connection().ping()
    except (RedisError, OSError) as error:
        raise LocalError(f"The Redis at REDIS_URL does not answer: {error}.") from error


def start(stack: Stack, port: int) -> None:
    """Start web, dispatch and workers, and wait until all of them do their work."""
    stack.places.dispatch_alive.unlink(missing_ok=True)
    stack.supervisor.launch(*worker_names(), DISPATCH)  # they load while the web does
    stack.start(WEB, lambda: serves(port), START_PATIENCE)
    stack.supervisor.wait(DISPATCH, stack.places.dispatch_alive.exists, START_PATIENCE)
    for name in worker_names():
        stack.supervisor.wait(name, lambda: registered_workers() >= WORKERS, START_PATIENCE)


def serves(port: int) -> bool:
    """Whether the web answers a page."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def registered_workers() -> int:
    """Return how many workers listen on the queue."""
    try:
        return len(django_rq.get_connection().smembers("rq:workers:default"))
    except (RedisError, OSError):
        return 0


def first_admin(places: Places) -> bool:
    """Make the administrator of an empty installation; return whether one was made.

    The password is random, and kept in the data folder for its owner's eyes.
    """
    try:
        if User.objects.exists():
            return False
        set_admin_password(places)
    finally:
        connections.close_all()
    return True


def set_admin_password(places: Places) -> User:
    """Return the administrator, with the password that is kept in the data folder."""
    if not places.password.exists():
        write_secret(places.password, secrets.token_urlsafe(12))
    password = places.password.read_text().strip()
    admin, _ = User.objects.get_or_create(username=ADMIN)
    if not (admin.is_superuser and admin.is_active and admin.check_password(password)):
        # Only then: a new hash ends the sessions of those who are logged in.
        admin.is_staff = admin.is_superuser = admin.is_active = True
        admin.set_password(password)
        admin.save()
    return admin
