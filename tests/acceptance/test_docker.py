"""The installation by `docker compose up`, for real: image, migration, web, workers, demo.

Needs a Docker engine with the compose plugin, and the base images or a way to pull them. The
client's own variables (DOCKER_HOST, DOCKER_BUILDKIT, ...) choose which engine, and how it builds.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboard.local.stack import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = "lockgate:0.1.0"
BUILD = 1_200  # seconds
START = 600  # seconds
ENDED = {"completed", "rolled_back", "failed", "cancelled"}


def engine_lacks() -> str:
    """Return what is missing for these tests, nothing where they can run."""
    client = shutil.which("docker")
    if client is None:
        return "the docker client is not installed"
    for command, what in (
        (["info"], "no Docker engine is running"),
        (["compose", "version"], "the compose plugin of the docker client is not installed"),
    ):
        if subprocess.run([client, *command], capture_output=True, check=False).returncode:
            return what
    return ""


pytestmark = [
    pytest.mark.skipif(bool(lacks := engine_lacks()), reason=f"optional: {lacks}"),
    pytest.mark.timeout(BUILD + 2 * START),
]


class Installation:
    """One project of compose, on ports of its own."""

    def __init__(self) -> None:
        web, balancer = free_ports(2, 29_500)
        self.url = f"http://127.0.0.1:{web}"
        self.balancer_url = f"http://127.0.0.1:{balancer}"
        self.project = f"lockgate-test-{secrets.token_hex(4)}"
        ours = {"SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL", "DATABASE_POOL"}
        kept = {key: value for key, value in os.environ.items() if key not in ours}
        self.environment = {**kept, "PORT": str(web), "BALANCER_PORT": str(balancer)}

    def compose(self, *arguments: str, within: float = START) -> str:
        """Return what `docker compose` prints; fail where it fails."""
        done = subprocess.run(
            ["docker", "compose", "-p", self.project, "--profile", "demo", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each container: its health where it has one, else as it ended."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {
            one["Name"].removeprefix(f"{self.project}-"): one["Health"]
            or f"{one['State']} {one['ExitCode']}"
            for one in map(json.loads, lines)
        }


def until(condition: Callable[[], object], what: Callable[[], object], within: float) -> None:
    """Return as soon as `condition` holds; fail with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """The whole of it, with the demo; taken away with its volumes at the end."""
    subprocess.run(["docker", "build", "-t", IMAGE, "."], cwd=ROOT, check=True, timeout=BUILD)
    installation = Installation()
    try:
        installation.compose("up", "--detach", "--no-build")
        yield installation
    finally:
        installation.compose("down", "--volumes", "--timeout", "10")


class Browser:
    """Somebody at the pages, who may call REST with the same session."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, follow_redirects=True, timeout=30, trust_env=False)

    def log_in(self, password: str) -> None:
        """Log in as the administrator."""
        page = self.client.get("/login/").text
        hidden = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert hidden
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": hidden[1]}
        answer = self.client.post("/login/", data=form)
        assert (answer.status_code, answer.url.path) == (200, "/")

    def call(self, path: str, **body: str) -> Any:
        """Return what the REST interface answers; a body makes it a POST."""
        headers = {"X-CSRFToken": self.client.cookies["csrftoken"]}
        method = "POST" if body else "GET"
        answer = self.client.request(method, f"/api/v1{path}", json=body or None, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def deploy(self, version: str) -> Any:
        """Deploy `version` and return how it ended."""
        path = f"/deployments/{self.call('/services/shop/deployments', version=version)['id']}"
        until(lambda: self.call(path)["status"] in ENDED, lambda: self.call(path), 180)
        return self.call(path)


@pytest.fixture(scope="module")
def admin(installation: Installation) -> Iterator[Browser]:
    """The administrator that the installation made, with the password that it kept."""
    browser = Browser(installation.url)
    password = installation.compose("exec", "-T", "web", "cat", "/secrets/admin_password").strip()
    browser.log_in(password)
    yield browser
    browser.client.close()


def served(installation: Installation) -> str:
    """Return what the balancer answers, nothing where it does not."""
    try:
        answer = httpx.get(installation.balancer_url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return ""
    return answer.text if answer.is_success else ""


def test_everything_comes_up_and_says_that_it_is_well(installation: Installation) -> None:
    """What runs once ends well; nobody is root."""
    once = {"migrate-1", "inventory-1"}

    def settled() -> bool:
        states = installation.states()
        return set(states.values()) == {"healthy", "exited 0"}

    until(settled, installation.states, START)
    states = installation.states()
    assert {name for name, state in states.items() if state == "exited 0"} == once
    assert {"web-1", "worker-1", "worker-2", "dispatch-1", "haproxy-1", "shop-04-1"} < set(states)
    for name in ("web", "worker", "dispatch", "shop-01"):
        assert installation.compose("exec", "-T", name, "id", "-u").strip() == "10001"


def test_the_login_leads_to_the_fleet(installation: Installation, admin: Browser) -> None:
    """Seeded from the inventory file."""
    assert "shop" in admin.client.get("/").text
    assert len(admin.call("/services/shop")["instances"]) == 4


def test_a_version_is_deployed_by_the_workers_and_a_bad_one_is_taken_back(
    installation: Installation, admin: Browser
) -> None:
    """Containers of their own, behind a balancer of its own."""
    until(lambda: served(installation), installation.states, START)
    good = admin.deploy("v2")
    assert good["status"] == "completed", good["reason"]
    assert {served(installation).split()[1] for _ in range(8)} == {"v2"}
    bad = admin.deploy("v3-unhealthy")
    assert bad["status"] == "rolled_back", bad["reason"]
    assert {served(installation).split()[1] for _ in range(8)} == {"v2"}


def test_a_second_up_changes_nothing(installation: Installation, admin: Browser) -> None:
    """The secrets are the kept ones: whoever was logged in still is."""
    installation.compose("up", "--detach", "--no-build", "--force-recreate", "web", "migrate")
    until(lambda: installation.states().get("web-1") == "healthy", installation.states, START)
    assert admin.call("/services/shop")["name"] == "shop"
    assert "There are users already" in installation.compose("logs", "migrate")
