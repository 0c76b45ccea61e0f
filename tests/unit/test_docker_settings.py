"""What the docker driver's settings may say."""

from typing import Any

import pytest

from rollouts import drivers
from rollouts.adapters import SettingsError
from rollouts.drivers.docker_settings import Settings
from rollouts.facts import Instance

WEB = Instance("web-01", "10.0.0.11", 8080, server="srv-1", slot="blue", zone="a")
LEAST = {"kind": "docker", "image": "registry.example.com/shop:{version}"}
TLS = {"ca": "/etc/lockgate/ca.pem", "cert": "/etc/lockgate/cert.pem", "key": "/etc/lockgate/key"}


def refused(**raw: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as refusal:
        drivers.check(LEAST | raw)
    return refusal.value.errors


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"engine": "tcp://{hostname}:2376", "tls": TLS},
        {"engine": "ssh://{hostname}"},
        {"engine": "ssh://{name}/run/docker.sock", "ssh": {"user": "deploy"}},
        {"container": "shop-{name}", "stop_timeout": 0, "pull": "missing"},
        {"registry": {"username": "deploy", "password_env": "REGISTRY_PASSWORD"}},
        {"create": {}},
        {"create": {"ports": ["80:8080", "127.0.0.1:{port}:53/udp"], "command": ["serve"]}},
        {"create": {"volumes": ["data:/data:ro"], "restart_policy": "on-failure:3"}},
        {"create": {"environment": {"ZONE": "{zone}"}, "init": True, "user": "1000"}},
    ],
)
def test_what_is_right_is_taken(more: dict[str, Any]) -> None:
    """With nothing but the image, and with each of the other settings."""
    drivers.check(LEAST | more)


def test_every_wrong_setting_is_named_at_once() -> None:
    """Each with what would be right."""
    errors = refused(
        image="shop:latest",
        container="{version}",
        engine="http://{hostname}",
        stop_timeout=-1,
        pull="never",
        registry={"username": "deploy", "password": "secret"},
        create={"privileged": True},
        nope=1,
    )
    assert set(errors) == {
        *("image", "container", "engine", "stop_timeout", "pull", "registry", "create", "nope")
    }
    assert "{version}" in errors["image"]
    assert "password_env" in errors["registry"]
    assert "ports" in errors["create"]


def test_an_engine_is_not_reached_over_tcp_without_tls() -> None:
    """Whoever reaches it so is root on its host."""
    assert set(refused(engine="tcp://{hostname}:2375")) == {"tls"}
    assert set(refused(tls=TLS)) == {"tls"}
    assert set(refused(ssh={"user": "deploy"})) == {"ssh"}
    assert set(refused(engine="tcp://{hostname}:2376", tls={"ca": "ca.pem"})) == {"tls"}


@pytest.mark.parametrize(
    "create",
    [
        {"ports": ["8080"]},
        {"ports": ["x:y"]},
        {"ports": "80:80"},
        {"volumes": ["data"]},
        {"environment": ["A=1"]},
        {"environment": {"A": 1}},
        {"environment": {"A": "{nope}"}},
        {"restart_policy": "sometimes"},
        {"command": "serve"},
        {"command": []},
        {"init": "yes"},
        [],
    ],
)
def test_a_first_container_that_can_not_be_is_refused(create: object) -> None:
    """When it is saved, not when it is needed."""
    assert set(refused(create=create)) == {"create"}


@pytest.mark.parametrize(
    ("image", "reference", "version"),
    [
        ("r.example.com:5000/shop:{version}", "r.example.com:5000/shop:v1.2", "v1.2"),
        ("r.example.com:5000/shop:{version}", "r.example.com/shop:v1.2", None),
        ("r.example.com:5000/shop:{version}", "sha256:0123", None),
        ("shop-{slot}:{version}", "shop-blue:v1", "v1"),
        ("shop-{slot}:{version}", "shop-green:v1", None),
        ("shop/{version}:{version}-slim", "shop/v1:v1-slim", "v1"),
        ("shop/{version}:{version}-slim", "shop/v1:v2-slim", None),
    ],
)
def test_a_tag_tells_the_version_where_the_image_is_of_the_template(
    image: str, reference: str, version: str | None
) -> None:
    """Any other image's tag is nobody's version."""
    settings = Settings.parse(LEAST | {"image": image})
    assert settings.filled(image, WEB, version or "v1")
    assert settings.version_of(reference, WEB) == version
