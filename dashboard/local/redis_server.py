"""The embedded Redis: jobs and news on a unix socket, nothing that must be kept."""

import redis

from dashboard.local import binaries
from dashboard.local.places import Places
from dashboard.local.supervision import Program

NAME = "redis"
# Jobs are hints and news can be read again from PostgreSQL: nothing is written to disk.
CONFIG = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
save ""
appendonly no
dir "{directory}"
maxmemory 256mb
maxmemory-policy noeviction
daemonize no
"""


def prepare(places: Places) -> None:
    """Write the configuration."""
    text = CONFIG.format(socket=places.redis_socket, directory=places.runtime)
    places.redis_config.write_text(text)


def program(places: Places) -> Program:
    """Return how the server is run."""
    return Program(NAME, (str(binaries.redis_server()), str(places.redis_config)))


def answers(places: Places) -> bool:
    """Whether the server answers PING."""
    client = redis.Redis(unix_socket_path=str(places.redis_socket), socket_timeout=2)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
