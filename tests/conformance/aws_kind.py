"""A target group of moto's server, which imitates the API of AWS, for the claims about balancers.

It balances nothing itself: requests are dealt out to the targets that its API calls healthy, as
a load balancer of AWS would.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.balancers import aws as adapter
from rollouts.conformance.balancers import Ability, Subject
from rollouts.facts import Instance

AWS_ABILITIES = frozenset({Ability.LOSE, Ability.RESTART})
REGION = "eu-central-1"
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
PORT = 8080


class MotoTargets:
    """One target group with three targets; moto's server is what goes out of reach."""

    abilities = AWS_ABILITIES

    def __init__(self) -> None:
        self._server = self._started(0)
        self._port = self._server.port
        where = {"region_name": REGION, "endpoint_url": f"http://127.0.0.1:{self._port}"}
        # What it knows is the process's own, and outlives the server.
        httpx.post(f"{where['endpoint_url']}/moto-api/reset", trust_env=False)
        self._elb: Any = boto3.client("elbv2", **where)
        group = self._elb.create_target_group(
            Name="shop", Protocol="HTTP", Port=PORT, VpcId=self._network(where), TargetType="ip"
        )
        self._group = group["TargetGroups"][0]["TargetGroupArn"]
        self.settings = {
            "kind": "aws",
            "region": REGION,
            "target_group": self._group,
            "endpoint_url": where["endpoint_url"],
        }
        self.surroundings = Surroundings(
            tuple(Instance(f"i-{one}", one, PORT, one) for one in ADDRESSES)
        )

    async def serve(self, requests: int) -> Counter[str]:
        answer = self._elb.describe_target_health(TargetGroupArn=self._group)
        healthy = [
            one["Target"]["Id"]
            for one in answer["TargetHealthDescriptions"]
            if one["TargetHealth"]["State"] == "healthy"
        ]
        turns = cycle(healthy or [""])
        return Counter(next(turns) for _ in range(requests))

    async def lose(self) -> None:
        self._stop()

    async def restart(self) -> None:
        self._stop()
        self._server = self._started(self._port)

    async def begin(self) -> None:
        balancer = balancers.make(self.settings, self.surroundings)
        for one in ADDRESSES:
            await balancer.ready(one)
        await balancer.aclose()

    def end(self) -> None:
        self._elb.close()
        self._stop()

    def _started(self, port: int) -> BaseWSGIServer:
        """Return a server of moto's application, which keeps what it knows when it is stopped."""
        application = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", port, application, threaded=True)
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        self._thread.start()
        return server

    def _stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _network(self, where: dict[str, str]) -> str:
        ec2 = boto3.client("ec2", **where)
        network: str = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        ec2.close()
        return network


@contextmanager
def aws(folder: Path) -> Iterator[Subject]:
    """Yield it, with credentials in the environment, where boto3 looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "for-tests")
        patch.setattr(adapter, "LOOK_INTERVAL", 0.02)  # moto's server throttles nobody
        subject = MotoTargets()
        try:
            yield subject
        finally:
            subject.end()
