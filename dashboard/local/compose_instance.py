"""One instance of the compose demo in its container: `compose_instance.py NAME`.

Runs the demo's application and starts it anew at each order that `compose_update.py` leaves.
Where the application ends by itself so does this, and Docker starts the container again.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dashboard.local import app
from dashboard.local.compose_update import FLEET, LOOK, read, write

FIRST_VERSION = "v1"
PORT = 8080
BALANCER = "http://haproxy:8080"
STOP_SECONDS = 5.0

Start = Callable[[], "subprocess.Popen[bytes]"]


class Reachable(app.Server):
    """The application's server, on all addresses of the container instead of loopback."""

    def server_bind(self) -> None:
        """Listen where the balancer and the workers come from."""
        self.server_address = ("0.0.0.0", self.server_address[1])  # noqa: S104 - the container's
        super().server_bind()


class Stopped(Exception):
    """The container is to end."""


def keep(folder: Path, start: Start) -> int:
    """Run the application until it ends, anew at each order; return its exit status."""
    while True:
        order = read(folder / "order")
        process = start()
        try:
            write(folder / "done", order)
            while read(folder / "order") == order:
                if (status := process.poll()) is not None:
                    return status
                time.sleep(LOOK)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(arguments: list[str]) -> int:
    """Run the application itself, in the process that is started anew."""
    app.Server = Reachable  # type: ignore[misc]
    return app.main(arguments)


def main(argv: Sequence[str]) -> int:
    """Run the instance that `argv` names, or with `--serve` the application."""
    if argv[:1] == ["--serve"]:
        return serve(list(argv[1:]))
    [name] = argv
    folder = FLEET / name
    folder.mkdir(exist_ok=True)
    if not read(folder / "version"):
        write(folder / "version", FIRST_VERSION)
    command = [
        *(sys.executable, "-m", "dashboard.local.compose_instance", "--serve"),
        *("--name", name, "--port", str(PORT), "--balancer", BALANCER),
        *("--version-file", str(folder / "version")),
    ]

    def stop(number: int, frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        return keep(folder, lambda: subprocess.Popen(command))
    except Stopped:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
