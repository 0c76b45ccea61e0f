"""Who is in rotation and with which weight, as the engine wants it: told to the balancer, read
back by it, and told again where it was lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from rollouts.facts import BalancerReport, ServerState
from rollouts.ports import Balancer, BalancerUnreachable, Lease

R = TypeVar("R")

BALANCER_DEADLINE = 3.0  # seconds for one call, whatever the adapter does
BALANCER_PATIENCE = 30.0  # seconds that a balancer out of reach is asked again
BALANCER_FIRST_DELAY = 0.1
BALANCER_LONGEST_DELAY = 2.0


async def persist(call: Callable[[], Awaitable[R]]) -> R:
    """Return what the balancer answers, asking again with back-off while it is out of reach.

    Raises BalancerError at once where it refuses, and where it is away for BALANCER_PATIENCE.
    """
    loop = asyncio.get_running_loop()
    away_since: float | None = None
    delay = BALANCER_FIRST_DELAY
    while True:
        try:
            return await call()
        except BalancerUnreachable:
            away_since = loop.time() if away_since is None else away_since
            if loop.time() + delay > away_since + BALANCER_PATIENCE:
                raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, BALANCER_LONGEST_DELAY)


async def bounded(call: Callable[[], Awaitable[R]]) -> R:
    """Return what the balancer answers; raise BalancerUnreachable after BALANCER_DEADLINE."""
    try:
        async with asyncio.timeout(BALANCER_DEADLINE):
            return await call()
    except TimeoutError:
        raise BalancerUnreachable(f"no answer within {BALANCER_DEADLINE:g} s") from None


class Rotation:
    """Who is in rotation, as this engine wants it: told to the balancer, and told again.

    A balancer that was restarted may have forgotten what it was told, or come back with what
    was written down of it some time before.
    """

    def __init__(self, balancer: Balancer, lease: Lease) -> None:
        self._balancer = balancer
        self._lease = lease
        self._out: set[str] = set()
        self._in: set[str] = set()  # put back; nothing is wanted of those in neither
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._weights: dict[str, int] = {}  # as told; nothing is wanted of other servers
        self._weighing = asyncio.Lock()

    async def report(self) -> BalancerReport:
        """Return what the balancer says of every server; raise BalancerError."""
        return await persist(lambda: bounded(self._balancer.report))

    async def take_out(self, server: str) -> None:
        """Drain `server`; raise BalancerError or LeaseLost."""
        async with self._turns[server]:
            self.want_out(server)
            await self._steer(lambda: self._balancer.drain(server))

    async def put_back(self, server: str) -> None:
        """Return `server` into rotation; where that can't be confirmed it counts as out."""
        async with self._turns[server]:
            self.want_in(server)
            try:
                await self._steer(lambda: self._balancer.ready(server))
            except BaseException:
                self.want_out(server)
                raise

    async def set_weight(self, server: str, weight: int) -> None:
        """Give one server its weight; raise BalancerError or LeaseLost."""
        await persist(lambda: self.shift({server: weight}))

    async def shift(self, weights: Mapping[str, int]) -> None:
        """Give servers their weights, all at once, in one try; raise BalancerError or LeaseLost."""
        async with self._weighing:
            self._weights.update(weights)
            await self._steer_once(lambda: self._balancer.set_weights(weights))

    def want_weights(self, weights: Mapping[str, int]) -> None:
        """Want these weights, which the balancer has already."""
        self._weights.update(weights)

    def resume_weights(self, weights: Mapping[str, int]) -> None:
        """Want these weights of servers that were not told any, as they were set before."""
        self._weights = {**weights, **self._weights}

    def weighs(self, server: str) -> bool:
        """Whether the balancer is told a weight of `server` again where it lost it."""
        return server in self._weights

    async def cut(self, server: str) -> None:
        """End the sessions of `server`; raise BalancerError or LeaseLost."""
        await self._steer(lambda: self._balancer.cut(server))

    def want_out(self, server: str) -> None:
        """Want `server` out, be it as it was left by whoever drove the deployment before."""
        self._in.discard(server)
        self._out.add(server)

    def want_in(self, server: str) -> None:
        """Want `server` in rotation, be it as it was left by whoever drove it before."""
        self._out.discard(server)
        self._in.add(server)

    async def assert_again(self, report: BalancerReport) -> list[str]:
        """Tell the balancer again what `report` shows otherwise than it should be; return what.

        First who is to get no traffic; but who had none by its weight, as a retired slot, is
        drained only once the others have theirs again. One that somebody has put into maintenance
        stays there, and one that is told something at this moment is left to the next look, as is
        what fails; raises BalancerError then, or LeaseLost.
        """
        drain, ready = self._balancer.drain, self._balancer.ready
        quiet = {server for server, weight in self._weights.items() if not weight}
        up = [name for name, one in report.servers.items() if one.state is ServerState.READY]
        drained = [name for name, one in report.servers.items() if one.state is ServerState.DRAIN]
        told = await self._steer_again([one for one in up if one not in quiet], self._out, drain)
        weighed = await self._weigh_again(report)
        silent = [one for one in up if one in weighed or not report.servers[one].weight]
        told += await self._steer_again([one for one in silent if one in quiet], self._out, drain)
        told += await self._steer_again(drained, self._in, ready)
        return list(dict.fromkeys([*told, *weighed]))

    async def _steer_again(
        self, servers: Iterable[str], wanted: set[str], steer: Callable[[str], Awaitable[None]]
    ) -> list[str]:
        """Steer those of `servers` that are `wanted` so by then; return which."""
        told: list[str] = []
        for server in servers:
            if server in wanted and not self._turns[server].locked():
                async with self._turns[server]:
                    await self._steer_once(partial(steer, server))
                told.append(server)
        return told

    async def _weigh_again(self, report: BalancerReport) -> list[str]:
        """Give servers again what `report` shows that they lost of their weights; return who."""
        lost = [
            name
            for name, server in report.servers.items()
            if server.weight != self._weights.get(name, server.weight)
        ]
        if not lost or self._weighing.locked():
            return []
        async with self._weighing:
            wanted = {name: self._weights[name] for name in lost}
            await self._steer_once(partial(self._balancer.set_weights, wanted))
        return lost

    async def _steer(self, call: Callable[[], Awaitable[None]]) -> None:
        """Do what changes the balancer, again while it is out of reach."""
        await persist(lambda: self._steer_once(call))

    async def _steer_once(self, call: Callable[[], Awaitable[None]]) -> None:
        """Do what changes the balancer: only while the lease outlives the call."""
        await self._lease.hold(BALANCER_DEADLINE)
        await bounded(call)
