"""The embedded PostgreSQL: its cluster, its command, and the question whether it answers.

It listens on a unix socket alone, in a folder that only its account can enter.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from dashboard.local import binaries
from dashboard.local.errors import LocalError
from dashboard.local.places import USER, Places
from dashboard.local.postgres_account import Account, account, groups, home, runnable
from dashboard.local.supervision import Program

NAME = "postgres"
MAX_CONNECTIONS = 60
INITDB_PATIENCE = 120.0  # seconds
# Whoever can enter the socket's folder is the owner of the data; nobody else comes this far.
HBA = "local all all trust\n"


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
    server = runnable(binaries.postgres(_major(places)), runner)
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
    if not (places.cluster / "PG_VERSION").exists():
        cluster = home(places, runner, say)
        installation = binaries.postgres()
        say(f"Making a database of PostgreSQL {installation.major} in {cluster}.")
        _initialise(cluster, installation, runner)
        if cluster != places.cluster:
            places.cluster.unlink(missing_ok=True)
            places.cluster.symlink_to(cluster)
    _check_version(places)
    _forget_dead_server(places)
    _make_socket_folder(places, runner)


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


def _make_socket_folder(places: Places, runner: Account | None) -> None:
    # A socket's own lock names the dead server too.
    shutil.rmtree(places.postgres_sockets, ignore_errors=True)
    places.postgres_sockets.mkdir(mode=0o700)
    if runner:
        os.chown(places.postgres_sockets, runner.pw_uid, runner.pw_gid)


def _initialise(cluster: Path, installation: binaries.Postgres, runner: Account | None) -> None:
    """Make a cluster in a folder beside, so that `cluster` is whole or not there."""
    draft = cluster.with_name(f"{cluster.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if runner:
        os.chown(draft, runner.pw_uid, runner.pw_gid)
    made = subprocess.run(
        [
            runnable(installation, runner) / "initdb",
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
        extra_groups=groups(runner) if runner else None,
    )
    if made.returncode != 0:
        raise LocalError(f"PostgreSQL's initdb failed: {(made.stderr or made.stdout).strip()}")
    (draft / "pg_hba.conf").write_text(HBA)
    draft.replace(cluster)


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
