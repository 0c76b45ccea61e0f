"""Balancers in a row, such as an edge and an inner one, that all lead to the same instances.

All of them must confirm. A server leaves rotation from the edge inwards and returns from the
inside out, so that no balancer sends requests to one that has closed its door already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rollouts.adapters import SettingsError, Surroundings, wrong_keys
from rollouts.balancers.servers import Told, agreed, known_to_all, together
from rollouts.facts import BalancerReport, Server
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

T = TypeVar("T")

# Seconds for all of a row, one after the other; each has its own shorter bound as well.
ROW_TIMEOUT = 2.8
Make = Callable[[Mapping[str, Any], Surroundings], Balancer]


@dataclass(frozen=True)
class Link:
    """One balancer of the row, and what it is called in messages."""

    name: str
    balancer: Balancer

    async def do(self, call: Callable[[Balancer], Awaitable[T]]) -> T:
        """Return what `call` gives of this balancer; its errors say whose they are."""
        try:
            return await call(self.balancer)
        except BalancerUnreachable as error:
            raise BalancerUnreachable(f"{self.name}: {error}") from error
        except BalancerError as error:
            raise BalancerError(f"{self.name}: {error}") from error


class Chain(Balancer):
    """`links` from the edge, where clients come in, to the one in front of the instances."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = tuple(links)
        self._told = Told()

    @classmethod
    def from_settings(
        cls, raw: Mapping[str, Any], surroundings: Surroundings, make: Make
    ) -> "Chain":
        """Return the balancer of `{kind, balancers}`; raise SettingsError.

        `make` makes each of them; what is wrong about one is told as balancers[1].backend.
        """
        errors = wrong_keys(raw, required=("kind", "balancers"))
        if "balancers" in raw and not _are_balancers(raw["balancers"]):
            errors["balancers"] = (
                "must be a list of two or more balancers, the edge first, each as it would be "
                'alone, such as {"kind": "haproxy", ...}'
            )
        links: list[Link] = []
        for number, settings in enumerate(raw.get("balancers", ()) if not errors else ()):
            try:
                made = make(settings, surroundings)
            except SettingsError as error:
                for key, text in error.errors.items():
                    errors[f"balancers[{number}].{key}"] = text
            else:
                links.append(Link(f"balancers[{number}] ({settings['kind']})", made))
        if errors:
            raise SettingsError(errors)
        return cls(links)

    async def report(self) -> BalancerReport:
        """Return what all say together.

        What clients got is counted by the edge, and what a server answered by the innermost
        balancer that counts it, so that no request counts twice.
        """
        reports = await _at_once(self._links, lambda balancer: balancer.report())
        servers = {
            name: self._in_a_row([one.servers[name] for one in reports])
            for name in known_to_all(reports)
        }
        return replace(reports[0], servers=servers)

    async def drain(self, server: str) -> None:
        """Drain `server` from the edge inwards; what fails keeps the inner ones untouched."""
        self._told.ready.discard(server)
        await self._in_turn(self._links, lambda balancer: balancer.drain(server))

    async def ready(self, server: str) -> None:
        """Put `server` back from the inside out; what fails keeps the outer ones untouched."""
        self._told.ready.add(server)
        await self._in_turn(self._links[::-1], lambda balancer: balancer.ready(server))

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Give each server its weight in all balancers that take one, all at the same moment."""
        self._told.weights.update(weights)
        weighing = [link for link in self._links if link.balancer.takes_weights]
        await _at_once(weighing or self._links, lambda balancer: balancer.set_weights(weights))

    @property
    def takes_weights(self) -> bool:
        """Whether one of them does."""
        return any(link.balancer.takes_weights for link in self._links)

    async def cut(self, server: str) -> None:
        """End the open sessions of `server` in all balancers."""
        await _at_once(self._links, lambda balancer: balancer.cut(server))

    async def aclose(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(link.balancer.aclose() for link in self._links))

    def _in_a_row(self, views: Sequence[Server]) -> Server:
        """Return what the balancers say of one server; `views` are in their order."""
        pairs = zip(self._links, views, strict=True)
        weighed = [view for link, view in pairs if link.balancer.takes_weights] or views
        of_weights = agreed(weighed, self._told)
        counting = next((one for one in reversed(views) if one.answers is not None), views[-1])
        return replace(
            agreed(views, self._told),
            weight=of_weights.weight,
            configured=of_weights.configured,
            answers=counting.answers,
            errors=counting.errors,
            response_ms=counting.response_ms,
        )

    async def _in_turn(
        self, links: Sequence[Link], call: Callable[[Balancer], Awaitable[None]]
    ) -> None:
        at = links[0]
        try:
            async with asyncio.timeout(ROW_TIMEOUT):
                for at in links:
                    await at.do(call)
        except TimeoutError:
            raise BalancerUnreachable(
                f"{at.name} had not confirmed {ROW_TIMEOUT:g} s after the first was asked"
            ) from None


def _are_balancers(raw: Any) -> bool:
    return isinstance(raw, list) and len(raw) > 1 and all(isinstance(one, dict) for one in raw)


async def _at_once(links: Sequence[Link], call: Callable[[Balancer], Awaitable[T]]) -> list[T]:
    return await together(link.do(call) for link in links)
