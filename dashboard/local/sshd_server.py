"""sshd on loopback: one for each host of the demo, with keys and settings of its own.

Nothing of the machine's own sshd is read or changed. Who starts it may log in, by a key alone.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dashboard.local import binaries, packages
from dashboard.local.errors import LocalError
from dashboard.local.places import MARK, make_private
from dashboard.local.stack import say
from dashboard.local.supervision import Program

GROUP = "sshd"
SHADOW = Path("/etc/shadow")
PATIENCE = 10.0  # seconds for a program that ends by itself
LACKS_FOLDER = re.compile(r"Missing privilege separation directory: (/\S+)")

CONFIG = """\
# Written at each start: a change here is lost.
ListenAddress {host}:{port}
HostKey "{host_key}"
AuthorizedKeysFile "{authorized}"
AllowUsers {user}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
# The folders above may lie below one that others write to, as /tmp is.
StrictModes no
UseDNS no
PrintMotd no
X11Forwarding no
PidFile none
# SHLVL keeps bash from reading what somebody set up for sessions of their own.
SetEnv "{mark}={data}" SHLVL=1 "LOCKGATE_LOCKS={locks}"
"""


@dataclass(frozen=True)
class Host:
    """One machine that can be logged in to, as far as its sshd makes it one."""

    address: str
    port: int
    folder: Path  # of the keys and settings of all hosts

    @property
    def config(self) -> Path:
        return self.folder / f"{self.address}.conf"

    @property
    def private_key(self) -> Path:
        return self.folder / f"{self.address}.key"

    @property
    def key(self) -> str:
        """Return its public key, as `TYPE BASE64`."""
        return " ".join(self.private_key.with_suffix(".key.pub").read_text().split()[:2])


def user() -> str:
    """Return the name of this account; raise LocalError where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise LocalError(
            f"The account {os.geteuid()} has no name on this machine, so nobody can log in as "
            "it: run this as another."
        ) from error


def client_key(folder: Path) -> Path:
    """Return the private key that the hosts of `folder` let in."""
    return folder / "id_ed25519"


def prepare(hosts: Sequence[Host], data: Path) -> None:
    """Write new keys and the settings of `hosts`, which share a folder; raise LocalError.

    What runs in their sessions is marked as that of the data folder `data`.
    """
    folder = hosts[0].folder
    shutil.rmtree(folder, ignore_errors=True)
    make_private(folder)
    _make_key(client_key(folder))
    for host in hosts:
        _make_key(host.private_key)
        host.config.write_text(
            CONFIG.format(
                host=host.address,
                port=host.port,
                host_key=host.private_key,
                authorized=client_key(folder).with_suffix(".pub"),
                user=user(),
                mark=MARK,
                data=data,
                locks=folder / "locks",
            )
        )
    _accept(hosts[0].config)


def check() -> None:
    """Have all that it takes on this machine; raise LocalError where that is not possible."""
    programs = {"openssh-server": binaries.sshd, "openssh-client": binaries.ssh_keygen}
    packages.provide(programs, say)
    name = user()
    # Only root can read this, and only root's sshd minds.
    with suppress(OSError):
        if f"\n{name}:!" in "\n" + SHADOW.read_text():
            raise LocalError(
                f"The account {name} is locked, so that no sshd lets it in: run this as another "
                "one, or unlock it ('usermod -p \"*\"' lets it in by keys alone)."
            )


def _make_key(path: Path) -> None:
    keygen = str(binaries.ssh_keygen())
    _run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "lockgate", "-f", str(path)])


def _accept(config: Path) -> None:
    """Raise LocalError unless sshd can run; make the empty folder that it wants as root."""
    command = [str(binaries.sshd()), "-t", "-f", str(config)]
    try:
        _run(command)
    except LocalError as error:
        lacks = LACKS_FOLDER.search(str(error))
        if lacks is None:
            raise
        Path(lacks[1]).mkdir(mode=0o755)
        Path(lacks[1]).chmod(0o755)
        _run(command)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise LocalError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout}")


def programs(hosts: Sequence[Host]) -> list[Program]:
    """Return how the servers are run."""
    sshd = str(binaries.sshd())
    return [
        Program(name(host), (sshd, "-D", "-e", "-f", str(host.config)), group=GROUP)
        for host in hosts
    ]


def name(host: Host) -> str:
    """Return what the program of `host` is called."""
    return f"sshd-{host.address}"


def answers(host: Host) -> bool:
    """Whether its sshd greets."""
    with (
        suppress(OSError),
        socket.create_connection((host.address, host.port), timeout=2) as connection,
    ):
        return connection.recv(8).startswith(b"SSH-2.0")
    return False
