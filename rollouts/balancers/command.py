"""A balancer that a company's own scripts steer.

`status` prints all servers as JSON, and everything that another script did is read back from it.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollouts.adapters import SettingsError, Surroundings, checked, wrong_keys
from rollouts.balancers.programs import run
from rollouts.balancers.servers import (
    CALL_TIMEOUT,
    NAME,
    check_weights,
    is_weight,
    known,
)
from rollouts.drivers.templates import PLACEHOLDERS, check_arguments, fill, values
from rollouts.facts import FULL_WEIGHT, BalancerReport, Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

READ_BACK_INTERVAL = 0.05  # seconds between two looks
CONFIRM_SPARE = 0.6  # seconds of a call that a last look may take
WEIGHTS = "{weights}"
FIELDS = ("state", "up", "sessions", "weight", "configured", "answers", "errors", "response_ms")


class Command(Balancer):
    """`programs` are argument lists with placeholders, by what they do."""

    def __init__(
        self, programs: Mapping[str, Sequence[str]], instances: Sequence[Instance]
    ) -> None:
        self._programs = dict(programs)
        self._instances = {one.server: one for one in instances}

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Command":
        """Return the balancer of `{kind, status, drain, ready, weights, cut}`.

        Raises SettingsError.
        """
        errors = wrong_keys(
            raw, required=("kind", "status", "drain", "ready"), optional=("weights", "cut")
        )
        checks: dict[str, Callable[[Any], None]] = {
            "status": _check_status,
            "weights": _check_weights_program,
            **dict.fromkeys(("drain", "ready", "cut"), _check_of_server),
        }
        checked(raw, checks, errors)
        if errors:
            raise SettingsError(errors)
        return cls({key: raw[key] for key in checks if key in raw}, surroundings.instances)

    @property
    def takes_weights(self) -> bool:
        """Whether there is a program for them."""
        return "weights" in self._programs

    async def report(self) -> BalancerReport:
        """Return what `status` prints."""
        return await self._status(_Limit())

    async def drain(self, server: str) -> None:
        """Run `drain`, unless it is out already, and return once `status` says that it is."""
        await self._steer("drain", server, lambda seen: seen.state is not ServerState.READY)

    async def ready(self, server: str) -> None:
        """Run `ready`, unless it is in already, and return once `status` says that it is.

        Raises BalancerUnreachable, so that it is asked again, while `status` says that it is
        ready, but not up.
        """
        await self._steer("ready", server, lambda seen: seen.ready)

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Run `weights` with all of them, and return once `status` says that they are so."""
        check_weights(weights, self._instances)
        limit = _Limit()
        if not await self._astray(weights, limit):
            return
        if not self.takes_weights:
            raise BalancerError(
                "the service's balancer has no `weights` command: add one, or deploy with the "
                "rolling strategy and without slow_start"
            )
        text = json.dumps(dict(weights))
        await run("weights", fill(self._programs["weights"], {"weights": text}), limit.left())
        while astray := await self._astray(weights, limit):
            await limit.wait(f"weights was run, but status says that {', '.join(astray[:5])}")

    async def cut(self, server: str) -> None:
        """Run `cut`; raise BalancerError where there is none."""
        if "cut" not in self._programs:
            raise BalancerError("the service's balancer has no `cut` command to end sessions with")
        await self._run("cut", server, _Limit())

    async def _steer(self, key: str, server: str, settled: Callable[[Server], bool]) -> None:
        known(server, self._instances)
        limit = _Limit()
        if settled(await self._server(server, limit)):
            return
        await self._run(key, server, limit)
        while not settled(seen := await self._server(server, limit)):
            is_up = "up" if seen.up else "not up"
            words = f"{key} was run, but status says that {server} is {seen.state} and {is_up}"
            passing = key == "ready" and seen.state is ServerState.READY
            await limit.wait(words, BalancerUnreachable if passing else BalancerError)

    async def _astray(self, weights: Mapping[str, int], limit: "_Limit") -> list[str]:
        servers = (await self._status(limit)).servers
        return [
            f"{name} has weight {servers[known(name, servers)].weight}, not {weight}"
            for name, weight in weights.items()
            if servers[known(name, servers)].weight != weight
        ]

    async def _server(self, server: str, limit: "_Limit") -> Server:
        servers = (await self._status(limit)).servers
        if server not in servers:
            raise BalancerError(f"status names no server {server}")
        return servers[server]

    async def _run(self, key: str, server: str, limit: "_Limit") -> None:
        instance = self._instances[known(server, self._instances)]
        arguments = fill(self._programs[key], values(instance, ""))
        await run(f"{key} {server}", arguments, limit.left())

    async def _status(self, limit: "_Limit") -> BalancerReport:
        text = await run("status", fill(self._programs["status"], {}), limit.left())
        try:
            return read_status(text)
        except ValueError as error:
            raise BalancerError(f"status {error}") from error


class _Limit:
    """The time of one call."""

    def __init__(self) -> None:
        self._until = time.monotonic() + CALL_TIMEOUT

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._until - time.monotonic())

    async def wait(self, why: str, kind: type[BalancerError] = BalancerError) -> None:
        """Wait until it is worth looking again; raise `kind` where no time is left for that."""
        if self.left() < CONFIRM_SPARE:
            raise kind(why)
        await asyncio.sleep(READ_BACK_INTERVAL)


def read_status(text: bytes) -> BalancerReport:
    """Return what a `status` command printed; raise ValueError."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("prints no JSON") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("servers"), dict):
        raise ValueError('must print an object such as {"servers": {"web-01": {"state": "ready"}}}')
    servers = {name: _read_server(name, one) for name, one in raw["servers"].items()}
    requests, failed = (_count(raw.get(key, 0), key) for key in ("requests", "failed"))
    return BalancerReport(servers, requests or 0, failed or 0)


def _read_server(name: str, raw: Any) -> Server:
    if not NAME.fullmatch(name):
        raise ValueError(f"names a server {name[:64]!r}: letters, digits, '_', '.', ':' and '-'")
    if not isinstance(raw, dict) or (unknown := [key for key in raw if key not in FIELDS]):
        said = f"has {unknown[0][:64]}" if isinstance(raw, dict) else "is no object"
        raise ValueError(f"of {name} {said}; there are: {', '.join(FIELDS)}")
    try:
        state = ServerState(raw.get("state", ""))
    except ValueError:
        raise ValueError(f"of {name} must have as state: {', '.join(ServerState)}") from None
    up, milliseconds = raw.get("up", True), raw.get("response_ms")
    if not isinstance(up, bool):
        raise ValueError(f"of {name} must have true or false as up")
    if milliseconds is not None and type(milliseconds) not in (int, float):
        raise ValueError(f"of {name} must have a number of milliseconds as response_ms")
    for key in ("weight", "configured"):
        if not is_weight(raw.get(key, FULL_WEIGHT)):
            raise ValueError(f"of {name} must have a whole number from 0 to 256 as {key}")
    return Server(
        name=name,
        state=state,
        up=up,
        sessions=_count(raw.get("sessions"), f"sessions of {name}"),
        weight=raw.get("weight", FULL_WEIGHT),
        configured=raw.get("configured", FULL_WEIGHT),
        answers=_count(raw.get("answers"), f"answers of {name}"),
        errors=_count(raw.get("errors"), f"errors of {name}"),
        response_ms=milliseconds,
    )


def _count(raw: Any, what: str) -> int | None:
    if raw is not None and (type(raw) is not int or raw < 0):
        raise ValueError(f"must have a whole number, or null where not known, as {what}")
    return raw


def _check_of_server(raw: Any) -> None:
    check_arguments(raw)
    if any("{version}" in one for one in raw):
        raise ValueError("can't have the placeholder {version}: a balancer knows of none")


def _check_status(raw: Any) -> None:
    check_arguments(raw)
    if found := [one for one in PLACEHOLDERS for text in raw if f"{{{one}}}" in text]:
        raise ValueError(f"can't have the placeholder {{{found[0]}}}: it is about all servers")


def _check_weights_program(raw: Any) -> None:
    if not isinstance(raw, list) or not any(isinstance(one, str) and WEIGHTS in one for one in raw):
        raise ValueError(
            f'must have the placeholder {WEIGHTS}, for JSON as {{"web-01": 50}}, in an argument'
        )
    _check_status([one.replace(WEIGHTS, "") if isinstance(one, str) else one for one in raw])
