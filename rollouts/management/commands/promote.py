"""`manage.py promote ID`: go past what a deployment waits for."""

import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import actions
from rollouts.management.commands.deploy import person
from rollouts.management.commands.watch import asked


class Command(BaseCommand):
    """Approve, or end a bake before its time."""

    help = (
        "Go past an approval, or the rest of a bake. Exit status: 0 asked (with --watch: "
        "completed), 1 rolled back or failed, 2 refused, 3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the id, and how far."""
        parser.add_argument("id", help="such as deploy-0123456789ab")
        parser.add_argument("--watch", action="store_true", help="follow it until it ends")
        parser.add_argument(
            "--to-end",
            action="store_true",
            help="past all approvals and bakes before the new version has everything",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, follow where wanted, and exit with what became of it."""
        out = options.get("stdout") or sys.stdout
        ask = partial(actions.promote, options["id"], by=person(), to_end=options["to_end"])
        sys.exit(asked(self, ask, "id", out, watch=options["watch"]))
