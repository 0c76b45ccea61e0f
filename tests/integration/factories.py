"""Inventory for tests, made of the real models."""

from typing import Any

from asgiref.sync import sync_to_async

from rollouts import ownership
from rollouts.engine_journal import DjangoJournal
from rollouts.lease import Lease, clock
from rollouts.models import Deployment, Instance, Service

NOBODY_THERE = {
    "kind": "haproxy",
    "addresses": ["unix:/nonexistent/lockgate-test.sock"],
    "backend": "app",
}
DRIVER = {"kind": "command", "update": ["true", "{name}", "{version}"]}


def make_service(count: int = 4, name: str = "shop", **fields: Any) -> Service:
    """Return a stored service with `count` instances on v1, whose balancer is out of reach."""
    fields = {
        "driver": DRIVER,
        "balancer": NOBODY_THERE,
        "policy": {"batch_pause": 0, "health_check_timeout": 0.5},
        **fields,
    }
    service = Service(name=name, **fields)
    service.full_clean()
    service.save()
    for number in range(1, count + 1):
        # Port 9 (discard) on loopback: nothing listens there.
        instance = Instance(
            service=service,
            name=f"web-{number:02}",
            hostname=f"127.0.0.{number}",
            port=9,
            version="v1",
        )
        instance.full_clean()
        instance.save()
    return service


def owned_journal(deployment_id: str) -> DjangoJournal:
    """Return the journal of whoever drives the deployment: of this process, if nobody does."""
    claimed = ownership.claim(deployment_id, ownership.owner_name())
    if claimed is None:
        held = Deployment.objects.get(pk=deployment_id)
        claimed = ownership.Claim(held.pk, held.owner, held.epoch, clock())
    return DjangoJournal(claimed, Lease(claimed.deployment_id, claimed.asked_at))


# The same for tests that are coroutines.
aowned_journal = sync_to_async(owned_journal)
