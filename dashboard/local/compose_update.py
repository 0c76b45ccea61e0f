"""The driver of the compose demo, run on a worker: `compose_update.py NAME VERSION`.

Instances are containers of their own, so it leaves an order in the volume that it shares with
them, and waits until the instance says that it was started anew. Its caller bounds the time.
"""

import fcntl
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FLEET = Path(os.environ.get("FLEET", "/fleet"))
NAME = re.compile(r"shop-[0-9]{2}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
LOOK = 0.05  # seconds


def write(path: Path, text: str) -> None:
    """Write `text` to `path`, all of it or nothing."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(f"{text}\n")
    draft.replace(path)


def read(path: Path) -> str:
    """Return what `path` holds, nothing where it does not exist."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def update(folder: Path, version: str) -> None:
    """Have the instance of `folder` run `version`, and return once it was started."""
    with (folder / "lock").open("w") as lock:
        # Two updates of one instance follow one another.
        fcntl.flock(lock, fcntl.LOCK_EX)
        order = secrets.token_hex(8)
        write(folder / "version", version)
        write(folder / "order", order)
        while read(folder / "done") != order:
            time.sleep(LOOK)


def main(argv: Sequence[str]) -> int:
    """Update the instance and return 0, or say what is wrong and return 1."""
    if len(argv) != 2 or not NAME.fullmatch(argv[0]) or not VERSION.fullmatch(argv[1]):
        print("compose_update: give the name of an instance and a version.", file=sys.stderr)
        return 1
    name, version = argv
    if not (FLEET / name).is_dir():
        print(f"There is no instance {name} in {FLEET}: was it ever started?", file=sys.stderr)
        return 1
    update(FLEET / name, version)
    print(f"{name} was started with {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
