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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dashboard.local import control, load
from dashboard.local.places import MARK, Places
from tests.environment import SHARE

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 120.0  # seconds
STOPPED_WITHIN = 60.0
ONCE_WITHIN = 240.0
SSH_KEY = b"OPENSSH PRIVATE KEY"
PORTS = 20_000 + 1_500 * SHARE  # demos of tests that run at the same time keep apart
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


def clean_environment() -> dict[str, str]:
    """Return the environment without what would name the servers to use."""
    naming = {"DATABASE_URL", "DATABASE_POOL", "REDIS_URL", "DOCKER_HOST"}
    naming |= {"SECRET_KEY", "ALLOWED_HOSTS"}
    return {key: value for key, value in os.environ.items() if key not in naming}


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Have a process end with the block, and wait for all that it started."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPPED_WITHIN)
        finally:
            process.kill()
            process.communicate()


@contextmanager
def command(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of manage.py until the end of the block, its output in pipes."""
    if words[0] == "demo":
        words = (*words, "--ports", str(PORTS))
    process = subprocess.Popen(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=clean_environment() | environment,
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
        ports = ["--port", str(free_port()), "--ports", str(PORTS)]
        with (Path(folder) / "said").open("w+") as said:
            process = subprocess.Popen(
                [*command, *ports, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            with ended(process):
                demo = Demo(process, _ready(process, Path(said.name)), Path(folder) / "data")
                with demo.client:
                    yield demo


def _ready(process: subprocess.Popen[str], said: Path) -> Json:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_WITHIN
    for line in process.stdout:
        if line.startswith("ready "):
            return dict(json.loads(line.removeprefix("ready ")))
        if time.monotonic() > deadline:
            break
    pytest.fail(f"the demo did not become ready: {said.read_text()[-2000:]}")


@dataclass(frozen=True)
class Once:
    """What a run of `demo --once --json` printed, what its programs logged, and what it left."""

    ready: Json
    results: list[Json]
    said: str
    returncode: int
    logs: dict[str, str]
    left: list[psutil.Process]
    mounts: list[str]
    keys: list[Path]  # private keys of SSH
    runtime: bool  # whether the folder of its sockets is still there


def run_once(*words: str) -> Once:
    """Run it to its end, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="lgo-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        data = Path(path) / "data"
        where = ("--data", str(data), "--port", str(free_port()))
        with command("demo", "--once", "--json", *where, *words) as process:
            out, said = process.communicate(timeout=ONCE_WITHIN)
        first, *rest = out.splitlines() or [""]
        places = Places.of(data)
        return Once(
            json.loads(first.removeprefix("ready ")) if first.startswith("ready {") else {},
            [json.loads(line) for line in rest],
            said,
            process.returncode,
            {each.name: each.read_text(errors="replace") for each in places.logs.iterdir()},
            marked(data),
            mounts(data, places.runtime),
            [each for each in data.rglob("*") if each.is_file() and SSH_KEY in each.read_bytes()],
            places.runtime.exists(),
        )


def mounts(*folders: Path) -> list[str]:
    """Return what is mounted below the folders."""
    table = Path("/proc/self/mountinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    return [line for line in lines if any(str(folder) in line for folder in folders)]
