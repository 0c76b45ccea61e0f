"""Reading an inventory file: every error by its path, whatever the file holds."""

import json
from typing import Any

import pytest

from rollouts.inventory import Change, InventoryError, read

SHOP: dict[str, Any] = {
    "driver": {"kind": "command", "update": ["true", "{name}", "{version}"]},
    "balancer": {"kind": "haproxy", "addresses": ["unix:/run/admin.sock"], "backend": "app"},
    "instances": [{"name": "web-01", "host": "10.0.0.11", "port": 8080}],
}


def errors_of(text: str) -> dict[str, str]:
    """Return what is wrong about a file, whether or not anything can be made of it."""
    errors: dict[str, str] = {}
    try:
        read(text, errors)
    except InventoryError as error:
        return error.errors
    return errors


def file(**changes: Any) -> str:
    """Return a good file whose service `shop` is changed."""
    return json.dumps({"services": {"shop": {**SHOP, **changes}}})


def instance(**changes: Any) -> str:
    """Return a good file whose one instance is changed."""
    return file(instances=[{**SHOP["instances"][0], **changes}])


def test_yaml_and_json_say_the_same() -> None:
    """As in the contract; tabs in JSON, which YAML would refuse, included."""
    text = """
    services:
      shop:
        driver: {kind: command, update: ["true", "{name}", "{version}"]}
        balancer: {kind: haproxy, addresses: ["unix:/run/admin.sock"], backend: app}
        instances:
          - {name: web-01, host: 10.0.0.11, port: 8080}
    """
    errors: dict[str, str] = {}
    document = {"services": {"shop": SHOP}}
    assert read(text, errors) == read(json.dumps(document, indent="\t"), errors)
    assert errors == {}


def test_the_keys_of_the_file_become_the_fields_of_the_models() -> None:
    """`host` and `version` are called otherwise there; a server is named as its instance."""
    [entry] = read(file(version={"path": "/version"}), {})
    assert entry.fields["version_source"] == {"path": "/version"}
    assert entry.fields["policy"] == {}
    assert entry.instances == (
        {
            "name": "web-01",
            "hostname": "10.0.0.11",
            "port": 8080,
            "server": "web-01",
            "slot": "",
            "zone": "",
        },
    )


def test_a_service_without_instances_leaves_them_alone() -> None:
    """Nothing said is not the same as none."""
    bare = {key: SHOP[key] for key in ("driver", "balancer")}
    [entry] = read(json.dumps({"services": {"shop": bare}}), {})
    assert entry.instances is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "services"),
        ("just text", "services"),
        ("[]", "services"),
        ("services: []", "services"),
        ("services: {a: 1}\nservices: {b: 2}", "file"),
        ("services: {shop: {driver: {}, driver: {}}}", "file"),
        ('{"services": {}, "services": {}}', "file"),
        ("services: {shop: [", "file"),
        ("{", "file"),
        ("services: !!python/object/apply:os.system [id]", "file"),
        ("services: *nowhere", "file"),
        ("? [a]\n: 1", "file"),
        ("[" * 5_000, "file"),
        ('{"a":' * 5_000, "file"),
        ("\x00", "file"),
        ("a: &a [*a]", "file"),
    ],
)
def test_what_is_no_inventory_is_refused(text: str, path: str) -> None:
    """With the place where that can be told; nothing in it is executed."""
    assert list(errors_of(text)) == [path]


def test_an_error_of_the_syntax_says_where() -> None:
    """Line and column."""
    assert errors_of("services:\n  shop:\n    driver: [\n")["file"].startswith("line 4, column 1")
    assert errors_of("services: {}\nservices: {}")["file"].startswith("line 2, column 1")


def test_anchors_may_repeat_a_policy_but_not_the_world() -> None:
    """A shared policy is good style; a billion laughs are not."""
    shared = "services:\n  a: &a {driver: {}, balancer: {}}\n  b: *a\n"
    assert errors_of(shared) == {}
    laughs = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    assert "anchors" in errors_of(laughs)["file"]


def test_merged_keys_may_be_overridden() -> None:
    """`<<` is no key given twice."""
    text = (
        "services:\n  a: &a {driver: {}, balancer: {}}\n"
        "  b: &b\n    <<: *a\n    driver: {kind: x}\n  c:\n    <<: *b\n    driver: {kind: y}\n"
    )
    errors: dict[str, str] = {}
    kinds = [entry.fields["driver"].get("kind") for entry in read(text, errors)]
    assert (kinds, errors) == ([None, "x", "y"], {})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("services: {}\nextra: 1", "extra"),
        (file(instance=[]), "services.shop.instance"),
        (file(instances={}), "services.shop.instances"),
        (file(instances=None), "services.shop.instances"),
        (file(instances=["web-01"]), "services.shop.instances[0]"),
        (json.dumps({"services": {"shop": 1}}), "services.shop"),
        (json.dumps({"services": {"shop": {}}}), "services.shop.driver"),
        (instance(prt=1), "services.shop.instances[0].prt"),
        (instance(port="8080"), "services.shop.instances[0].port"),
        (instance(port=True), "services.shop.instances[0].port"),
        (instance(port=80.5), "services.shop.instances[0].port"),
        (instance(name=1), "services.shop.instances[0].name"),
        (instance(zone=False), "services.shop.instances[0].zone"),
        (instance(active="yes"), "services.shop.instances[0].active"),
        (instance(zone="a\0b"), "services.shop.instances[0].zone"),
        (instance(zone="\ud800"), "services.shop.instances[0].zone"),
        (file(policy={"batch_pause": float("nan")}), "services.shop.policy.batch_pause"),
        ("services: {shop: {policy: {since: 2026-01-01}}}", "services.shop.policy.since"),
        ("services: {shop: {policy: {1: x}}}", "services.shop.policy.1"),
    ],
)
def test_each_error_is_named_by_its_path(text: str, path: str) -> None:
    """Unknown keys, missing ones, wrong types, and what no JSON can hold."""
    assert path in errors_of(text)


def test_all_errors_are_named_at_once() -> None:
    """One run is enough to know everything."""
    text = json.dumps(
        {
            "services": {
                "shop": {**SHOP, "polciy": {}, "instances": [{"name": "a", "port": "x"}]},
                "api": {"driver": {}},
            }
        }
    )
    assert set(errors_of(text)) == {
        "services.shop.polciy",
        "services.shop.instances[0].port",
        "services.shop.instances[0].host",
        "services.api.balancer",
    }


@pytest.mark.parametrize(
    ("second", "key"),
    [
        ({"name": "web-01", "host": "10.0.0.12", "server": "other"}, "name"),
        ({"name": "web-02", "host": "10.0.0.12", "server": "web-01"}, "server"),
        ({"name": "web-02", "host": "10.0.0.11"}, "port"),
    ],
)
def test_two_instances_share_neither_name_nor_server_nor_address(
    second: dict[str, Any], key: str
) -> None:
    """The second one is at fault, and told which was the first."""
    text = file(instances=[SHOP["instances"][0], {"port": 8080, **second}])
    assert errors_of(text) == {
        f"services.shop.instances[1].{key}": "is that of instances[0] already"
    }


def test_a_change_is_told_in_one_line() -> None:
    """With what it was and what it will be; what is long is cut."""
    fields = (("port", 8080, 8081), ("zone", "", "b"))
    told = str(Change("change", "instance", "shop/web-01", fields))
    assert told == '~ instance shop/web-01: port: 8080 -> 8081; zone: "" -> b'
    long = str(Change("change", "service", "shop", (("policy", {}, {"x": "y" * 500}),)))
    assert len(long) < 150
