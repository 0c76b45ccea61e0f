"""PostgreSQL does not run as root: the account it runs as instead, and what that one can reach.

Folders of others are never opened up for it: what it can't reach is put where it can.
"""

import grp
import os
import pwd
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dashboard.local import binaries
from dashboard.local.errors import LocalError
from dashboard.local.places import SYSTEM_DATA, Places, is_root

ACCOUNTS = ("postgres", "nobody")
CLUSTERS = SYSTEM_DATA / "clusters"

Account = pwd.struct_passwd


def account() -> Account | None:
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


def home(places: Places, runner: Account | None, say: Callable[[str], None]) -> Path:
    """Return where a new cluster is made: the data folder, if PostgreSQL's account gets there."""
    if not runner or may_enter(places.data, runner):
        return places.cluster
    for folder in (SYSTEM_DATA, CLUSTERS):
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.chmod(0o711)
    _remove_orphans(say)
    chosen = CLUSTERS / places.runtime.name
    say(
        f"{runner.pw_name}, the account that PostgreSQL runs as, can't enter {places.data}: "
        f"the database is kept in {chosen}."
    )
    if chosen.exists():
        say(f"The data folder of the database in {chosen} was emptied: the database goes too.")
        shutil.rmtree(chosen)
    _note(chosen).write_text(f"{places.data.stat().st_dev}\n{places.data}\n")
    return chosen


def _remove_orphans(say: Callable[[str], None]) -> None:
    """Remove the clusters whose data folder was deleted since."""
    for note in CLUSTERS.glob("*.of"):
        device, _, path = note.read_text().strip().partition("\n")
        data = Path(path)
        nearest = next(each for each in (data, *data.parents) if each.exists())
        # On another device the folder is not deleted: its disk is not mounted.
        if nearest != data and str(nearest.stat().st_dev) == device:
            say(f"{data} was deleted: its database in {note.with_suffix('')} goes too.")
            shutil.rmtree(note.with_suffix(""), ignore_errors=True)
            note.unlink(missing_ok=True)


def _note(cluster: Path) -> Path:
    return cluster.with_name(f"{cluster.name}.of")


def runnable(installation: binaries.Postgres, runner: Account | None) -> Path:
    """Return the folder of the programs, copied to where `runner` can run them if need be."""
    if not runner or may_enter(installation.programs, runner):
        return installation.programs
    prefix = installation.programs.parent
    package = prefix.parent
    copy = SYSTEM_DATA / f"postgresql-{installation.major}"
    if not copy.exists():
        SYSTEM_DATA.mkdir(mode=0o711, parents=True, exist_ok=True)
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        (draft / package.name).mkdir(parents=True)
        shutil.copytree(prefix, draft / package.name / prefix.name, symlinks=True)
        # The programs of a wheel find their libraries beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name)
        for folder in (draft, draft / package.name):
            folder.chmod(0o755)
        with suppress(OSError):  # another start was quicker
            draft.replace(copy)
    return copy / package.name / prefix.name / installation.programs.name


def groups(runner: Account) -> list[int]:
    """Return the numbers of the groups that the account belongs to beside its own."""
    return [each.gr_gid for each in grp.getgrall() if runner.pw_name in each.gr_mem]


def may_enter(folder: Path, runner: Account) -> bool:
    """Whether `runner` may pass through `folder` and all its parents."""
    members = {runner.pw_gid, *groups(runner)}
    resolved = folder.resolve()
    for each in (resolved, *resolved.parents):
        found = each.stat()
        if found.st_uid == runner.pw_uid:
            allowed = found.st_mode & 0o100
        elif found.st_gid in members:
            allowed = found.st_mode & 0o010
        else:
            allowed = found.st_mode & 0o001
        if not allowed:
            return False
    return True
