"""`manage.py import_instances SERVICE --from-...`: instances as another system knows them."""

import asyncio
import sys
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandParser
from django.db import IntegrityError

from rollouts import importing, importing_ansible, importing_sources
from rollouts.hostkeys import ConfirmedHosts
from rollouts.importing_sources import Json, SourceError
from rollouts.inventory import InventoryError
from rollouts.management.commands.deploy import person
from rollouts.management.commands.inventory import REFUSED, summary
from rollouts.models import Service

MOST_BYTES = 4 * 2**20  # of a file


class Command(BaseCommand):
    """Print as inventory, or with --apply store, the instances that a source tells."""

    help = (
        "Print the instances that another system knows as an inventory file, or with --apply add "
        "and change them. Nothing is deleted. Exit status: 0, or 2 where anything is refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service, one source, and what the source does not tell."""
        parser.add_argument("service", metavar="SERVICE")
        sources = parser.add_mutually_exclusive_group(required=True)
        sources.add_argument(
            "--from-haproxy", metavar="ADDRESS", help="unix:/PATH or HOST:PORT; with --backend"
        )
        sources.add_argument(
            "--from-ansible", metavar="FILE", help="inventory in INI or YAML, or --list's JSON"
        )
        sources.add_argument(
            "--from-docker", metavar="ADDRESS", help="unix:///PATH, tcp://HOST:PORT, ssh://HOST"
        )
        sources.add_argument(
            "--from-csv", metavar="FILE", help="columns: name,host,port,server,slot,zone"
        )
        parser.add_argument("--backend", default="", help="of HAProxy")
        parser.add_argument("--group", default="all", help="of Ansible; all where not given")
        parser.add_argument(
            "--label", action="append", default=[], metavar="KEY[=VALUE]", help="of Docker"
        )
        parser.add_argument(
            "--port", type=int, help="where the source tells none; the container's own for Docker"
        )
        parser.add_argument(
            "--port-var", default="", metavar="NAME", help="Ansible's variable with the port"
        )
        parser.add_argument("--apply", action="store_true", help="add and change what was found")

    def handle(self, *args: Any, **options: Any) -> None:
        """Find, and print or store."""
        service = options["service"]
        try:
            text = importing.as_yaml(importing.document(service, self._found(service, options)))
            changes = importing.reconciled(service, text, apply=options["apply"], by=person())
        except SourceError as error:
            self._refuse(str(error))
        except InventoryError as error:
            self._refuse(*(f"{where}: {right}" for where, right in error.errors.items()))
        except IntegrityError as error:
            self._refuse(f"The inventory was changed at the same time; run it again: {error}")
        if not options["apply"]:
            self.stdout.write(text, ending="")
            if not Service.objects.filter(name=service).exists():
                self.stderr.write(f"There is no service {service}: add its driver and balancer.")
            return
        for change in changes:
            self.stdout.write(_line(change))
        done = [change for change in changes if change.kind != "extra"]
        self.stdout.write(summary(done, check=False))

    def _found(self, service: str, options: dict[str, Any]) -> list[Json]:
        port = options["port"]
        if address := options["from_haproxy"]:
            return asyncio.run(importing_sources.from_haproxy(address, options["backend"], port))
        if address := options["from_docker"]:
            stored = Service.objects.filter(name=service).first()
            return asyncio.run(
                importing_sources.from_docker(
                    address,
                    options["label"],
                    port,
                    stored.driver if stored else {},
                    ConfirmedHosts(),
                )
            )
        if name := options["from_csv"]:
            return importing_sources.from_csv(_text(name), service, port)
        return importing_ansible.instances(
            _text(options["from_ansible"]), options["group"], port, options["port_var"]
        )

    def _refuse(self, *lines: str) -> NoReturn:
        for line in lines:
            self.stderr.write(line)
        self.stderr.write("Refused: nothing was changed.")
        sys.exit(REFUSED)


def _line(change: Any) -> str:
    if change.kind == "extra":
        return f"? {change.what} {change.name}: was not found, and is left as it is"
    return str(change)


def _text(name: str) -> str:
    """Return what is in a file, or with - on standard input; raise SourceError."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{name}: can't be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise SourceError(f"{name}: must have at most {MOST_BYTES // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: must be text in UTF-8") from error
