"""Whole deployments behind target groups of moto's server, on real PostgreSQL, by the engine."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from rollouts import actions, jobs, ownership
from rollouts.engine import Engine
from rollouts.engine_journal import DjangoJournal
from rollouts.lease import Lease
from rollouts.models import Deployment, Instance, Service
from rollouts.policy import stored
from rollouts.ports import Ports
from rollouts.states import DeploymentStatus
from tests.integration.clouds import REGION, Cloud, running, started
from tests.integration.factories import make_service

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
]
D = DeploymentStatus
POLICY = {"batch_pause": 0, "max_unavailable": 1, "batch_size": 1, "drain_timeout": 5}


class Well(BaseHTTPRequestHandler):
    """An instance that is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with started() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Of four instances that are well."""
    with ExitStack() as stack:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), Well) for _ in range(4)]
        for server in servers:
            stack.enter_context(running(server))
        yield [server.server_address[1] for server in servers]


def service_of(cloud: Cloud, ports: list[int], slots: bool = False) -> Service:
    """Return a service whose instances are targets; with slots two of each, blue in rotation."""
    parts = {"target_group": cloud.groups["one"]}
    if slots:
        parts = {
            "target_groups": {slot: cloud.groups[slot] for slot in ("blue", "green")},
            "listener_rule": cloud.rule,
        }
    where = {"kind": "aws", "region": REGION, "endpoint_url": cloud.gate.url}
    service = make_service(0, balancer=where | parts, policy=POLICY)
    for number, port in enumerate(ports):
        slot = ("blue", "blue", "green", "green")[number] if slots else ""
        Instance.objects.create(
            service=service,
            name=f"web-{number}",
            hostname="127.0.0.1",
            port=port,
            server=f"10.0.0.{number}",
            slot=slot,
            version="v1",
        )
        cloud.register(slot or "one", f"10.0.0.{number}", port=port)
    return service


def driven(deployment: Deployment) -> Deployment:
    """Drive it to its end with the adapters that it names, as a worker does."""
    claim = ownership.claim(deployment.pk, "a worker")
    assert claim is not None
    policy = stored(deployment.policy)

    async def run() -> None:
        lease = Lease(claim.deployment_id, claim.asked_at)
        written = DjangoJournal(claim, lease)
        try:
            async with jobs.adapters_for(deployment.adapters, policy, deployment.pk) as at:
                parts = (written, at.balancer, at.driver, at.probe, jobs.WallClock(), lease)
                await Engine(Ports(*parts)).run()
            await written.settle()
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(run())
    return Deployment.objects.get(pk=deployment.pk)


def test_a_rolling_deployment_takes_each_target_out_and_back(
    cloud: Cloud, ports: list[int]
) -> None:
    """Deregistered, updated, registered: at the end all are in rotation."""
    cloud.clear()
    service = service_of(cloud, ports[:3])
    ended = driven(actions.start(service, "v2", by="ada"))
    assert (ended.status, ended.reason) == (D.COMPLETED, "All 3 instances run v2.")
    assert cloud.gate.operations.count("DeregisterTargets") == 3
    assert cloud.gate.operations.count("RegisterTargets") == 3
    assert cloud.registered("one") == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}


def test_a_drain_takes_as_long_as_aws_holds_on_to_the_target(
    cloud: Cloud, ports: list[int]
) -> None:
    """While AWS says `draining` nothing is updated; once it has let go it goes on."""
    cloud.clear()
    service = service_of(cloud, ports[:2])
    deployment = actions.start(service, "v2", by="ada", policy={"drain_timeout": 60})
    cloud.gate.operations.clear()
    cloud.gate.lets_go_after = 10

    def updated() -> list[str]:
        said = deployment.events.filter(message__contains="is drained; updating")
        return [*said.values_list("message", flat=True)]

    ended = driven(deployment)
    assert ended.status == D.COMPLETED
    assert len(updated()) == 2
    assert not ended.events.filter(message__contains="(drain_timeout)").exists()
    assert cloud.gate.operations.count("DescribeTargetHealth") > 2 * 10


def test_blue_green_shifts_the_groups_and_retires_the_old_slot(
    cloud: Cloud, ports: list[int]
) -> None:
    """By steps; at the end the other slot has all, and the old one is deregistered."""
    cloud.clear()
    service = service_of(cloud, ports, slots=True)
    policy = {
        "strategy": "blue_green",
        "shift_steps": [{"share": 25, "bake": 0}, {"share": 100}],
        "keep_old": 0,
        "retire_old": True,
    }
    deployment = actions.start(service, "v2", by="ada", policy=policy)
    ended = driven(deployment)
    assert (ended.status, ended.reason) == (D.COMPLETED, "All 2 instances run v2.")
    assert cloud.weights() == {"blue": 0, "green": 200}
    assert cloud.registered("green") == {"10.0.0.2", "10.0.0.3"}
    assert cloud.registered("blue") == set()
    told = [*deployment.events.values_list("message", flat=True)]
    assert [one for one in told if one.endswith("of the traffic to slot green.")] == [
        "0 % of the traffic to slot green.",
        "25 % of the traffic to slot green.",
        "100 % of the traffic to slot green.",
    ]
    assert not [one for one in told if "no longer had" in one]
