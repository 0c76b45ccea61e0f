"""The action of a listener, or of a rule of one, that parts the traffic between target groups."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollouts.balancers.aws_weights import Sums, forwarded, read_forward, to_tag, with_weights

if TYPE_CHECKING:
    from rollouts.balancers.aws_api import Elb

TAG = "lockgate-weights"


@dataclass(frozen=True)
class Parted:
    """How the traffic is parted: all `actions`, the `weights` by slot, and our tag ("": none)."""

    actions: Sequence[Any]
    weights: Mapping[str, int]
    tag: str


class Forward:
    """Reads and sets how the traffic is parted; every call raises BalancerError."""

    def __init__(self, elb: "Elb", arn: str, groups: Mapping[str, str]) -> None:
        self._elb = elb
        self._arn = arn
        self._groups = groups
        self._is_rule = ":listener-rule/" in arn

    async def read(self) -> Parted:
        """Return how the traffic is parted now."""
        actions, tags = await asyncio.gather(
            self._actions(), self._elb.call("describe_tags", ResourceArns=[self._arn])
        )
        found = [tag for one in tags["TagDescriptions"] for tag in one["Tags"]]
        tag = next((one["Value"] for one in found if one["Key"] == TAG), "")
        return Parted(actions, read_forward(actions, self._groups), tag)

    async def set(self, parted: Parted, sums: Sums) -> None:
        """Part the traffic anew; what else `parted` has stays as it is.

        The tag comes first: without the right to set it nothing is changed, and one that does
        not fit to the weights is not heeded.
        """
        tag = {"Key": TAG, "Value": to_tag(sums)}
        await self._elb.call("add_tags", ResourceArns=[self._arn], Tags=[tag])
        weights = {self._groups[slot]: weight for slot, weight in forwarded(sums).items()}
        actions = with_weights(parted.actions, weights)
        if self._is_rule:
            await self._elb.call("modify_rule", RuleArn=self._arn, Actions=actions)
        else:
            await self._elb.call("modify_listener", ListenerArn=self._arn, DefaultActions=actions)

    async def _actions(self) -> Sequence[Any]:
        if self._is_rule:
            rules = await self._elb.call("describe_rules", RuleArns=[self._arn])
            actions: list[Any] = rules["Rules"][0]["Actions"]
        else:
            listeners = await self._elb.call("describe_listeners", ListenerArns=[self._arn])
            actions = listeners["Listeners"][0]["DefaultActions"]
        return actions
