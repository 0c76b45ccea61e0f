"""Pure: what is to be known of a plan before it is started, a sentence each."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rollouts import strategies, weights
from rollouts.policy import Policy, resolve
from rollouts.strategies import SLOTS, Observed

UNEQUAL = 0.1  # part by which the capacity of two slots may differ unmentioned


def names(items: Sequence[str], most: int = 5) -> str:
    """Return the first `most` items for a sentence, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def of_who_is_out(
    changed: Sequence[Observed], rest: Sequence[Observed], policy: Policy, limit: int
) -> Iterator[str]:
    """Yield what is to be known of who is out now, and of how many may be: `limit`."""
    total = len(changed) + len(rest)
    mine, others = ([one.instance.name for one in part if one.out] for part in (changed, rest))
    out = len(mine) + len(others)
    if mine:
        where = " in its zone" if policy.by_zone else ""
        yield f"Out or unhealthy now, and changed first{where}: {names(mine)}."
    if others:
        yield f"Out or unhealthy now, and left so: {names(others)}."
    if out > limit or (len(others) == limit and len(mine) < len(changed)):
        many = "more than" if out > limit else "as many as"
        yield (
            f"{out} are out already, {many} max_unavailable ({limit}): "
            "no healthy instance is touched until enough of them are back."
        )
    if limit < resolve(policy.max_unavailable, total):
        yield f"max_unavailable would allow all {total} to be out: at most {limit} at once will be."


def of_zones(
    changed: Sequence[Observed], rest: Sequence[Observed], policy: Policy, limit: int
) -> Iterator[str]:
    """Yield what speaks against the order of the zones, where `limit` may be out at once."""
    if not policy.by_zone:
        return
    zones = strategies.zones_in_order((one.instance for one in changed), policy)
    if len(zones) == 1 and not rest:
        where = f"in zone {zones[0]}" if zones[0] else "without a zone"
        yield f"by_zone makes no difference: every instance is {where}."
    for place, zone in enumerate(zones[:-1]):
        out = [one.instance for one in changed if one.out]
        later = [one.name for one in out if one.zone in zones[place + 1 :]]
        well = any(not one.out for one in changed if one.instance.zone == zone)
        if well and len(later) >= limit:
            yield (
                f"Out, and in a zone that comes after {zone}: {names(later)}. "
                f"Nothing of {zone} may be taken out meanwhile (max_unavailable is {limit}): name "
                "their zone first in zone_order, try them again alone, or raise max_unavailable."
            )
            return


def of_slots(observed: Sequence[Observed], live: str) -> Iterator[str]:
    """Yield in what the slots differ, `live` having the traffic."""
    capacity = Counter(dict.fromkeys(SLOTS, 0))
    for one in observed:
        capacity[one.instance.slot] += one.weight
    idle = SLOTS[1 - SLOTS.index(live)]
    if abs(capacity[idle] - capacity[live]) > UNEQUAL * capacity[live]:
        counts = Counter(one.instance.slot for one in observed)
        yield (
            f"The slots are unequal: {live} has {counts[live]} instances of weight "
            f"{capacity[live]} in all, {idle} {counts[idle]} of {capacity[idle]}."
        )
    if busy := [one for one in observed if one.instance.slot == idle and one.serving]:
        yield (
            f"Both slots have traffic now: {idle} is taken off it first, and {live} "
            f"carries what {len(busy)} instances of {idle} carry."
        )


def of_canary(observed: Sequence[Observed], policy: Policy) -> Iterator[str]:
    """Yield in what the first share differs from what one might expect."""
    ordered = strategies.in_order(observed, policy)
    share = next(step["share"] for step in policy.canary_steps if "share" in step)
    if (count := strategies.needed(ordered, share, policy)) > 1:
        yield (
            f"One instance can't carry the first share of {share:g} %: "
            f"{count} instances get the new version for it."
        )
    new = {one.instance.server: one.weight for one in ordered[:count]}
    old = {one.instance.server: one.weight for one in ordered[count:]}
    full = weights.scale_of(one.weight for one in ordered)
    set_to = weights.split(new, old, share, full)
    real = 100 * sum(set_to[name] for name in new) / sum(set_to.values())
    if abs(real - share) > 0.1 * share:
        yield (
            f"A share of {share:g} % can't be set with weights from 1 to {weights.MOST} on so few "
            f"instances: it will be {real:.2g} %."
        )


def of_versions(version: str, observed: Sequence[Observed], policy: Policy) -> Iterator[str]:
    """Yield what is to be known of the versions of the instances that are changed."""
    if all(one.version == version for one in observed):
        again = "allow_same_version must be true to deploy it again"
        after = "they are restarted with it" if policy.allow_same_version else again
        yield f"Every instance runs {version} already: {after}."
    if unknown := [one.instance.name for one in observed if not one.version]:
        yield f"No known old version, so no way back: {names(unknown)}."
    if not policy.auto_rollback:
        yield "Rollback is switched off: a bad version stays where it failed."
