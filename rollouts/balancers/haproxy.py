"""HAProxy through its runtime API, on one or several addresses.

Every HAProxy that is named must confirm: a server is drained when all of them say so, and
one that does not answer makes the call fail. Wants `level admin` on the socket, and in the
configuration `weight 100`, because shares of a small weight can't be told apart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from rollouts.adapters import SettingsError, Surroundings, checked, wrong_keys
from rollouts.balancers.haproxy_agreement import merge, part, wholes
from rollouts.balancers.haproxy_api import READ_BACK_INTERVAL, Address, RuntimeApi, listed
from rollouts.balancers.haproxy_names import Names, check_rule
from rollouts.balancers.haproxy_servers import Difference, added, check_options, differing, removed
from rollouts.balancers.servers import (
    CONFIRM_TIMEOUT,
    MAX_WEIGHT,
    NAME,
    Told,
    bounded,
    is_weight,
    together,
)
from rollouts.facts import FULL_WEIGHT, BalancerReport, Instance
from rollouts.ports import Balancer, BalancerError

T = TypeVar("T")

CUT_TIMEOUT = 0.5  # seconds that ended sessions may take to be gone


def _addresses(raw: Any) -> tuple[Address, ...]:
    """Return the addresses in a setting; raise ValueError with what is right."""
    if not isinstance(raw, list) or not raw:
        raise ValueError('must be a list of addresses, such as ["unix:/run/haproxy/admin.sock"]')
    addresses = tuple(Address.parse(text) for text in raw)
    if len(set(addresses)) < len(addresses):
        raise ValueError("must name each address once")
    return addresses


def _check_addresses(raw: Any) -> None:
    _addresses(raw)


def _check_backend(raw: Any) -> None:
    if not (isinstance(raw, str) and NAME.fullmatch(raw)):
        raise ValueError("must be a name of letters, digits, '_', '.', ':' and '-'")


class HAProxy(Balancer):
    """A backend of one HAProxy or of several that serve the same instances.

    For one event loop. Names of servers are those of the inventory.
    """

    def __init__(self, apis: Sequence[RuntimeApi], names: Names, options: str = "") -> None:
        self.apis = tuple(apis)
        self.names = names
        self.options = options  # of a server that is added at run time, as HAProxy wants them
        self._told = Told()
        self._wholes: Mapping[str, int] = {}  # the largest configured weight, as last seen

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "HAProxy":
        """Return the balancer of `{kind, addresses, backend}`; raise SettingsError.

        `server` is the rule by which instances are named in the backend, `add` what follows the
        address where one is added to it.
        """
        errors = wrong_keys(raw, ("kind", "addresses", "backend"), ("server", "add"))
        checks = {
            "addresses": _check_addresses,
            "backend": _check_backend,
            "server": check_rule,
            "add": check_options,
        }
        checked(raw, checks, errors)
        names = Names({})
        if "server" in raw and "server" not in errors:
            try:
                names = Names.by_rule(raw["server"], surroundings.instances)
            except ValueError as error:
                errors["server"] = str(error)
        if errors:
            raise SettingsError(errors)
        apis = [RuntimeApi(address, raw["backend"]) for address in _addresses(raw["addresses"])]
        return cls(apis, names, raw.get("add", ""))

    async def report(self) -> BalancerReport:
        """Return every server that all addresses know; one connection each as a rule."""
        return self.names.translated(await self._report())

    async def _report(self) -> BalancerReport:
        report = merge(await self._on_all(RuntimeApi.view), self._told)
        self._wholes = wholes(report)
        return report

    async def drain(self, server: str) -> None:
        """Give no new session to `server`; one in maintenance stays there, which is stricter."""
        name = self._name(server)
        self._told.ready.discard(name)
        await self._on_all(lambda api: api.drain(name))

    async def ready(self, server: str) -> None:
        """Put `server` back, and return once every HAProxy sends it what its weight gives it.

        Raises BalancerUnreachable, so that it is asked again, while HAProxy's own check still
        finds the server down: one that went down while it was drained comes up only after
        `rise` good checks.
        """
        name = self._name(server)
        # Where it fails, whoever wanted it may want the opposite next.
        self._told.ready.discard(name)
        await self._on_all(lambda api: api.ready(name))
        self._told.ready.add(name)

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Give each server its weight, 0 to 256, and return once every HAProxy has followed.

        Where the configurations differ, a weight is one of the HAProxy that configures the most;
        another one gets its own part of it, so that all keep the proportions of their own.

        All that one line can hold changes within about a millisecond. A HAProxy that fails does
        not keep the others from following: the way off a bad version must not wait for it. Where
        one refuses a weight, as those of static algorithms do unless it is 0 or the configured
        one, others of the same call may have been set.
        """
        wanted: dict[str, int] = {}
        for server, weight in weights.items():
            wanted[self._name(server)] = weight
            if not is_weight(weight):
                raise BalancerError(
                    f"the weight of {server} must be a whole number from 0 to {MAX_WEIGHT}, "
                    f"not {weight!r}"
                )
        if not wanted:
            return
        if len(self.apis) > 1 and not wanted.keys() <= self._wholes.keys():
            await self._report()
        self._told.weights.update(wanted)
        await self._on_all(lambda api: _shift(api, wanted, self._wholes))

    async def cut(self, server: str) -> None:
        """End the open sessions of `server`, waiting CUT_TIMEOUT at most until none is left.

        Some may be: clients with a sticky cookie come back to a server that drains.
        """
        name = self._name(server)

        async def call(api: RuntimeApi) -> None:
            await api.row(name)
            await api.tell([f"shutdown sessions server {api.backend}/{name}"])
            deadline = asyncio.get_running_loop().time() + CUT_TIMEOUT
            while asyncio.get_running_loop().time() < deadline:
                counts = (await api.view()).counts.get(name)
                if counts is None or counts.sessions == 0:
                    return
                await asyncio.sleep(READ_BACK_INTERVAL)

        await self._on_all(call)

    async def differences(self, instances: Sequence[Instance]) -> list[Difference]:
        """Return where the backend of any HAProxy is not what `instances` would have it."""
        named = {self._name(one.server): one for one in instances}
        found = await self._on_all(lambda api: differing(api, named))
        return [one for each in found for one in each]

    async def add(self, instance: Instance, weight: int = FULL_WEIGHT) -> None:
        """Add `instance` wherever it is lacking, in rotation once HAProxy's own check passed.

        Takes up to ADD_TIMEOUT; where the check never passes it is taken out again, and
        BalancerError raised.
        """
        if not self.options:
            raise BalancerError("the balancer's setting `add` says what is added, and is missing")
        name, options = self._name(instance.server), self.options
        await together(added(api, name, instance, options, weight) for api in self.apis)

    async def remove(self, name: str) -> None:
        """Drain the server `name` of the backend and take it out, wherever it is.

        Takes up to REMOVE_TIMEOUT; one that has open sessions even then stays, drained, and
        BalancerError is raised.
        """
        await together(removed(api, name) for api in self.apis)

    def _name(self, server: str) -> str:
        """Return what `server` is called in the backend; raise BalancerError."""
        if not NAME.fullmatch(server):
            raise BalancerError(
                f"{server[:64]!r} can't be a server of HAProxy: a name has only letters, digits, "
                "'_', '.', ':' and '-'"
            )
        return self.names.there(server)

    async def _on_all(self, call: Callable[[RuntimeApi], Awaitable[T]]) -> list[T]:
        """Return what `call` gives for each HAProxy, all at the same time, bounded."""
        return await together(bounded(partial(call, api), str(api)) for api in self.apis)


async def _shift(api: RuntimeApi, weights: Mapping[str, int], whole: Mapping[str, int]) -> None:
    """Tell HAProxy its parts of the weights that it has not; return once it has them all.

    `whole` are the largest weights that are configured anywhere.
    """
    rows = await api.rows(tuple(weights))
    own = {
        name: part(weight, rows[name].configured, whole.get(name, 0))
        for name, weight in weights.items()
    }
    changes = [name for name, weight in own.items() if rows[name].weight != weight]
    if not changes:
        return
    # Whoever gets more comes first: requests are served between two commands as well, and
    # would find no server at all where the last one is taken out before the next is in.
    changes.sort(key=lambda name: own[name] < rows[name].weight)
    await api.tell([f"set weight {api.backend}/{name} {own[name]}" for name in changes])
    deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT
    while True:
        rows = await api.rows(tuple(own))
        astray = [
            f"{name} has weight {rows[name].weight}, not {weight}"
            for name, weight in own.items()
            if rows[name].weight != weight
        ]
        if not astray:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise BalancerError(f"{api} did not follow: {listed(astray)}")
        await asyncio.sleep(READ_BACK_INTERVAL)
