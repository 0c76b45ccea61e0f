"""Health checks of our containers: `compose_health.py NAME`, exit status 0 or 1."""

import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

PATIENCE = 4.0  # seconds
# An idle worker tells Redis every 15 s that it lives, one with a job every 30 s.
SILENCE = timedelta(seconds=90)
DISPATCH_SILENCE = 30.0  # seconds; it looks every second
DISPATCH_ALIVE = Path("/tmp/dispatch.alive")  # noqa: S108 - of a container of its own


def web(port: int = 8000) -> bool:
    """Whether a page is answered, asked by a name that is allowed."""
    name = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].strip().lstrip(".")
    return _status(port, "/healthz", "localhost" if name in {"", "*"} else name) == 200


def instance(port: int = 8080) -> bool:
    """Whether anything listens: what it answers is for others to judge."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError:
        return False
    return True


def worker() -> bool:
    """Whether a worker of this container has told Redis lately that it lives."""
    import redis  # noqa: PLC0415 - the other checks are spared the time
    from rq import Worker  # noqa: PLC0415

    connection = redis.from_url(
        os.environ["REDIS_URL"], socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
    )
    try:
        beats = [
            one.last_heartbeat
            for one in Worker.all(connection)
            if one.hostname == socket.gethostname() and one.last_heartbeat
        ]
    except redis.RedisError:
        return False
    now = datetime.now(UTC)
    return any(now - beat.replace(tzinfo=UTC) < SILENCE for beat in beats)


def dispatch() -> bool:
    """Whether dispatch has looked lately for what is due."""
    try:
        return time.time() - DISPATCH_ALIVE.stat().st_mtime < DISPATCH_SILENCE
    except OSError:
        return False


CHECKS: Mapping[str, Callable[[], bool]] = {
    "web": web,
    "worker": worker,
    "dispatch": dispatch,
    "instance": instance,
}


def _status(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def main(argv: Sequence[str]) -> int:
    """Return 0 where the part named in `argv` is well."""
    if len(argv) != 1 or argv[0] not in CHECKS:
        print(f"compose_health: name one of {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    return 0 if CHECKS[argv[0]]() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
