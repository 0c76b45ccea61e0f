"""Locks of services: while one holds no deployment starts; what runs goes on."""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from rollouts.actions import Conflict, Refused
from rollouts.models import Service

REASON_LIMIT = 200


def lock(service: Service, *, by: str, reason: str, until: datetime | None = None) -> Service:
    """Let no deployment of the service start, until a moment or until it is unlocked.

    Raises Refused for a reason that is missing or too long and for a moment that is over, and
    Conflict where it is locked already: whoever did that had a reason.
    """
    reason = " ".join(reason.split())
    errors: dict[str, str] = {}
    if not reason or len(reason) > REASON_LIMIT or "\0" in reason:
        errors["reason"] = f"must say why, in 1 to {REASON_LIMIT} characters"
    if until is not None and until <= timezone.now():
        errors["until"] = "must be in the future, or be left out for no end"
    if errors:
        raise Refused(errors)
    with transaction.atomic():
        held = Service.objects.select_for_update().get(pk=service.pk)
        if held.lock_holds:
            raise Conflict(f"{held.name} is locked already{_by(held)}.")
        held.locked, held.lock_reason, held.locked_by, held.locked_until = True, reason, by, until
        held.save(update_fields=["locked", "lock_reason", "locked_by", "locked_until"])
    return held


def unlock(service: Service, *, by: str, any_lock: bool, seen: str = "") -> Service:
    """Let deployments of the service start again; return it as it was locked.

    Whoever set the lock may take it back; others need `any_lock`. `seen` is the reason that the
    asker read. Raises Conflict where it is not locked any more, is locked for another reason
    now, or by somebody else.
    """
    with transaction.atomic():
        held = Service.objects.select_for_update().get(pk=service.pk)
        if not held.lock_holds:
            raise Conflict(f"{held.name} is not locked any more.")
        if seen and seen != held.lock_reason:
            raise Conflict(f"{held.name} is locked for another reason now: {held.lock_reason}.")
        if not may_unlock(held, by, any_lock):
            raise Conflict(
                f"{held.name} was locked{_by(held)}: it is unlocked by whoever locked it, or by "
                "who may change the service."
            )
        Service.objects.filter(pk=held.pk).update(
            locked=False, lock_reason="", locked_by="", locked_until=None
        )
    return held


def may_unlock(service: Service, by: str, any_lock: bool) -> bool:
    """Whether `by` may take the lock back that the service has."""
    return any_lock or (bool(service.locked_by) and service.locked_by == by)


def _by(service: Service) -> str:
    return f" by {service.locked_by}" if service.locked_by else ""
