"""Instances that a deployment held out of rotation: tried again, or put back as they are.

Each was left behind with a reason while the others went on; what becomes of it a person says.
"""

from collections import Counter
from collections.abc import Sequence

from django.contrib.auth.models import User

from rollouts import actions, planning, steering
from rollouts.models import Deployment, Instance, Service

# What is wrong with one of them says nothing about the version, which the rest of the fleet runs:
# each is tried, and who fails again stays out.
ALONE = {
    "strategy": "rolling",
    "auto_rollback": False,
    "rollback_threshold": 100,
    "allow_same_version": True,
}


def retry(
    service: Service,
    names: Sequence[str],
    *,
    by: str,
    user: User | None = None,
    version: str = "",
    note: str = "",
) -> Deployment:
    """Start a deployment that changes these instances alone, to what the others run or `version`.

    Raises NotFound, Refused, and Conflict where one is not held out or a deployment is active.
    """
    actions.check_free(service)
    instances = _held_out(service, names)
    return actions.start(
        service,
        version or _version_beside(service, instances),
        by=by,
        user=user,
        policy=ALONE,
        instances=[one.name for one in instances],
        note=note,
    )


def release(service: Service, names: Sequence[str], *, by: str) -> list[Instance]:
    """Put these instances back into rotation as they are, if they are well; return them.

    Raises NotFound, and Conflict for whom that can't be done, a deployment being active among
    the reasons; it says whom it was done for.
    """
    actions.check_idle(service)
    instances = _held_out(service, names)
    chosen = Instance.objects.filter(pk__in=[one.pk for one in instances])
    outcome = steering.steer(chosen, out=False, by=by)
    if outcome.errors:
        back = [f"Back in rotation: {one.name}." for one in outcome.done]
        raise actions.Conflict(" ".join([*outcome.errors, *back]))
    return outcome.done


def _held_out(service: Service, names: Sequence[str]) -> list[Instance]:
    """Return the active instances of these names; raise NotFound or Conflict."""
    found = {one.name: one for one in service.instances.filter(active=True, name__in=names)}
    if unknown := [name for name in names if name not in found]:
        raise actions.NotFound(f"{service.name} has no active instance {planning.names(unknown)}.")
    if free := [name for name in names if not found[name].held_out]:
        raise actions.Conflict(
            f"Not held out: {planning.names(free)}. A deployment with `instances` changes any."
        )
    return [found[name] for name in dict.fromkeys(names)]


def _version_beside(service: Service, instances: Sequence[Instance]) -> str:
    """Return the version that most of the others run, of the same slots; raise Refused."""
    slots = {one.slot for one in instances}
    others = service.instances.filter(active=True, held_out="", slot__in=slots)
    counted = Counter(others.exclude(version="").values_list("version", flat=True))
    if not counted:
        raise actions.Refused(
            {"version": "must be named: no other instance is known to run any version"}
        )
    return counted.most_common(1)[0][0]
