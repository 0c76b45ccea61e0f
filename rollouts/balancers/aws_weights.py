"""Weights of two target groups: what the engine means, what AWS has, and back. Pure.

AWS has one weight for a group, the engine one for each server. A group weighs what its servers
in rotation weigh together, and these all weigh the same, but for what rounding leaves. What the
sums were is kept as a tag beside, because AWS takes no weight over 999.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.facts import FULL_WEIGHT
from rollouts.ports import BalancerError

MOST = 999  # the largest weight that AWS takes
_PART = re.compile(r"(blue|green)=([0-9]{1,9})/([0-9]{1,6})")


@dataclass(frozen=True)
class Sum:
    """What `count` servers of a group weigh together."""

    total: int
    count: int

    @property
    def each(self) -> int:
        """Return what one server weighs at least; some may weigh one more."""
        return self.total // max(1, self.count)

    def may_weigh(self, weight: int) -> bool:
        """Whether one of the servers may have this weight."""
        return self.each <= weight <= self.each + (self.total > self.each * self.count)


Sums = Mapping[str, Sum]


def sums_of(weights: Mapping[str, Mapping[str, int]]) -> dict[str, Sum]:
    """Return the sums of the weights of the servers of each group; raise BalancerError."""
    for group, members in weights.items():
        least, most = (pick(members.values(), default=0) for pick in (min, max))
        if most - least > 1 or (most and not least):
            raise BalancerError(
                f"all servers of the target group {group} have one weight, not {least} and {most}: "
                "deploy by slot, with slow_start 0"
            )
    return {group: Sum(sum(members.values()), len(members)) for group, members in weights.items()}


def forwarded(sums: Sums) -> dict[str, int]:
    """Return the weights of the groups as AWS takes them, in the proportions of `sums`."""
    largest = max(one.total for one in sums.values())
    if largest <= MOST:
        return {group: one.total for group, one in sums.items()}
    return {
        group: max(1, round(one.total * MOST / largest)) if one.total else 0
        for group, one in sums.items()
    }


def to_tag(sums: Sums) -> str:
    """Return `sums` as the value of a tag, in which AWS takes few signs."""
    return " ".join(f"{group}={one.total}/{one.count}" for group, one in sorted(sums.items()))


def from_tag(text: str) -> dict[str, Sum]:
    """Return the sums in a tag, none where it is not one of ours."""
    matches = [_PART.fullmatch(part) for part in text.split(" ")]
    return {match[1]: Sum(int(match[2]), int(match[3])) for match in matches if match}


def current(actual: Mapping[str, int], tag: str, members: Mapping[str, int]) -> dict[str, Sum]:
    """Return the sums that AWS has now: those of the tag, if they lead to the `actual` weights.

    Otherwise somebody else has set them: then as if the servers of the group that gets the most
    for each of its `members` had full weight.
    """
    sums = from_tag(tag)
    if sums.keys() == actual.keys() and forwarded(sums) == actual:
        return sums
    rate = {group: weight / max(1, members[group]) for group, weight in actual.items()}
    largest = max(rate.values()) or 1
    return {
        group: Sum(
            max(1 if value else 0, round(FULL_WEIGHT * value / largest)) * max(1, members[group]),
            max(1, members[group]),
        )
        for group, value in rate.items()
    }


def shared_out(one: Sum, members: Sequence[str]) -> dict[str, int]:
    """Return the weight of each of `members`, the first ones with what rounding left."""
    left = one.total - one.each * one.count
    return {name: one.each + (place < left) for place, name in enumerate(members)}


def read_forward(actions: Sequence[Any], groups: Mapping[str, str]) -> dict[str, int]:
    """Return the weights of `groups`, names with ARNs, in the action that forwards to them.

    Raises BalancerError unless it forwards to exactly these.
    """
    tuples = _groups_of(actions)
    found = {one["TargetGroupArn"]: one.get("Weight", 1) for one in tuples}
    if found.keys() != set(groups.values()):
        raise BalancerError(
            "the listener or its rule does not forward to exactly the two target groups: give it "
            "a forward action with both, the idle one with weight 0"
        )
    return {name: found[arn] for name, arn in groups.items()}


def _groups_of(actions: Sequence[Any]) -> list[Any]:
    for action in actions:
        if action["Type"] == "forward":
            groups: list[Any] = action.get("ForwardConfig", {}).get("TargetGroups", [])
            return groups
    return []


def with_weights(actions: Sequence[Any], weights: Mapping[str, int]) -> list[Any]:
    """Return all `actions`, to be set again, with new `weights` by the groups' ARNs."""
    changed = copy.deepcopy(list(actions))
    for one in _groups_of(changed):
        one["Weight"] = weights[one["TargetGroupArn"]]
    for action in changed:
        if action["Type"] == "forward":
            action.pop("TargetGroupArn", None)  # AWS wants either that or the groups
        if oidc := action.get("AuthenticateOidcConfig"):
            oidc["UseExistingClientSecret"] = True  # AWS does not show it, and would forget it
    return changed
