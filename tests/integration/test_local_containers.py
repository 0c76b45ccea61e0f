"""The demo's containers: of every version, updated by the docker driver, gone after any end."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from dashboard.local import docker_engine, dockerd_server, shop_images
from dashboard.local.containers import Containers
from dashboard.local.errors import LocalError
from dashboard.local.places import CHECKOUT, Places
from dashboard.local.stack import Owner, Stack
from rollouts import drivers
from rollouts.facts import Instance
from tests.acceptance.running import marked, mounts
from tests.dockerd import running_dockerd
from tests.environment import SHARE
from tests.servers import until

PORTS = 28_500 + 50 * SHARE  # instances lie a thousand above
NOWHERE = "http://127.0.0.1:9"  # no balancer is needed


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module", autouse=True)
def engine_can_run() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOCKER_HOST", raising=False)
        try:
            Containers.check()
        except LocalError as error:
            pytest.skip(f"optional: {error}")
        yield


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="lgc-", dir="/tmp") as path:
        yield Path(path)


@contextmanager
def running(places: Places, count: int) -> Iterator[tuple[Containers, Stack]]:
    """Run so many instances as the demo does; clear away what is left at the end."""
    with Owner(places, quiet):
        Containers.clear(places)
        containers = Containers(places, count, PORTS)
        containers.prepare()
        try:
            with Stack(places, containers.programs(NOWHERE), quiet) as stack:
                containers.start(stack)
                yield containers, stack
        finally:
            containers.clear(places)


def places_in(folder: Path, name: str) -> Places:
    places = Places.of(folder / name)
    places.make()
    return places


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[Containers]:
    """Two instances on an engine of their own."""
    places = places_in(folder, "own")
    with running(places, 2) as (containers, _):
        yield containers
    assert not marked(places.data)
    assert not mounts(places.data, places.runtime)
    assert not places.runtime.exists()


async def update(shop: Containers, name: str, version: str) -> None:
    """Give an instance a version, by the driver that the demo's inventory has."""
    instance = Instance(name, shop.hosts[name], shop.instances[name], server=name)
    driver = drivers.make(shop.driver)
    try:
        await driver.prepare(instance, version, quiet, lambda: 30.0)
        await driver.update(instance, version, quiet, lambda: 30.0)
    finally:
        await driver.aclose()


def version(shop: Containers, name: str) -> str:
    """Return what an instance says that it runs; empty where it does not answer."""
    with suppress(httpx.TransportError):
        url = f"http://{shop.hosts[name]}:{shop.instances[name]}/version"
        return httpx.get(url, timeout=5, trust_env=False).text.strip()
    return ""


async def test_a_container_is_replaced_by_one_of_the_version(shop: Containers) -> None:
    """It answers where the old one did, and the engine itself tells who was given the version."""
    with shop.watching("v2") as given:
        assert given() == []
        await update(shop, "web-01", "v2")
        until(lambda: version(shop, "web-01") == "v2", what="v2 is reported")
        until(lambda: given() == ["web-01"], what="the engine tells of it")
        await update(shop, "web-02", "v4-errors")
        until(lambda: version(shop, "web-02") == "v4-errors", what="v4-errors is reported")
        assert given() == ["web-01"]


def test_there_is_an_image_of_every_version(shop: Containers) -> None:
    """v1 to v9, each without trouble and with every trouble of the application."""
    assert shop.server
    with closing(shop.server.client()) as engine:
        found = {tag for image in engine.images() for tag in image["RepoTags"]}
    assert found == {shop_images.reference(each) for each in shop_images.versions()}
    assert {"shop:v1", "shop:v3-unhealthy", "shop:v9-sticky"} <= found


# Runs one container of a data folder until it is killed.
RUNNER = """
import sys
import django
django.setup()
from pathlib import Path
from dashboard.local.places import CHECKOUT, Places
from tests.integration.test_local_containers import running

with running(Places.of(Path(sys.argv[1])), 1) as (_, stack):
    print("up", flush=True)
    stack.watch()
"""


def test_nothing_is_left_of_what_was_killed(folder: Path) -> None:
    """kill -9 of the engine and all around it: the next start ends the containers by itself."""
    places = places_in(folder, "killed")
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(places.data)],
        cwd=CHECKOUT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "dashboard.settings"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "up\n"
        for each in [*psutil.Process(runner.pid).children(recursive=True), runner]:
            each.kill()
    assert any("web-01" in each.cmdline() for each in marked(places.data))
    assert mounts(places.runtime)
    with Owner(places, quiet):
        Containers.clear(places)
        assert not marked(places.data)
        assert not mounts(places.data, places.runtime)
        assert not places.docker.exists()


def test_an_engine_that_others_use_keeps_what_is_theirs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DOCKER_HOST the demo starts none, and takes away its own containers and images alone."""
    places = places_in(folder, "guest")
    with running_dockerd() as host, closing(host.client()) as engine:
        monkeypatch.setenv("DOCKER_HOST", host.address)
        docker_engine.make_image(engine, "other:1", {"note": b"theirs"})
        engine.create_container("other:1", ["/note"], name="theirs")
        with running(places, 1) as (containers, _):
            assert containers.engine == host.address
            assert not containers.programs(NOWHERE)
            assert version(containers, "web-01") == "v1"
        assert [each["Names"] for each in engine.containers(all=True)] == [["/theirs"]]
        assert [each["RepoTags"] for each in engine.images()] == [["other:1"]]
    assert not places.docker_host.exists()


@pytest.mark.parametrize("there", [True, False])
def test_the_key_that_an_engine_made_for_itself_ends_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """That of the machine's own engine, which was there before, stays."""
    monkeypatch.setattr(docker_engine, "KEY", key := folder / "key.json")
    places = places_in(folder, "key")
    key.unlink(missing_ok=True)
    with Owner(places, quiet):
        if there:
            key.touch()
        server = dockerd_server.Server(places)
        server.prepare()
        key.touch()
        server.clear()
    assert key.exists() == there


def test_an_engine_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The containers share files and network of this machine, which the sentence says."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    with pytest.raises(LocalError, match="files and the network of this machine"):
        Containers.check()
