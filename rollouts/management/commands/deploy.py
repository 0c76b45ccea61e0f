"""`manage.py deploy SERVICE VERSION`: start a deployment from a terminal, and follow it."""

import getpass
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rollouts import actions
from rollouts.management.commands.watch import asked
from rollouts.models import Deployment, Service
from rollouts.policy import STRATEGIES

NOTE_LIMIT = 500


class Command(BaseCommand):
    """Start a deployment."""

    help = (
        "Deploy a version of a service. Exit status: 0 started (with --watch: completed), "
        "1 rolled back or failed, 2 refused, 3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take service, version and what differs from the service's own policy."""
        parser.add_argument("service")
        parser.add_argument("version")
        parser.add_argument("--strategy", help=f"one of: {', '.join(STRATEGIES)}")
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="settings_of_policy",
            help="a key of the policy, such as batch_size=4, max_unavailable=25%% or "
            """canary_steps='[{"share": 5, "bake": 60}, {"share": 100}]'; repeatable""",
        )
        parser.add_argument(
            "--only",
            action="append",
            metavar="INSTANCE",
            help="change this instance and no other that is not named too; repeatable",
        )
        parser.add_argument("--note", default="", help="why, for those who look later")
        parser.add_argument("--watch", action="store_true", help="follow it until it ends")

    def handle(self, *args: Any, **options: Any) -> None:
        """Start, follow where asked, and exit with what became of it."""
        out = options.get("stdout") or sys.stdout
        start = partial(self._start, options)
        sys.exit(asked(self, start, "service", out, watch=options["watch"], begins=True))

    def _start(self, options: dict[str, Any]) -> Deployment:
        policy = parsed(options["settings_of_policy"])
        if options["strategy"] is not None:
            policy["strategy"] = options["strategy"]
        if len(options["note"]) > NOTE_LIMIT or not options["note"].isprintable():
            raise actions.Refused(
                {"note": f"must be one line of at most {NOTE_LIMIT} printable characters"}
            )
        return actions.start(
            service_of(options),
            options["version"],
            by=person(),
            policy=policy,
            instances=options["only"],
            note=options["note"],
        )


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as a policy, each value as JSON where it is; raise Refused."""
    policy: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        key = key.strip()
        if not sign or not key:
            errors["set"] = f"must be KEY=VALUE, not {text[:64]!r}"
        elif key in policy:
            errors[key] = "is set twice"
        else:
            try:
                policy[key] = json.loads(value)
            except (ValueError, RecursionError):
                policy[key] = value
    if errors:
        raise actions.Refused(errors)
    return policy


def service_of(options: dict[str, Any]) -> Service:
    """Return the service that is named on the command line; raise NotFound."""
    if not options["service"].isprintable():
        raise actions.NotFound("There is no service of that name.")
    return actions.service_named(options["service"])


def person() -> str:
    """Return who sits at the terminal."""
    try:
        return f"{getpass.getuser()} (terminal)"
    except (KeyError, OSError):
        return "terminal"
