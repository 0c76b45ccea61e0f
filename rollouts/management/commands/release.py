"""`manage.py release SERVICE INSTANCE...`: put instances that are held out back as they are."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import actions, quarantine, trail
from rollouts.management.commands.deploy import person, service_of
from rollouts.management.commands.watch import REFUSED


class Command(BaseCommand):
    """Put instances back into rotation without changing them."""

    help = (
        "Put instances that are held out back into rotation as they are, those that are well. "
        "Exit status: 0 done, 2 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service and its instances."""
        parser.add_argument("service")
        parser.add_argument("instances", nargs="+", metavar="INSTANCE")

    def handle(self, *args: Any, **options: Any) -> None:
        """Put them back, or say why not."""
        try:
            back = quarantine.release(service_of(options), options["instances"], by=person())
        except (actions.NotFound, actions.Conflict) as error:
            self.stderr.write(f"service: {error}")
            sys.exit(REFUSED)
        trail.note((one, "change", f"Put back into rotation by {person()}.") for one in back)
        for instance in back:
            self.stdout.write(f"{instance.name} is back in rotation.")
