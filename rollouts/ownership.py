"""Who drives a deployment: a lease in its row, and an epoch that rises with each owner.

Expiry is by the database's clock; an owner goes by its own clock, from before it asked, so
that it stops at the latest when others may begin. Only the epoch decides whose writes count.
"""

import logging
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from rollouts import journal, lease
from rollouts.models import ACTIVE_VALUES, Deployment
from rollouts.ports import LeaseLost
from rollouts.states import TERMINAL, DeploymentStatus

log = logging.getLogger(__name__)

# Seconds before a parked deployment is due at which it may be claimed, so that it is on time.
EARLY = 1.0
# What a query ends with where PostgreSQL, or the connection to it, is gone.
AWAY = (OperationalError, InterfaceError)


def owner_name(pid: int | None = None) -> str:
    """Return how a process of this machine, or this one, is called as an owner."""
    return f"{socket.gethostname()[:60]}:{pid or os.getpid()}"


@dataclass(frozen=True)
class Claim:
    """The right that one process was given to drive a deployment."""

    deployment_id: str
    owner: str
    epoch: int
    asked_at: float  # by `lease.clock`, before the database was asked


def claim(deployment_id: str, owner: str) -> Claim | None:
    """Take a deployment that is due and that nobody drives; return None where it is not so."""
    asked_at = lease.clock()
    with journal.writing(deployment_id) as entry:
        held = entry.deployment
        if DeploymentStatus(held.status) in TERMINAL or journal.is_driven(held):
            return None
        if held.due_at is None or held.due_at > held.db_now + timedelta(seconds=EARLY):
            return None
        if held.owner:
            lost, now = f"{held.heard_at:%H:%M:%S}", f"{held.db_now:%H:%M:%S}"
            entry.append(
                "owner",
                f"Worker {held.owner} was lost at {lost} UTC, taken over at {now} UTC by {owner}.",
                journal.stop_waiting(held),
            )
        elif held.waiting_for:
            entry.append("owner", f"Worker {owner} has it.", journal.stop_waiting(held))
        held.owner = owner
        held.epoch += 1
        journal.extend_lease(held)
    return Claim(deployment_id, owner, held.epoch, asked_at)


def give_back(claimed: Claim, message: str, due_in: float = 0.0) -> bool:
    """End an ownership before its time; return whether it was still one.

    The deployment is due again in `due_in` seconds. `message` tells why, in the log.
    """
    try:
        with journal.writing(claimed.deployment_id, claimed.epoch) as entry:
            journal.end_lease(entry.deployment)
            entry.deployment.due_at = entry.deployment.db_now + timedelta(seconds=due_in)
            entry.append("owner", message)
    except LeaseLost:
        return False
    return True


def bury(owner: str) -> list[str]:
    """End the leases of a process that is known to be dead; return the deployments' ids."""
    dead = Deployment.objects.filter(owner=owner, status__in=ACTIVE_VALUES, lease_until__gt=Now())
    with transaction.atomic():
        ids = list(dead.select_for_update().values_list("pk", flat=True))
        Deployment.objects.filter(pk__in=ids).update(lease_until=Now())
    return ids


@dataclass(frozen=True)
class Due:
    """A deployment that wants an owner, `in_seconds` from now; negative: since then."""

    id: str
    in_seconds: float
    waiting_for: str


def due(within: float) -> list[Due]:
    """Return what nobody drives and is due within so many seconds, the longest waiting first."""
    nobody = Q(lease_until=None) | Q(lease_until__lte=Now())
    found = (
        Deployment.objects.filter(nobody, status__in=ACTIVE_VALUES)
        .filter(due_at__lte=Now() + timedelta(seconds=within))
        .annotate(asked_at=Now())
        .order_by("due_at")
        .values_list("pk", "due_at", "lease_until", "waiting_for", "asked_at")
    )
    return [
        Due(pk, (max(filter(None, (due_at, until))) - now).total_seconds(), waiting_for)
        for pk, due_at, until, waiting_for, now in found
    ]


async def renew(claimed: Claim) -> bool | None:
    """Extend the lease; return whether it was still this claim's, None where nobody answers."""
    try:
        return await sync_to_async(_renew)(claimed)
    except AWAY as error:
        log.warning("%s: the lease can't be renewed: %s", claimed.deployment_id, error)
        await disconnect()
        return None


@sync_to_async
def disconnect() -> None:
    """Drop the connection of the thread that async queries run in: the next opens another."""
    connection.close()


def _renew(claimed: Claim) -> bool:
    """Extend the lease; return whether it was still this claim's."""
    mine = Deployment.objects.filter(pk=claimed.deployment_id, epoch=claimed.epoch)
    until = Now() + timedelta(seconds=lease.SECONDS)
    return bool(mine.exclude(owner="").update(lease_until=until, heard_at=Now()))
