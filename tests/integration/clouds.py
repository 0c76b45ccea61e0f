"""A load balancer of AWS as moto's server imitates it, over HTTP, for tests.

There every registered target is healthy at once, and a deregistered one is gone at once. What AWS
takes its time for, or refuses, `Gate` puts in between.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.balancers import aws
from rollouts.balancers.aws_forward import TAG
from rollouts.facts import Instance
from rollouts.ports import Balancer

REGION = "eu-central-1"
MEMBERS = re.compile(r"<member>.*?</member>", re.DOTALL)
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "for-tests",
    "AWS_SECRET_ACCESS_KEY": "for-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
MEMBER = (
    "<member><HealthCheckPort>traffic-port</HealthCheckPort><TargetHealth><State>{}</State>"
    "</TargetHealth><Target><Port>{}</Port><Id>{}</Id></Target></member>"
)


class Gate(ThreadingHTTPServer):
    """Stands in front of moto's server: slower than it, or in the way.

    `states` are what is told of targets by their ids, whatever moto says; a deregistered target
    is `draining` for the next `lets_go_after` looks; `refusal` is a code with which everything is
    refused, or only the `refused` operation; while `hung` is set nothing is answered.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = httpx.Client(base_url=behind, trust_env=False)
        self.states: dict[str, str] = {}
        self.refusal = self.refused = ""
        self.lets_go_after = 0
        self.draining: dict[tuple[str, str], int] = {}  # looks that are left, by id and port
        self.hung = threading.Event()
        self.operations: list[str] = []
        self.answered = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def open(self) -> None:
        self.states.clear()
        self.refusal = self.refused = ""
        self.lets_go_after = 0
        self.draining.clear()
        self.hung.clear()
        self.operations.clear()
        self.answered = 0


class _Passing(BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = dict(parse_qsl(body.decode()))
        operation = form["Action"]
        self.server.operations.append(operation)
        while self.server.hung.is_set():
            time.sleep(0.01)
        if self.server.refusal and self.server.refused in {"", operation}:
            self._answer(
                503 if self.server.refusal == "ServiceUnavailable" else 400,
                "<ErrorResponse><Error><Type>Sender</Type>"
                f"<Code>{self.server.refusal}</Code><Message>Not now</Message></Error>"
                "<RequestId>1</RequestId></ErrorResponse>",
            )
            return
        kept = {"authorization", "content-type", "user-agent", "x-amz-date"}
        headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
        answer = self.server.behind.post("/", content=body, headers=headers)
        text = answer.text
        target = (form.get("Targets.member.1.Id", ""), form.get("Targets.member.1.Port", ""))
        if operation == "DeregisterTargets" and answer.is_success and self.server.lets_go_after:
            self.server.draining[target] = self.server.lets_go_after
        elif operation == "DescribeTargetHealth":
            text = self._as_told(text)
        self._answer(answer.status_code, text)

    def _as_told(self, text: str) -> str:
        for target, state in self.server.states.items():
            others = [one for one in MEMBERS.findall(text) if f"<Id>{target}</Id>" not in one]
            text = MEMBERS.sub("", text)
            text = _with(text, *others, MEMBER.format(state, 8080, target))
        for (target, port), left in list(self.server.draining.items()):
            text = _with(text, MEMBER.format("draining", port, target))
            if left > 1:
                self.server.draining[target, port] = left - 1
            else:
                del self.server.draining[target, port]
        return text

    def _answer(self, status: int, text: str) -> None:
        self.server.answered += 1
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _with(text: str, *members: str) -> str:
    """Return an answer with more targets."""
    end = "</TargetHealthDescriptions>"
    return text.replace(end, "".join(members) + end)


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Cloud:
    """A load balancer whose listener and rule forward to blue and green, and to `one`."""

    gate: Gate
    elb: Any  # boto3's own client of moto's server
    groups: dict[str, str]
    listener: str
    rule: str

    def one(self, *servers: str, **settings: Any) -> Balancer:
        """Return a balancer of one target group, for instances with these ids."""
        return self._made({"target_group": self.groups["one"], **settings}, servers, "")

    def two(self, blue: int = 2, green: int = 2, **settings: Any) -> Balancer:
        """Return a balancer of two target groups with so many instances each."""
        parts = {"target_groups": {slot: self.groups[slot] for slot in ("blue", "green")}}
        where = settings or {"listener_rule": self.rule}
        ids = [f"10.0.1.{number}" for number in range(blue)]
        ids += [f"10.0.2.{number}" for number in range(green)]
        return self._made({**parts, **where}, ids, "blue")

    def _made(self, settings: dict[str, Any], servers: Any, slot: str) -> Balancer:
        instances = tuple(
            Instance(f"web-{server}", server, 8080, server, _slot_of(server) if slot else "")
            for server in servers
        )
        raw = {"kind": "aws", "region": REGION, "endpoint_url": self.gate.url, **settings}
        return balancers.make(raw, Surroundings(instances))

    def register(self, group: str, *ids: str, port: int = 8080) -> None:
        targets = [{"Id": one, "Port": port} for one in ids]
        self.elb.register_targets(TargetGroupArn=self.groups[group], Targets=targets)

    def clear(self) -> None:
        """Make all as it was at first."""
        self.gate.open()
        for arn in self.groups.values():
            found = self.elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
            if targets := [one["Target"] for one in found]:
                self.elb.deregister_targets(TargetGroupArn=arn, Targets=targets)
        self.part(1, 0)
        actions = [_forward(self.groups, 1, 0)]
        self.elb.modify_listener(ListenerArn=self.listener, DefaultActions=actions)
        for arn in (self.listener, self.rule):
            self.elb.remove_tags(ResourceArns=[arn], TagKeys=[TAG, "team"])

    def registered(self, group: str) -> set[str]:
        found = self.elb.describe_target_health(TargetGroupArn=self.groups[group])
        return {one["Target"]["Id"] for one in found["TargetHealthDescriptions"]}

    def weights(self, actions: Any = None) -> dict[str, int]:
        """Return the weights of the rule's groups, or of other `actions`."""
        if actions is None:
            actions = self.elb.describe_rules(RuleArns=[self.rule])["Rules"][0]["Actions"]
        slots = {arn: slot for slot, arn in self.groups.items()}
        groups = actions[-1]["ForwardConfig"]["TargetGroups"]
        return {slots[one["TargetGroupArn"]]: one["Weight"] for one in groups}

    def part(self, blue: int, green: int) -> None:
        """Set the rule's weights, as somebody else would."""
        self.elb.modify_rule(RuleArn=self.rule, Actions=[_forward(self.groups, blue, green)])


def _slot_of(server: str) -> str:
    return "blue" if server.startswith("10.0.1.") else "green"


def _forward(groups: dict[str, str], blue: int, green: int) -> dict[str, Any]:
    weights = {"blue": blue, "green": green}
    return {
        "Type": "forward",
        "ForwardConfig": {
            "TargetGroups": [
                {"TargetGroupArn": groups[slot], "Weight": weight}
                for slot, weight in weights.items()
            ]
        },
    }


def _build(gate: Gate, behind: str) -> Cloud:
    """Return a cloud of which nothing is used yet."""
    where = {"region_name": REGION, "endpoint_url": behind}
    ec2, elb = boto3.client("ec2", **where), boto3.client("elbv2", **where)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}"
        )["Subnet"]["SubnetId"]
        for number, zone in enumerate("ab")
    ]
    balancer = elb.create_load_balancer(Name="shop", Subnets=subnets)["LoadBalancers"][0]
    groups = {}
    for name in ("one", "blue", "green"):
        made = elb.create_target_group(
            Name=name, Protocol="HTTP", Port=80, VpcId=vpc, TargetType="ip"
        )
        groups[name] = made["TargetGroups"][0]["TargetGroupArn"]
    listener = elb.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[_forward(groups, 1, 0)],
    )["Listeners"][0]["ListenerArn"]
    rule = elb.create_rule(
        ListenerArn=listener,
        Priority=1,
        Conditions=[{"Field": "path-pattern", "Values": ["/shop/*"]}],
        Actions=[_forward(groups, 1, 0)],
    )["Rules"][0]["RuleArn"]
    ec2.close()
    return Cloud(gate, elb, groups, listener, rule)


@contextmanager
def started() -> Iterator[Cloud]:
    """Yield a cloud in which nothing is registered, with credentials in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    behind = "http://{}:{}".format(*server.get_host_and_port())
    gate = Gate(behind)
    with pytest.MonkeyPatch.context() as patch, running(gate):
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setattr(aws, "LOOK_INTERVAL", 0.02)  # moto's server throttles nobody
        # What it knows is the process's own, and outlives the server.
        gate.behind.post("/moto-api/reset")
        cloud = _build(gate, behind)
        yield cloud
        cloud.elb.close()
    gate.behind.close()
    server.stop()
