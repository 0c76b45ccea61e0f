"""`manage.py rollback ID`: bring a running deployment back to the old version."""

import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import actions
from rollouts.management.commands.deploy import person
from rollouts.management.commands.watch import asked


class Command(BaseCommand):
    """Bring every instance back; of blue/green, shift the traffic back first."""

    help = (
        "Bring every instance of a running deployment back to the version that it had; with "
        "blue/green the traffic is shifted back first. Exit status: 0 asked, with --watch: 1 "
        "rolled back or failed; 2 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the id."""
        parser.add_argument("id", help="such as deploy-0123456789ab")
        parser.add_argument("--watch", action="store_true", help="follow it until it ends")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, follow where wanted, and exit with what became of it."""
        out = options.get("stdout") or sys.stdout
        ask = partial(actions.roll_back, options["id"], by=person())
        sys.exit(asked(self, ask, "id", out, watch=options["watch"]))
