"""Real sshds on loopback, each with a host key of its own: an ordinary way to have hosts.

A test that needs two asks for `sshds`, which run as long as its module.
"""

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from dashboard.local.places import CHECKOUT, is_root
from dashboard.local.stack import free_ports
from rollouts.ssh import Ssh, SshSettings
from tests.servers import SHARE

PATIENCE = 15.0  # seconds until an sshd answers
HOST = "127.0.0.1"
PORTS = 16_000 + 50 * SHARE  # where free ports for sshds are looked for
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
SetEnv HOME={home} LOCKGATE_LOCKS={home}/locks {environment}
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

    def fingerprint(self) -> str:
        """Return the fingerprint of its key, as a person would look it up on the host."""
        told = subprocess.run(
            ["ssh-keygen", "-lf", "-"],
            input=self.host_key,
            capture_output=True,
            text=True,
            check=True,
        )
        return told.stdout.split()[1]

    def connections(self) -> list[psutil.Process]:
        """Return the processes that serve the open connections, one each."""
        return self.process.children(recursive=False)

    def cut(self) -> None:
        """Break the open connections."""
        for process in self.connections():
            with suppress(psutil.NoSuchProcess):
                process.kill()


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

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return `ssh` settings that log in to all of them, with `more` on top."""
        return {"user": self.user, "key": str(self.key)} | more

    def ssh(self, known: "Known | None" = None, **more: Any) -> Ssh:
        """Return connections to them; where nothing else is said, all of their keys are known."""
        return Ssh(SshSettings.parse(self.settings(**more)), known or Known.of(self))


@dataclass
class Known:
    """Host keys in memory: the confirmed ones by host and port, and those that were met."""

    confirmed: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    shown: list[tuple[str, int, str]] = field(default_factory=list)

    @classmethod
    def of(cls, sshds: Sshds) -> "Known":
        """Return the keys of `sshds`, all confirmed."""
        return cls({(HOST, each.port): [each.host_key] for each in sshds.hosts})

    async def keys(self, host: str, port: int) -> Sequence[str]:
        return self.confirmed.get((host, port), [])

    async def met(self, host: str, port: int, key: str) -> None:
        self.shown.append((host, port, key))


def find() -> str | None:
    """Return the path of an sshd; None where there is none."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key pair at `path` and return its public half as `TYPE BASE64`."""
    making = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(making, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


@asynccontextmanager
async def opened(ssh: Ssh) -> AsyncIterator[Ssh]:
    """Yield `ssh`, and close its connections."""
    try:
        yield ssh
    finally:
        await ssh.aclose()


def runs(pid: int) -> bool:
    """Whether process `pid` runs; one that ended and that nobody waited for does not."""
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


async def holds(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; raise TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def gone(pid: int, within: float = PATIENCE) -> None:
    """Return once no process `pid` runs; raise TimeoutError after `within` seconds."""
    await holds(lambda: not runs(pid), within)


@pytest.fixture(scope="module")
def sshds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshds]:
    """Two running sshds."""
    with running_sshds(tmp_path_factory.mktemp("sshd"), free_ports(2, PORTS)) as running:
        yield running


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
