"""`manage.py servers SERVICE`: make HAProxy's backend match the inventory while it runs."""

import asyncio
import sys
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.management.base import BaseCommand, CommandParser, OutputWrapper

from rollouts import actions, balancers
from rollouts.adapters import SettingsError, Surroundings
from rollouts.balancers.haproxy import HAProxy
from rollouts.balancers.haproxy_servers import Difference, Kind
from rollouts.facts import FULL_WEIGHT, Instance
from rollouts.models import ACTIVE_VALUES, Service
from rollouts.ports import BalancerError

DIFFERS = 1
REFUSED = 2
AT_ONCE = 10  # servers that are added


class Command(BaseCommand):
    """Add what HAProxy's backend lacks, and (with --prune) remove what is too much."""

    help = (
        "Compare the backend of each HAProxy of a service with its active instances; add what is "
        "missing, in rotation once HAProxy's own check has passed. Exit status: 0 they agree, "
        "1 they differ still, 2 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the service, and what may be done."""
        parser.add_argument("service")
        parser.add_argument("--check", action="store_true", help="print what differs, change none")
        parser.add_argument(
            "--prune", action="store_true", help="drain and remove what no active instance is"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare, do what is asked, and exit with what is left."""
        try:
            service = actions.service_named(options["service"])
            work = _Work(service, *_parts(service), self.stdout, self.stderr)
            left = async_to_sync(work.check if options["check"] else work.make_match)(
                prune=options["prune"]
            )
        except (actions.NotFound, SettingsError, BalancerError, _Refused) as error:
            self.stderr.write(f"{error}")
            sys.exit(REFUSED)
        self.stdout.write("They differ still." if left else "The backend matches the inventory.")
        sys.exit(DIFFERS if left else 0)


class _Refused(Exception):
    """Nothing is changed, or nothing more; the message says why."""


def _parts(service: Service) -> tuple[HAProxy, tuple[Instance, ...]]:
    """Return balancer and active instances of `service`; raise _Refused or SettingsError."""
    active = tuple(one.fact() for one in service.instances.filter(active=True))
    balancer = balancers.make(service.balancer, Surroundings(active))
    if not isinstance(balancer, HAProxy):
        raise _Refused(f"The balancer of {service} is not of kind haproxy: it has no backend.")
    return balancer, active


@dataclass
class _Work:
    service: Service
    balancer: HAProxy
    active: tuple[Instance, ...]
    out: OutputWrapper
    err: OutputWrapper

    async def check(self, *, prune: bool) -> bool:
        """Print what differs; return whether anything does."""
        differences = await self.balancer.differences(self.active)
        for one in differences:
            self.out.write(_words(one, prune))
        return bool(differences)

    async def make_match(self, *, prune: bool) -> bool:
        """Add, remove and print; return whether anything differs still."""
        await self._refuse_while_deploying()
        differences = await self.balancer.differences(self.active)
        for one in differences:
            self.out.write(_words(one, prune))
        missing = {one.instance for one in differences if one.kind is Kind.MISSING}
        await self._add([one for one in self.active if one in missing])
        surplus = {one.server for one in differences if one.kind is Kind.SURPLUS}
        if prune and surplus:
            await self._remove(surplus)
        return bool(await self.balancer.differences(self.active))

    async def _add(self, instances: Iterable[Instance]) -> None:
        """Add `instances`, many at once, those of a slot without traffic with no weight."""
        serving = await self._serving()
        live = {self.service.live_slot} if self.service.live_slot else {one.slot for one in serving}
        gate = asyncio.Semaphore(AT_ONCE)

        async def add(one: Instance) -> str:
            idle = one.slot and live and one.slot not in live
            done = f"{one.server} is added{', without weight' if idle else ''}."
            async with gate:
                return await self._done(self.balancer.add(one, 0 if idle else FULL_WEIGHT), done)

        # What keeps all of them from being added is told once.
        for why in dict.fromkeys(await asyncio.gather(*(add(one) for one in instances))):
            if why:
                self.err.write(why)

    async def _remove(self, servers: Iterable[str]) -> None:
        if not await self._serving():
            raise _Refused("Nothing is removed: no active instance would be left in rotation.")
        for server in sorted(servers):
            await self._refuse_while_deploying()
            if why := await self._done(self.balancer.remove(server), f"{server} is removed."):
                self.err.write(why)

    async def _serving(self) -> Sequence[Instance]:
        """Return the active instances that are in rotation."""
        servers = (await self.balancer.report()).servers
        return [one for one in self.active if one.server in servers and servers[one.server].serving]

    async def _done(self, call: Awaitable[None], words: str) -> str:
        """Do it and print `words`, or return why it was not done."""
        try:
            await call
        except BalancerError as error:
            return f"{error}."
        self.out.write(words)
        return ""

    @sync_to_async
    def _refuse_while_deploying(self) -> None:
        active = self.service.deployments.filter(status__in=ACTIVE_VALUES).first()
        if active is not None:
            raise _Refused(f"{active.pk} is running: wait for its end, or stop it first.")


def _words(one: Difference, prune: bool) -> str:
    match one.kind:
        case Kind.MISSING:
            return f"+ {one.server} is missing at {one.where}"
        case Kind.SURPLUS:
            hint = "" if prune else "; --prune removes it"
            return f"- {one.server} at {one.where} is no active instance{hint}"
        case Kind.ELSEWHERE:
            address = one.instance.address if one.instance else ""
            return f"~ {one.server} is {one.found} at {one.where}, and {address} in the inventory"
