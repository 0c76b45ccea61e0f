"""Where the instances of the demo live and how they get a version: by the demo's --driver."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.utils import timezone

from dashboard.local import fleet, sshd_server
from dashboard.local.places import Places
from dashboard.local.stack import LOOPBACK, Stack, free_ports
from dashboard.local.supervision import Program
from rollouts.hostkeys import fingerprint
from rollouts.models import HostKey

INSTANCE_PORTS = 1000  # above the first port of the demo: where those of instances are looked for
SSHD_PORTS = 500  # the same for that of all sshd
# All of 127.0.0.0/8 is this machine on Linux, and one address of it elsewhere.
MACHINES = 4 if sys.platform == "linux" else 1


class Processes:
    """Processes on this machine, which a command on the worker updates.

    `instances` are their names with their ports, `hosts` their addresses, by name too.
    """

    def __init__(self, places: Places, count: int, first_port: int) -> None:
        self.places = places
        addresses = self.addresses()
        ports = free_ports(count, first_port + INSTANCE_PORTS, addresses)
        self.instances = dict(zip(fleet.names(count), ports, strict=True))
        self.hosts = {
            name: addresses[place % len(addresses)] for place, name in enumerate(self.instances)
        }

    @staticmethod
    def check() -> None:
        """Raise LocalError where this machine lacks what it takes."""

    @staticmethod
    def clear(places: Places) -> None:
        """Take away what is left when all programs have ended, by a kill too."""

    def addresses(self) -> Sequence[str]:
        """Return the addresses that the instances share."""
        return (LOOPBACK,)

    @property
    def driver(self) -> Mapping[str, Any]:
        """Return the driver's settings, as the inventory has them."""
        return fleet.update_command(self.places)

    def prepare(self) -> None:
        """Write what the programs need, whatever an earlier run left; raise LocalError."""
        fleet.prepare(self.places, self.instances)

    def programs(self, balancer_url: str) -> list[Program]:
        """Return what is to be run for it, in the order of the start."""
        return fleet.programs(self.places, self.instances, balancer_url, self.hosts)

    def start(self, stack: Stack) -> None:
        """Start all and return when every instance answers; raise LocalError."""
        fleet.start(stack, self.instances, self.hosts)

    def introduce(self) -> None:
        """Tell the database, which is there by now, what is to be known of the hosts."""

    @contextmanager
    def watching(self, version: str) -> Iterator[Callable[[], list[str]]]:
        """Yield what returns the instances that were given `version` since then."""
        since = len(fleet.history(self.places).read_text().splitlines())
        yield partial(fleet.updated, self.places, version, since)


class Machines(Processes):
    """The same processes, on hosts that the worker logs in to over SSH to update them."""

    def __init__(self, places: Places, count: int, first_port: int) -> None:
        super().__init__(places, count, first_port)
        [self.port] = free_ports(1, first_port + SSHD_PORTS, self.addresses())
        self.machines = [
            sshd_server.Host(address, self.port, places.ssh) for address in self.addresses()
        ]

    @staticmethod
    def check() -> None:
        sshd_server.check()

    @staticmethod
    def clear(places: Places) -> None:
        shutil.rmtree(places.ssh, ignore_errors=True)

    def addresses(self) -> Sequence[str]:
        return [f"127.0.0.{number}" for number in range(1, MACHINES + 1)]

    @property
    def driver(self) -> Mapping[str, Any]:
        key = str(sshd_server.client_key(self.places.ssh))
        ssh = {"user": sshd_server.user(), "port": self.port, "key": key}
        return fleet.update_over_ssh(self.places, ssh)

    def prepare(self) -> None:
        super().prepare()
        sshd_server.prepare(self.machines, self.places.data)

    def programs(self, balancer_url: str) -> list[Program]:
        return [*sshd_server.programs(self.machines), *super().programs(balancer_url)]

    def start(self, stack: Stack) -> None:
        for host in self.machines:
            stack.start(sshd_server.name(host), partial(sshd_server.answers, host))
        super().start(stack)

    def introduce(self) -> None:
        """Confirm the hosts' keys: they were made here a moment ago."""
        HostKey.objects.filter(host__in=self.addresses()).delete()
        for host in self.machines:
            HostKey.objects.create(
                host=host.address,
                port=host.port,
                key=host.key,
                fingerprint=fingerprint(host.key),
                confirmed_at=timezone.now(),
                confirmed_by="demo",
            )
