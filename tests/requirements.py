"""Makes sure that what the tests drive is on this machine: `python -m tests.requirements`.

Chromium, PostgreSQL, Redis, HAProxy, nginx, an sshd and a Docker engine. As root on Debian and
its kin it installs what is lacking; elsewhere it says what to install and exits with status 1.
"""

import shutil
import subprocess
import sys

from dashboard.local import binaries, packages
from dashboard.local.errors import LocalError

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


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


NEEDED: packages.Packages = {
    "chromium": chromium,
    "postgresql": binaries.postgres,
    "redis-server": binaries.redis_server,
    "haproxy": binaries.haproxy,
    "openssh-server": binaries.sshd,
    "nginx-light": nginx,
}
OPTIONAL: packages.Packages = {"docker.io": binaries.dockerd, "docker-registry": registry}


def main() -> int:
    missing = [*packages.lacking(NEEDED), *packages.lacking(OPTIONAL)]
    if missing and packages.installable():
        print(f"Installing for the tests: {', '.join(missing)}.", file=sys.stderr, flush=True)
        try:
            packages.install(missing)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"That failed: {error}", file=sys.stderr)
    needed = packages.lacking(NEEDED)
    for sentence in (*needed.values(), *packages.lacking(OPTIONAL).values()):
        print(sentence, file=sys.stderr)
    return 1 if needed else 0


if __name__ == "__main__":
    sys.exit(main())
