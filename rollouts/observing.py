"""How a fleet is just now: the balancer and every instance are asked, before a plan is made.

The web asks too, so no driver is: that may need keys that only workers have.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asgiref.sync import async_to_sync

from rollouts import jobs, planning
from rollouts.adapters import SettingsError
from rollouts.facts import FULL_WEIGHT, Answer, BalancerReport
from rollouts.models import Instance, Service
from rollouts.policy import Policy
from rollouts.ports import BalancerError
from rollouts.strategies import Observed

LOOK_TIMEOUT = 2.0  # seconds for what one instance answers


@dataclass(frozen=True)
class Fleet:
    """Every instance as it is now, the policy as far as it can be followed, and warnings."""

    observed: tuple[Observed, ...]
    policy: Policy
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Heard:
    """What the balancer (None where it did not answer) and the instances said, in their order."""

    report: BalancerReport | None
    takes_weights: bool
    answers: Sequence[Answer]


def observe(service: Service, instances: Sequence[Instance], policy: Policy) -> Fleet:
    """Return the fleet of `service` as it is now. Changes nothing.

    Raises planning.Refused where the balancer lacks a server, can't be made for these instances,
    or can't do what the policy asks of it.
    """
    try:
        heard = async_to_sync(_ask_all)(jobs.adapters_of(service), instances, policy)
    except SettingsError as error:
        raise planning.Refused(error.errors) from error
    _refuse(service, instances, policy, heard)
    servers = heard.report.servers if heard.report else {}
    warnings: list[str] = []
    if heard.report is None:
        warnings.append("The balancer does not answer from here; the worker will ask it again.")
    if policy.judging.enabled and any(one.answers is None for one in servers.values()):
        policy = replace(policy, analysis={**policy.analysis, "enabled": False})
        warnings.append(
            "The balancer does not count what its servers answer: the new version is not judged "
            "on live traffic."
        )
    if any(one.sessions is None for one in servers.values()):
        warnings.append(
            "The balancer does not count open sessions: each drain takes the whole "
            f"{policy.drain_timeout:g} s of drain_timeout."
        )
    observed = (
        Observed(
            instance=instance.fact(),
            version=answer.version or instance.last_seen_version,
            healthy=answer.ok,
            serving=servers[instance.server].serving if servers else None,
            weight=servers[instance.server].full if servers else FULL_WEIGHT,
        )
        for instance, answer in zip(instances, heard.answers, strict=True)
    )
    return Fleet(tuple(observed), policy, tuple(warnings))


def _refuse(service: Service, instances: Sequence[Instance], policy: Policy, heard: _Heard) -> None:
    """Raise planning.Refused with all that the balancer can't do for such a deployment."""
    errors: dict[str, str] = {}
    known = heard.report.servers if heard.report else {one.server: None for one in instances}
    if missing := [one.server for one in instances if one.server not in known]:
        errors["balancer"] = (
            f"does not know {planning.names(missing)}; add them to its backend "
            f"{service.balancer.get('backend', '')!r} or correct the inventory"
        )
    kind = service.balancer.get("kind")
    if not heard.takes_weights and policy.strategy != "rolling":
        errors["strategy"] = (
            f"{policy.strategy} shifts traffic by weights, which the balancer ({kind}) can't; "
            "deploy with rolling"
        )
    if not heard.takes_weights and policy.slow_start:
        errors["slow_start"] = f"ramps the weight, which the balancer ({kind}) can't; set it to 0"
    if errors:
        raise planning.Refused(errors)


async def _ask_all(
    frozen: Mapping[str, Any], instances: Sequence[Instance], policy: Policy
) -> _Heard:
    async with jobs.adapters_for(frozen, policy) as at:

        async def ask(instance: Instance) -> Answer:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT):
                    return await at.health.ask(instance.fact())
            except TimeoutError:
                return Answer(0.0, ok=False, error=f"no answer within {LOOK_TIMEOUT:g} s")

        async def report() -> BalancerReport | None:
            try:
                return await at.balancer.report()
            except BalancerError:
                return None

        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(report())
            asking = [group.create_task(ask(one)) for one in instances]
        answers = [task.result() for task in asking]
        return _Heard(reporting.result(), at.balancer.takes_weights, answers)
