"""The engine against a minimal script: the same fleet, the same steps, in turn.

`python -m tests.bench.rolling [--rounds 3] [--instances 20] [--rate 50]` starts the demo, then
updates its whole fleet by turns: once by a deployment of Lockgate (batches of 2, no pause), once
by a script that does the same steps and nothing else (no database, no verification on the
balancer, no screen). Does so with the demo's `min_healthy_time` of 1 s, and with none: there a
step is the bare restart of a demo instance, some 0.2 s of pure CPU, and all that the engine
computes shows. Prints the seconds of each and the ratios of the medians.
"""

import argparse
import contextlib
import json
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from dashboard.local import fleet
from dashboard.local.places import Places

ROOT = Path(__file__).resolve().parents[2]
BATCH = 2
POLICY = {
    "batch_size": BATCH,
    "max_unavailable": BATCH,
    "batch_pause": 0,
    "drain_timeout": 5,
    "health_check_interval": 0.5,
}
HEALTHY_TIMES = (1.0, 0.0)  # seconds: the demo's, and none
READY_WITHIN = 180.0  # seconds until the demo is up
DONE_WITHIN = 180.0  # seconds for one update of the fleet
LOOK_INTERVAL = 0.02  # seconds between two looks of the script

Ready = dict[str, Any]


@contextlib.contextmanager
def demo(instances: int, rate: int) -> Iterator[tuple[Ready, Places]]:
    """Run the demo in a folder of its own; yield what it says when ready, and where it is."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as data:
        process = subprocess.Popen(
            [
                *(sys.executable, "manage.py", "demo", "--json", "--data", data),
                *("--port", str(_free_port()), "--rate", str(rate)),
                *("--instances", str(instances)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield _ready(process), Places.of(Path(data))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(process: subprocess.Popen[str]) -> Ready:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_WITHIN
    for line in process.stdout:
        if line.startswith("ready "):
            return dict(json.loads(line.removeprefix("ready ")))
        if time.monotonic() > deadline:
            break
    raise SystemExit("the demo did not become ready")


def by_lockgate(ready: Ready, version: str, healthy_time: float) -> float:
    """Deploy `version`; return the seconds from the request to the end."""
    headers = {"Authorization": f"Bearer {ready['api_token']}"}
    with httpx.Client(base_url=ready["url"], headers=headers, timeout=10) as client:
        began = time.monotonic()
        answer = client.post(
            "/api/v1/services/shop/deployments",
            json={"version": version, "policy": {**POLICY, "min_healthy_time": healthy_time}},
        )
        answer.raise_for_status()
        deployment = answer.json()["id"]
        while time.monotonic() - began < DONE_WITHIN:
            # Seldom, so that looking does not slow down what is measured.
            time.sleep(0.2)
            state = client.get(f"/api/v1/deployments/{deployment}").json()
            if state["completed_at"]:
                assert state["status"] == "completed", state["reason"]
                return _seconds(state["created_at"], state["completed_at"])
    raise SystemExit(f"{deployment} did not end")


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


class Script:
    """What somebody would write in an afternoon."""

    def __init__(self, ready: Ready, service: dict[str, Any], update: Sequence[str]) -> None:
        self._admin = ready["haproxy_admin"].removeprefix("unix:")
        self._instances = service["instances"]
        self._update = update

    def run(self, version: str, healthy_time: float) -> float:
        """Update the fleet; return the seconds it took."""
        began = time.monotonic()
        with ThreadPoolExecutor(BATCH) as pool:
            for first in range(0, len(self._instances), BATCH):
                batch = self._instances[first : first + BATCH]
                list(
                    pool.map(lambda instance: self._change(instance, version, healthy_time), batch)
                )
        return time.monotonic() - began

    def _change(self, instance: dict[str, Any], version: str, healthy_time: float) -> None:
        name = instance["name"]
        self._tell(f"set server app/{name} state drain")
        self._until(lambda: self._sessions(name) == 0)
        command = [part.format(name=name, version=version) for part in self._update]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        self._until(lambda: _get(f"http://{instance['address']}/health") is not None)
        since = time.monotonic()
        while (left := since + healthy_time - time.monotonic()) > 0:
            time.sleep(min(left, POLICY["health_check_interval"]))
            assert _get(f"http://{instance['address']}/health") is not None
        assert _get(f"http://{instance['address']}/version") == version
        self._tell(f"set server app/{name} state ready")
        self._tell(f"set server app/{name} health up")

    def _until(self, condition: Any) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit("the script waits for ever")
            time.sleep(LOOK_INTERVAL)

    def _sessions(self, name: str) -> int:
        for line in self._tell("show stat app 4 -1").splitlines():
            fields = line.split(",")
            if len(fields) > 4 and fields[1] == name:
                return int(fields[4])
        raise SystemExit(f"HAProxy does not know {name}")

    def _tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self._admin)
            client.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode().strip())
    except OSError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--rate", type=int, default=50)
    chosen = parser.parse_args()
    with demo(chosen.instances, chosen.rate) as (ready, places):
        update = [str(part) for part in fleet.update_command(places)["update"]]  # type: ignore[attr-defined]
        print(f"driver: {shlex.join(update)}")
        script = Script(ready, _service(ready), update)
        print(f"{chosen.instances} instances, batches of {BATCH}, {chosen.rate} requests/s")
        for healthy_time in HEALTHY_TIMES:
            compare(ready, script, healthy_time, chosen.rounds)


def compare(ready: Ready, script: Script, healthy_time: float, rounds: int) -> None:
    """Update the fleet by turns, and print the seconds and the ratio of the medians."""
    ours: list[float] = []
    theirs: list[float] = []
    print(f"min_healthy_time {healthy_time:g} s:")
    for number in range(1, rounds + 1):
        ours.append(by_lockgate(ready, f"e{healthy_time:g}-{number}", healthy_time))
        theirs.append(script.run(f"s{healthy_time:g}-{number}", healthy_time))
        print(
            f"  round {number}: lockgate {ours[-1]:.2f} s, script {theirs[-1]:.2f} s, "
            f"ratio {ours[-1] / theirs[-1]:.2f}",
            flush=True,
        )
    one, other = statistics.median(ours), statistics.median(theirs)
    print(f"  median:  lockgate {one:.2f} s, script {other:.2f} s, ratio {one / other:.2f}")


def _service(ready: Ready) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {ready['api_token']}"}
    with httpx.Client(base_url=ready["url"], headers=headers, timeout=10) as client:
        return dict(client.get("/api/v1/services/shop").raise_for_status().json())


if __name__ == "__main__":
    main()
