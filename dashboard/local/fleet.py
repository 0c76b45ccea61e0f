"""The demo fleet as supervised processes on loopback: instances web-01, web-02, ..."""

import http.client
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dashboard.local.places import CHECKOUT, Places
from dashboard.local.stack import LOOPBACK, Stack
from dashboard.local.supervision import Program

GROUP = "fleet"
FIRST_VERSION = "v1"
HERE = Path(__file__).resolve().parent
START_PATIENCE = 20.0  # seconds
# The slots of blue/green, by what they are at the start.
LIVE = "blue"
IDLE = "green"


def names(count: int) -> list[str]:
    """Return the names of `count` instances."""
    return [f"web-{number:02}" for number in range(1, count + 1)]


def slots(strategy: str, instances: Sequence[str]) -> dict[str, str]:
    """Return the slot of each instance: for blue/green one half of them each, else none."""
    if strategy != "blue_green":
        return dict.fromkeys(instances, "")
    half = len(instances) // 2
    return {name: LIVE if place < half else IDLE for place, name in enumerate(instances)}


def prepare(places: Places, instances: Mapping[str, int]) -> None:
    """Give every instance the first version, whatever an earlier run left."""
    for name in instances:
        folder = places.fleet / name
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "version").write_text(f"{FIRST_VERSION}\n")
    history(places).write_text("")


def programs(
    places: Places,
    instances: Mapping[str, int],
    balancer_url: str,
    hosts: Mapping[str, str] | None = None,
) -> list[Program]:
    """Return how the instances, names with ports, are run; `hosts` has their addresses."""
    return [
        Program(
            name,
            (
                # No site packages and no environment: it starts in half the time.
                *(sys.executable, "-S", "-E", "-P", str(HERE / "app.py")),
                *("--name", name, "--port", str(port)),
                *("--host", (hosts or {}).get(name, LOOPBACK)),
                *("--version-file", str(places.fleet / name / "version")),
                *("--balancer", balancer_url),
            ),
            group=GROUP,
            directory=places.fleet,
            stop_seconds=5,
            retries=3,
            log_bytes=500_000,
        )
        for name, port in instances.items()
    ]


def start(
    stack: Stack, instances: Mapping[str, int], hosts: Mapping[str, str] | None = None
) -> None:
    """Start all instances and wait until each answers; raise LocalError."""
    stack.say(f"Starting {len(instances)} instances.")
    stack.supervisor.launch(*instances)
    for name, port in instances.items():
        host = (hosts or {}).get(name, LOOPBACK)
        stack.supervisor.wait(name, partial(answers, port, host), START_PATIENCE)


def update_command(places: Places) -> dict[str, object]:
    """Return the driver of the fleet, as the inventory has it."""
    return {
        "kind": "command",
        "update": [sys.executable, "-E", *_updating(places)],
        "directory": str(CHECKOUT),
    }


def update_over_ssh(places: Places, ssh: Mapping[str, object]) -> dict[str, object]:
    """Return the driver that runs the same on the host of an instance, logged in to as `ssh`."""
    # A command over SSH begins in the home of the account.
    found = f"PYTHONPATH={_literal(CHECKOUT)}"
    return {
        "kind": "ssh",
        "update": ["env", found, sys.executable, *_updating(places)],
        "ssh": dict(ssh),
    }


def _updating(places: Places) -> list[str]:
    # The standard library is enough for it; without the rest it is done sooner.
    update = ["-S", "-m", "dashboard.local.update", "--data", _literal(places.data)]
    return [*update, "{name}", "{version}"]


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether an instance answers on `port` that it is well."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def history(places: Places) -> Path:
    """Return the list of all updates: a line `NAME VERSION` for each, in their order."""
    return places.fleet / "history"


def updated(places: Places, version: str, since: int) -> list[str]:
    """Return the instances that were given `version` after the first `since` lines."""
    lines = history(places).read_text().splitlines()[since:]
    return sorted({line.split()[0] for line in lines if line.split()[1] == version})


def _literal(path: Path) -> str:
    # A doubled brace stands for itself in an argument template.
    return str(path).replace("{", "{{").replace("}", "}}")
