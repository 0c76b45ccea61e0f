"""Gives one instance of the demo fleet a version: `update.py --data DIR NAME VERSION`.

Writes the version where the instance reads it and has supervisord restart the process. Exit
status 0 once the new process was started, 1 with a sentence where it was not.
"""

import argparse
import fcntl
import http.client
import re
import signal
import sys
import xmlrpc.client
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dashboard.local import control
from dashboard.local.places import Places

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
NAME = re.compile(r"web-[0-9]{2,5}")
GROUP = "fleet"


class UpdateError(Exception):
    """The instance was not given the version; the text says why."""


def update(places: Places, name: str, version: str) -> None:
    """Give instance `name` the version and restart it; raise UpdateError or OSError."""
    folder = places.fleet / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        raise UpdateError(f"There is no instance {name!r} in {places.fleet}.")
    if not VERSION.fullmatch(version):
        raise UpdateError(f"{version!r} is no version.")
    with (folder / "lock").open("w") as lock:
        # Two updates of one instance follow one another.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _uninterrupted():
            _write(folder / "version", version)
            with (places.fleet / "history").open("a") as history:
                history.write(f"{name} {version}\n")
            _restart(places, f"{GROUP}:{name}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off SIGTERM and SIGINT to the end.

    Once the old process was asked to end the new one is started: an update that is cancelled
    then must not leave the instance stopped.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(path: Path, version: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(f"{version}\n")
    draft.replace(path)


def _restart(places: Places, address: str) -> None:
    socket = places.supervisor_socket
    with suppress(xmlrpc.client.Fault):  # it does not run: it crashed, or was stopped
        control.call(socket, "stopProcess", address)
    try:
        # Whether it becomes healthy is for the probes to say.
        control.call(socket, "startProcess", address, False)
    except xmlrpc.client.Fault as fault:
        raise UpdateError(f"{address} was not started: {fault.faultString}.") from fault


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="update", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("name")
    parser.add_argument("version")
    chosen = parser.parse_args(argv)
    try:
        update(Places.of(chosen.data), chosen.name, chosen.version)
    except (OSError, http.client.HTTPException) as error:
        print(f"supervisord of {chosen.data} is out of reach: {error}", file=sys.stderr)
        return 1
    except UpdateError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{chosen.name} was started with {chosen.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
