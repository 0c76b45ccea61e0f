"""The embedded PostgreSQL: its cluster, its command, and the question whether it answers.

It listens on a unix socket alone, in a folder that only its account can enter.
"""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from dashboard.local import binaries
from dashboard.local.errors import LocalError
from dashboard.local.places import SYSTEM_DATA, USER, Places, is_root
from dashboard.local.supervision import Program

NAME = "postgres"
ACCOUNTS = ("postgres", "nobody")  # PostgreSQL refuses to run as root
MAX_CONNECTIONS = 60
INITDB_PATIENCE = 120.0  # seconds
# Whoever can enter the socket's folder is the owner of the data; nobody else comes this far.
HBA = "local all all trust\n"


def account() -> pwd.struct_passwd | None:
    """Return the account that PostgreSQL runs as in place of root; None where we are not root."""
    if not is_root():
        return None
    for name in ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise LocalError(
        "PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody': "
        "add one ('useradd --system postgres'), or run as an ordinary user."
    )


def program(places: Places, *, durable: bool = True) -> Program:
    """Return how the server of the prepared cluster is run.

    Not `durable`, it forgets what a crash of the machine would catch: for tests alone.
    """
    runner = account()
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(places.postgres_sockets),
        "unix_socket_permissions": "0700",
        "max_connections": str(MAX_CONNECTIONS),
        "log_line_prefix": "%m [%p] ",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    arguments = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
    server = _runnable(binaries.postgres(_major(places)), runner)
    return Program(
        NAME,
        (str(server / "postgres"), "-D", str(places.cluster.resolve()), *arguments),
        user=runner.pw_name if runner else None,
        directory=Path("/"),
        stop_signal="INT",  # "fast": ends the sessions and writes a checkpoint
        stop_seconds=30,
    )


def prepare(places: Places, say: Callable[[str], None]) -> None:
    """Make the cluster where there is none, and clear away what a crash left.

    Call it only while nobody else uses the data folder. Raises LocalError.
    """
    runner = account()
    _make_socket_folder(places, runner)
    if not (places.cluster / "PG_VERSION").exists():
        home = _home(places, runner, say)
        installation = binaries.postgres()
        say(f"Making a database of PostgreSQL {installation.major} in {home}.")
        _initialise(home, installation, runner)
        if home != places.cluster:
            places.cluster.symlink_to(home)
    _check_version(places)
    _forget_dead_server(places)


def answers(places: Places) -> bool:
    """Whether the server answers SELECT 1; makes our database where it is missing."""
    try:
        with psycopg.connect(
            host=str(places.postgres_sockets),
            user=USER,
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        ) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [USER])
            if not found.fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(USER)))
    except psycopg.OperationalError:
        return False
    return True


def _make_socket_folder(places: Places, runner: pwd.struct_passwd | None) -> None:
    places.postgres_sockets.mkdir(mode=0o700, exist_ok=True)
    if runner:
        os.chown(places.postgres_sockets, runner.pw_uid, runner.pw_gid)


def _home(places: Places, runner: pwd.struct_passwd | None, say: Callable[[str], None]) -> Path:
    """Return where a new cluster is made: the data folder, if PostgreSQL's account gets there."""
    if not runner or _may_enter(places.data, runner):
        return places.cluster
    home = SYSTEM_DATA / "clusters" / places.runtime.name
    say(
        f"{runner.pw_name}, the account that PostgreSQL runs as, can't enter {places.data}: "
        f"the database is kept in {home}."
    )
    for folder in (SYSTEM_DATA, home.parent):
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.chmod(0o711)
    if home.exists():
        say(f"The data folder of the database in {home} was emptied: the database goes too.")
        shutil.rmtree(home)
    return home


def _initialise(
    home: Path, installation: binaries.Postgres, runner: pwd.struct_passwd | None
) -> None:
    """Make a cluster in a folder beside, so that `home` is whole or not there."""
    draft = home.with_name(f"{home.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if runner:
        os.chown(draft, runner.pw_uid, runner.pw_gid)
    made = subprocess.run(
        [
            _runnable(installation, runner) / "initdb",
            f"--pgdata={draft}",
            f"--username={USER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=INITDB_PATIENCE,
        check=False,
        cwd="/",
        user=runner.pw_uid if runner else None,
        group=runner.pw_gid if runner else None,
        extra_groups=_groups(runner) if runner else None,
    )
    if made.returncode != 0:
        raise LocalError(f"PostgreSQL's initdb failed: {(made.stderr or made.stdout).strip()}")
    (draft / "pg_hba.conf").write_text(HBA)
    draft.replace(home)


def _check_version(places: Places) -> None:
    """Raise LocalError where no PostgreSQL of the cluster's own major version is here."""
    try:
        binaries.postgres(_major(places))
    except LocalError as error:
        raise LocalError(
            f"{error}, and the database in {places.cluster} was made by it: install it, "
            "or name another folder with --data to begin with an empty database."
        ) from error


def _major(places: Places) -> int:
    return int((places.cluster / "PG_VERSION").read_text().strip())


def _forget_dead_server(places: Places) -> None:
    """Remove the note of a server that was killed: its number may be another process's by now.

    Raises LocalError where a server does run on the cluster, started by somebody else.
    """
    note = places.cluster / "postmaster.pid"
    if not note.exists():
        return
    pid = int(note.read_text().split(maxsplit=1)[0])
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        words = []
    if str(places.cluster.resolve()) in words:
        raise LocalError(
            f"PostgreSQL runs on {places.cluster} already, as process {pid}: stop it first."
        )
    note.unlink()


def _runnable(installation: binaries.Postgres, runner: pwd.struct_passwd | None) -> Path:
    """Return the folder of the programs, copied to where `runner` can run them if need be."""
    if not runner or _may_enter(installation.programs, runner):
        return installation.programs
    copy = SYSTEM_DATA / f"postgresql-{installation.major}"
    if not copy.exists():
        SYSTEM_DATA.mkdir(mode=0o711, parents=True, exist_ok=True)
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(installation.programs.parent, draft, symlinks=True)
        draft.chmod(0o755)
        with suppress(OSError):  # another start was quicker
            draft.replace(copy)
    return copy / "bin"


def _groups(runner: pwd.struct_passwd) -> list[int]:
    return [each.gr_gid for each in grp.getgrall() if runner.pw_name in each.gr_mem]


def _may_enter(folder: Path, runner: pwd.struct_passwd) -> bool:
    """Whether `runner` may pass through `folder` and all its parents."""
    groups = {runner.pw_gid, *_groups(runner)}
    resolved = folder.resolve()
    for each in (resolved, *resolved.parents):
        found = each.stat()
        if found.st_uid == runner.pw_uid:
            allowed = found.st_mode & 0o100
        elif found.st_gid in groups:
            allowed = found.st_mode & 0o010
        else:
            allowed = found.st_mode & 0o001
        if not allowed:
            return False
    return True
