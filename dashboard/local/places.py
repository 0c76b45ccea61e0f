"""Where everything of one data folder lies: files, sockets and the addresses made of them."""

import hashlib
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dashboard.local.errors import LocalError

# In the environment of every process that is started for a data folder: by it the next
# start finds what a kill -9 left behind.
MARK = "LOCKGATE_SUPERVISED_IN"

CHECKOUT = Path(__file__).resolve().parent.parent.parent
SYSTEM_DATA = Path("/var/lib/lockgate")  # where root keeps what other accounts must reach
SYSTEM_RUNTIME = Path("/run")
USER = "lockgate"  # of PostgreSQL, and the name of the database

# The address of a unix socket holds 104 characters on macOS and 108 on Linux.
LONGEST_PARENT = 40
# Quotes, comments and the like of the configurations that the path is written into.
UNSAFE = re.compile(r"""[\x00-\x1f"'#$;\\%]""")


def is_root() -> bool:
    """Whether this process may do everything."""
    return os.geteuid() == 0


def runtime_parent() -> Path:
    """Return the folder of this account for sockets: short, and empty after a reboot."""
    if is_root() and os.access(SYSTEM_RUNTIME, os.W_OK):
        return SYSTEM_RUNTIME / "lockgate"
    given = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
    if (
        sys.platform == "linux"
        and len(str(given)) <= LONGEST_PARENT
        and given.is_dir()
        and given.stat().st_uid == os.geteuid()
    ):
        return given / "lockgate"
    return Path("/tmp") / f"lockgate-{os.geteuid()}"  # noqa: S108 - claimed by make_private


def make_private(folder: Path) -> None:
    """Make `folder` and its parents, ours alone; raise LocalError where somebody else has it.

    As root others may pass through, because PostgreSQL runs as another account; what lies in
    it is closed to them one by one.
    """
    mode = 0o711 if is_root() else 0o700
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise LocalError(f"{folder} belongs to somebody else: remove it, or name another.")
        if stat.S_IMODE(found.st_mode) != mode:
            folder.chmod(mode)
    except OSError as error:
        raise LocalError(f"The folder {folder} can't be made: {error.strerror}.") from error


@dataclass(frozen=True)
class Places:
    """Paths of one data folder. `data` is kept; `runtime` holds sockets and is not."""

    data: Path
    runtime: Path

    @classmethod
    def of(cls, data: Path) -> "Places":
        """Return the places of the data folder `data`, the same ones for every process."""
        data = data.expanduser().resolve()
        key = hashlib.sha256(str(data).encode()).hexdigest()[:10]
        return cls(data, runtime_parent() / key)

    def make(self) -> None:
        """Make the data folder; raise LocalError where that is not possible or not safe."""
        if UNSAFE.search(str(self.data)):
            raise LocalError(
                f"{self.data} has a character that configurations give a meaning: "
                "name another folder with --data."
            )
        ours = not self.data.exists() or self.key.exists() or not any(self.data.iterdir())
        if ours:
            make_private(self.data)
        elif not os.access(self.data, os.W_OK):
            raise LocalError(f"{self.data} can't be written: name another folder with --data.")
        for folder in (self.logs, self.fleet):
            folder.mkdir(mode=0o700, exist_ok=True)

    def make_runtime(self) -> None:
        """Make the folder for sockets; raise LocalError where it is somebody else's."""
        make_private(self.runtime.parent)
        make_private(self.runtime)

    @property
    def key(self) -> Path:
        return self.data / "secret.key"

    @property
    def static(self) -> Path:
        """Static files as they are sent."""
        return self.data / "static"

    @property
    def password(self) -> Path:
        return self.data / "admin.password"

    @property
    def lock(self) -> Path:
        return self.data / "lock"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def cluster(self) -> Path:
        return self.data / "postgres"

    @property
    def fleet(self) -> Path:
        """One folder for each instance of the demo, with the version it should run."""
        return self.data / "fleet"

    @property
    def counts(self) -> Path:
        """What the load has counted so far, as JSON."""
        return self.data / "load.json"

    @property
    def supervisor_config(self) -> Path:
        return self.data / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        return self.runtime / "supervisor.sock"

    @property
    def postgres_sockets(self) -> Path:
        return self.runtime / "pg"

    @property
    def redis_config(self) -> Path:
        return self.data / "redis.conf"

    @property
    def redis_socket(self) -> Path:
        return self.runtime / "redis.sock"

    @property
    def dispatch_alive(self) -> Path:
        """Touched by dispatch after each of its looks."""
        return self.runtime / "dispatch.alive"

    @property
    def ssh(self) -> Path:
        """Keys and settings of the demo's hosts, and the key that lets in to them."""
        return self.runtime / "ssh"

    @property
    def docker(self) -> Path:
        """All that the demo's Docker engine has."""
        return self.runtime / "docker"

    @property
    def docker_host(self) -> Path:
        """The address of an engine that is not the demo's, while the demo uses it."""
        return self.data / "docker-host"

    @property
    def haproxy_config(self) -> Path:
        return self.data / "haproxy.cfg"

    @property
    def haproxy_state(self) -> Path:
        return self.data / "haproxy.state"

    @property
    def haproxy_socket(self) -> Path:
        return self.runtime / "haproxy.sock"

    @property
    def database_url(self) -> str:
        """The URL of the embedded PostgreSQL, for Django and for libpq alike."""
        return f"postgresql://{USER}@{quote(str(self.postgres_sockets), safe='')}/{USER}"

    @property
    def redis_url(self) -> str:
        """The URL of the embedded Redis."""
        return f"unix://{self.redis_socket}?db=0"
