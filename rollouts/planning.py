"""Pure: service, instances and policy to steps; also the way back from any point.

A plan is made once and stored. It says who is changed together and in which order; how many
of a batch may be out at any instant is decided by `admit` each time, on what is out by then.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.facts import (
    BalancerReport,
    Change,
    Instance,
    Pause,
    Prepare,
    Rollout,
    Step,
    Target,
)
from rollouts.policy import Policy, resolve
from rollouts.states import IN_FLIGHT, DeploymentStatus, TargetStatus


@dataclass(frozen=True)
class Observed:
    """An instance as it was seen before the start.

    `version` is what it reported, or else what was last verified on it; "" if unknown.
    `healthy` and `serving` are None where nobody could tell.
    """

    instance: Instance
    version: str
    healthy: bool | None = None
    serving: bool | None = None

    @property
    def out(self) -> bool:
        """Whether it is known to be unhealthy or out of rotation."""
        return self.healthy is False or self.serving is False


@dataclass(frozen=True)
class Plan:
    """What a deployment will do: its steps, and which batch each instance is in."""

    steps: tuple[Step, ...]
    batches: tuple[tuple[Observed, ...], ...]
    limit: int  # most instances out at once
    warnings: tuple[str, ...]
    same_version: bool  # every instance runs the version already

    @property
    def total(self) -> int:
        """Return the number of instances to be changed."""
        return sum(len(batch) for batch in self.batches)


class Refused(ValueError):
    """No plan can be made; `errors` maps each key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


def limit_of(policy: Policy, total: int) -> int:
    """Return the most instances that may be out at once: never the whole fleet unasked."""
    limit = resolve(policy.max_unavailable, total)
    return limit if policy.allow_downtime else min(limit, max(1, total - 1))


def plan(version: str, observed: Sequence[Observed], policy: Policy) -> Plan:
    """Return the rolling plan: what is out or unhealthy first, the rest in the given order.

    Raises Refused for no instance, and for a single one without `allow_downtime`.
    """
    errors: dict[str, str] = {}
    if not observed:
        errors["instances"] = "the service has no active instance; add or activate one first"
    if len(observed) == 1 and not policy.allow_downtime:
        errors["allow_downtime"] = (
            "the service has a single instance and would be down during the update; "
            "set allow_downtime to true, or add an instance"
        )
    if errors:
        raise Refused(errors)
    limit = limit_of(policy, len(observed))
    size = min(resolve(policy.batch_size, len(observed)), limit)
    ordered = sorted(observed, key=lambda one: not one.out)
    batches = tuple(tuple(ordered[first : first + size]) for first in range(0, len(ordered), size))
    return Plan(
        _steps(batches, policy),
        batches,
        limit,
        _warnings(version, observed, policy),
        _everywhere(version, observed),
    )


def _everywhere(version: str, observed: Iterable[Observed]) -> bool:
    return all(one.version == version for one in observed)


def _steps(batches: Sequence[Sequence[Observed]], policy: Policy) -> tuple[Step, ...]:
    steps: list[Step] = [Prepare()]
    for number, batch in enumerate(batches, 1):
        if number > 1 and policy.batch_pause:
            steps.append(Pause(policy.batch_pause))
        steps.append(Change(number, tuple(one.instance.name for one in batch)))
    return tuple(steps)


def _warnings(version: str, observed: Sequence[Observed], policy: Policy) -> tuple[str, ...]:
    total = len(observed)
    warnings: list[str] = []
    out = [one.instance.name for one in observed if one.out]
    limit = limit_of(policy, total)
    if out:
        warnings.append(f"Out or unhealthy now, and changed first: {names(out)}.")
    if len(out) > limit:
        warnings.append(
            f"{len(out)} are out already, more than max_unavailable ({limit}): "
            "no healthy instance is touched until enough of them are back."
        )
    if limit < resolve(policy.max_unavailable, total):
        warnings.append(
            f"max_unavailable would allow all {total} to be out: at most {limit} at once will be."
        )
    if _everywhere(version, observed):
        warnings.append(
            f"Every instance runs {version} already: "
            + (
                "they are restarted with it."
                if policy.allow_same_version
                else "allow_same_version must be true to deploy it again."
            )
        )
    if unknown := [one.instance.name for one in observed if not one.version]:
        warnings.append(f"No known old version, so no way back: {names(unknown)}.")
    if not policy.auto_rollback:
        warnings.append("Rollback is switched off: a bad version stays where it failed.")
    return tuple(warnings)


def names(items: Sequence[str], most: int = 5) -> str:
    """Return the first `most` items for a sentence, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def expected_seconds(plan: Plan, policy: Policy, per_batch: float) -> float:
    """Return about how long `plan` takes, at `per_batch` seconds for one batch."""
    pauses = max(0, len(plan.batches) - 1) * policy.batch_pause
    return len(plan.batches) * (per_batch + policy.min_healthy_time + policy.slow_start) + pauses


def down_now(
    rollout: Rollout, report: BalancerReport, unhealthy: Collection[str]
) -> frozenset[str]:
    """Return the names of the targets that serve nobody at this instant.

    These are those that the balancer sends no requests to, and those that were found unhealthy
    and were not cured since (`unhealthy`).
    """
    down = set(unhealthy)
    for target in rollout.targets:
        server = report.servers.get(target.instance.server)
        if server is None or not server.serving:
            down.add(target.instance.name)
    return frozenset(down)


def out_now(rollout: Rollout, down: Collection[str]) -> frozenset[str]:
    """Return the names of the targets that count as out: `down`, being changed, or held out."""
    changing = {
        target.instance.name
        for target in rollout.targets
        if target.status in IN_FLIGHT or target.status is TargetStatus.FAILED
    }
    return frozenset(changing | set(down))


def admit(
    waiting: Iterable[str], out: Collection[str], down: Collection[str], limit: int
) -> tuple[str, ...]:
    """Return which of `waiting` may be taken out now (S1).

    What is `down` may always be changed; of the rest as many as keep the number of those that
    count as `out` at or below `limit`. One that counts as out may serve all the same, where
    whoever began to change it died, or the balancer forgot.
    """
    counted = set(out)
    admitted: list[str] = []
    for name in waiting:
        if name in down:
            admitted.append(name)
        elif len(counted | {name}) <= limit:
            counted.add(name)
            admitted.append(name)
    return tuple(admitted)


def to_bring_back(rollout: Rollout, everything: bool) -> tuple[Target, ...]:
    """Return the targets that have to go back to their old versions, out of rotation first.

    With `everything` those that are well on the new version too.
    """
    broken = [
        target
        for target in rollout.targets
        if target.status in IN_FLIGHT or target.status is TargetStatus.FAILED
    ]
    well = [target for target in rollout.targets if target.status is TargetStatus.HEALTHY]
    return (*broken, *(well if everything else ()))


def way_back(rollout: Rollout, *, everything: bool) -> tuple[Step, ...]:
    """Return the steps back: what is out of rotation first, then the rest in batches."""
    back = to_bring_back(rollout, everything)
    well = [one.instance.name for one in back if one.status is TargetStatus.HEALTHY]
    broken = [one.instance.name for one in back if one.status is not TargetStatus.HEALTHY]
    total = len(rollout.targets)
    size = min(resolve(rollout.policy.batch_size, total), limit_of(rollout.policy, total))
    groups = [broken, *(well[first : first + size] for first in range(0, len(well), size))]
    return tuple(
        Change(number, tuple(group))
        for number, group in enumerate((group for group in groups if group), 1)
    )


def ending(cancelled: bool) -> DeploymentStatus:
    """Return what the way back leads to if it succeeds."""
    return DeploymentStatus.CANCELLED if cancelled else DeploymentStatus.ROLLED_BACK


def steps_to_json(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return `steps` as they are stored."""
    stored: list[dict[str, Any]] = []
    for step in steps:
        match step:
            case Prepare():
                stored.append({"kind": "prepare"})
            case Change(batch, targets):
                stored.append({"kind": "change", "batch": batch, "targets": list(targets)})
            case Pause(seconds):
                stored.append({"kind": "pause", "seconds": seconds})
    return stored


def steps_from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return the steps that `steps_to_json` stored; raise KeyError for an unknown kind."""
    make: dict[str, Callable[[Mapping[str, Any]], Step]] = {
        "prepare": lambda step: Prepare(),
        "change": lambda step: Change(step["batch"], tuple(step["targets"])),
        "pause": lambda step: Pause(step["seconds"]),
    }
    return tuple(make[step["kind"]](step) for step in stored)
