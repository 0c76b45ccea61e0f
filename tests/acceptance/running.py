"""The whole demo as a process, and a hand for what tests ask of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dashboard.local import control, load
from dashboard.local.places import MARK, Places

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 120.0  # seconds
STOPPED_WITHIN = 60.0
Json = dict[str, Any]


def until(condition: Callable[[], Any], within: float, what: str) -> Any:
    """Return the first true value of `condition`; fail the test after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.05)
    return value


class Demo:
    """A demo that runs: its ready line, and REST as its admin."""

    def __init__(self, process: subprocess.Popen[str], ready: Json, data: Path) -> None:
        self.process = process
        self.ready = ready
        self.data = data
        self.client = httpx.Client(
            base_url=ready["url"],
            headers={"Authorization": f"Bearer {ready['api_token']}"},
            timeout=15,
        )

    def start(self, version: str, **policy: Any) -> str:
        """Start a deployment of the demo's service; return its id."""
        answer = self.client.post(
            "/api/v1/services/shop/deployments", json={"version": version, "policy": policy}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def get(self, deployment: str) -> Json:
        """Return the snapshot."""
        return dict(self.client.get(f"/api/v1/deployments/{deployment}").raise_for_status().json())

    def look(self, deployment: str) -> Json | None:
        """Return what is answered for a deployment, None while the web or its database is away."""
        try:
            answer = self.client.get(f"/api/v1/deployments/{deployment}")
        except httpx.TransportError:
            return None
        return None if answer.status_code >= 500 else dict(answer.json())

    def ended(self, deployment: str, within: float = 90) -> Json:
        """Return the snapshot once the deployment has ended."""

        def end() -> Json | None:
            state = self.look(deployment)
            return state if state and state.get("completed_at") else None

        return dict(until(end, within, f"{deployment} ended"))

    def events(self, deployment: str) -> list[Json]:
        """Return all events, checked to be numbered 1 to n."""
        items: list[Json] = []
        after: int | None = 0
        while after is not None:
            page = self.client.get(
                f"/api/v1/deployments/{deployment}/events", params={"after": after, "limit": 200}
            )
            body = page.raise_for_status().json()
            items += body["items"]
            after = body["next"]
        assert [event["seq"] for event in items] == list(range(1, len(items) + 1))
        return items

    def act(self, deployment: str, action: str, **body: Any) -> httpx.Response:
        """Post one of the buttons."""
        return self.client.post(f"/api/v1/deployments/{deployment}/{action}", json=body)

    def processes(self, words: str) -> list[psutil.Process]:
        """Return the processes of the demo whose command line holds `words`, the first ones
        first; neither what they forked nor their threads.
        """
        [supervisor] = psutil.Process(self.process.pid).children()
        found = []
        for each in supervisor.children():
            with suppress(psutil.NoSuchProcess):
                if words in " ".join(each.cmdline()):
                    found.append(each)
        return found

    def supervised(self, method: str, name: str) -> None:
        """Have supervisord start or stop a program or, named `group:*`, a group."""
        control.call(self.places.supervisor_socket, method, name)

    @contextmanager
    def without_workers(self) -> Iterator[None]:
        """Let no worker live within the block."""
        self._all_workers()  # supervisord starts one that was killed, whatever it was told before
        self.supervised("stopProcessGroup", "worker")
        try:
            yield
        finally:
            self.supervised("startProcessGroup", "worker")

    def _all_workers(self) -> None:
        count = len(self.ready["pids"]["worker"])
        until(lambda: len(self.processes("manage.py worker")) == count, 60, "workers")

    @property
    def places(self) -> Places:
        """Where the demo keeps what it needs."""
        return Places.of(self.data)

    def settled(self) -> load.Counts:
        """Return what the load has counted once all requests sent until now have ended."""
        sent = load.read(self.places.counts).requests
        until(
            lambda: load.read(self.places.counts).settled >= sent, 2 * load.TIMEOUT, "the load ends"
        )
        return load.read(self.places.counts)

    def whole(self) -> None:
        """Return when everything runs: workers, dispatch, database, web, all instances."""
        self._all_workers()
        until(lambda: self.processes("manage.py dispatch"), 60, "dispatch")
        until(lambda: self.look("deploy-000000000000"), 60, "web and database")
        until(lambda: len(self.statuses()) == self.serving(), 60, "all instances in rotation")

    def versions(self) -> set[str]:
        """Return what the instances report, asked one by one."""
        service = self.client.get("/api/v1/services/shop").raise_for_status().json()
        found = set()
        for instance in service["instances"]:
            answer = httpx.get(f"http://{instance['address']}/version", timeout=5)
            found.add(answer.text.strip())
        return found

    def statuses(self) -> list[str]:
        """Return HAProxy's own word on every server of the backend."""
        path = self.ready["haproxy_admin"].removeprefix("unix:")
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(2)
            admin.connect(path)
            admin.sendall(b"show stat app 4 -1\n")
            text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        rows = [line.split(",") for line in text.splitlines() if line.startswith("app,")]
        return [row[17] for row in rows]

    def serving(self) -> int:
        """Return how many servers HAProxy sends requests to."""
        return sum(status.startswith("UP") for status in self.statuses())


def free_port() -> int:
    """Return a port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def marked(data: Path) -> list[psutil.Process]:
    """Return all processes that were started for the data folder."""
    found = []
    for each in psutil.process_iter():
        try:
            if str(data) in " ".join(each.cmdline()) or each.environ().get(MARK) == str(data):
                found.append(each)
        except psutil.Error:
            continue
    return found


@contextmanager
def command(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of manage.py until the end of the block, its output in pipes."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ALLOWED_HOSTS"}
    }
    process = subprocess.Popen(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def running_demo(*arguments: str) -> Iterator[Demo]:
    """Run `manage.py demo` in a folder of its own until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="lgd-", dir="/tmp") as folder:
        command = [sys.executable, "manage.py", "demo", "--json", "--data", f"{folder}/data"]
        with (Path(folder) / "said").open("w+") as said:
            process = subprocess.Popen(
                [*command, "--port", str(free_port()), *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            try:
                demo = Demo(process, _ready(process, Path(said.name)), Path(folder) / "data")
                with demo.client:
                    yield demo
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOPPED_WITHIN)
                finally:
                    process.kill()
                    process.communicate()


def _ready(process: subprocess.Popen[str], said: Path) -> Json:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_WITHIN
    for line in process.stdout:
        if line.startswith("ready "):
            return dict(json.loads(line.removeprefix("ready ")))
        if time.monotonic() > deadline:
            break
    pytest.fail(f"the demo did not become ready: {said.read_text()[-2000:]}")
