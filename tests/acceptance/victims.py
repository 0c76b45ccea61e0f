"""What can be killed, stopped or emptied while a demo runs, each a function of the demo.

Each returns when it was done, in seconds since the Unix epoch.
"""

import time
from contextlib import suppress

import psutil
import psycopg
from redis import Redis

from tests.acceptance.running import Demo, until


def horses(demo: Demo) -> list[psutil.Process]:
    """Return the processes that drive a deployment, each a fork of its worker."""
    return [fork for worker in demo.processes("manage.py worker") for fork in worker.children()]


def kill(processes: list[psutil.Process]) -> float:
    """kill -9 of all at once: none has time to act on another's death; return when."""
    assert processes
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                act(each)
    return time.time()


def the_horse(demo: Demo) -> float:
    return kill(horses(demo))


def its_worker(demo: Demo) -> float:
    return kill([horse.parent() or horse for horse in horses(demo)])


def worker_and_horse(demo: Demo) -> float:
    return kill([each for horse in horses(demo) for each in (horse.parent() or horse, horse)])


def dispatch(demo: Demo) -> float:
    return kill(demo.processes("manage.py dispatch"))


def web(demo: Demo) -> float:
    return kill(demo.processes("daphne"))


def redis(demo: Demo) -> float:
    return kill(demo.processes("redis-server"))


def the_balancer(demo: Demo) -> float:
    return kill(demo.processes("haproxy.cfg"))


def all_that_redis_holds(demo: Demo) -> float:
    with Redis.from_url(demo.ready["redis_url"]) as client:
        client.flushall()
    return time.time()


def room_in_redis(demo: Demo) -> float:
    """Let Redis take nothing more, as when its memory is full."""
    with Redis.from_url(demo.ready["redis_url"]) as client:
        client.config_set("maxmemory", 1)
    return time.time()


def the_database(demo: Demo) -> float:
    """Stop PostgreSQL, and start it again once the web has noticed."""
    demo.supervised("stopProcess", "postgres")
    until(lambda: demo.look("deploy-000000000000") is None, 10, "the web can't read")
    demo.supervised("startProcess", "postgres")
    return time.time()


def database_connections(demo: Demo) -> float:
    """Kill one process of PostgreSQL's: it ends all the others, and recovers."""
    with psycopg.connect(demo.ready["database_url"]) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        ).fetchall()
    return kill([psutil.Process(pid) for (pid,) in rows][:1])


def everything_of_ours(demo: Demo) -> float:
    return max(dispatch(demo), web(demo), redis(demo), worker_and_horse(demo))
