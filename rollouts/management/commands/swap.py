"""`manage.py swap SERVICE`: move the traffic to the idle slot as it is."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import actions
from rollouts.management.commands.deploy import person, service_of
from rollouts.management.commands.watch import asked
from rollouts.models import Deployment


class Command(BaseCommand):
    """Swap the slots of a service without changing an instance."""

    help = (
        "Move the traffic of a service to its idle slot, once the whole of it is verified. Exit "
        "status: 0 started (with --watch: completed), 1 rolled back or failed, 2 refused, "
        "3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service."""
        parser.add_argument("service")
        parser.add_argument("--watch", action="store_true", help="follow it until it ends")

    def handle(self, *args: Any, **options: Any) -> None:
        """Swap, follow where wanted, and exit with what became of it."""

        def swap() -> Deployment:
            return actions.swap(service_of(options), by=person())

        out = options.get("stdout") or sys.stdout
        sys.exit(asked(self, swap, "service", out, watch=options["watch"], begins=True))
