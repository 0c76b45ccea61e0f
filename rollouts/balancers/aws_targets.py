"""What AWS says of targets, read into facts, and the other way. Pure."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.facts import FULL_WEIGHT, Instance, Server, ServerState

INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


@dataclass(frozen=True)
class Target:
    """One target of a target group."""

    group: str  # "" where there is one for all, else the slot
    id: str  # an EC2 instance or an IP address
    port: int

    @property
    def description(self) -> dict[str, Any]:
        """Return it as AWS wants it."""
        return {"Id": self.id, "Port": self.port}


@dataclass(frozen=True)
class Health:
    """What AWS says of a target; `words` explain it, where AWS does."""

    state: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.words})" if self.words else self.state

    @property
    def taken_out(self) -> bool:
        """Whether it was deregistered, and is let go of by and by."""
        return self.state == "draining"

    @property
    def up(self) -> bool:
        """Whether requests reach it. Where health checks are off AWS takes it for well."""
        return self.state in {"healthy", "unavailable"}


def target_of(instance: Instance, groups: Iterable[str]) -> Target | None:
    """Return the target that `instance` is in one of `groups`; None where it can't be one.

    Its server is the target's id, with `:PORT` where several run on one machine.
    """
    name = instance.server.removesuffix(f":{instance.port}")
    group = instance.slot if "" not in groups else ""
    return Target(group, name, instance.port) if group in groups and _is_id(name) else None


def _is_id(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return INSTANCE_ID.fullmatch(text) is not None
    return True


def read_health(group: str, reply: Mapping[str, Any]) -> dict[Target, Health]:
    """Return the targets that are registered in `group`, or still let go of."""
    found = {}
    for one in reply["TargetHealthDescriptions"]:
        health, target = one["TargetHealth"], one["Target"]
        if health.get("Reason") != "Target.NotRegistered":
            words = health.get("Description") or health.get("Reason") or ""
            found[Target(group, target["Id"], target["Port"])] = Health(health["State"], words)
    return found


def server(name: str, health: Health | None, weight: int) -> Server:
    """Return what `health`, None of a target that is not registered, says of a server.

    How many sessions are open AWS does not tell, but that they are over: then it has let go.
    """
    out = health is None or health.taken_out
    return Server(
        name=name,
        state=ServerState.DRAIN if out else ServerState.READY,
        up=health is not None and health.up,
        sessions=0 if health is None else None,
        weight=weight,
        configured=FULL_WEIGHT,
    )


def by_server(
    own: Mapping[str, Target], health: Mapping[Target, Health]
) -> dict[str, tuple[Target, Health | None]]:
    """Return every target by the server that it is: of `own`, and what else is registered.

    One of `own` that is registered with another port is left out: taking it out would leave
    that in.
    """
    known = set(own.values())
    others = [target for target in health if target not in known]
    elsewhere = {(target.group, target.id) for target in others}
    found = {
        name: (target, health.get(target))
        for name, target in own.items()
        if target in health or (target.group, target.id) not in elsewhere
    }
    return found | {f"{target.id}:{target.port}": (target, health[target]) for target in others}
