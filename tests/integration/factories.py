"""Inventory for tests, made of the real models."""

from typing import Any

from rollouts.models import Instance, Service

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
