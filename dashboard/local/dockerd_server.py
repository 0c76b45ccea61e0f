"""The embedded Docker engine: all of it in the data folder, nothing of the machine's own touched.

It needs root, and a network of its own it has none: its containers use that of this machine.
"""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dashboard.local import binaries
from dashboard.local.errors import LocalError
from dashboard.local.places import Places, is_root, make_private
from dashboard.local.supervision import Program

NAME = "dockerd"
PATIENCE = 60.0  # seconds until it answers
STOP_SECONDS = 30  # its containers have to end before it
PING = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"
# It makes this one for itself where there is none, wherever the rest is told to be.
KEY = Path("/etc/docker/key.json")
OCTAL = re.compile(r"\\([0-7]{3})")  # of a blank and the like in the list of mounts


def check() -> None:
    """Raise LocalError unless an engine can be started here."""
    if sys.platform != "linux" or not is_root():
        raise LocalError(
            "A Docker engine of its own can be started by root on Linux alone: run this as root, "
            "or set DOCKER_HOST to the socket of an engine of this machine."
        )
    binaries.dockerd()


def prepare(places: Places) -> None:
    """Make its folders; raise LocalError where they are somebody else's."""
    for folder in (places.docker, places.docker_runtime):
        make_private(folder)
    if not KEY.exists():
        _key_is_ours(places).touch()
    # Otherwise it would read the settings of the machine's own engine.
    _config(places).write_text("{}\n")


def program(places: Places) -> Program:
    """Return how the server is run."""
    command = (
        *(str(binaries.dockerd()), "--config-file", str(_config(places))),
        *("--data-root", str(places.docker / "data"), "--exec-root", str(places.docker_runtime)),
        *("--pidfile", str(places.docker_runtime / "pid"), "--host", url(places)),
        # Slow for large images, and works on every file system.
        "--storage-driver=vfs",
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        "--userland-proxy=false",
    )
    return Program(NAME, command, stop_seconds=STOP_SECONDS)


def url(places: Places) -> str:
    """Return the address of the engine."""
    return f"unix://{places.docker_socket}"


def answers(places: Places) -> bool:
    """Whether the engine answers."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        connection.connect(str(places.docker_socket))
        connection.sendall(PING)
        return b" 200 " in connection.recv(64)
    return False


def clear(places: Places) -> None:
    """Take away what a stop leaves, or a kill: mounts, and all that the engine had."""
    for mount in mounts(places):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if _key_is_ours(places).exists():
        KEY.unlink(missing_ok=True)
    for folder in (places.docker, places.docker_runtime):
        shutil.rmtree(folder, ignore_errors=True)


def mounts(places: Places) -> list[str]:
    """Return what is mounted below the engine's folders, the innermost first."""
    return sorted(_mounts(places), key=len, reverse=True)


def _mounts(places: Places) -> Iterator[str]:
    table = Path("/proc/self/mountinfo")
    folders = (str(places.docker), str(places.docker_runtime))
    for line in table.read_text().splitlines() if table.exists() else []:
        target = OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
        if any(target == folder or target.startswith(f"{folder}/") for folder in folders):
            yield target


def _config(places: Places) -> Path:
    return places.docker / "daemon.json"


def _key_is_ours(places: Places) -> Path:
    return places.docker / "key-is-ours"
