"""Entry of our containers: `compose_start.py COMMAND...` runs it with a secret key.

The key is SECRET_KEY; where that is empty, one is made at the first start and kept in the
volume that all containers of ours share.
"""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

SECRETS = Path("/secrets")
KEY_BYTES = 50


def kept(path: Path, make: str) -> str:
    """Return the secret kept at `path`; keep `make` there, if nothing is yet."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    if not path.exists():
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{make}\n")
        try:
            # Never half written, and of two at the same time the first one counts.
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def main(command: Sequence[str]) -> None:
    """Become `command`."""
    if not command:
        raise SystemExit("compose_start: name the command to run.")
    if not os.environ.get("SECRET_KEY", "").strip() and SECRETS.is_dir():
        made = secrets.token_urlsafe(KEY_BYTES)
        try:
            os.environ["SECRET_KEY"] = kept(SECRETS / "secret_key", made)
        except OSError as error:
            raise SystemExit(
                f"The secret key can't be kept in {SECRETS} ({error.strerror}): "
                "set SECRET_KEY, or let the volume belong to user 10001."
            ) from error
    os.execvp(command[0], list(command))  # noqa: S606 - from the compose file, without a shell


if __name__ == "__main__":
    main(sys.argv[1:])
