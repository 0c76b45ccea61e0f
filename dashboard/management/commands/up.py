"""`manage.py up`: the application on this machine, without a fleet."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dashboard.local import application, postgres_server, redis_server
from dashboard.local.environment import current_places
from dashboard.local.errors import LocalError
from dashboard.local.places import Places
from dashboard.local.stack import (
    LOOPBACK,
    Owner,
    Stack,
    Stopped,
    check_port,
    interrupt_on_signals,
    say,
)
from dashboard.local.supervision import Program


class Command(BaseCommand):
    help = (
        "Runs the whole application on this machine: on a PostgreSQL and a Redis of its own, "
        "kept in --data, or on DATABASE_URL and REDIS_URL where they are set."
    )
    requires_system_checks: list[str] = []  # there is no database yet to check

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="of the web, on 127.0.0.1")
        parser.add_argument("--data", type=Path, help="the folder for all that is kept")

    def handle(self, *args: Any, **options: Any) -> None:
        interrupt_on_signals()
        try:
            run(current_places(), options["port"])
        except LocalError as error:
            raise CommandError(str(error)) from error


def run(places: Places, port: int) -> None:
    """Run until Ctrl-C or SIGTERM; raise LocalError where it can't go on."""
    check_port(port)
    up = False
    try:
        with Owner(places), Stack(places, _programs(places, port)) as stack:
            _start(stack, port)
            up = True
            stack.watch()
    except Stopped:
        if not up:
            raise LocalError("It was stopped before it was up.") from None


def _programs(places: Places, port: int) -> list[Program]:
    programs = []
    if _own_database(places):
        postgres_server.prepare(places, say)
        programs.append(postgres_server.program(places))
    if _own_redis(places):
        redis_server.prepare(places)
        programs.append(redis_server.program(places))
    return [*programs, *application.programs(places, port)]


def _start(stack: Stack, port: int) -> None:
    places = stack.places
    if _own_database(places):
        stack.start(postgres_server.NAME, lambda: postgres_server.answers(places))
    if _own_redis(places):
        stack.start(redis_server.NAME, lambda: redis_server.answers(places))
    application.check_redis()
    say("Preparing the database.")
    application.migrate()
    application.collect()
    new = application.first_admin(places)
    application.start(stack, port)
    say(f"Up: open http://{LOOPBACK}:{port}/ - Ctrl-C stops it.")
    if new:
        say(f"Log in as {application.ADMIN} with the password {_password(places)}")
    elif places.password.exists():
        say(f"The first password of {application.ADMIN} is in {places.password}.")


def _password(places: Places) -> str:
    return places.password.read_text().strip()


def _own_database(places: Places) -> bool:
    return os.environ["DATABASE_URL"] == places.database_url


def _own_redis(places: Places) -> bool:
    return os.environ["REDIS_URL"] == places.redis_url
