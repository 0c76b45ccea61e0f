"""The AWS adapter against moto's server, over HTTP: a stand-in for AWS, whose API it imitates."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rollouts.balancers import aws
from rollouts.balancers.aws_forward import TAG
from rollouts.facts import Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable
from tests.integration.clouds import Cloud, started


@pytest.fixture(scope="module")
def built() -> Iterator[Cloud]:
    with started() as cloud:
        yield cloud


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
    assert cloud.gate.answered >= len(cloud.gate.operations) >= 1


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
