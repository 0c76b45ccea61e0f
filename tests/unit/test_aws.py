"""What is read from AWS, what weights become there, and which settings are refused."""

import sys
from typing import Any

import pytest

from rollouts import balancers
from rollouts.adapters import SettingsError
from rollouts.balancers.aws_settings import Settings
from rollouts.balancers.aws_targets import Health, Target, by_server, read_health, server, target_of
from rollouts.balancers.aws_weights import (
    Sum,
    current,
    forwarded,
    from_tag,
    read_forward,
    shared_out,
    sums_of,
    to_tag,
    with_weights,
)
from rollouts.facts import Instance, ServerState
from rollouts.ports import BalancerError

HERE = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:"
BLUE, GREEN = (f"{HERE}targetgroup/{slot}/0123456789abcdef" for slot in ("blue", "green"))
RULE = f"{HERE}listener-rule/app/shop/0123456789abcdef/0123456789abcdef/0123456789abcdef"
LISTENER = f"{HERE}listener/app/shop/0123456789abcdef/0123456789abcdef"
ONE = {"kind": "aws", "region": "eu-central-1", "target_group": BLUE}
TWO = {
    "kind": "aws",
    "region": "eu-central-1",
    "target_groups": {"blue": BLUE, "green": GREEN},
    "listener_rule": RULE,
}


def instance(server: str, port: int = 80, slot: str = "") -> Instance:
    return Instance("web-01", "10.0.0.1", port, server, slot)


def health(*targets: tuple[str, int, str]) -> dict[str, Any]:
    return {
        "TargetHealthDescriptions": [
            {"Target": {"Id": name, "Port": port}, "TargetHealth": {"State": state}}
            for name, port, state in targets
        ]
    }


# --- targets


@pytest.mark.parametrize(
    ("name", "port", "target"),
    [
        ("i-0123456789abcdef0", 80, Target("", "i-0123456789abcdef0", 80)),
        ("10.0.0.7", 8080, Target("", "10.0.0.7", 8080)),
        ("10.0.0.7:8080", 8080, Target("", "10.0.0.7", 8080)),
        ("fd00::7", 80, Target("", "fd00::7", 80)),
        ("10.0.0.7:81", 80, None),
        ("web-01", 80, None),
    ],
)
def test_a_server_is_the_id_of_its_target(name: str, port: int, target: Target | None) -> None:
    """An EC2 instance or an IP address, with the port where several run on one machine."""
    assert target_of(instance(name, port), [""]) == target


def test_with_two_target_groups_the_slot_says_which() -> None:
    """An instance without a slot is in none of them."""
    assert target_of(instance("10.0.0.7", slot="green"), ["blue", "green"]) == Target(
        "green", "10.0.0.7", 80
    )
    assert target_of(instance("10.0.0.7"), ["blue", "green"]) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("healthy", (ServerState.READY, True, None)),
        ("unavailable", (ServerState.READY, True, None)),
        ("initial", (ServerState.READY, False, None)),
        ("unhealthy", (ServerState.READY, False, None)),
        ("unhealthy.draining", (ServerState.READY, False, None)),
        ("unused", (ServerState.READY, False, None)),
        ("draining", (ServerState.DRAIN, False, None)),
        (None, (ServerState.DRAIN, False, 0)),
    ],
)
def test_what_each_state_of_a_target_means(state: str | None, expected: object) -> None:
    """Sessions are over only once AWS no longer names the target: it counts none."""
    seen = server("10.0.0.7", Health(state) if state else None, 100)
    assert (seen.state, seen.up, seen.sessions) == expected
    assert (seen.answers, seen.errors) == (None, None)


def test_what_was_never_registered_is_not_a_target() -> None:
    """AWS says `unused` of one that it was asked for, and of one that no balancer uses."""
    reply = health(("10.0.0.7", 80, "unused"), ("10.0.0.8", 80, "unused"))
    reply["TargetHealthDescriptions"][0]["TargetHealth"]["Reason"] = "Target.NotRegistered"
    other = reply["TargetHealthDescriptions"][1]["TargetHealth"]
    other |= {"Reason": "Target.NotInUse", "Description": "Target group is not in use"}
    found = read_health("", reply)
    assert {target.id: str(one) for target, one in found.items()} == {
        "10.0.0.8": "unused (Target group is not in use)"
    }


def test_a_target_with_another_port_than_the_inventory_has_is_not_taken_for_it() -> None:
    """Taking the one out would leave the other in; two of one machine are two servers."""
    own = {
        "10.0.0.7": Target("", "10.0.0.7", 80),
        "10.0.0.8:80": Target("", "10.0.0.8", 80),
        "10.0.0.8:81": Target("", "10.0.0.8", 81),
    }
    found = by_server(
        own, read_health("", health(("10.0.0.7", 81, "healthy"), ("10.0.0.8", 81, "healthy")))
    )
    assert {name: one and one.state for name, (_, one) in found.items()} == {
        "10.0.0.8:80": None,
        "10.0.0.8:81": "healthy",
        "10.0.0.7:81": "healthy",
    }


# --- weights


def even(weight: int, count: int = 3) -> dict[str, int]:
    return {f"s{number}": weight for number in range(count)}


def test_a_group_weighs_what_its_servers_weigh() -> None:
    """As AWS takes it: whole numbers up to 999, in proportion, and never 0 for a little."""
    assert forwarded(sums_of({"blue": even(100), "green": even(0)})) == {"blue": 300, "green": 0}
    assert forwarded(sums_of({"blue": even(95, 20), "green": even(5, 20)})) == {
        "blue": 999,
        "green": 53,
    }
    assert forwarded({"blue": Sum(25_600, 100), "green": Sum(1, 1)}) == {"blue": 999, "green": 1}


@pytest.mark.parametrize("weights", [{"a": 0, "b": 100}, {"a": 5, "b": 7}, {"a": 0, "b": 1}])
def test_servers_of_one_group_can_not_have_different_weights(weights: dict[str, int]) -> None:
    """But for what rounding leaves; least of all one that gets nothing."""
    with pytest.raises(BalancerError, match="all servers of the target group blue have one weight"):
        sums_of({"blue": weights, "green": {}})
    assert sums_of({"blue": {"a": 5, "b": 6}}) == {"blue": Sum(11, 2)}


def test_the_tag_keeps_what_the_weights_were() -> None:
    """In the signs that AWS takes, and ours alone is heeded."""
    sums = {"green": Sum(16, 3), "blue": Sum(285, 3)}
    assert to_tag(sums) == "blue=285/3 green=16/3"
    assert from_tag(to_tag(sums)) == sums
    assert from_tag("anything else") == from_tag("") == {}
    assert shared_out(Sum(16, 3), ["a", "b", "c"]) == {"a": 6, "b": 5, "c": 5}
    assert shared_out(Sum(0, 0), ["a"]) == {"a": 0}


def test_weights_that_somebody_else_set_are_seen() -> None:
    """As if the group that gets the most had full weight; the tag no longer fits then."""
    members = {"blue": 4, "green": 4}
    tag = to_tag({"blue": Sum(380, 4), "green": Sum(20, 4)})
    assert current({"blue": 380, "green": 20}, tag, members)["green"] == Sum(20, 4)
    for text in (tag, "", "blue=1/1"):
        found = current({"blue": 1, "green": 0}, text, members)
        assert {slot: one.each for slot, one in found.items()} == {"blue": 100, "green": 0}
        found = current({"blue": 999, "green": 1}, text, members)
        assert {slot: one.each for slot, one in found.items()} == {"blue": 100, "green": 1}
    nothing = current({"blue": 0, "green": 0}, "", {"blue": 0, "green": 0})
    assert {slot: one.each for slot, one in nothing.items()} == {"blue": 0, "green": 0}


def forward(*groups: tuple[str, int]) -> dict[str, Any]:
    config = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in groups]
    return {"Type": "forward", "Order": 2, "ForwardConfig": {"TargetGroups": config}}


def test_only_weights_are_changed_in_the_actions() -> None:
    """A login before them keeps its secret, which AWS does not show."""
    login = {"Type": "authenticate-oidc", "Order": 1, "AuthenticateOidcConfig": {"ClientId": "x"}}
    actions = [login, forward((BLUE, 1), (GREEN, 0))]
    changed = with_weights(actions, {BLUE: 5, GREEN: 95})
    assert changed[1] == forward((BLUE, 5), (GREEN, 95))
    assert changed[0]["AuthenticateOidcConfig"] == {
        "ClientId": "x",
        "UseExistingClientSecret": True,
    }
    assert read_forward(actions, {"blue": BLUE, "green": GREEN}) == {"blue": 1, "green": 0}
    assert login["AuthenticateOidcConfig"] == {"ClientId": "x"}, "what was read stays as it was"


@pytest.mark.parametrize(
    "actions",
    [
        [],
        [{"Type": "forward", "TargetGroupArn": BLUE}],
        [{"Type": "fixed-response"}],
        [forward((BLUE, 1))],
        [forward((BLUE, 1), (GREEN, 1), (BLUE + "0", 1))],
    ],
)
def test_an_action_that_forwards_elsewhere_is_refused(actions: list[Any]) -> None:
    """Shares would not be what they are called; the message says what to do."""
    with pytest.raises(BalancerError, match="give it a forward action with both"):
        read_forward(actions, {"blue": BLUE, "green": GREEN})


# --- settings


def test_good_settings_are_taken() -> None:
    """One target group, or two with what parts the traffic between them."""
    balancers.check(ONE)
    balancers.check(TWO)
    assert Settings.parse(TWO).forward == RULE
    rest = {key: value for key, value in TWO.items() if key != "listener_rule"}
    assert Settings.parse({**rest, "listener": LISTENER}).forward == LISTENER
    for endpoint in (
        "https://vpce-1.elasticloadbalancing.eu-central-1.vpce.amazonaws.com",
        "http://127.0.0.1:4566",
        "http://localhost:5000",
        "http://[::1]:5000",
    ):
        balancers.check({**ONE, "endpoint_url": endpoint, "profile": "shop-prod"})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"region": "Frankfurt"}, "region"),
        ({"region": "us-east-1"}, "target_group"),
        ({"target_group": "blue"}, "target_group"),
        ({"target_group": BLUE + "\n"}, "target_group"),
        ({"target_group": LISTENER}, "target_group"),
        ({"target_groups": {"blue": BLUE, "green": GREEN}}, "target_group"),
        ({"listener": LISTENER}, "listener"),
        ({"listener_rule": RULE}, "listener_rule"),
        ({"endpoint_url": "http://10.0.0.1:4566"}, "endpoint_url"),
        ({"endpoint_url": "http://169.254.169.254/"}, "endpoint_url"),
        ({"endpoint_url": "file:///etc/passwd"}, "endpoint_url"),
        ({"endpoint_url": "https://user:word@host/"}, "endpoint_url"),
        ({"endpoint_url": "https://[::1"}, "endpoint_url"),
        ({"profile": "a b"}, "profile"),
        ({"secret_access_key": "x"}, "secret_access_key"),
    ],
)
def test_bad_settings_are_refused_at_save(changes: dict[str, Any], key: str) -> None:
    """By the key that is at fault."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check({**ONE, **changes})
    assert list(refusal.value.errors) == [key]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"target_groups": {"blue": BLUE}}, "target_groups"),
        ({"target_groups": {"blue": BLUE, "green": BLUE}}, "target_groups"),
        ({"target_groups": {"blue": BLUE, "red": GREEN}}, "target_groups"),
        ({"target_groups": [BLUE, GREEN]}, "target_groups"),
        ({"listener": LISTENER}, "listener"),
        ({"listener_rule": LISTENER}, "listener_rule"),
        ({"listener_rule": RULE.replace("/app/", "/net/")}, "listener_rule"),
    ],
)
def test_bad_settings_of_two_target_groups_are_refused(changes: dict[str, Any], key: str) -> None:
    """They need two different ones, and one action of an application load balancer."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check({**TWO, **changes})
    assert list(refusal.value.errors) == [key]


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Unknown, missing and bad keys."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "aws", "profile": 7, "nope": 1})
    assert set(refusal.value.errors) == {"region", "profile", "nope"}
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "aws", "region": "eu-central-1"})
    assert set(refusal.value.errors) == {"target_group"}


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what else is wrong."""
    monkeypatch.delitem(sys.modules, "rollouts.balancers.aws_api", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SettingsError) as refusal:
        balancers.check({**ONE, "nope": 1})
    assert "install lockgate[aws]" in refusal.value.errors["kind"]
    assert set(refusal.value.errors) == {"kind", "nope"}
