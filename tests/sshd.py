"""Real sshds on loopback, each with a host key of its own: an ordinary way to have hosts."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dashboard.local.places import CHECKOUT, is_root

PATIENCE = 15.0  # seconds until an sshd answers
HOST = "127.0.0.1"
SEPARATION = Path("/run/sshd")  # an empty folder that sshd insists on as root

_CONFIG = """
ListenAddress {host}:{port}
HostKey {key}
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
LogLevel ERROR
SetEnv HOME={home} {environment}
"""


@dataclass(frozen=True)
class Sshd:
    """One running sshd; `host_key` is its public key as `TYPE BASE64`."""

    port: int
    host_key: str
    process: psutil.Process

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return f"{HOST}:{self.port}"

    def cut(self) -> None:
        """End what serves the open connections, as if they broke."""
        for child in self.process.children(recursive=False):
            with suppress(psutil.NoSuchProcess):
                child.kill()


@dataclass(frozen=True)
class Sshds:
    """Running sshds that let `user` in with the private key at `key`."""

    hosts: tuple[Sshd, ...]
    user: str
    key: Path

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the ports, in the order that was asked for."""
        return tuple(each.port for each in self.hosts)

    @property
    def host_keys(self) -> tuple[str, ...]:
        """Return the public host keys, in the order of the ports."""
        return tuple(each.host_key for each in self.hosts)


def find() -> str | None:
    """Return the path of an sshd; None where there is none."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def make_key(path: Path) -> str:
    """Make a key pair at `path` and return its public half as `TYPE BASE64`."""
    making = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(making, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


@contextmanager
def running_sshds(folder: Path, ports: Sequence[int], environment: str = "") -> Iterator[Sshds]:
    """Run an sshd at each of `ports`, with their keys in `folder`; all answer when it is entered.

    Commands have the variables `environment` (`NAME=VALUE ...`). Raises RuntimeError.
    """
    program = find()
    if program is None:
        raise RuntimeError("sshd is not on this machine: install openssh-server")
    if is_root():
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    key = folder / "client"
    authorized = folder / "authorized_keys"
    authorized.write_text(make_key(key) + "\n")
    started: list[Sshd] = []
    try:
        for port in ports:
            started.append(_start(program, folder, port, authorized, environment))
        for each in started:
            _wait(each, folder)
        yield Sshds(tuple(started), getpass.getuser(), key)
    finally:
        for each in started:
            _stop(each.process)


def _start(program: str, folder: Path, port: int, authorized: Path, environment: str) -> Sshd:
    key = folder / f"host-{port}"
    public = make_key(key)
    config = folder / f"sshd-{port}.conf"
    home = folder / "home"  # not this user's own, whose .bashrc may do anything
    home.mkdir(exist_ok=True)
    config.write_text(
        _CONFIG.format(
            host=HOST, port=port, key=key, authorized=authorized, home=home, environment=environment
        )
    )
    with (folder / f"sshd-{port}.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "dashboard.local.leash", program, "-D", "-e", "-f", str(config)],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "LC_ALL": "C"},
        )
    return Sshd(port, public, process)


def _wait(sshd: Sshd, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while sshd.process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, sshd.port), 1.0) as there:
            there.settimeout(1.0)
            if there.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    said = (folder / f"sshd-{sshd.port}.log").read_text(errors="replace")
    raise RuntimeError(f"sshd does not answer at port {sshd.port}: {said}")


def _stop(process: psutil.Process) -> None:
    """End an sshd with those of its children that serve connections."""
    with suppress(psutil.NoSuchProcess):
        children = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait(PATIENCE)
