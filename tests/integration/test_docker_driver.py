"""The docker driver against a real engine: over its socket, over TLS, over a real sshd."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from docker import APIClient
from docker.types import IPAMConfig, IPAMPool

from dashboard.local.docker_engine import DockerEngine, make_image, shared
from dashboard.local.stack import free_ports
from rollouts import drivers
from rollouts.adapters import Surroundings
from rollouts.facts import Instance
from rollouts.ports import Driver
from tests.dockerd import Authority, running_dockerd
from tests.servers import SHARE

PORTS = 18_600 + 20 * SHARE  # where free ports are looked for
NAME = "shop-web-01"
WEB = Instance("web-01", "127.0.0.1", 8080, server="web-01")
FIRST, SECOND = "deploy-000000000001", "deploy-000000000002"
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates the engine takes."""
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def tls_port() -> int:
    """Where the engine listens with TLS."""
    return free_ports(1, PORTS)[0]


@pytest.fixture(scope="module")
def dockerd(authority: Authority, tls_port: int) -> Iterator[DockerEngine]:
    """An engine with the images shop:v1 to shop:v3."""
    cert, key = authority.issue("engine")
    options = [
        *("-H", f"tcp://127.0.0.1:{tls_port}", "--tlsverify", "--tlscacert", str(authority.ca)),
        *("--tlscert", str(cert), "--tlskey", str(key)),
    ]
    with running_dockerd(options) as engine:
        client = engine.client()
        for version in ("v1", "v2", "v3"):
            image(client, version)
        client.close()
        yield engine


@pytest.fixture
def engine(dockerd: DockerEngine) -> Iterator[APIClient]:
    """A client of the engine, which has no container before and after."""
    client = dockerd.client()
    yield client
    for one in client.containers(all=True):
        client.remove_container(one["Id"], force=True)
    client.close()


def image(client: APIClient, version: str, cmd: tuple[str, ...] = SLEEP, **more: Any) -> str:
    return make_image(
        client,
        f"shop:{version}",
        {"/app/version": version.encode()},
        env={"PATH": "/usr/bin:/bin", "FROM_IMAGE": version},
        cmd=cmd,
        **more,
    )


def run(client: APIClient, version: str = "v1", **host: Any) -> str:
    """Start a container by hand, as a user did long ago; return its ID."""
    host = {"Binds": shared(), "NetworkMode": "none", "Init": True} | host
    body = {"Image": f"shop:{version}", "HostConfig": host}
    one = client.create_container_from_config(body, NAME)["Id"]
    client.start(one)
    return str(one)


def settings(dockerd: DockerEngine, **more: Any) -> dict[str, Any]:
    raw = {"kind": "docker", "image": "shop:{version}", "container": "shop-{name}"}
    return raw | {"engine": dockerd.address, "pull": "missing"} | more


@asynccontextmanager
async def made(raw: dict[str, Any], deployment: str = FIRST) -> AsyncIterator[Driver]:
    driver = drivers.make(raw, Surroundings(deployment=deployment))
    try:
        yield driver
    finally:
        await driver.aclose()


def owned() -> float:
    """Seconds for which the deployment is sure to be ours."""
    return 60.0


def quiet(text: str) -> None:
    """Take output that nobody looks at."""


def restart_of(client: APIClient, one: str) -> str:
    return str(client.inspect_container(one)["HostConfig"]["RestartPolicy"]["Name"])


def names(client: APIClient) -> dict[str, str]:
    """The names of all containers, with their states."""
    return {one["Names"][0].lstrip("/"): one["State"] for one in client.containers(all=True)}


async def test_an_update_keeps_what_was_set_and_takes_the_rest_from_the_new_image(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """What the user set, from environment to restart policy, stays; the rest is the image's."""
    engine.create_volume("shop-data")
    body = {
        "Image": "shop:v1",
        "Env": ["REGION=eu"],
        "Labels": {"team": "shop"},
        "Cmd": ["sleep", "999"],
        "Hostname": "front",
        "ExposedPorts": {"8080/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
        "HostConfig": {
            "Binds": [*shared(), "shop-data:/data"],
            "NetworkMode": "none",
            "Init": True,
            "Memory": 64 * 2**20,
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "Tmpfs": {"/run": ""},
        },
    }
    engine.create_container_from_config(body, NAME)
    engine.start(NAME)
    async with made(settings(dockerd)) as driver:
        await driver.prepare(WEB, "v2", quiet, owned)
        await driver.update(WEB, "v2", quiet, owned)
    new, old = engine.inspect_container(NAME), engine.inspect_container(f"{NAME}-before")
    assert new["State"]["Running"]
    assert not old["State"]["Running"]
    assert set(new["Config"]["Env"]) == {"REGION=eu", "PATH=/usr/bin:/bin", "FROM_IMAGE=v2"}
    assert new["Config"]["Labels"]["team"] == "shop"
    for key in ("Cmd", "Hostname", "ExposedPorts", "Healthcheck"):
        assert new["Config"][key] == body[key], key
    changed = {key for key, was in old["HostConfig"].items() if new["HostConfig"][key] != was}
    assert changed == {"RestartPolicy"}
    assert restart_of(engine, NAME) == "unless-stopped"
    assert restart_of(engine, f"{NAME}-before") == "no"


async def test_a_container_keeps_its_networks_with_aliases_and_addresses(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """Both networks of the old one, the address that was asked for, and no alias of its ID."""
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet="10.213.7.0/24")])
    try:
        nets = [
            engine.create_network("front", internal=True, ipam=ipam)["Id"],
            engine.create_network("back", internal=True)["Id"],
        ]
    except Exception as error:
        pytest.skip(f"optional: no bridge network can be made here: {error}")
    try:
        body = {
            "Image": "shop:v1",
            "HostConfig": {"Binds": shared(), "NetworkMode": "front", "Init": True},
            "NetworkingConfig": {
                "EndpointsConfig": {
                    "front": {"Aliases": ["shop"], "IPAMConfig": {"IPv4Address": "10.213.7.9"}}
                }
            },
        }
        engine.create_container_from_config(body, NAME)
        engine.connect_container_to_network(NAME, "back", aliases=["shop-back"])
        engine.start(NAME)
        async with made(settings(dockerd)) as driver:
            await driver.update(WEB, "v2", quiet, owned)
        new = engine.inspect_container(NAME)
        found = new["NetworkSettings"]["Networks"]
        assert found["front"]["IPAddress"] == "10.213.7.9"
        assert set(found["front"]["Aliases"]) == {"shop", new["Id"][:12]}
        assert set(found["back"]["Aliases"]) == {"shop-back", new["Id"][:12]}
    finally:
        engine.remove_container(NAME, force=True)
        engine.remove_container(f"{NAME}-before", force=True)
        for net in nets:
            engine.remove_network(net)


async def test_the_way_back_is_the_old_container_and_needs_no_image(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """The very same container runs again, restarted as before; nothing else is left."""
    old = run(engine, RestartPolicy={"Name": "always"})
    image_of_v2 = image(engine, "v2-only-here")
    async with made(settings(dockerd)) as driver:
        await driver.update(WEB, "v2-only-here", quiet, owned)
        assert (await driver.running(WEB)).version == "v2-only-here"
        engine.remove_image("shop:v1", force=True, noprune=True)
        try:
            await driver.roll_back(WEB, "v1", quiet, owned)
        finally:
            image(engine, "v1")
        await driver.finish(WEB, quiet, owned)
    assert engine.inspect_container(NAME)["Id"] == old
    assert restart_of(engine, NAME) == "always"
    assert names(engine) == {NAME: "running"}
    engine.remove_image(image_of_v2)
