"""`manage.py hostkeys`: the keys of hosts that are reached over SSH, met, compared, confirmed."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from asgiref.sync import async_to_sync
from django.core.management.base import BaseCommand, CommandParser
from django.db.models import QuerySet

from rollouts import hostkeys, trail
from rollouts.management.commands.deploy import person
from rollouts.models import HostKey, Service
from rollouts.ssh import HostKeyRefused, Place, Ssh, SshError, SshSettings

REFUSED = 2


class Command(BaseCommand):
    """List, meet, confirm and forget host keys."""

    help = (
        "The keys of hosts that are reached over SSH. A host is trusted once a person has compared "
        "its fingerprint with what `ssh-keygen -lf` says on the host itself, and confirmed it. "
        "Exit status: 0, or 2 where something is refused or a host could not be met."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what is to be done, `list` where nothing is said."""
        doing = parser.add_subparsers(dest="do", metavar="list|scan|confirm|forget")
        doing.add_parser("list", help="print all keys (the default)")
        scan = doing.add_parser("scan", help="meet the hosts of a service; confirms nothing")
        scan.add_argument("service")
        for name, words in (
            ("confirm", "trust a key that a host showed"),
            ("forget", "trust a key, or all keys of a host, no more"),
        ):
            one = doing.add_parser(name, help=words)
            one.add_argument("host", metavar="HOST[:PORT]")
            one.add_argument("fingerprint", nargs="?" if name == "forget" else None)

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what was asked for."""
        match options["do"]:
            case "scan":
                self._scan(options["service"])
            case "confirm":
                self._confirm(options["host"], options["fingerprint"])
            case "forget":
                self._forget(options["host"], options["fingerprint"])
            case _:
                self._print(HostKey.objects.all())

    def _scan(self, name: str) -> None:
        service = Service.objects.filter(name=name).first()
        if service is None:
            self._refuse(f"there is no service {name}")
        reached = _reached(service)
        if not reached:
            self._refuse(f"neither driver nor balancer of {service} goes over SSH")
        failed = async_to_sync(_meet)(reached)
        places: set[Place] = set()
        for settings, hosts in reached:
            places |= {settings.place(host) for host in hosts}
            places |= {settings.jump} if settings.jump else set()
        for host, port in sorted({(place.host, place.port) for place in places}):
            self._print(HostKey.objects.filter(host=host, port=port))
        for line in failed:
            self.stderr.write(line)
        if failed:
            sys.exit(REFUSED)

    def _confirm(self, host: str, fingerprint: str) -> None:
        keys = self._keys(host).filter(fingerprint=fingerprint)
        if not keys:
            self._refuse(
                f"{host} showed no key {fingerprint}: let it be met first, with "
                '`manage.py hostkeys scan SERVICE` or "Check fleet"'
            )
        confirmed = hostkeys.confirm(keys, person())
        trail.note((key, "change", f"Confirmed by {person()}.") for key in confirmed)
        self._print(keys.all())

    def _forget(self, host: str, fingerprint: str | None) -> None:
        keys = self._keys(host)
        if fingerprint:
            keys = keys.filter(fingerprint=fingerprint)
        chosen = list(keys)
        if not chosen:
            self._refuse(f"no such key of {host} is kept")
        trail.note((key, "delete", f"Forgotten by {person()}.") for key in chosen)
        hostkeys.forget(chosen, person())
        for key in chosen:
            self.stdout.write(f"forgotten: {key}")

    def _keys(self, host: str) -> QuerySet[HostKey]:
        try:
            place = Place.parse(host)
        except ValueError as error:
            self._refuse(f"{host} {error}")
        return HostKey.objects.filter(host=place.host, port=place.port)

    def _print(self, keys: Iterable[HostKey]) -> None:
        for key in keys:
            where = Place(key.host, key.port)
            kind = key.key.split()[0]
            if key.confirmed_at is None:
                state = "not confirmed"
            else:
                state = f"confirmed by {key.confirmed_by} at {key.confirmed_at:%Y-%m-%d %H:%M} UTC"
            self.stdout.write(f"{where}  {key.fingerprint}  {kind}  {state}")

    def _refuse(self, line: str) -> NoReturn:
        self.stderr.write(f"Refused: {line}.")
        sys.exit(REFUSED)


def _reached(service: Service) -> list[tuple[SshSettings, list[str]]]:
    """Return how driver and balancer of `service` go over SSH, and to which hosts."""
    instances = [one.fact() for one in service.instances.filter(active=True)]
    reached = []
    for raw in (service.driver, service.balancer):
        if raw.get("kind") == "ssh" or "ssh" in raw:
            settings = SshSettings.parse(raw.get("ssh"))
            hosts = raw.get("hosts") or [settings.host_of(one) for one in instances]
            reached.append((settings, list(dict.fromkeys(hosts))))
    return reached


async def _meet(reached: Sequence[tuple[SshSettings, Sequence[str]]]) -> list[str]:
    """Reach all hosts, so that their keys are kept; return what else went wrong."""

    async def one(ssh: Ssh, host: str) -> str:
        try:
            await ssh.reach(host)
        except HostKeyRefused:
            return ""
        except SshError as error:
            return str(error)
        return ""

    async def all_of(settings: SshSettings, hosts: Sequence[str]) -> list[str]:
        ssh = Ssh(settings, hostkeys.ConfirmedHosts())
        try:
            return await asyncio.gather(*(one(ssh, host) for host in hosts))
        finally:
            await ssh.aclose()

    lines = [line for each in reached for line in await all_of(*each) if line]
    return list(dict.fromkeys(lines))
