"""How instances are called in a backend, where that is not what the inventory calls them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from rollouts.balancers.servers import NAME
from rollouts.facts import BalancerReport, Instance, Server

PLACEHOLDERS = ("name", "hostname", "port", "slot", "zone")
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")
_LITERAL = re.compile(r"[A-Za-z0-9_.:-]*")


def check_rule(raw: object) -> None:
    """Raise ValueError with what is right unless `raw` is a rule such as `srv_{name}`."""
    if not isinstance(raw, str):
        raise ValueError('must be a rule such as "srv_{name}"')
    named = set()
    for match in _BRACES.finditer(raw):
        if match[1] not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise ValueError(f"has {match[0][:64]!r}, which stands for nothing; there are: {known}")
        named.add(match[1])
    if not _LITERAL.fullmatch(_BRACES.sub("", raw)):
        raise ValueError(
            "must hold only letters, digits, '_', '.', ':' and '-' beside its placeholders"
        )
    if not named & {"name", "hostname"}:
        raise ValueError("must tell instances apart: with {name}, or {hostname}")


class Names:
    """The names of servers: here in the inventory, there in the backend."""

    def __init__(self, there: Mapping[str, str]) -> None:
        self._there = dict(there)
        self._here = {name: server for server, name in there.items()}

    @classmethod
    def by_rule(cls, rule: str, instances: Iterable[Instance]) -> "Names":
        """Return the names that `rule`, which was checked, gives; raise ValueError."""
        owners: dict[str, Instance] = {}
        for instance in instances:
            name = _filled(rule, instance)
            if not NAME.fullmatch(name):
                raise ValueError(f"makes {name[:64]!r} of {instance.name}, which names no server")
            if other := owners.get(name):
                raise ValueError(f"makes {name} of both {other.name} and {instance.name}")
            owners[name] = instance
        return cls({instance.server: name for name, instance in owners.items()})

    def there(self, server: str) -> str:
        """Return what `server` of the inventory is called in the backend."""
        return self._there.get(server, server)

    def translated(self, report: BalancerReport) -> BalancerReport:
        """Return `report` in the inventory's names.

        Whoever else has one of these names in the backend is left out: it would be taken for
        another.
        """
        servers: dict[str, Server] = {}
        for name, server in report.servers.items():
            if here := self._here.get(name):
                servers[here] = replace(server, name=here)
            elif name not in self._there:
                servers[name] = server
        return replace(report, servers=servers)


def _filled(rule: str, instance: Instance) -> str:
    return _BRACES.sub(lambda match: str(getattr(instance, match[1])), rule)
