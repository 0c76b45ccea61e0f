"""The AWS adapter against moto's server, over HTTP: a stand-in for AWS, whose API it imitates.

There every registered target is healthy at once, and a deregistered one is gone at once. What AWS
takes its time for, or refuses, `Gate` puts in between.
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.balancers import aws
from rollouts.balancers.aws_forward import TAG
from rollouts.facts import Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

REGION = "eu-central-1"
MEMBERS = re.compile(r"<member>.*?</member>", re.DOTALL)
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "for-tests",
    "AWS_SECRET_ACCESS_KEY": "for-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
MEMBER = (
    "<member><HealthCheckPort>traffic-port</HealthCheckPort><TargetHealth><State>{}</State>"
    "</TargetHealth><Target><Port>8080</Port><Id>{}</Id></Target></member>"
)


class Gate(ThreadingHTTPServer):
    """Stands in front of moto's server: slower than it, or in the way.

    `states` are what is told of targets by their ids, whatever moto says; `refusal` is a code
    with which everything is refused, or only the `refused` operation; while `hung` is set
    nothing is answered.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = httpx.Client(base_url=behind, trust_env=False)
        self.states: dict[str, str] = {}
        self.refusal = self.refused = ""
        self.hung = threading.Event()
        self.operations: list[str] = []
        self.answered = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def open(self) -> None:
        self.states.clear()
        self.refusal = self.refused = ""
        self.hung.clear()
        self.operations.clear()
        self.answered = 0


class _Passing(BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = re.findall(rb"Action=(\w+)", body)[0].decode()
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
        if operation == "DescribeTargetHealth":
            text = self._as_told(text)
        self._answer(answer.status_code, text)

    def _as_told(self, text: str) -> str:
        for target, state in self.server.states.items():
            others = [one for one in MEMBERS.findall(text) if f"<Id>{target}</Id>" not in one]
            text = MEMBERS.sub("", text).replace(
                "</TargetHealthDescriptions>",
                f"{''.join(others)}{MEMBER.format(state, target)}</TargetHealthDescriptions>",
            )
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


@pytest.fixture(scope="module")
def built() -> Iterator[Cloud]:
    """A cloud in which nothing is registered."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    behind = "http://{}:{}".format(*server.get_host_and_port())
    gate = Gate(behind)
    with pytest.MonkeyPatch.context() as patch, running(gate):
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setattr(aws, "LOOK_INTERVAL", 0.02)  # moto's server throttles nobody
        cloud = _build(gate, behind)
        yield cloud
        cloud.elb.close()
    gate.behind.close()
    server.stop()


@pytest.fixture
def cloud(built: Cloud) -> Iterator[Cloud]:
    """The cloud as it was at first."""
    yield built
    built.clear()


@pytest.fixture
async def one(cloud: Cloud) -> AsyncIterator[Balancer]:
    """A balancer of one target group, with two targets in rotation."""
    cloud.register("one", "10.0.0.1", "10.0.0.2")
    balancer = cloud.one("10.0.0.1", "10.0.0.2", "10.0.0.3")
    yield balancer
    await balancer.aclose()


@pytest.fixture
async def two(cloud: Cloud) -> AsyncIterator[Balancer]:
    """A balancer of two target groups, with two targets each in rotation, and all traffic blue."""
    cloud.register("blue", "10.0.1.0", "10.0.1.1")
    cloud.register("green", "10.0.2.0", "10.0.2.1")
    balancer = cloud.two()
    yield balancer
    await balancer.aclose()


async def see(balancer: Balancer, name: str) -> Server:
    return (await balancer.report()).servers[name]


async def weighs(balancer: Balancer) -> dict[str, int]:
    return {name: server.weight for name, server in (await balancer.report()).servers.items()}


# --- in and out of rotation


async def test_the_report_has_every_instance_and_every_target(cloud: Cloud, one: Balancer) -> None:
    """An instance that is not registered is out; who is registered and no instance is told too."""
    cloud.register("one", "10.0.0.9", port=80)
    report = await one.report()
    states = {name: (server.state.value, server.up) for name, server in report.servers.items()}
    assert states == {
        "10.0.0.1": ("ready", True),
        "10.0.0.2": ("ready", True),
        "10.0.0.3": ("drain", False),
        "10.0.0.9:80": ("ready", True),
    }
    assert report.servers["10.0.0.3"].sessions == 0
    assert report.servers["10.0.0.1"].sessions is None
    assert {server.weight for server in report.servers.values()} == {100}


async def test_a_drain_deregisters_and_ready_registers(cloud: Cloud, one: Balancer) -> None:
    """Confirmed when they return, and twice is as once."""
    for _ in range(2):
        await one.drain("10.0.0.1")
        assert cloud.registered("one") == {"10.0.0.2"}
        server = await see(one, "10.0.0.1")
        assert (server.state, server.sessions) == (ServerState.DRAIN, 0)
    for _ in range(2):
        await one.ready("10.0.0.1")
        assert cloud.registered("one") == {"10.0.0.1", "10.0.0.2"}
        assert (await see(one, "10.0.0.1")).serving
    assert cloud.gate.operations.count("DeregisterTargets") == 1
    assert cloud.gate.operations.count("RegisterTargets") == 1


async def test_sessions_are_over_once_aws_lets_go(cloud: Cloud, one: Balancer) -> None:
    """While it says `draining` they are not known; that is enough for the drain itself."""
    cloud.gate.states["10.0.0.1"] = "draining"
    await one.drain("10.0.0.1")
    server = await see(one, "10.0.0.1")
    assert (server.state, server.sessions) == (ServerState.DRAIN, None)
    cloud.elb.deregister_targets(
        TargetGroupArn=cloud.groups["one"], Targets=[{"Id": "10.0.0.1", "Port": 8080}]
    )
    cloud.gate.states.clear()
    assert (await see(one, "10.0.0.1")).sessions == 0


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not await condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("state", ["initial", "unhealthy"])
async def test_ready_is_not_done_before_aws_finds_the_target_healthy(
    cloud: Cloud, one: Balancer, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is worth asking again, and says what AWS says; the target is registered once."""
    monkeypatch.setattr(aws, "CONFIRM_TIMEOUT", 0.3)
    await one.drain("10.0.0.1")
    cloud.register("one", "10.0.0.1")
    cloud.gate.states["10.0.0.1"] = state
    with pytest.raises(BalancerUnreachable, match=f"10.0.0.1 is {state}"):
        await one.ready("10.0.0.1")
    server = await see(one, "10.0.0.1")
    assert (server.state, server.up, server.serving) == (ServerState.READY, False, False)
    monkeypatch.undo()
    before = len(cloud.gate.operations)
    call = asyncio.create_task(one.ready("10.0.0.1"))

    async def looked() -> bool:
        return len(cloud.gate.operations) > before

    await until(looked)
    assert not call.done()
    cloud.gate.states.clear()
    await call
    assert (await see(one, "10.0.0.1")).serving
    assert "RegisterTargets" not in cloud.gate.operations


async def test_a_target_with_another_port_is_not_steered(cloud: Cloud, one: Balancer) -> None:
    """The inventory is wrong, or AWS is: it is no server of the report, and nothing is changed."""
    cloud.register("one", "10.0.0.3", port=80)
    assert "10.0.0.3" not in (await one.report()).servers
    for call in (one.drain, one.ready):
        with pytest.raises(BalancerError, match="registered with another port than 8080"):
            await call("10.0.0.3")


async def test_open_connections_can_not_be_cut(one: Balancer) -> None:
    """It says what ends them."""
    with pytest.raises(BalancerError, match="deregistration delay"):
        await one.cut("10.0.0.1")


async def test_within_one_target_group_there_are_only_full_weights(one: Balancer) -> None:
    """It says what to do instead."""
    await one.set_weights({"10.0.0.1": 100, "10.0.0.2": 100})
    with pytest.raises(BalancerError, match="set slow_start to 0, or use target_groups"):
        await one.set_weights({"10.0.0.1": 50})


# --- weights


async def test_the_live_slot_has_full_weight_before_anything_was_set(two: Balancer) -> None:
    """And the idle one none, though it is ready."""
    assert await weighs(two) == {"10.0.1.0": 100, "10.0.1.1": 100, "10.0.2.0": 0, "10.0.2.1": 0}
    server = await see(two, "10.0.2.0")
    assert (server.ready, server.serving, server.full) == (True, False, 100)


@pytest.mark.parametrize(
    ("blue", "green", "groups"),
    [
        (95, (5, 5), {"blue": 190, "green": 10}),
        (0, (100, 100), {"blue": 0, "green": 200}),
        (97, (3, 4), {"blue": 194, "green": 7}),
        (97, (4, 3), {"blue": 194, "green": 7}),
    ],
)
async def test_a_shift_reads_back_as_it_was_set(
    cloud: Cloud, two: Balancer, blue: int, green: tuple[int, int], groups: dict[str, int]
) -> None:
    """By this object and by another, but for who has what rounding left."""
    weights = {"10.0.1.0": blue, "10.0.1.1": blue, "10.0.2.0": green[0], "10.0.2.1": green[1]}
    await two.set_weights(weights)
    assert cloud.weights() == groups
    assert await weighs(two) == weights
    other = cloud.two()
    found = await weighs(other)
    assert sorted(found.values()) == sorted(weights.values())
    await other.set_weights(weights)
    assert await weighs(other) == weights
    assert cloud.gate.operations.count("ModifyRule") == 1 + (found != weights)
    await other.aclose()


async def test_many_servers_are_weighed_in_proportion(cloud: Cloud) -> None:
    """AWS takes no weight over 999; what they were is read back from the tag."""
    cloud.register("blue", *(f"10.0.1.{number}" for number in range(12)))
    cloud.register("green", *(f"10.0.2.{number}" for number in range(12)))
    weights = {f"10.0.1.{number}": 95 for number in range(12)}
    weights |= {f"10.0.2.{number}": 5 for number in range(12)}
    for balancer in (cloud.two(12, 12), cloud.two(12, 12)):
        await balancer.set_weights(weights)
        assert await weighs(balancer) == weights
        await balancer.aclose()
    assert cloud.weights() == {"blue": 999, "green": 53}
    assert cloud.gate.operations.count("ModifyRule") == 1


async def test_a_listener_s_own_action_can_be_shifted(cloud: Cloud) -> None:
    """Where there is no rule; the rules are left alone."""
    cloud.register("blue", "10.0.1.0")
    cloud.register("green", "10.0.2.0")
    balancer = cloud.two(1, 1, listener=cloud.listener)
    await balancer.set_weights({"10.0.1.0": 25, "10.0.2.0": 75})
    assert await weighs(balancer) == {"10.0.1.0": 25, "10.0.2.0": 75}
    found = cloud.elb.describe_listeners(ListenerArns=[cloud.listener])["Listeners"][0]
    assert cloud.weights(found["DefaultActions"]) == {"blue": 25, "green": 75}
    assert cloud.weights() == {"blue": 1, "green": 0}
    await balancer.aclose()


async def test_what_somebody_else_set_is_not_reported_as_told(cloud: Cloud, two: Balancer) -> None:
    """Though the tag, and this object, still know what it was; told again it is set again."""
    weights = {"10.0.1.0": 0, "10.0.1.1": 0, "10.0.2.0": 100, "10.0.2.1": 100}
    await two.set_weights(weights)
    cloud.part(blue=1, green=1)
    assert await weighs(two) == dict.fromkeys(weights, 100)
    await two.set_weights({"10.0.1.0": 0, "10.0.1.1": 0})
    assert cloud.weights() == {"blue": 0, "green": 200}
    assert await weighs(two) == weights


async def test_a_server_that_is_out_does_not_keep_its_slot_from_being_shifted(
    cloud: Cloud, two: Balancer
) -> None:
    """Of one that failed nothing is wanted, and the others have the traffic."""
    await two.drain("10.0.2.1")
    await two.set_weights({"10.0.1.0": 0, "10.0.1.1": 0, "10.0.2.0": 100})
    assert cloud.weights() == {"blue": 0, "green": 100}
    found = await weighs(two)
    assert [found[name] for name in ("10.0.1.0", "10.0.1.1", "10.0.2.0")] == [0, 0, 100]


async def test_servers_of_one_slot_that_serve_can_not_weigh_differently(
    cloud: Cloud, two: Balancer
) -> None:
    """A target group has one weight: nothing is changed."""
    with pytest.raises(BalancerError, match="deploy by slot, with slow_start 0") as refusal:
        await two.set_weights({"10.0.2.0": 100})
    assert not isinstance(refusal.value, BalancerUnreachable)
    assert cloud.weights() == {"blue": 1, "green": 0}
    assert await weighs(two) == {"10.0.1.0": 100, "10.0.1.1": 100, "10.0.2.0": 0, "10.0.2.1": 0}


async def test_a_rule_that_forwards_to_one_group_alone_is_refused(
    cloud: Cloud, two: Balancer
) -> None:
    """Before anything is touched, with what to do about it."""
    action = {"Type": "forward", "TargetGroupArn": cloud.groups["blue"]}
    cloud.elb.modify_rule(RuleArn=cloud.rule, Actions=[action])
    with pytest.raises(BalancerError, match="a forward action with both, the idle one with weight"):
        await two.report()


async def test_without_the_right_to_tag_nothing_is_shifted(cloud: Cloud, two: Balancer) -> None:
    """Half of a shift would be worse than none."""
    cloud.gate.refusal, cloud.gate.refused = "AccessDenied", "AddTags"
    with pytest.raises(BalancerError, match=r"refused add_tags: Not now \(AccessDenied\)"):
        await two.set_weights({"10.0.1.0": 50, "10.0.1.1": 50, "10.0.2.0": 50, "10.0.2.1": 50})
    assert cloud.weights() == {"blue": 1, "green": 0}


async def test_other_tags_are_left_alone(cloud: Cloud, two: Balancer) -> None:
    """There is one of ours."""
    cloud.elb.add_tags(ResourceArns=[cloud.rule], Tags=[{"Key": "team", "Value": "shop"}])
    await two.set_weights({"10.0.1.0": 0, "10.0.1.1": 0, "10.0.2.0": 100, "10.0.2.1": 100})
    [found] = cloud.elb.describe_tags(ResourceArns=[cloud.rule])["TagDescriptions"]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags == {"team": "shop", TAG: "blue=0/2 green=200/2"}


# --- refused, out of reach, asked too often


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("Throttling", BalancerUnreachable),
        ("RequestLimitExceeded", BalancerUnreachable),
        ("ServiceUnavailable", BalancerUnreachable),
        ("AccessDenied", BalancerError),
        ("ValidationError", BalancerError),
        ("TargetGroupNotFound", BalancerError),
    ],
)
async def test_what_may_pass_is_worth_asking_again(
    cloud: Cloud, one: Balancer, code: str, kind: type[BalancerError]
) -> None:
    """A throttled call is, a forbidden one is not; AWS's own words are in the message."""
    cloud.gate.refusal = code
    for call in (one.report(), one.drain("10.0.0.1")):
        with pytest.raises(BalancerError, match=rf"refused describe_\w+: Not now \({code}\)") as no:
            await call
        assert type(no.value) is kind
    assert cloud.registered("one") == {"10.0.0.1", "10.0.0.2"}


async def test_an_aws_that_hangs_is_given_up(cloud: Cloud, one: Balancer) -> None:
    """In time for the engine, which waits three seconds for a call."""
    cloud.gate.hung.set()
    begun = time.monotonic()
    with pytest.raises(BalancerUnreachable, match="AWS can't be reached"):
        await one.report()
    assert time.monotonic() - begun < 2.5
    cloud.gate.hung.clear()
    assert (await see(one, "10.0.0.1")).serving


async def test_a_cancelled_call_has_ended_when_it_returns(cloud: Cloud, one: Balancer) -> None:
    """What was sent can't be taken back, so the call waits for it: nothing happens after."""
    cloud.gate.hung.set()
    call = asyncio.create_task(one.report())

    async def sent() -> bool:
        return bool(cloud.gate.operations)

    await until(sent)
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    assert not call.done()
    cloud.gate.hung.clear()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cloud.gate.answered == 1


async def test_nobody_there_is_out_of_reach(cloud: Cloud) -> None:
    """Nothing listens at the endpoint."""
    balancer = cloud.one("10.0.0.1", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(BalancerUnreachable, match="AWS can't be reached"):
        await balancer.report()
    await balancer.aclose()


async def test_without_credentials_it_says_so(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking again would find none either."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for settings, words in (({}, "Unable to locate credentials"), ({"profile": "nope"}, "nope")):
        balancer = cloud.one("10.0.0.1", **settings)
        with pytest.raises(BalancerError, match=words) as refusal:
            await balancer.report()
        assert not isinstance(refusal.value, BalancerUnreachable)
        await balancer.aclose()


async def test_many_who_ask_are_served_by_one_look(cloud: Cloud, one: Balancer) -> None:
    """AWS throttles whoever asks too often, and all others of the account with them."""
    await asyncio.gather(*(one.report() for _ in range(50)))
    assert len(cloud.gate.operations) <= 2
    cloud.gate.operations.clear()
    await asyncio.gather(one.drain("10.0.0.1"), one.drain("10.0.0.2"))
    report = await one.report()
    assert {report.servers[name].state for name in ("10.0.0.1", "10.0.0.2")} == {ServerState.DRAIN}
    assert len(cloud.gate.operations) <= 8


async def test_looks_are_spaced(
    cloud: Cloud, one: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks again and again waits, and what it gets was asked after that."""
    monkeypatch.setattr(aws, "LOOK_INTERVAL", 0.3)
    await one.report()
    begun = time.monotonic()
    cloud.gate.states["10.0.0.1"] = "unhealthy"
    assert not (await see(one, "10.0.0.1")).up
    cloud.gate.states.clear()
    assert (await see(one, "10.0.0.1")).up
    assert time.monotonic() - begun > 0.3
