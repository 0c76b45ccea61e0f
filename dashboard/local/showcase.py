"""What the demo shows: the service `shop` in the inventory, somebody who may deploy it.

Each start begins with a fresh fleet on its first version, so what an earlier run left in the
database is brought in line with that.
"""

import json
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db import connections, transaction
from django.db.models import Value
from django.db.models.functions import Concat
from django.utils import timezone

from dashboard.local import application, fleet, haproxy_server
from dashboard.local.hosting import Processes
from dashboard.local.places import Places
from dashboard.local.stack import LOOPBACK, Stack
from dashboard.models import ApiToken
from rollouts import journal
from rollouts.models import Deployment, Instance, Service
from rollouts.snapshots import progress, target_fields
from rollouts.states import ACTIVE, IN_FLIGHT, DeploymentStatus, TargetStatus

SERVICE = "shop"
LABEL = "demo"  # of the token, which is new at each start
# Quick enough to watch.
POLICY = {
    "batch_pause": 1,
    "drain_timeout": 5,
    "health_check_interval": 0.5,
    "health_check_timeout": 2,
    "min_healthy_time": 1,
    "healthy_deadline": 8,
}
# Beside these, what a strategy has of its own. The first bake is long enough for a verdict on one
# in five of 5 requests a second.
STRATEGY_POLICY: dict[str, dict[str, Any]] = {
    "rolling": {},
    "canary": {"canary_steps": [{"share": 5, "bake": 8}, {"share": 25, "bake": 5}, {"share": 100}]},
    "blue_green": {"keep_old": 5},
}
SHOWN_PROCESSES = ("web", "worker", "scheduler", "haproxy", "redis", "postgres")
FRESH_FLEET = "The demo was started anew, with a fresh fleet."


@dataclass(frozen=True)
class Access:
    """How to get in: the name and password of the administrator, and a token for REST."""

    user: str
    password: str
    token: str


def policy(strategy: str) -> dict[str, Any]:
    """Return the policy of the service where it is deployed by `strategy`."""
    return {"strategy": strategy, **POLICY, **STRATEGY_POLICY[strategy]}


def fill(places: Places, hosting: Processes, strategy: str, preview_url: str = "") -> Access:
    """Put the fleet into the inventory and return how to get in."""
    try:
        _end_deployments()
        _inventory(places, hosting, strategy, preview_url)
        hosting.introduce()
        admin = application.set_admin_password(places)
        return Access(admin.username, places.password.read_text().strip(), _token(admin))
    finally:
        connections.close_all()


def ready_line(
    stack: Stack, port: int, driver: str, balancer_url: str, access: Access, preview_url: str = ""
) -> str:
    """Return the line that says that all is up, and where."""
    places = stack.places
    pids = stack.supervisor.pids()
    return "ready " + json.dumps(
        {
            "url": f"http://{LOOPBACK}:{port}",
            "driver": driver,
            "balancer_url": balancer_url,
            **({"preview_url": preview_url} if preview_url else {}),
            "haproxy_admin": f"unix:{places.haproxy_socket}",
            "database_url": places.database_url,
            "redis_url": places.redis_url,
            "admin_user": access.user,
            "admin_password": access.password,
            "api_token": access.token,
            "pids": {name: pids[name] for name in SHOWN_PROCESSES if name in pids},
            "data": str(places.data),
        }
    )


def _end_deployments() -> None:
    """End what was active when an earlier run ended: the fleet it was about is gone."""
    active = [status.value for status in ACTIVE]
    for deployment in Deployment.objects.filter(service__name=SERVICE, status__in=active):
        with journal.writing(deployment.id) as entry:
            targets = list(deployment.targets.all())
            for target in targets:
                if TargetStatus(target.status) in IN_FLIGHT:
                    journal.move_target(
                        entry.deployment, target, TargetStatus.FAILED, FRESH_FLEET, touched=False
                    )
                    patch = {"targets": [target_fields(target)], "progress": progress(targets)}
                    entry.append("target", FRESH_FLEET, patch, target.name)
            patch = journal.set_status(entry.deployment, DeploymentStatus.CANCELLED, FRESH_FLEET)
            entry.append("status", FRESH_FLEET, patch)


@transaction.atomic
def _inventory(places: Places, hosting: Processes, strategy: str, preview_url: str) -> None:
    slots = fleet.slots(strategy, list(hosting.instances))
    service = Service.objects.filter(name=SERVICE).first() or Service(name=SERVICE)
    service.driver = dict(hosting.driver)
    service.balancer = {
        "kind": "haproxy",
        "addresses": [f"unix:{places.haproxy_socket}"],
        "backend": haproxy_server.BACKEND,
    }
    service.version_source = {"path": "/version"}
    service.policy = policy(strategy)
    service.live_slot = fleet.LIVE if any(slots.values()) else ""
    service.preview_url = preview_url
    service.locked = False
    service.full_clean()
    service.save()
    service.instances.exclude(name__in=hosting.instances).delete()
    # Ports may be dealt out anew; out of the way first, no two have the same one meanwhile.
    service.instances.update(hostname=Concat("name", Value(".invalid")))
    for name, port in hosting.instances.items():
        known = service.instances.filter(name=name).first()
        instance = known or Instance(service=service, name=name)
        instance.hostname, instance.port, instance.active = hosting.hosts[name], port, True
        instance.slot = slots[name]
        instance.version, instance.version_at = fleet.FIRST_VERSION, timezone.now()
        instance.full_clean()
        instance.save()


def _token(user: User) -> str:
    ApiToken.objects.filter(user=user, name=LABEL).delete()
    return ApiToken.issue(user, LABEL)[1]
