"""Makes sure that what the tests drive is on this machine: `python -m tests.requirements`.

Chromium, PostgreSQL, Redis, HAProxy, nginx, an sshd and a Docker engine. As root on Debian and
its kin it installs what is lacking; elsewhere it says what to install and exits with status 1.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dashboard.local import binaries
from dashboard.local.errors import LocalError

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT_PATIENCE = 900  # seconds
# Debian asks this program whether a service that is installed may be started.
POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = 101


def chromium() -> str:
    """Return the path of a Chromium; raise LocalError where there is none."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    raise LocalError(
        "Chromium is not on this machine: install it ('apt-get install chromium' on Debian, "
        "'brew install chromium' on macOS)."
    )


def nginx() -> str:
    """Return the path of nginx; raise LocalError where there is none."""
    if path := shutil.which("nginx", path=binaries.search_path()):
        return path
    raise LocalError(
        "nginx is not on this machine: install it ('apt-get install nginx-light' on Debian and "
        "Ubuntu, 'brew install nginx' on macOS)."
    )


def registry() -> str:
    """Return the path of a registry of Docker images; raise LocalError where there is none."""
    if path := shutil.which("docker-registry", path=binaries.search_path()):
        return path
    raise LocalError(
        "docker-registry is not on this machine: install it ('apt-get install docker-registry' "
        "on Debian and Ubuntu)."
    )


# What is looked for, with Debian's package of it.
NEEDED: tuple[tuple[Callable[[], object], str], ...] = (
    (chromium, "chromium"),
    (binaries.postgres, "postgresql"),
    (binaries.redis_server, "redis-server"),
    (binaries.haproxy, "haproxy"),
    (binaries.sshd, "openssh-server"),
    (nginx, "nginx-light"),
)
OPTIONAL: tuple[tuple[Callable[[], object], str], ...] = (
    (binaries.dockerd, "docker.io"),
    (registry, "docker-registry"),
)


def lacking(wanted: tuple[tuple[Callable[[], object], str], ...]) -> dict[str, str]:
    """Return the packages of `wanted` that are not here, each with a sentence about it."""
    found = {}
    for look, package in wanted:
        try:
            look()
        except LocalError as error:
            found[package] = str(error)
    return found


def install(packages: list[str]) -> None:
    """Install Debian packages, with no service started; raise where apt-get does not succeed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "--quiet", "--yes"]
    with no_services():
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
def no_services() -> Iterator[None]:
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


def main() -> int:
    missing, unneeded = lacking(NEEDED), lacking(OPTIONAL)
    if (missing or unneeded) and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [*missing, *unneeded]
        print(f"Installing for the tests: {', '.join(packages)}.", file=sys.stderr, flush=True)
        try:
            install(packages)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"That failed: {error}", file=sys.stderr)
        missing, unneeded = lacking(NEEDED), lacking(OPTIONAL)
    for sentence in (*missing.values(), *unneeded.values()):
        print(sentence, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
