"""`manage.py retry SERVICE INSTANCE...`: try instances that are held out again."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import quarantine
from rollouts.management.commands.deploy import person, service_of
from rollouts.management.commands.watch import asked
from rollouts.models import Deployment


class Command(BaseCommand):
    """Deploy to instances that are held out alone what the others run."""

    help = (
        "Deploy to instances that are held out, and to no others, the version that the rest of "
        "the service runs. Exit status: 0 started (with --watch: completed), 1 failed, 2 refused, "
        "3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service, its instances and what else they may get."""
        parser.add_argument("service")
        parser.add_argument("instances", nargs="+", metavar="INSTANCE")
        parser.add_argument("--to", default="", metavar="VERSION", help="another version than that")
        parser.add_argument("--watch", action="store_true", help="follow it until it ends")

    def handle(self, *args: Any, **options: Any) -> None:
        """Start, follow where asked, and exit with what became of it."""

        def retry() -> Deployment:
            names = options["instances"]
            service = service_of(options)
            return quarantine.retry(service, names, by=person(), version=options["to"])

        out = options.get("stdout") or sys.stdout
        sys.exit(asked(self, retry, "service", out, watch=options["watch"], begins=True))
