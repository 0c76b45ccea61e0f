"""Servers that come and go while HAProxy runs: its backend made to match the inventory.

HAProxy 2.5 and later can do it. What is added so is forgotten when HAProxy is reloaded, unless
its configuration has it by then.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rollouts.balancers.haproxy_api import READ_BACK_INTERVAL, RuntimeApi
from rollouts.balancers.haproxy_replies import Row, complaint
from rollouts.facts import Instance
from rollouts.ports import BalancerError, BalancerUnreachable

ADD_TIMEOUT = 30.0  # seconds until HAProxy's own check has passed
REMOVE_TIMEOUT = 60.0  # seconds until no session is open
MAX_OPTIONS = 1000  # characters

# Words of an `add server`: nothing that could end the command, quote or be a variable.
OPTIONS = re.compile(r"[A-Za-z0-9_./:=,@%+-]+(?: [A-Za-z0-9_./:=,@%+-]+)*")


class Kind(StrEnum):
    """How a backend differs from the inventory."""

    MISSING = "missing"
    SURPLUS = "surplus"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Difference:
    """One server that is not as the inventory has it, in the backend of one HAProxy."""

    kind: Kind
    server: str  # as the backend calls it
    where: str  # which HAProxy, for people
    instance: Instance | None = None  # none where it is surplus
    found: str = ""  # its address in the backend, where that differs


def check_options(raw: object) -> None:
    """Raise ValueError unless `raw` may follow the address in `add server`, and has it checked."""
    if not (isinstance(raw, str) and len(raw) <= MAX_OPTIONS and OPTIONS.fullmatch(raw)):
        raise ValueError(
            'must be options of a server, parted by single spaces, such as "check inter 1s"'
        )
    if "check" not in raw.split():
        raise ValueError("must hold `check`: what is added is ready once HAProxy found it well")


async def differing(api: RuntimeApi, named: Mapping[str, Instance]) -> list[Difference]:
    """Return where a backend is not what `named`, instances by their names there, would have."""
    rows = await api.rows()
    found = []
    for name, instance in named.items():
        if name not in rows:
            found.append(Difference(Kind.MISSING, name, str(api), instance))
        elif not await _is_at(rows[name], instance):
            address = f"{rows[name].host or 'no IP address'}:{rows[name].port}"
            found.append(Difference(Kind.ELSEWHERE, name, str(api), instance, address))
    surplus = [name for name in rows if name not in named]
    return found + [Difference(Kind.SURPLUS, name, str(api)) for name in surplus]


async def added(api: RuntimeApi, name: str, instance: Instance, options: str, weight: int) -> None:
    """Add `instance` as `name` unless it is there; ready once HAProxy's own check has passed."""
    if name in await api.rows():
        return
    host, *_ = await _resolved(instance.hostname)
    address = f"[{host}]:{instance.port}" if ":" in host else f"{host}:{instance.port}"
    # Of two weights the last counts: a slot that has no traffic must get none.
    weighed = options if weight and "weight" in options.split() else f"{options} weight {weight}"
    reply = await api.ask(f"add server {api.backend}/{name} {address} {weighed}")
    if name not in await api.rows():
        raise BalancerError(f"{api} does not add {name}: it answered {complaint(reply)}")
    # It begins in maintenance, where it is not checked; while it drains it is.
    server = f"{api.backend}/{name}"
    await api.tell([f"enable health {server}", f"set server {server} state drain"])
    if not await _passes(api, name):
        await api.stop(name)
        await _delete(api, name)
        raise BalancerError(
            f"{name} was not added to {api}, whose own check did not find it well within "
            f"{ADD_TIMEOUT:g} s"
        )
    await api.ready(name)


async def removed(api: RuntimeApi, name: str) -> None:
    """Drain `name`, wait until it has no session, and delete it; nothing where it is not there."""
    if name not in await api.rows():
        return
    await api.drain(name)
    if sessions := await _left(api, name):
        raise BalancerError(
            f"{name} still has {sessions} sessions at {api} after {REMOVE_TIMEOUT:g} s: it stays "
            "there, drained; ask again, or end them first"
        )
    await api.stop(name)
    await _delete(api, name)


async def _delete(api: RuntimeApi, name: str) -> None:
    reply = await api.ask(f"del server {api.backend}/{name}")
    if name in await api.rows():
        raise BalancerError(
            f"{api} does not delete {name}, which is in maintenance now: "
            f"it answered {complaint(reply)}"
        )


async def _left(api: RuntimeApi, name: str) -> int:
    """Return how many sessions are open when none is, or after REMOVE_TIMEOUT."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REMOVE_TIMEOUT
    while True:
        counts = (await api.view()).counts.get(name)
        sessions = counts.sessions if counts else 0
        if not sessions or loop.time() >= deadline:
            return sessions
        await asyncio.sleep(READ_BACK_INTERVAL)


async def _passes(api: RuntimeApi, name: str) -> bool:
    """Whether HAProxy's own check passes within ADD_TIMEOUT."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ADD_TIMEOUT
    while loop.time() < deadline:
        row = await api.row(name)
        if row.passed and row.up:
            return True
        await asyncio.sleep(READ_BACK_INTERVAL)
    return False


async def _is_at(row: Row, instance: Instance) -> bool:
    if row.port != instance.port:
        return False
    if row.domain and row.domain == instance.hostname:
        return True
    return row.host in await _resolved(instance.hostname)


async def _resolved(hostname: str) -> list[str]:
    """Return the IP addresses of `hostname`; raise BalancerUnreachable where it has none."""
    try:
        return [str(ipaddress.ip_address(hostname))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(hostname, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BalancerUnreachable(f"{hostname} can't be resolved: {error}") from error
    return [str(address[4][0]) for address in found]
