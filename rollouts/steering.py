"""Instances taken out of rotation and put back by hand, through the service's own balancer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models import QuerySet

from rollouts import jobs, journal
from rollouts.adapters import SettingsError
from rollouts.facts import BalancerReport
from rollouts.models import ACTIVE_VALUES, Instance, Service
from rollouts.policy import Policy, PolicyError, parse
from rollouts.ports import BalancerError
from rollouts.states import TargetStatus

MOST = 50  # instances steered by one click
AT_ONCE = 10  # calls to the balancer under way
DEADLINE = 15.0  # seconds for all instances of one service


@dataclass
class Outcome:
    """What was steered, and a sentence for each thing that was not."""

    done: list[Instance] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def steer(chosen: QuerySet[Instance], *, out: bool, by: str) -> Outcome:
    """Take `chosen` out of rotation or put them back; refuse while their service deploys.

    Who is put back is held out no longer.
    """
    instances = list(chosen.select_related("service").order_by("service__name", "name")[: MOST + 1])
    if len(instances) > MOST:
        return Outcome(errors=[f"Nothing was done: choose at most {MOST} instances."])
    outcome = Outcome()
    for service_id in dict.fromkeys(one.service_id for one in instances):
        mine = [one for one in instances if one.service_id == service_id]
        _steer_service(service_id, mine, outcome, out=out, by=by)
    return outcome


@transaction.atomic
def _steer_service(
    service_id: int, instances: Sequence[Instance], outcome: Outcome, *, out: bool, by: str
) -> None:
    # A deployment that starts refers to this row, so it waits until the lock is gone.
    service = Service.objects.select_for_update().get(pk=service_id)
    active = service.deployments.filter(status__in=ACTIVE_VALUES).first()
    if active is not None:
        outcome.errors.append(
            f"{service.name} is left alone: {active.id} is running; "
            "wait for its end or stop it first."
        )
        return
    try:
        policy = parse(service.policy)
    except PolicyError as error:
        outcome.errors.append(f"{service.name} is left alone: its policy is wrong: {error}.")
        return
    told = async_to_sync(_steer)(jobs.adapters_of(service), instances, policy, out)
    for instance in instances:
        why = told.get(instance.name)
        if why is None:
            outcome.done.append(instance)
            if not out and instance.held_out:
                _release(instance, by)
        else:
            outcome.errors.append(f"{service.name}/{instance.name} ({instance.server}): {why}")


def _release(instance: Instance, by: str) -> None:
    """Hold `instance` out no longer, and say so in the log of the deployment that did."""
    Instance.objects.filter(pk=instance.pk).update(held_out="")
    held = instance.targets.filter(status=TargetStatus.FAILED).order_by("-updated_at").first()
    if held is not None:
        with journal.writing(held.deployment_id) as entry:
            words = f"{by} put {instance.name} back into rotation as it is."
            entry.append("note", words, target=held.name)


async def _steer(
    frozen: Mapping[str, Any], instances: Sequence[Instance], policy: Policy, out: bool
) -> Mapping[str, str]:
    """Return the error of each instance that was not steered, by name."""
    gate = asyncio.Semaphore(AT_ONCE)
    errors = {one.name: f"was not asked within {DEADLINE:g} s." for one in instances}

    async def one(at: jobs.Adapters, instance: Instance) -> None:
        try:
            async with gate:
                await (at.balancer.drain(instance.server) if out else _ready(at, instance))
        except BalancerError as error:
            errors[instance.name] = str(error)
        else:
            del errors[instance.name]

    try:
        async with asyncio.timeout(DEADLINE), jobs.adapters_for(frozen, policy) as at:
            if out and (why := _leaves_none(await at.balancer.report(), instances)):
                return {one.name: why for one in instances}
            await asyncio.gather(*(one(at, instance) for instance in instances))
    except (BalancerError, SettingsError) as error:
        return {one.name: str(error) for one in instances}
    except TimeoutError:
        pass
    return errors


def _leaves_none(report: BalancerReport, instances: Sequence[Instance]) -> str:
    """Return why the instances can't leave: nothing would serve without them."""
    leaving = {one.server for one in instances}
    serving = {server.name for server in report.servers.values() if server.serving}
    if serving and not serving - leaving:
        return "stays: without it nothing of the service would be in rotation."
    return ""


async def _ready(at: jobs.Adapters, instance: Instance) -> None:
    """Put `instance` back if it is well: a balancer would send traffic before its own check."""
    answer = await at.health.ask(instance.fact())
    if not answer.ok:
        raise BalancerError(f"is not well and stays out: {answer.error}")
    await at.balancer.ready(instance.server)
