"""The demo fleet: instances web-01, web-02, ... as supervised processes on loopback."""

import http.client
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dashboard.local.places import CHECKOUT, Places
from dashboard.local.stack import Stack
from dashboard.local.supervision import Program

GROUP = "fleet"
FIRST_VERSION = "v1"
HERE = Path(__file__).resolve().parent
START_PATIENCE = 20.0  # seconds
PORTS = 21_000  # where free ports are looked for
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


def programs(places: Places, instances: Mapping[str, int], balancer_url: str) -> list[Program]:
    """Return how the instances, names with ports, are run."""
    return [
        Program(
            name,
            (
                # No site packages and no environment: it starts in half the time.
                *(sys.executable, "-S", "-E", "-P", str(HERE / "app.py")),
                *("--name", name, "--port", str(port)),
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


def start(stack: Stack, instances: Mapping[str, int]) -> None:
    """Start all instances and wait until each answers; raise LocalError."""
    stack.say(f"Starting {len(instances)} instances.")
    stack.supervisor.launch(*instances)
    for name, port in instances.items():
        stack.supervisor.wait(name, partial(answers, port), START_PATIENCE)


def update_command(places: Places) -> dict[str, object]:
    """Return the driver of the fleet, as the inventory has it."""
    # The standard library is enough for it; without the rest it is done sooner.
    python = [sys.executable, "-S", "-E", "-m"]
    update = [*python, "dashboard.local.update", "--data", _literal(places.data)]
    return {
        "kind": "command",
        "update": [*update, "{name}", "{version}"],
        "directory": str(CHECKOUT),
    }


def answers(port: int) -> bool:
    """Whether an instance answers on `port` that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
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
