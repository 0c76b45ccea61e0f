"""Pure: each strategy as a function from a fleet and a policy to batches and steps.

A plan is made once and stored; one interpreter follows the steps of all strategies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rollouts.facts import (
    Approve,
    Bake,
    Change,
    Instance,
    Pause,
    Prepare,
    Restore,
    Retire,
    Shift,
    Step,
)
from rollouts.policy import Policy, resolve

SLOTS = ("blue", "green")


@dataclass(frozen=True)
class Observed:
    """An instance as it was seen before the start.

    `version` is what it reported, or else what was last verified on it; "" if unknown.
    `healthy` and `serving` are None where nobody could tell. `weight` is that of normal service.
    """

    instance: Instance
    version: str
    healthy: bool | None = None
    serving: bool | None = None
    weight: int = 100

    @property
    def out(self) -> bool:
        """Whether it is known to be unhealthy or out of rotation."""
        return self.healthy is False or self.serving is False


Batch = tuple[Observed, ...]


@dataclass(frozen=True)
class Course:
    """Who is changed together, and all that is done in its order."""

    batches: tuple[Batch, ...]
    steps: tuple[Step, ...]


def limit_of(policy: Policy, total: int) -> int:
    """Return the most instances that may be out at once: never the whole fleet unasked."""
    limit = resolve(policy.max_unavailable, total)
    return limit if policy.allow_downtime else min(limit, max(1, total - 1))


def size_of(policy: Policy, total: int) -> int:
    """Return how many instances are changed together at most."""
    return min(resolve(policy.batch_size, total), limit_of(policy, total))


def zone_of(instance: Instance, policy: Policy) -> str:
    """Return the zone that is to be kept apart from others; "" where none is."""
    return instance.zone if policy.by_zone else ""


def zones_in_order(instances: Iterable[Instance], policy: Policy) -> list[str]:
    """Return the zones as they come: those of `zone_order`, the rest by name, "" at the end."""
    zones = {zone_of(one, policy) for one in instances}
    given = [zone for zone in policy.zone_order if zone in zones]
    return [*given, *sorted(zones - {*given, ""}), *({""} & zones)]


def in_order(observed: Sequence[Observed], policy: Policy) -> list[Observed]:
    """Return who is changed before whom: zone after zone, in each what is out or unhealthy first,
    the rest in the given order.
    """
    zones = zones_in_order((one.instance for one in observed), policy)
    return sorted(
        observed, key=lambda one: (zones.index(zone_of(one.instance, policy)), not one.out)
    )


def _batches(ordered: Sequence[Observed], size: int, policy: Policy) -> list[Batch]:
    """Return batches of at most `size`, none of them with instances of two zones."""
    zones = (
        list(those) for _, those in groupby(ordered, lambda one: zone_of(one.instance, policy))
    )
    return [
        tuple(zone[first : first + size]) for zone in zones for first in range(0, len(zone), size)
    ]


def _between(before: Batch, after: Batch, policy: Policy) -> list[Step]:
    """Return what is waited for between two batches: a bake where the next zone begins."""
    last, coming = (zone_of(batch[0].instance, policy) for batch in (before, after))
    if last != coming and policy.zone_bake:
        return [Bake(policy.zone_bake)]
    return [Pause(policy.batch_pause)] if policy.batch_pause else []


def rolling(observed: Sequence[Observed], policy: Policy, total: int) -> Course:
    """Change batch after batch, these of a fleet of `total`."""
    batches = _batches(in_order(observed, policy), size_of(policy, total), policy)
    steps: list[Step] = [Prepare()]
    for number, batch in enumerate(batches, 1):
        if number > 1:
            steps += _between(batches[number - 2], batch, policy)
        steps.append(Change(number, names_of(batch)))
    return Course(tuple(batches), tuple(steps))


def canary(observed: Sequence[Observed], policy: Policy) -> Course:
    """Give the new version the shares of `canary_steps`, one after the other.

    As many instances are changed as the share that comes needs, in batches; within a share the
    new side never gets more than what its instances are of the fleet.
    """
    ordered = in_order(observed, policy)
    size = size_of(policy, len(ordered))
    whole = sum(one.weight for one in ordered)
    batches: list[Batch] = []
    steps: list[Step] = [Prepare(), Shift(0)]
    reached = 0.0
    for step in policy.canary_steps:
        if "approve" in step:
            steps.append(Approve(step.get("timeout")))
            continue
        share = float(step["share"])
        done = sum(map(len, batches))
        coming = _batches(ordered[done : needed(ordered, share, policy)], size, policy)
        for place, batch in enumerate(coming, 1):
            if batches and (place > 1 or not _waits(steps[-1])):
                steps += _between(batches[-1], batch, policy)
            batches.append(batch)
            part = 100 * sum(one.weight for one in ordered[: sum(map(len, batches))]) / whole
            reached = share if place == len(coming) else min(share, max(reached, part))
            steps += [Change(len(batches), names_of(batch), share=reached), Shift(reached)]
        if not coming:
            steps.append(Shift(share))
        reached = share
        if step.get("bake"):
            steps.append(Bake(step["bake"]))
    return Course(tuple(batches), (*steps, Restore()))


def _waits(step: Step) -> bool:
    return isinstance(step, Bake | Approve)


def needed(ordered: Sequence[Observed], share: float, policy: Policy) -> int:
    """Return how many instances, the first ones, carry a share of the traffic in percent.

    One carries at most what it has to carry anyway while `max_unavailable` others are out.
    """
    total = len(ordered)
    if share >= 100:
        return total
    in_service = (total - limit_of(policy, total)) / total or 1.0
    wanted = share / 100 * sum(one.weight for one in ordered) * in_service
    carried = 0
    for count, one in enumerate(ordered, 1):
        carried += one.weight
        if carried >= wanted - 1e-9:
            return count
    return total


def blue_green(observed: Sequence[Observed], policy: Policy, live: str) -> Course:
    """Change the whole idle slot off traffic, verify it, then move the traffic to it.

    The slot `live` is not touched, and stays warm for `keep_old`.
    """
    idle = [one for one in observed if one.instance.slot != live]
    old = tuple(one.instance.server for one in observed if one.instance.slot == live)
    size = resolve(policy.batch_size, len(idle))  # all of it is out anyway
    batches = _batches(in_order(idle, policy), size, policy)
    steps: list[Step] = [Prepare(), Shift(0, old)]
    steps += [Change(n, names_of(batch), share=0) for n, batch in enumerate(batches, 1)]
    if policy.approve:
        steps.append(Approve())
    steps += _shifts(policy.shift_steps, old)
    if policy.keep_old:
        steps.append(Bake(policy.keep_old, keep=True))
    if policy.retire_old:
        steps.append(Retire(old))
    return Course(tuple(batches), tuple(steps))


def _shifts(wanted: Sequence[Mapping[str, Any]], old: tuple[str, ...]) -> Iterator[Step]:
    for step in wanted:
        if "approve" in step:
            yield Approve(step.get("timeout"))
            continue
        yield Shift(step["share"], old)
        if step.get("bake"):
            yield Bake(step["bake"])


def swap(observed: Sequence[Observed], live: str) -> Course:
    """Move the traffic to the idle slot as it is, once the whole of it is verified."""
    idle = tuple(one for one in observed if one.instance.slot != live)
    old = tuple(one.instance.server for one in observed if one.instance.slot == live)
    verify = Change(1, names_of(idle), share=0, update=False)
    return Course((idle,), (Shift(0, old), verify, Shift(100, old)))


def names_of(batch: Sequence[Observed]) -> tuple[str, ...]:
    """Return the names of the instances of a batch."""
    return tuple(one.instance.name for one in batch)
