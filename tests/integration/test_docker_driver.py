"""The docker driver against a real engine: over its socket, over TLS, over a real sshd."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.types import IPAMConfig, IPAMPool

from dashboard.local.docker_engine import DockerEngine, make_image, shared
from dashboard.local.stack import free_ports
from rollouts import drivers
from rollouts.adapters import Surroundings
from rollouts.drivers.docker_engine import Stopped
from rollouts.facts import Instance
from rollouts.ports import Driver, DriverError
from tests.dockerd import PASSWORD, USER, Authority, running_dockerd, running_registry
from tests.servers import SHARE
from tests.sshd import find as find_sshd
from tests.sshd import running_sshds

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


def lasting(changes: int) -> Callable[[], float]:
    """A lease that is over after so many changes: the driver asks before each."""
    granted = iter([60.0] * changes)
    return lambda: next(granted, 0.0)


async def test_wherever_a_worker_dies_its_successor_goes_back_to_the_old_container(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """After each of the changes that make an update; those are at least six."""
    old = run(engine, RestartPolicy={"Name": "always"})
    for changes in range(20):
        async with made(settings(dockerd)) as driver:
            with suppress(Stopped):
                await driver.update(WEB, "v2", quiet, lasting(changes))
                break
        async with made(settings(dockerd)) as driver:
            await driver.roll_back(WEB, "v1", quiet, owned)
            assert (await driver.running(WEB)).version == "v1"
        assert names(engine) == {NAME: "running"}
        assert engine.inspect_container(NAME)["Id"] == old
        assert restart_of(engine, NAME) == "always"
    assert changes >= 6


async def test_two_updates_at_once_are_one(dockerd: DockerEngine, engine: APIClient) -> None:
    """A predecessor that was thought dead does no harm to its successor."""
    old = run(engine)
    async with made(settings(dockerd)) as one, made(settings(dockerd)) as other:
        updates = (driver.update(WEB, "v2", quiet, owned) for driver in (one, other))
        await asyncio.gather(*updates)
        assert (await one.running(WEB)).version == "v2"
    assert names(engine) == {NAME: "running", f"{NAME}-before": "exited"}
    assert engine.inspect_container(f"{NAME}-before")["Id"] == old


async def test_an_update_is_repeated_without_a_restart_and_deployed_anew_with_one(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """Within a deployment what runs already is left alone; another deployment restarts it."""
    run(engine)
    async with made(settings(dockerd)) as driver:
        await driver.update(WEB, "v2", quiet, owned)
        first = engine.inspect_container(NAME)["Id"]
        await driver.update(WEB, "v2", quiet, owned)
        assert engine.inspect_container(NAME)["Id"] == first
    async with made(settings(dockerd), SECOND) as driver:
        await driver.update(WEB, "v2", quiet, owned)
    assert engine.inspect_container(NAME)["Id"] != first
    assert engine.inspect_container(f"{NAME}-before")["Id"] == first


async def test_a_container_that_does_not_stop_is_killed_and_that_is_said(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """Process 1 without a handler ignores SIGTERM: after stop_timeout it is killed."""
    run(engine, Init=False)
    said: list[str] = []
    async with made(settings(dockerd, stop_timeout=0.3)) as driver:
        await driver.update(WEB, "v2", said.append, owned)
    assert any("did not stop within 0.3 s of SIGTERM" in line for line in said)
    assert engine.inspect_container(f"{NAME}-before")["State"]["ExitCode"] == 137


async def test_cancelled_it_does_nothing_more(dockerd: DockerEngine, engine: APIClient) -> None:
    """Not even what it was at: while an old container takes its time to stop."""
    old = run(engine, Init=False)
    async with made(settings(dockerd, stop_timeout=30)) as driver:
        stopping = asyncio.Event()

        def heard(line: str) -> None:
            if line.startswith("stopping"):
                stopping.set()

        update = asyncio.create_task(driver.update(WEB, "v2", heard, owned))
        await asyncio.wait_for(stopping.wait(), 10)
        update.cancel()
        with pytest.raises(asyncio.CancelledError):
            await update
        assert names(engine) == {NAME: "running", f"{NAME}-next": "created"}
        await driver.roll_back(WEB, "v1", quiet, owned)
    assert names(engine) == {NAME: "running"}
    assert engine.inspect_container(NAME)["Id"] == old


async def test_without_a_lease_nothing_is_changed(dockerd: DockerEngine, engine: APIClient) -> None:
    """Not one container is made."""
    run(engine)
    async with made(settings(dockerd)) as driver:
        with pytest.raises(DriverError, match="another worker"):
            await driver.update(WEB, "v2", quiet, lambda: 0.0)
    assert names(engine) == {NAME: "running"}


async def test_a_version_that_ends_at_once_is_taken_back(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """One that the engine restarts again and again, as its policy says."""
    old = run(engine, RestartPolicy={"Name": "always"})
    image(engine, "v2-crash", ("false",))
    async with made(settings(dockerd)) as driver:
        await driver.update(WEB, "v2-crash", quiet, owned)
        await driver.roll_back(WEB, "v1", quiet, owned)
    assert names(engine) == {NAME: "running"}
    assert engine.inspect_container(NAME)["Id"] == old


async def test_a_version_that_can_not_be_started_is_told_in_the_engines_words(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """And taken back like any other."""
    old = run(engine, Init=False)
    image(engine, "v2-broken", ("no-such-program",))
    async with made(settings(dockerd, stop_timeout=0)) as driver:
        with pytest.raises(DriverError, match=r"can't be started: .*no-such-program"):
            await driver.update(WEB, "v2-broken", quiet, owned)
        await driver.roll_back(WEB, "v1", quiet, owned)
    assert engine.inspect_container(NAME)["Id"] == old


async def test_what_was_not_kept_is_made_of_its_image(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """The way back is an update where somebody removed the old container."""
    run(engine)
    said: list[str] = []
    async with made(settings(dockerd)) as driver:
        await driver.update(WEB, "v2", quiet, owned)
        engine.remove_container(f"{NAME}-before")
        await driver.roll_back(WEB, "v1", said.append, owned)
        assert (await driver.running(WEB)).version == "v1"
    assert names(engine) == {NAME: "running"}
    assert any("not kept" in line for line in said)


async def test_the_first_container_is_made_as_the_settings_say(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """Or, without that setting, the answer says what to do."""
    async with made(settings(dockerd)) as driver:
        with pytest.raises(DriverError, match=r"docker run --name .*`create`"):
            await driver.update(WEB, "v1", quiet, owned)
        ticks = {tick.what: tick for tick in await driver.preflight(WEB, "")}
        assert ticks["container there"].ok is False
    create = {
        "ports": ["127.0.0.1:{port}:80"],
        "environment": {"INSTANCE": "{name}", "VERSION": "{version}"},
        "volumes": shared(),
        "network_mode": "none",
        "restart_policy": "on-failure:3",
        "command": ["sleep", "{port}"],
        "init": True,
    }
    async with made(settings(dockerd, create=create)) as driver:
        ticks = {tick.what: tick for tick in await driver.preflight(WEB, "")}
        assert ticks["container there"].ok
        await driver.update(WEB, "v1", quiet, owned)
        await driver.finish(WEB, quiet, owned)
    new = engine.inspect_container(NAME)
    assert new["State"]["Running"]
    assert {"INSTANCE=web-01", "VERSION=v1"} <= set(new["Config"]["Env"])
    assert new["Config"]["Cmd"] == ["sleep", "8080"]
    binding = [{"HostIp": "127.0.0.1", "HostPort": "8080"}]
    assert new["HostConfig"]["PortBindings"] == {"80/tcp": binding}
    assert new["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert names(engine) == {NAME: "running"}


async def test_volumes_without_a_name_go_along(dockerd: DockerEngine, engine: APIClient) -> None:
    """What the application wrote is there after the update, though nobody named the volume."""
    body = {
        "Image": "shop:v1",
        "Volumes": {"/data": {}},
        "HostConfig": {"Binds": shared(), "NetworkMode": "none", "Init": True},
    }
    engine.create_container_from_config(body, NAME)
    engine.start(NAME)
    async with made(settings(dockerd)) as driver:
        await driver.update(WEB, "v2", quiet, owned)
    mounts = [
        {mount["Destination"]: mount.get("Name") for mount in one["Mounts"]}
        for one in (engine.inspect_container(NAME), engine.inspect_container(f"{NAME}-before"))
    ]
    assert mounts[0]["/data"] == mounts[1]["/data"] != ""


async def test_what_runs_is_told_by_label_or_tag_and_never_guessed(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """A label that was copied to a container of another image counts for nothing."""
    run(engine)
    async with made(settings(dockerd)) as driver:
        by_tag = await driver.running(WEB)
        assert by_tag.version == "v1"
        assert by_tag.digest == engine.inspect_image("shop:v1")["Id"]
        await driver.update(WEB, "v2", quiet, owned)
        assert (await driver.running(WEB)).version == "v2"
        labels = engine.inspect_container(NAME)["Config"]["Labels"]
        engine.remove_container(NAME, force=True)
        body = {"Image": engine.inspect_image("shop:v3")["Id"], "Labels": labels}
        body["HostConfig"] = {"Binds": shared(), "NetworkMode": "none", "Init": True}
        engine.create_container_from_config(body, NAME)
        engine.start(NAME)
        assert (await driver.running(WEB)).version is None
        engine.kill(NAME)
        with pytest.raises(DriverError, match="does not run"):
            await driver.running(WEB)


async def test_what_is_in_the_way_stays_and_is_named(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """A container of somebody else under a name that is needed; one that is removed at its end."""
    run(engine, AutoRemove=True)
    body = {"Image": "shop:v1", "HostConfig": {"NetworkMode": "none"}}
    engine.create_container_from_config(body, f"{NAME}-next")
    async with made(settings(dockerd)) as driver:
        with pytest.raises(DriverError, match=f"the name {NAME}-next"):
            await driver.update(WEB, "v2", quiet, owned)
        engine.remove_container(f"{NAME}-next")
        with pytest.raises(DriverError, match="--rm"):
            await driver.update(WEB, "v2", quiet, owned)
        ticks = {tick.what: tick for tick in await driver.preflight(WEB, "v1")}
        assert ticks["container there"].ok is False
    assert names(engine) == {NAME: "running"}


async def test_the_look_before_a_deployment_says_what_is_there(
    dockerd: DockerEngine, engine: APIClient, tmp_path: Path
) -> None:
    """Engine, container, the image for the way back; of an engine that is not there just that."""
    run(engine)
    async with made(settings(dockerd)) as driver:
        ticks = await driver.preflight(WEB, "v1")
        assert [(tick.what, tick.ok) for tick in ticks] == [
            ("Docker Engine reachable", True),
            ("container there", True),
            ("old version's image there", True),
        ]
        assert engine.version()["Version"] in ticks[0].detail
    async with made(settings(dockerd, engine=f"unix://{tmp_path}/nobody")) as driver:
        (tick,) = await driver.preflight(WEB, "v1")
        assert (tick.what, tick.ok) == ("Docker Engine reachable", False)
        assert "No such file" in tick.detail


async def test_an_image_that_no_registry_gives_is_used_where_it_is_there_already(
    dockerd: DockerEngine, engine: APIClient
) -> None:
    """And said; where it is not, the engine's own words say why."""
    port = free_ports(1, PORTS + 5)[0]
    name = f"127.0.0.1:{port}/shop"
    engine.tag("shop:v2", name, "v2")
    said: list[str] = []
    raw = settings(dockerd, image=f"{name}:{{version}}", pull="always")
    async with made(raw) as driver:
        await driver.prepare(WEB, "v2", said.append, owned)
        assert any("connection refused" in line and "is used" in line for line in said)
        with pytest.raises(DriverError, match=r"can't be pulled: .*connection refused"):
            await driver.prepare(WEB, "v3", quiet, owned)
        with pytest.raises(DriverError, match=r"can't hold a \+"):
            await driver.prepare(WEB, "v3+1", quiet, owned)


async def test_an_image_comes_from_a_registry_with_its_digest(
    dockerd: DockerEngine,
    engine: APIClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pulled with a password from the environment; the digest is what the registry says."""
    with running_registry(tmp_path / "registry", free_ports(1, PORTS + 10)[0]) as address:
        name = f"{address}/shop"
        engine.tag("shop:v2", name, "v2")
        login = {"username": USER, "password": PASSWORD}
        *_, last = engine.push(name, "v2", stream=True, decode=True, auth_config=login)
        pushed = last["aux"]["Digest"]
        engine.remove_image(f"{name}:v2")
        run(engine)
        registry = {"username": USER, "password_env": "SHOP_REGISTRY_PASSWORD"}
        raw = settings(dockerd, image=f"{name}:{{version}}", pull="always", registry=registry)
        said: list[str] = []
        monkeypatch.setenv("SHOP_REGISTRY_PASSWORD", "wrong")
        async with made(raw) as driver:
            assert (await driver.preflight(WEB, "v1"))[-1].ok is False
            with pytest.raises(DriverError, match=r"can't be pulled: .*unauthorized"):
                await driver.prepare(WEB, "v2", quiet, owned)
        monkeypatch.setenv("SHOP_REGISTRY_PASSWORD", PASSWORD)
        async with made(raw) as driver:
            assert (await driver.preflight(WEB, "v1"))[-1].ok
            await driver.prepare(WEB, "v2", said.append, owned)
            assert f"{name}:v2 is {pushed}" in said
            await driver.update(WEB, "v2", quiet, owned)
            ran = await driver.running(WEB)
            assert (ran.version, ran.digest) == ("v2", pushed)


async def test_an_engine_is_reached_over_tls_and_a_wrong_certificate_is_told(
    dockerd: DockerEngine,
    engine: APIClient,
    authority: Authority,
    tls_port: int,
    tmp_path: Path,
) -> None:
    """Both sides show a certificate, and both have to be right."""
    run(engine)

    def tls(ca: Path, files: tuple[Path, Path]) -> dict[str, Any]:
        paths = {"ca": str(ca), "cert": str(files[0]), "key": str(files[1])}
        return settings(dockerd, engine=f"tcp://{{hostname}}:{tls_port}", tls=paths)

    other = Authority(tmp_path, "other")
    ours = authority.issue("client")
    async with made(tls(authority.ca, ours)) as driver:
        await driver.update(WEB, "v2", quiet, owned)
        assert (await driver.running(WEB)).version == "v2"
    async with made(tls(other.ca, ours)) as driver:
        with pytest.raises(DriverError, match=r"not signed by `tls.ca`"):
            await driver.running(WEB)
    async with made(tls(authority.ca, other.issue("client"))) as driver:
        with pytest.raises(DriverError, match=r"does not take `tls.cert`"):
            await driver.running(WEB)
    async with made(tls(authority.ca, (tmp_path / "none", tmp_path / "none"))) as driver:
        with pytest.raises(DriverError, match="not there"):
            await driver.running(WEB)


class Confirmed:
    """Every host shows one of these keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    async def keys(self, host: str, port: int) -> tuple[str, ...]:
        return self._keys

    async def met(self, host: str, port: int, key: str) -> None:
        pytest.fail(f"{host} showed another key")


# The library leaves a socket to the collector that could not be connected any more.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_engine_is_reached_over_ssh_and_again_after_the_connection_broke(
    dockerd: DockerEngine, engine: APIClient, tmp_path: Path
) -> None:
    """No port of the engine is open for it; a lost connection costs one more look."""
    if find_sshd() is None:
        pytest.skip("optional: sshd is not on this machine")
    run(engine)
    with running_sshds(tmp_path, free_ports(1, PORTS + 15)) as sshds:
        ssh = {"user": sshds.user, "key": str(sshds.key), "port": sshds.ports[0]}
        raw = settings(dockerd, engine=f"ssh://{{hostname}}{dockerd.socket}", ssh=ssh)
        known = Confirmed(sshds.host_keys)
        driver = drivers.make(raw, Surroundings(known_hosts=known, deployment=FIRST))
        try:
            await driver.update(WEB, "v2", quiet, owned)
            assert (await driver.running(WEB)).version == "v2"
            sshds.hosts[0].cut()
            await driver.roll_back(WEB, "v1", quiet, owned)
            assert (await driver.running(WEB)).version == "v1"
        finally:
            await driver.aclose()
    assert names(engine) == {NAME: "running"}
    gc.collect()
