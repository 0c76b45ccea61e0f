"""The environment of `up` and `demo`: settings that point at the embedded servers.

It runs before Django loads, and manage.py imports it for every command: keep it light.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from environs import Env

from dashboard.local.errors import LocalError
from dashboard.local.places import CHECKOUT, SYSTEM_DATA, Places, is_root

LOOPBACK_NAMES = "localhost,127.0.0.1,[::1]"
DATA_VARIABLE = "LOCKGATE_DATA"
# The demo is whole by itself: nothing that is set for another installation reaches it.
DEMO_SETTINGS = {
    "ALLOWED_HOSTS": LOOPBACK_NAMES,
    "BEHIND_TLS": "false",
    "CSRF_TRUSTED_ORIGINS": "",
    "DATABASE_POOL": "0",
    "DEBUG": "false",
    "INSTANCE_NETWORKS": "",
}


def provide(argv: Sequence[str], command: str | None = None) -> None:
    """Set what the settings need, for `up` or `demo` with the arguments `argv`.

    Makes the data folder and its secret key. Ends the program with a sentence where the
    folder can't be used.
    """
    command = command or sys.argv[1]
    os.umask(0o077)  # what is written from here on is nobody else's business
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", type=Path)
    chosen, _ = parser.parse_known_args(argv)
    try:
        places = Places.of(chosen.data or default_data(command))
        places.make()
        _set(command, places)
    except LocalError as error:
        raise SystemExit(f"manage.py {command}: {error}") from error


def current_places() -> Places:
    """Return the places that `provide` chose in this process."""
    return Places.of(Path(os.environ[DATA_VARIABLE]))


def default_data(command: str) -> Path:
    """Return the folder for the data of `command` where none is named."""
    if is_root() and sys.platform == "linux":
        return SYSTEM_DATA / command
    try:
        # An optional extra: the other commands work without it.
        from platformdirs import user_data_path  # noqa: PLC0415
    except ImportError as error:
        raise LocalError(
            "the packages for running on one machine are not installed: "
            "install lockgate[local], or run it by make."
        ) from error
    return user_data_path("lockgate") / command


def _set(command: str, places: Places) -> None:
    os.environ[DATA_VARIABLE] = str(places.data)
    own = {
        "DATABASE_URL": places.database_url,
        "REDIS_URL": places.redis_url,
        "STATIC_ROOT": str(places.static),
    }
    if command == "demo":
        os.environ.update(own | DEMO_SETTINGS | {"SECRET_KEY": _secret_key(places)})
        return
    Env().read_env(str(CHECKOUT / ".env"), recurse=False)
    for name, value in (own | {"ALLOWED_HOSTS": LOOPBACK_NAMES}).items():
        os.environ.setdefault(name, value)
    if not os.environ.get("SECRET_KEY"):
        os.environ["SECRET_KEY"] = _secret_key(places)


def _secret_key(places: Places) -> str:
    """Return the key kept in the data folder, made at the first start."""
    if not places.key.exists():
        write_secret(places.key, secrets.token_urlsafe(50))
    return places.key.read_text().strip()


def write_secret(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, for the owner's eyes only."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
    draft.replace(path)
