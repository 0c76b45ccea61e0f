"""What a person may ask: plan, start, cancel, pause, resume, promote, roll back.

Pages, REST and commands call these alike. What is refused changes nothing and starts nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from rollouts import dispatch, jobs, journal, observing, planning
from rollouts.facts import Approve, Bake, Change, Wish
from rollouts.models import Deployment, Instance, Service, Target
from rollouts.policy import Policy, PolicyError, parse
from rollouts.states import ACTIVE, TERMINAL, DeploymentStatus
from rollouts.validators import VERSION, VERSION_HINT

TYPICAL_BATCH_SECONDS = 5.0  # expected of a batch as long as no deployment has been measured
MODES = {"stop": Wish.CANCEL_STOP, "roll_back": Wish.CANCEL_ROLL_BACK}


class Refused(ValueError):
    """What was asked is wrong; `errors` maps each key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


class NotFound(LookupError):
    """There is no such service or deployment."""


class Conflict(Exception):
    """What was asked does not fit the state; `deployment_id` names what is in the way, if any."""

    def __init__(self, message: str, deployment_id: str = "") -> None:
        super().__init__(message)
        self.deployment_id = deployment_id


@dataclass(frozen=True)
class Draft:
    """A plan and what it was made of. `expected_seconds` is about what it will take.

    It goes by `batch_seconds` for each batch, the median of the last `measured` deployments; where
    none was measured yet it is no more than a guess.
    """

    service: Service
    version: str
    policy: Policy
    plan: planning.Plan
    warnings: tuple[str, ...]
    expected_seconds: float
    batch_seconds: float = TYPICAL_BATCH_SECONDS
    measured: int = 0

    @property
    def least_in_service(self) -> int:
        """Return how many instances are in rotation at least, at any instant."""
        return self.plan.least


def service_named(name: str) -> Service:
    """Return the service; raise NotFound."""
    try:
        return Service.objects.get(name=name)
    except Service.DoesNotExist:
        known = ", ".join(Service.objects.values_list("name", flat=True)[:10])
        raise NotFound(f"There is no service {name!r}. Known: {known or 'none yet'}.") from None


def deployment_with(deployment_id: str) -> Deployment:
    """Return the deployment; raise NotFound."""
    try:
        return Deployment.objects.select_related("service").get(pk=deployment_id)
    except Deployment.DoesNotExist:
        raise NotFound(f"There is no deployment {deployment_id!r}.") from None


def plan(
    service: Service,
    version: str,
    policy: Mapping[str, Any] | None = None,
    instances: Sequence[str] | None = None,
) -> Draft:
    """Return what a deployment of `version` would do. Changes nothing.

    Looks at the balancer and at every active instance, whether all are to be changed or only
    `instances`, by name. Raises Refused with every bad key.
    """
    fleet = list(service.instances.filter(active=True))
    errors: dict[str, str] = {}
    if not VERSION.fullmatch(version):
        errors["version"] = VERSION_HINT
    try:
        frozen = parse(service.policy, policy or {}, total=len(fleet))
    except PolicyError as error:
        raise Refused({**errors, **error.errors}) from None
    errors |= _refuse_idle(service, fleet, instances or ())
    if errors:
        raise Refused(errors)
    try:
        seen = observing.observe(service, fleet, frozen)
        frozen = seen.policy
        made = planning.plan(version, seen.observed, frozen, service.live_slot, instances)
    except planning.Refused as error:
        raise Refused(error.errors) from None
    pace, measured = _pace(service)
    seconds = planning.expected_seconds(made, frozen, pace)
    warnings = (*seen.warnings, *made.warnings)
    return Draft(service, version, frozen, made, warnings, seconds, pace, measured)


def _refuse_idle(
    service: Service, fleet: Sequence[Instance], chosen: Collection[str]
) -> dict[str, str]:
    """Return what is wrong where some of `chosen` would get traffic in a slot that has none."""
    live = service.live_slot
    idle = [one.name for one in fleet if one.name in chosen and one.slot and one.slot != live]
    if not live or not idle:
        return {}
    words = f"in the idle slot: {planning.names(idle)}; the next blue/green deployment changes them"
    return {"instances": words}


def _pace(service: Service) -> tuple[float, int]:
    """Return the median seconds that a batch took in the last five completed deployments, and
    how many of them could be measured.
    """
    took: list[float] = []
    completed = service.deployments.filter(status=DeploymentStatus.COMPLETED)
    completed = completed.only("plan", "policy", "started_at", "completed_at")
    for deployment in completed.order_by("-completed_at")[:5]:
        if deployment.completed_at is None or deployment.started_at is None:
            continue
        steps = planning.steps_from_json(deployment.plan)
        if any(isinstance(step, Approve) for step in steps):
            continue  # what a person took says nothing
        batches = sum(isinstance(step, Change) for step in steps)
        policy = deployment.policy
        fixed = planning.waits(steps) + batches * (
            policy["min_healthy_time"] + policy["slow_start"]
        )
        total = (deployment.completed_at - deployment.started_at).total_seconds()
        took.append(max(0.1, total - fixed) / max(1, batches))
    pace = sorted(took)[len(took) // 2] if took else TYPICAL_BATCH_SECONDS
    return pace, len(took)


def start(
    service: Service,
    version: str,
    *,
    by: str,
    user: User | None = None,
    policy: Mapping[str, Any] | None = None,
    instances: Sequence[str] | None = None,
    note: str = "",
    idempotency_key: str = "",
) -> Deployment:
    """Store a deployment and hand it to a worker. The same `idempotency_key` gives the same one.

    All active instances are changed, or only `instances`, by name.

    Raises Refused with every bad key, Conflict where the service is locked or another
    deployment is active.
    """
    if (same := _same(service, idempotency_key)) is not None:
        return same
    try:
        check_free(service)
        draft = plan(service, version, policy, instances)
        _refuse_same_version(draft)
        which = f"{draft.plan.total} instances" if instances is None else planning.names(instances)
        words = f"{by} asked for {version} on {which} of {service.name}."
        return _store(draft, words, by=by, user=user, note=note, idempotency_key=idempotency_key)
    except (Conflict, IntegrityError):
        # A double click, or somebody else, was quicker by a moment.
        if (same := _same(service, idempotency_key)) is not None:
            return same
        check_free(service)
        raise


def _refuse_same_version(draft: Draft) -> None:
    if draft.plan.same_version and not draft.policy.allow_same_version:
        raise Refused(
            {
                "allow_same_version": f"every instance runs {draft.version} already; "
                "set allow_same_version to true to deploy it again"
            }
        )


def swap(service: Service, *, by: str, user: User | None = None) -> Deployment:
    """Move the traffic to the idle slot as it is, once the whole of it is verified.

    It is a deployment of the version that the slot runs, and changes no instance. Raises Refused
    where there are no two slots or the idle one has several versions, Conflict as `start` does.
    """
    check_free(service)
    instances = list(service.instances.filter(active=True))
    frozen = parse(service.policy, {"strategy": "blue_green"}, total=len(instances))
    try:
        seen = observing.observe(service, instances, frozen)
        version, made = planning.swap(seen.observed, seen.policy, service.live_slot)
    except planning.Refused as error:
        raise Refused(error.errors) from None
    draft = Draft(service, version, seen.policy, made, seen.warnings, 0.0)
    words = f"{by} asked for the traffic to move to {version} in the idle slot of {service.name}."
    try:
        return _store(draft, words, by=by, user=user, note="", idempotency_key="")
    except IntegrityError:
        check_free(service)
        raise


def _store(
    draft: Draft, words: str, *, by: str, user: User | None, note: str, idempotency_key: str
) -> Deployment:
    """Store the deployment of `draft`, and enqueue it; raise IntegrityError."""
    service = draft.service
    deployment = Deployment(
        service=service,
        version=draft.version,
        previous_version=draft.plan.previous,
        strategy=draft.policy.strategy,
        policy=journal.policy_json(draft.policy),
        adapters=jobs.adapters_of(service),
        plan=planning.steps_to_json(draft.plan.steps),
        note=note[:500],
        user=user,
        started_by=by,
        idempotency_key=idempotency_key,
    )
    with transaction.atomic():
        journal.create(deployment, _targets(deployment, draft), words)
        transaction.on_commit(lambda: dispatch.call_worker(deployment.id))
    return deployment


def _same(service: Service, idempotency_key: str) -> Deployment | None:
    if not idempotency_key:
        return None
    return service.deployments.filter(idempotency_key=idempotency_key).first()


def check_free(service: Service) -> None:
    """Raise Conflict where the service is locked or another deployment is active."""
    check_idle(service)
    if service.lock_holds:
        who = f" by {service.locked_by}" if service.locked_by else ""
        why = f": {service.lock_reason}" if service.lock_reason else ""
        until = f" until {service.locked_until:%Y-%m-%d %H:%M} UTC" if service.locked_until else ""
        raise Conflict(f"{service.name} is locked{who}{until}{why}.")


def check_idle(service: Service) -> None:
    """Raise Conflict where a deployment of the service is active."""
    active = service.deployments.filter(status__in=[status.value for status in ACTIVE]).first()
    if active is not None:
        raise Conflict(
            f"{active.id} ({active.version}, {active.status}, started by {active.started_by}) "
            f"is active on {service.name}; wait for its end or stop it first.",
            active.id,
        )


def _targets(deployment: Deployment, draft: Draft) -> list[Target]:
    rows = {one.name: one for one in draft.service.instances.filter(active=True)}
    targets: list[Target] = []
    for batch, members in enumerate(draft.plan.batches, 1):
        for observed in members:
            where = observed.instance
            targets.append(
                Target(
                    deployment=deployment,
                    instance=rows.get(where.name),
                    name=where.name,
                    hostname=where.hostname,
                    port=where.port,
                    server=where.server,
                    slot=where.slot,
                    zone=where.zone,
                    batch=batch,
                    position=len(targets),
                    old_version=observed.version,
                    new_version=deployment.version,
                )
            )
    return targets


def cancel(deployment_id: str, mode: str, *, by: str, seen: str = "") -> Deployment:
    """Stop a deployment: `mode` "stop" leaves what is done, "roll_back" brings all back.

    One that nobody has started yet ends at once, whether or not a worker is alive. On the
    way back it has no effect. `seen` is the status that the asker acted on. Raises Conflict
    where it has ended, or where it is no longer as it was seen.
    """
    if mode not in MODES:
        raise Refused({"mode": f"must be one of: {', '.join(MODES)}"})
    with transaction.atomic():
        deployment = _held(deployment_id, seen)
        if deployment.status == DeploymentStatus.PENDING:
            reason = f"Stopped by {by} before anything was touched."
            return journal.move_now(deployment.id, DeploymentStatus.CANCELLED, reason)
        if deployment.status == DeploymentStatus.ROLLING_BACK:
            told = f"{by} asked to stop; it is on the way back already, which goes on."
            return journal.record_wish(deployment.id, _wish(deployment), deployment.wish_by, told)
        words = "stop here" if mode == "stop" else "stop and roll back"
        return _ask(deployment.id, MODES[mode], by, f"{by} asked to {words}.")


def roll_back(deployment_id: str, *, by: str, seen: str = "") -> Deployment:
    """Bring every instance back to its old version; the deployment ends rolled_back."""
    allowed = {DeploymentStatus.IN_PROGRESS, DeploymentStatus.PAUSED}
    with transaction.atomic():
        _in_status(_held(deployment_id, seen), allowed, "rolled back")
        return _ask(deployment_id, Wish.ROLL_BACK, by, f"{by} asked to roll back.")


def pause(deployment_id: str, *, by: str, seen: str = "") -> Deployment:
    """Let the batch under way end, and wait until it is resumed."""
    allowed = {DeploymentStatus.PENDING, DeploymentStatus.IN_PROGRESS}
    with transaction.atomic():
        deployment = _held(deployment_id, seen)
        _in_status(deployment, allowed, "paused")
        _refuse_while_ending(deployment)
        return _ask(deployment_id, Wish.PAUSE, by, f"{by} asked to pause.")


def resume(deployment_id: str, *, by: str, seen: str = "") -> Deployment:
    """Go on after a pause, or take back a pause that has not begun."""
    with transaction.atomic():
        deployment = _held(deployment_id, seen)
        if deployment.status != DeploymentStatus.PAUSED and deployment.wish != Wish.PAUSE:
            raise Conflict(f"{deployment_id} is {deployment.status}, not paused.", deployment_id)
        _refuse_while_ending(deployment)
        paused = deployment.status == DeploymentStatus.PAUSED
        wish = Wish.RESUME if paused else None
        return _ask(deployment_id, wish, by, f"{by} asked to resume.")


def promote(
    deployment_id: str,
    *,
    by: str,
    to_end: bool = False,
    seen: str = "",
    step: int | None = None,
) -> Deployment:
    """Go past what is waited for: an approval, or the rest of a bake.

    With `to_end` past all that come before the new version has everything; the old slot stays
    warm all the same. `step` is the one that the asker acted on. Raises Conflict where nothing
    is waited for, or where it is at another step by now.
    """
    with transaction.atomic():
        deployment = _held(deployment_id, seen)
        _refuse_while_ending(deployment)
        ahead = planning.steps_from_json(deployment.plan)[deployment.cursor :]
        going_on = deployment.status == DeploymentStatus.IN_PROGRESS
        if not going_on or not ahead or not isinstance(ahead[0], Approve | Bake):
            raise Conflict(
                f"{deployment.id} is {deployment.status} and waits for no approval and no bake.",
                deployment.id,
            )
        if step is not None and step != deployment.cursor:
            raise Conflict(
                f"{deployment.id} has gone on since you looked; look again and promote it if you "
                "still want to.",
                deployment.id,
            )
        wish = Wish.PROMOTE_ALL if to_end else Wish.PROMOTE
        words = "promote it to the end" if to_end else "promote it"
        return _ask(deployment_id, wish, by, f"{by} asked to {words}.")


def _ask(deployment_id: str, wish: Wish | None, by: str, message: str) -> Deployment:
    """Record a wish, and call a worker where none has the deployment."""
    deployment = journal.record_wish(deployment_id, wish, by, message)
    if not journal.is_driven(deployment):
        transaction.on_commit(lambda: dispatch.call_worker(deployment_id))
    return deployment


def _wish(deployment: Deployment) -> Wish | None:
    return Wish(deployment.wish) if deployment.wish else None


def _held(deployment_id: str, seen: str) -> Deployment:
    """Return the deployment, locked where in a transaction; raise NotFound or Conflict."""
    with transaction.atomic():
        try:
            deployment = journal.locked(deployment_id)
        except Deployment.DoesNotExist:
            raise NotFound(f"There is no deployment {deployment_id!r}.") from None
    if DeploymentStatus(deployment.status) in TERMINAL:
        raise Conflict(f"{deployment_id} has ended: {deployment.status}.", deployment_id)
    if seen and seen != deployment.status:
        raise Conflict(
            f"{deployment_id} was {seen} when you looked and is {deployment.status} now; "
            "look again and repeat it if you still want to.",
            deployment_id,
        )
    return deployment


def _in_status(deployment: Deployment, allowed: set[DeploymentStatus], what: str) -> None:
    if DeploymentStatus(deployment.status) not in allowed:
        raise Conflict(
            f"{deployment.id} is {deployment.status} and can't be {what}.", deployment.id
        )


def _refuse_while_ending(deployment: Deployment) -> None:
    if (wish := _wish(deployment)) is not None and wish.ends:
        raise Conflict(f"{deployment.id} is being stopped by {deployment.wish_by}.", deployment.id)
