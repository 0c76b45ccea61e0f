"""`manage.py inventory FILE`: make services and instances match a file."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandParser
from django.db import IntegrityError
from django.db.models import ProtectedError

from rollouts.inventory import Change, InventoryError, reconcile
from rollouts.management.commands.deploy import person

REFUSED = 2


class Command(BaseCommand):
    """Create, change and (with --prune) delete what the file says."""

    help = (
        "Make services and instances match a YAML or JSON file, or refuse all of it. "
        "Exit status: 0, or 2 where the file is refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the file, and what may be done."""
        parser.add_argument("file", type=Path, metavar="FILE", help="- for standard input")
        parser.add_argument("--check", action="store_true", help="print what differs, change none")
        parser.add_argument(
            "--prune", action="store_true", help="delete what is stored and not in the file"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Reconcile, and print what differed."""
        path: Path = options["file"]
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
            changes = reconcile(text, prune=options["prune"], check=options["check"], by=person())
        except InventoryError as error:
            self._refuse(*(f"{where}: {right}" for where, right in error.errors.items()))
        except OSError as error:
            self._refuse(f"{path}: can't be read: {error.strerror}")
        except UnicodeDecodeError:
            self._refuse(f"{path}: must be text in UTF-8")
        except ProtectedError as error:
            self._refuse(str(error.args[0]))
        except IntegrityError as error:
            self._refuse(f"The inventory was changed at the same time; run it again: {error}")
        for change in changes:
            self.stdout.write(str(change))
        self.stdout.write(summary(changes, check=options["check"]))

    def _refuse(self, *lines: str) -> NoReturn:
        for line in lines:
            self.stderr.write(line)
        self.stderr.write("Refused: nothing was changed.")
        sys.exit(REFUSED)


def summary(changes: list[Change], *, check: bool) -> str:
    """Return how much was, or with `check` would be, done."""
    counts = Counter(change.kind for change in changes)
    done = [("create", "created"), ("change", "changed"), ("delete", "deleted")]
    parts = [f"{counts[kind]} {word}" for kind, word in done if counts[kind]]
    if not parts:
        return "Nothing to change."
    return f"{'Would be' if check else 'Done'}: {', '.join(parts)}."
