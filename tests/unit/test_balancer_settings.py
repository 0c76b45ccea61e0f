"""The settings of balancers: all that is wrong about them is named at once, with what is right."""

from typing import Any

import pytest

from rollouts import balancers
from rollouts.adapters import SettingsError

NGINX = {"kind": "nginx", "upstream": "shop", "file": "/etc/nginx/lockgate/shop.conf"}
COMMAND = {"kind": "command", "status": ["s"], "drain": ["d", "{server}"], "ready": ["r"]}
NONE = {"kind": "none", "ready_path": "/ready"}
HAPROXY = {"kind": "haproxy", "addresses": ["unix:/a"], "backend": "app"}


def refused(settings: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(SettingsError) as error:
        balancers.check(settings)
    return error.value.errors


@pytest.mark.parametrize(
    "settings",
    [
        NGINX,
        {**NGINX, "hosts": ["lb1", "lb2:2222"], "ssh": {"user": "deploy"}, "port": 20100},
        {**NGINX, "options": ["least_conn", "hash $request_uri consistent", "zone shop 64k"]},
        {**NGINX, "server_options": "max_fails=3 fail_timeout=10s", "weights": {"web-01": 0}},
        {**NGINX, "test": ["sudo", "nginx", "-t"], "reload": ["sudo", "nginx", "-s", "reload"]},
        COMMAND,
        {**COMMAND, "weights": ["w", "--json={weights}"], "cut": ["c", "{hostname}:{port}"]},
        NONE,
        {**NONE, "drain": {"path": "/drain"}, "undrain": {"path": "/drain", "method": "DELETE"}},
        {"kind": "chain", "balancers": [HAPROXY, NGINX, COMMAND, NONE]},
    ],
)
def test_good_settings_are_taken(settings: dict[str, Any]) -> None:
    balancers.check(settings)


@pytest.mark.parametrize(
    ("kind", "key", "bad"),
    [
        (NGINX, "upstream", "a;b"),
        (NGINX, "upstream", "a\n"),
        (NGINX, "file", "shop.conf"),
        (NGINX, "file", "/etc/nginx/a\nb"),
        (NGINX, "file", "/etc/nginx/"),
        (NGINX, "test", []),
        (NGINX, "test", "nginx -t"),
        (NGINX, "reload", ["a\0"]),
        (NGINX, "port", 0),
        (NGINX, "port", True),
        (NGINX, "options", ["least_conn;"]),
        (NGINX, "options", ["server 10.0.0.1"]),
        (NGINX, "options", ["a }\nserver { b"]),
        (NGINX, "server_options", "weight=5"),
        (NGINX, "server_options", "backup"),
        (NGINX, "server_options", "max_fails=1; #"),
        (NGINX, "weights", {"web-01": 257}),
        (NGINX, "weights", {"web;01": 1}),
        (NGINX, "hosts", []),
        (NGINX, "hosts", ["lb1", "lb1"]),
        (NGINX, "hosts", ["lb 1"]),
        (COMMAND, "drain", ["d", "{version}"]),
        (COMMAND, "drain", ["d", "{nope}"]),
        (COMMAND, "drain", "d {server}"),
        (COMMAND, "status", ["s", "{server}"]),
        (COMMAND, "weights", ["w"]),
        (COMMAND, "weights", ["w", "{weights}", "{server}"]),
        (NONE, "ready_path", "ready"),
        (NONE, "ready_path", "http://169.254.169.254/"),
        (NONE, "drain", "/drain"),
        (NONE, "drain", {"path": "/drain", "method": "GET"}),
        (NONE, "token_env", "a secret"),
        ({"kind": "chain", "balancers": [HAPROXY, HAPROXY]}, "balancers", [HAPROXY]),
    ],
)
def test_bad_settings_are_named(kind: dict[str, Any], key: str, bad: Any) -> None:
    """With every other thing that is wrong."""
    assert {key, "nope"} <= set(refused({**kind, key: bad, "nope": 1}))


def test_what_belongs_together_is_asked_for_together() -> None:
    assert set(refused({**NGINX, "ssh": {"user": "deploy"}})) == {"hosts"}
    assert set(refused({**NONE, "drain": {"path": "/drain"}})) == {"undrain"}


def test_what_is_wrong_in_a_row_is_named_by_its_place() -> None:
    errors = refused(
        {"kind": "chain", "balancers": [{**HAPROXY, "backend": "a;b"}, {"kind": "nope"}, NONE]}
    )
    assert set(errors) == {"balancers[0].backend", "balancers[1].kind"}
