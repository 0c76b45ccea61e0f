"""`manage.py check_fleet SERVICE`: what must hold before a deployment, looked at from here."""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import preflight
from rollouts.actions import NotFound, service_named
from rollouts.facts import Tick
from rollouts.looks import shown

GLYPHS = {True: "✓", False: "✕", None: "?"}
REFUSED = 2


class Command(BaseCommand):
    """Look at the fleet of a service, and change nothing."""

    help = (
        "Look at the fleet of a service from this machine, which should be a worker's: whether "
        "hosts are reached, keys are right, the old version is there, balancer and inventory "
        "agree. Exit status: 0 all well, 1 something does not hold, 2 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service."""
        parser.add_argument("service")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print a line for each thing that was looked at, and exit with what was found."""
        name = options["service"]
        try:
            if not name.isprintable():
                raise NotFound("There is no service of that name.")
            look = preflight.look_at(service_named(name))
        except NotFound as error:
            self.stderr.write(str(error))
            sys.exit(REFUSED)
        found = asyncio.run(look)
        for line in _lines("", found.fleet):
            self.stdout.write(line)
        for instance, ticks in found.instances.items():
            for line in _lines(f"{instance} ", ticks):
                self.stdout.write(line)
        self.stdout.write("All well." if found.ok else "Not all is well: see what has a ✕.")
        sys.exit(0 if found.ok else 1)


def _lines(whose: str, ticks: Iterable[Tick]) -> Iterator[str]:
    for tick in ticks:
        detail = f": {shown(tick.detail)}" if tick.detail else ""
        yield f"{GLYPHS[tick.ok]} {whose}{shown(tick.what)}{detail}"
