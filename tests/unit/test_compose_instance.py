"""An instance of the compose demo: really started anew at each order, and never twice at once."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dashboard.local import compose_instance
from dashboard.local.stack import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "shop-01"


class Container:
    """What runs in the container of an instance, and the driver that a worker would run."""

    def __init__(self, fleet: Path, port: int) -> None:
        self.port = port
        self.environment = {**os.environ, "FLEET": str(fleet)}
        run = "import sys; from dashboard.local import compose_instance as it; "
        code = f"{run}it.PORT = {port}; sys.exit(it.main(['{NAME}']))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=self.environment
        )

    def update(self, version: str) -> None:
        """Give it `version`, as a deployment does."""
        subprocess.run(
            [sys.executable, "-m", "dashboard.local.compose_update", NAME, version],
            cwd=ROOT,
            env=self.environment,
            check=True,
            timeout=20,
            stdout=subprocess.DEVNULL,
        )

    def version(self) -> str:
        """Return what the instance says that it runs, nothing while it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/version")
            return connection.getresponse().read().decode()
        return ""

    def says(self, version: str) -> bool:
        """Whether it says `version` within ten seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.version() == version:
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """A running one, ended with what it started."""
    [port] = free_ports(1, 23_000)
    container = Container(tmp_path, port)
    yield container
    container.process.terminate()
    container.process.wait(10)


def test_an_order_starts_the_instance_anew_with_its_version(container: Container) -> None:
    """Also with the version that it runs already."""
    assert container.says(compose_instance.FIRST_VERSION)
    for version in ("v2", "v2", "v3"):
        container.update(version)
        assert container.says(version)


def test_a_version_that_crashes_ends_the_container(container: Container) -> None:
    """Docker starts it again; that is no matter of ours."""
    assert container.says("v1")
    container.update("v2-crash")
    assert container.process.wait(10) == 1


def test_a_stop_of_the_container_ends_the_application_too(container: Container) -> None:
    """Nothing listens any more, and the end was a good one."""
    assert container.says("v1")
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(10) == 0
    assert container.version() == ""
