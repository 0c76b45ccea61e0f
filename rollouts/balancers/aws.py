"""Target groups of an AWS load balancer, through boto3 (`pip install lockgate[aws]`).

A server is drained by deregistering its target, and put back by registering it. AWS does not
count sessions by target: they are over once it has let the target go, which takes as long as the
group's deregistration delay.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollouts.adapters import SettingsError, Surroundings
from rollouts.balancers.aws_forward import Forward, Parted
from rollouts.balancers.aws_settings import Settings
from rollouts.balancers.aws_targets import Health, Target, by_server, read_health, server, target_of
from rollouts.balancers.aws_weights import Sum, current, shared_out, sums_of
from rollouts.balancers.servers import bounded, check_weights, known, together
from rollouts.facts import FULL_WEIGHT, BalancerReport, Instance
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

if TYPE_CHECKING:
    from rollouts.balancers.aws_api import Elb

CALL_TIMEOUT = 2.5  # seconds for a whole call, reading back included
CONFIRM_TIMEOUT = 1.5  # seconds of these until AWS must have followed
# Seconds between two looks, however many ask: AWS throttles, and the whole account with it.
LOOK_INTERVAL = 0.5


@dataclass(frozen=True)
class Seen:
    """What AWS said: of every server its target and that one's health, and how traffic is parted.

    `since` is when it was asked, by the loop's clock; `parted` is None with one target group.
    """

    since: float
    targets: Mapping[str, tuple[Target, Health | None]]
    parted: Parted | None

    def health(self, name: str) -> Health | None:
        """Return the health of `name`, None where it is not registered."""
        return self.targets[name][1] if name in self.targets else None

    def out(self, name: str) -> bool:
        """Whether `name` gets no new requests: not registered, or let go of."""
        health = self.health(name)
        return health is None or health.taken_out

    def members(self, group: str, *, ready: bool = False) -> list[str]:
        """Return the servers of `group`, with `ready` those that are registered."""
        return [
            name
            for name, (target, _) in self.targets.items()
            if target.group == group and not (ready and self.out(name))
        ]


class Aws(Balancer):
    """One target group, or one for each slot. For one event loop."""

    def __init__(self, elb: "Elb", settings: Settings, instances: Sequence[Instance]) -> None:
        self._elb = elb
        self._who = f"AWS in {settings.region}"
        self._groups = settings.groups
        self._forward = Forward(elb, settings.forward, self._groups) if settings.forward else None
        named = {one.server: target_of(one, self._groups) for one in instances}
        self._own = {name: target for name, target in named.items() if target}
        self._told: dict[str, int] = {}  # weights; AWS keeps their sums alone
        self._seen: Seen | None = None
        self._next_look = 0.0  # not before, by the loop's clock
        self._looking = asyncio.Lock()

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Aws":
        """Return the balancer that `raw` describes; raise SettingsError with every bad key."""
        errors: dict[str, str] = {}
        try:
            settings = Settings.parse(raw)
        except SettingsError as error:
            errors = error.errors
        try:
            # Here, because boto3 is an optional extra, and takes a while to be loaded.
            from rollouts.balancers.aws_api import Elb  # noqa: PLC0415
        except ImportError as error:
            errors["kind"] = f"needs boto3 ({error}): install lockgate[aws] for workers and web"
        if errors:
            raise SettingsError(errors)
        elb = Elb(settings.region, settings.endpoint_url, settings.profile)
        return cls(elb, settings, surroundings.instances)

    @property
    def takes_weights(self) -> bool:
        """Whether there is traffic to part: with one target group there is not."""
        return self._forward is not None

    async def report(self) -> BalancerReport:
        """Return every target: those of the inventory, and what else is registered."""
        seen = await bounded(self._look, self._who, CALL_TIMEOUT)
        weights = self._weights(seen)
        servers = {
            name: server(name, health, weights[name]) for name, (_, health) in seen.targets.items()
        }
        return BalancerReport(servers)

    async def drain(self, server: str) -> None:
        """Deregister `server`: it gets no new connection."""
        await bounded(lambda: self._take_out(server), self._who, CALL_TIMEOUT)

    async def ready(self, server: str) -> None:
        """Register `server`, and return once AWS finds it healthy.

        Raises BalancerUnreachable, so that it is asked again, as long as it does not.
        """
        await bounded(lambda: self._put_back(server), self._who, CALL_TIMEOUT)

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Part the traffic between the target groups as the weights of their servers say.

        With one target group there is nothing to part, and no weight but the full one.
        """
        await bounded(lambda: self._shift(weights), self._who, CALL_TIMEOUT)

    async def cut(self, server: str) -> None:
        """Refuse: AWS ends open connections when the deregistration delay is over, not before."""
        raise BalancerError(
            f"{server}: a load balancer of AWS can't end the connections of one target; they end "
            "with the deregistration delay of its target group"
        )

    async def aclose(self) -> None:
        """Close what is kept open."""
        self._elb.close()

    async def _take_out(self, name: str) -> None:
        seen = await self._look()
        target = self._target(name, seen)
        if seen.out(name):
            return
        try:
            await self._change("deregister_targets", target)
        except BalancerUnreachable:
            raise
        except BalancerError:
            # Another worker may have done it in between.
            if not (await self._look()).out(name):
                raise
        await self._settle(lambda seen: "" if seen.out(name) else f"{name} is still registered")

    async def _put_back(self, name: str) -> None:
        seen = await self._look()
        target = self._target(name, seen)
        if seen.out(name):
            await self._change("register_targets", target)

        def missing(seen: Seen) -> str:
            health = seen.health(name)
            good = health is not None and health.up
            return "" if good else f"{name} is {health or 'not registered yet'}"

        await self._settle(missing)

    async def _shift(self, weights: Mapping[str, int]) -> None:
        seen = await self._look()
        check_weights(weights, seen.targets)
        if seen.parted is None or self._forward is None:
            if any(weight != FULL_WEIGHT for weight in weights.values()):
                raise BalancerError(
                    "within one target group AWS has no weights: set slow_start to 0, or use "
                    "target_groups, one for each slot"
                )
            return
        now = self._weights(seen)
        self._told.update(weights)
        if all(now[name] == weight for name, weight in weights.items()):
            return
        wanted = {**now, **weights}
        sums = sums_of(
            {
                group: {name: wanted[name] for name in self._counted(seen, group, weights)}
                for group in self._groups
            }
        )
        await self._forward.set(seen.parted, sums)

        def astray(seen: Seen) -> str:
            now = self._sums(seen)
            return "" if now == sums else f"the target groups have {now}, not {sums}"

        await self._settle(astray)

    def _counted(self, seen: Seen, group: str, weights: Mapping[str, int]) -> list[str]:
        """Return whose weights make that of `group`: who is in rotation, or told one."""
        ready = seen.members(group, ready=True)
        return [one for one in seen.members(group) if one in ready or one in weights]

    def _sums(self, seen: Seen) -> dict[str, Sum]:
        assert seen.parted is not None
        members = {
            group: len(seen.members(group, ready=True) or seen.members(group))
            for group in self._groups
        }
        return current(seen.parted.weights, seen.parted.tag, members)

    def _weights(self, seen: Seen) -> dict[str, int]:
        """Return the weight of every server; which ones have what rounding left, only we know."""
        if seen.parted is None:
            return dict.fromkeys(seen.targets, FULL_WEIGHT)
        weights: dict[str, int] = {}
        for group, one in self._sums(seen).items():
            members = seen.members(group)
            told = {name: self._told.get(name, -1) for name in members}
            kept = {name: weight for name, weight in told.items() if one.may_weigh(weight)}
            weights |= shared_out(one, members) | kept
        return weights

    def _target(self, name: str, seen: Seen) -> Target:
        """Return the target that the server `name` is; raise BalancerError."""
        target = self._own[known(name, self._own)]
        if name not in seen.targets:
            raise BalancerError(
                f"{target.id} is registered with another port than {target.port}, which is the "
                "inventory's: correct one of them"
            )
        return target

    async def _change(self, operation: str, target: Target) -> None:
        group = self._groups[target.group]
        await self._elb.call(operation, TargetGroupArn=group, Targets=[target.description])

    async def _settle(self, missing: Callable[[Seen], str]) -> None:
        """Return once nothing is `missing`; raise BalancerUnreachable with what is, if it stays."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONFIRM_TIMEOUT
        while why := missing(await self._look()):
            if loop.time() >= deadline:
                raise BalancerUnreachable(f"{self._who}: {why}")

    async def _look(self) -> Seen:
        """Return what AWS says, asked from now on; one look serves all who wait for it."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        async with self._looking:
            if self._seen is None or self._seen.since < since:
                await asyncio.sleep(self._next_look - loop.time())
                now = loop.time()
                self._next_look = now + LOOK_INTERVAL
                self._seen = await self._ask(now)
            return self._seen

    async def _ask(self, since: float) -> Seen:
        asking = together(
            self._elb.call("describe_target_health", TargetGroupArn=arn)
            for arn in self._groups.values()
        )
        replies, parted = await asyncio.gather(asking, self._parted())
        health: dict[Target, Health] = {}
        for group, reply in zip(self._groups, replies, strict=True):
            health |= read_health(group, reply)
        return Seen(since, by_server(self._own, health), parted)

    async def _parted(self) -> Parted | None:
        return await self._forward.read() if self._forward else None
