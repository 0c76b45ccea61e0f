"""`manage.py demo`: a real fleet under load, with the whole application around it."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dashboard.local import (
    application,
    fleet,
    haproxy_server,
    load,
    once,
    postgres_server,
    redis_server,
    showcase,
)
from dashboard.local.containers import Containers
from dashboard.local.environment import current_places
from dashboard.local.errors import LocalError
from dashboard.local.hosting import Machines, Processes
from dashboard.local.places import Places
from dashboard.local.stack import (
    LOOPBACK,
    Owner,
    Stack,
    Stopped,
    check_port,
    free_ports,
    interrupt_on_signals,
    say,
)
from dashboard.local.supervision import Program
from rollouts.policy import STRATEGIES

FIRST_PORT = 20_000
DRIVERS: dict[str, type[Processes]] = {
    "command": Processes,
    "ssh": Machines,
    "docker": Containers,
}
FIRST_PORTS = range(1024, 50_000)
MOST_INSTANCES = 200
MOST_REQUESTS = 1000  # a second


class Command(BaseCommand):
    help = (
        "Runs a fleet of real processes behind a real HAProxy under constant load, with the "
        "whole application around it, and says when all is ready. Ctrl-C stops everything."
    )
    requires_system_checks: list[str] = []  # there is no database yet to check

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="of the web, on 127.0.0.1")
        parser.add_argument("--instances", type=int, default=20, help="of the service shop")
        parser.add_argument("--data", type=Path, help="the folder for all that is kept")
        parser.add_argument("--rate", type=float, default=100, help="requests a second")
        parser.add_argument(
            "--once",
            action="store_true",
            help="deploy v2 and a bad v3, say what became of them, and stop",
        )
        parser.add_argument(
            "--strategy", choices=STRATEGIES, default="rolling", help="how versions are deployed"
        )
        parser.add_argument(
            "--driver", choices=DRIVERS, default="command", help="how instances are updated"
        )
        parser.add_argument(
            "--ports",
            type=int,
            default=FIRST_PORT,
            metavar="FIRST",
            help="where free ports are looked for, for all but the web",
        )
        parser.add_argument(
            "--json", action="store_true", help="only what a program reads on standard output"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["instances"] <= MOST_INSTANCES:
            raise CommandError(f"--instances must be from 1 to {MOST_INSTANCES}.")
        if options["strategy"] == "blue_green" and options["instances"] % 2:
            raise CommandError(
                "--instances must be an even number for blue_green: half of them are a slot each."
            )
        if not 0 < options["rate"] <= MOST_REQUESTS:
            raise CommandError(f"--rate must be more than 0 and at most {MOST_REQUESTS}.")
        if options["ports"] not in FIRST_PORTS:
            raise CommandError(
                f"--ports must be from {FIRST_PORTS.start} to {FIRST_PORTS.stop - 1}."
            )
        interrupt_on_signals()
        try:
            if not Demo(current_places(), options).run():
                sys.exit(1)
        except LocalError as error:
            raise CommandError(str(error)) from error


class Demo:
    """One run of the demo."""

    def __init__(self, places: Places, options: dict[str, Any]) -> None:
        self.places = places
        self.port: int = options["port"]
        self.rate: float = options["rate"]
        self.once: bool = options["once"]
        self.count: int = options["instances"]
        self.strategy: str = options["strategy"]
        self.driver: str = options["driver"]
        self.first_port: int = options["ports"]
        self.balancer_url = ""
        self.preview_url = ""  # of a slot, where there are slots

    def run(self) -> bool:
        """Run until Ctrl-C or SIGTERM, or the end of --once; return whether all went well."""
        up = False
        try:
            with Owner(self.places), self._hosting() as hosted:
                self._prepare(hosted)
                with Stack(self.places, self._programs(hosted)) as stack:
                    access = self._start(stack, hosted)
                    self._say_ready(stack, access)
                    self._greet(access)
                    up = True
                    if self.once:
                        return self._run_once(hosted, access)
                    stack.watch(self._keep_balancer_state)
        except Stopped:
            return up and not self.once
        return True

    @contextmanager
    def _hosting(self) -> Iterator[Processes]:
        # Not before the folder is ours: a run that was killed may have left the port taken.
        check_port(self.port)
        kind = DRIVERS[self.driver]
        for each in DRIVERS.values():
            each.clear(self.places)
        kind.check()
        try:
            yield kind(self.places, self.count, self.first_port)
        finally:
            kind.clear(self.places)

    def _prepare(self, hosted: Processes) -> None:
        [balancer_port] = free_ports(1, self.first_port)
        self.balancer_url = f"http://{LOOPBACK}:{balancer_port}"
        postgres_server.prepare(self.places, say)
        redis_server.prepare(self.places)
        hosted.prepare()
        slots = fleet.slots(self.strategy, list(hosted.instances))
        if any(slots.values()):
            self.preview_url = haproxy_server.preview_url(balancer_port)
        servers = hosted.instances, slots, hosted.hosts
        haproxy_server.prepare(self.places, balancer_port, *servers)
        self.places.counts.unlink(missing_ok=True)

    def _programs(self, hosted: Processes) -> list[Program]:
        """Return all in the order of the start: the load stops first, then the workers."""
        return [
            postgres_server.program(self.places),
            redis_server.program(self.places),
            *hosted.programs(self.balancer_url),
            haproxy_server.program(self.places),
            *application.programs(self.places, self.port),
            load.program(self.places, self.balancer_url, self.rate),
        ]

    def _start(self, stack: Stack, hosted: Processes) -> showcase.Access:
        places = self.places
        stack.start(postgres_server.NAME, lambda: postgres_server.answers(places))
        stack.start(redis_server.NAME, lambda: redis_server.answers(places))
        say("Preparing the database.")
        application.migrate()
        application.collect()
        hosted.start(stack)
        stack.start(haproxy_server.NAME, lambda: haproxy_server.answers(places.haproxy_socket))
        access = showcase.fill(places, hosted, self.strategy, self.preview_url)
        application.start(stack, self.port)
        stack.start(load.NAME, places.counts.exists)
        once.flowing(places, self.rate)
        return access

    def _run_once(self, hosted: Processes, access: showcase.Access) -> bool:
        url = f"http://{LOOPBACK}:{self.port}"
        script = once.Script(self.strategy, self.count)
        return once.run(self.places, hosted, url, access.token, self.rate, script)

    def _say_ready(self, stack: Stack, access: showcase.Access) -> None:
        where = self.balancer_url, access, self.preview_url
        print(showcase.ready_line(stack, self.port, self.driver, *where), flush=True)

    def _greet(self, access: showcase.Access) -> None:
        say(
            f"{self.count} instances run {fleet.FIRST_VERSION} at {self.balancer_url} "
            f"under {self.rate:g} requests a second; the strategy is {self.strategy}, the driver "
            f"{self.driver}."
        )
        if self.preview_url:
            say(
                f"Slot {fleet.LIVE} has the traffic; the idle one can be tried at "
                f"{self.preview_url.format(slot=fleet.IDLE)}"
            )
        say(
            f"Open http://{LOOPBACK}:{self.port}/ and log in as {access.user} with the password "
            f"{access.password}"
        )
        if not self.once:
            say("Ctrl-C stops everything.")

    def _keep_balancer_state(self) -> None:
        with suppress(OSError):
            haproxy_server.save_state(self.places)
