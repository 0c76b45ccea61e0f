"""`manage.py dispatch`: gives every deployment that is due and that nobody drives to a worker."""

import signal
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from rollouts.dispatch import Dispatch


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C."""

    help = (
        "Give every deployment that is due, and that nobody drives, to a worker. Several may "
        "run; without one, a deployment whose worker died waits for ever."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--alive", type=Path, help="a file that is touched after each look, for health checks"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # At whatever moment: what it does is done again by the next one that looks.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            Dispatch(options["alive"]).run()
