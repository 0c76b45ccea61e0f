"""Makes sure that what the tests drive is on this machine: `python -m tests.requirements`.

Chromium, PostgreSQL, Redis and HAProxy. As root on Debian and its kin it installs what is
lacking; elsewhere it says what to install and exits with status 1.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

from dashboard.local import binaries
from dashboard.local.errors import LocalError

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT_PATIENCE = 900  # seconds


def chromium() -> str:
    """Return the path of a Chromium; raise LocalError where there is none."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    raise LocalError(
        "Chromium is not on this machine: install it ('apt-get install chromium' on Debian, "
        "'brew install chromium' on macOS)."
    )


# What is looked for, with Debian's package of it.
NEEDED: tuple[tuple[Callable[[], object], str], ...] = (
    (chromium, "chromium"),
    (binaries.postgres, "postgresql"),
    (binaries.redis_server, "redis-server"),
    (binaries.haproxy, "haproxy"),
)


def lacking() -> dict[str, str]:
    """Return the packages that are not here, each with a sentence about it."""
    found = {}
    for look, package in NEEDED:
        try:
            look()
        except LocalError as error:
            found[package] = str(error)
    return found


def install(packages: list[str]) -> None:
    """Install Debian packages; raise where apt-get does not succeed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "--quiet", "--yes"]
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


def main() -> int:
    missing = lacking()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing for the tests: {', '.join(missing)}.", file=sys.stderr, flush=True)
        try:
            install(list(missing))
        except (subprocess.SubprocessError, OSError) as error:
            print(f"That failed: {error}", file=sys.stderr)
        missing = lacking()
    for sentence in missing.values():
        print(sentence, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
