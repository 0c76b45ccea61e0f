"""What balancers share about servers: names, weights, and the reports of several made one."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rollouts.facts import BalancerReport, Server, ServerState
from rollouts.ports import BalancerError, BalancerUnreachable

T = TypeVar("T")

CALL_TIMEOUT = 2.0  # seconds for a whole call, reading back included
CONFIRM_TIMEOUT = 1.5  # seconds of these until what was told must be so
MAX_WEIGHT = 256

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
WORST_LAST = (ServerState.READY, ServerState.DRAIN, ServerState.MAINT)


def known(server: str, servers: Collection[str]) -> str:
    """Return `server` if it is one of `servers`; raise BalancerError."""
    if server not in servers:
        raise BalancerError(
            f"{server[:64]!r} is no server of an active instance of the service: "
            "correct `server` in the inventory"
        )
    return server


def check_weights(weights: Mapping[str, int], servers: Collection[str]) -> None:
    """Raise BalancerError unless `weights` gives numbers from 0 to 256 to known servers."""
    for server, weight in weights.items():
        known(server, servers)
        if not is_weight(weight):
            raise BalancerError(
                f"the weight of {server} must be a whole number from 0 to {MAX_WEIGHT}, "
                f"not {weight!r}"
            )


def is_weight(value: Any) -> bool:
    """Whether `value` is a whole number from 0 to 256."""
    return type(value) is int and 0 <= value <= MAX_WEIGHT


def check_configured(raw: Any) -> None:
    """Raise ValueError unless `raw` maps names of servers to their weights in normal service."""
    if not isinstance(raw, dict) or not all(
        isinstance(name, str) and NAME.fullmatch(name) and is_weight(weight)
        for name, weight in raw.items()
    ):
        raise ValueError(
            'must map servers to whole numbers from 0 to 256, such as {"web-01": 50, "web-02": 0}'
        )


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return what all `calls` give, done at the same time.

    Where some fail the others are finished all the same, and the errors are told together.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, BalancerError):
            raise error
    if errors:
        # A refusal weighs more than silence: it will not go away by asking again.
        refused = any(not isinstance(error, BalancerUnreachable) for error in errors)
        kind = BalancerError if refused else BalancerUnreachable
        raise kind("; ".join(str(error) for error in errors)) from errors[0]
    return [result for result in results if not isinstance(result, BaseException)]


async def bounded(call: Callable[[], Awaitable[T]], who: str, seconds: float = CALL_TIMEOUT) -> T:
    """Return what `call` gives within `seconds`; raise BalancerUnreachable about `who`."""
    try:
        async with asyncio.timeout(seconds):
            return await call()
    except TimeoutError:
        raise BalancerUnreachable(f"{who} did not answer within {seconds:g} s") from None


@dataclass
class Told:
    """What one object told balancers last, by server: who was put in rotation, and weights."""

    ready: set[str] = field(default_factory=set)
    weights: dict[str, int] = field(default_factory=dict)


def merge(reports: Sequence[BalancerReport], told: Told) -> BalancerReport:
    """Return one report of balancers that stand side by side, numbers added up.

    A server that not every one of them knows is left out: no call on it could succeed.
    """
    return BalancerReport(
        servers={
            name: agreed([one.servers[name] for one in reports], told)
            for name in known_to_all(reports)
        },
        requests=sum(one.requests for one in reports),
        failed=sum(one.failed for one in reports),
    )


def known_to_all(reports: Sequence[BalancerReport]) -> list[str]:
    """Return the servers that each of `reports` names."""
    return [name for name in reports[0].servers if all(name in one.servers for one in reports)]


def agreed(views: Sequence[Server], told: Told) -> Server:
    """Return what all say of one server.

    Each was told the same, but one may have been restarted since and forgotten it. So where they
    disagree this is not what was told: whoever compares the two would find nothing to set right.
    """
    merged = merge_server(views)
    merged = replace(merged, weight=_weight(views, merged, told.weights.get(merged.name)))
    some_send = any(one.state is ServerState.READY for one in views)
    if some_send and merged.state is not ServerState.READY and merged.name not in told.ready:
        # Out of rotation, but not everywhere: whoever wants it out has to say so again.
        return replace(merged, state=ServerState.READY, up=False)
    return merged


def _weight(views: Sequence[Server], merged: Server, told: int | None) -> int:
    """Return the weight that all have, or one that was not told."""
    if all(one.weight == one.configured for one in views):
        return merged.configured
    weights = {one.weight for one in views}
    if len(weights) == 1:
        return merged.weight
    if told is not None:
        return min(weights - {told})
    return min(set(range(1, MAX_WEIGHT)) - weights)  # of nobody, whatever it should be


def merge_server(views: Sequence[Server]) -> Server:
    """Return what all say of one server together: of states the worst, numbers added up.

    Of `weight` and `configured` both the least, so that a server with its full weight
    everywhere is seen to have it even where the configurations differ.
    """
    return Server(
        name=views[0].name,
        state=max((one.state for one in views), key=WORST_LAST.index),
        up=all(one.up for one in views),
        sessions=total([one.sessions for one in views]),
        weight=min(one.weight for one in views),
        configured=min(one.configured for one in views),
        answers=total([one.answers for one in views]),
        errors=total([one.errors for one in views]),
        response_ms=_mean(views),
    )


def total(numbers: Iterable[int | None]) -> int | None:
    """Return the sum, None where one of them is not known: a part would look like a fall."""
    result = 0
    for number in numbers:
        if number is None:
            return None
        result += number
    return result


def _mean(views: Iterable[Server]) -> float | None:
    """Return the mean response time (ms) by the answers behind each, of those that have one."""
    pairs = [
        (one.response_ms, one.answers)
        for one in views
        if one.response_ms is not None and one.answers
    ]
    answers = sum(number for _, number in pairs)
    return sum(mean * number for mean, number in pairs) / answers if pairs else None
