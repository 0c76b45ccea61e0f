"""Debian packages of programs that are missing: installed where that is possible, or named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dashboard.local import binaries
from dashboard.local.errors import LocalError

APT_PATIENCE = 900  # seconds
# Debian asks this program whether a service that is installed may be started.
POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = 101

# By their names, what looks for the program of each and raises LocalError where it is not there.
Packages = Mapping[str, Callable[[], object]]


def provide(packages: Packages, say: Callable[[str], None]) -> None:
    """Have the programs of all `packages` on this machine; raise LocalError for one that is not."""
    missing = lacking(packages)
    if missing and installable():
        say(f"Installing {', '.join(missing)}.")
        try:
            install(list(missing))
        except (subprocess.SubprocessError, OSError) as error:
            say(f"That failed: {error}")
        missing = lacking(packages)
    for sentence in missing.values():
        raise LocalError(sentence)


def lacking(packages: Packages) -> dict[str, str]:
    """Return those whose programs are not here, each with a sentence about it."""
    found = {}
    for package, look in packages.items():
        try:
            look()
        except LocalError as error:
            found[package] = str(error)
    return found


def installable() -> bool:
    """Whether packages can be installed: as root on Debian and its kin."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, with no service started; raise where apt-get does not succeed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "--quiet", "--yes"]
    with _no_services():
        for command in ([*apt, "update"], [*apt, "install", "--no-install-recommends", *packages]):
            subprocess.run(
                command,
                check=True,
                timeout=APT_PATIENCE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
            )
    binaries.forget()


@contextmanager
def _no_services() -> Iterator[None]:
    """Let nothing that is installed be started; what the machine says of that itself stands."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(f"#!/bin/sh\nexit {FORBIDDEN}\n")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()
