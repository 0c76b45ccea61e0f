"""Level-triggered: every deployment that is due and that nobody drives gets a job.

It looks at what PostgreSQL holds, again and again, and remembers nothing that matters: the
queue may be lost at any time, and several may run.
"""

import logging
import time
from datetime import datetime
from pathlib import Path

from django.db import connection
from redis.exceptions import RedisError

from rollouts import drift, jobs, journal, ownership
from rollouts.facts import Waiting

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at rest
AGAIN_AFTER = 3.0  # seconds that a worker may take from its job to its claim
TOLD_AFTER = 3.0  # seconds that a deployment waits before its page says so
AHEAD = 0.5  # seconds before a parked deployment is due at which its job is queued


class Dispatch:
    """One look after another; not for several threads. Each touches the file `alive`, if any."""

    def __init__(self, alive: Path | None = None) -> None:
        self._alive = alive
        self._queued_at: dict[str, float] = {}
        self._drift_at = time.monotonic()
        self._ended: datetime | None = None

    def run(self) -> None:
        """Look for ever; a database or Redis that is away is waited for."""
        while True:
            try:
                wait = self.look()
                self.look_for_drift()
                if self._alive:
                    self._alive.touch()
            except ownership.AWAY as error:
                log.warning("PostgreSQL is asked again: %s", error)
                connection.close()
                wait = POLL
            time.sleep(wait)

    def look_for_drift(self) -> None:
        """Have a worker look, now and then and once a deployment has ended.

        Of many dispatchers' jobs all but one do nothing.
        """
        ended, self._ended = self._ended, drift.last_end()
        if self._ended != ended or time.monotonic() >= self._drift_at:
            self._drift_at = time.monotonic() + drift.INTERVAL
            drift.enqueue()

    def look(self) -> float:
        """Queue what is due; return the seconds until the next look."""
        near = ownership.due(within=AHEAD + POLL)
        due = [one for one in near if one.in_seconds <= AHEAD]
        if due:
            self._queue(due)
        else:
            self._queued_at.clear()
        coming = [one.in_seconds - AHEAD for one in near if one.in_seconds > AHEAD]
        return min([POLL, *coming])

    def _queue(self, due: list[ownership.Due]) -> None:
        try:
            queued = jobs.enqueued()
        except (RedisError, OSError) as error:
            log.warning("Redis is out of reach: %s", error)
            queued = set()
        now = time.monotonic()
        for one in due:
            fresh = now - self._queued_at.get(one.id, -AGAIN_AFTER) < AGAIN_AFTER
            if one.id not in queued and not fresh:
                if not jobs.enqueue(one.id):
                    journal.tell_waiting(one.id, Waiting.REDIS)
                    continue
                self._queued_at[one.id] = now
            if -one.in_seconds > TOLD_AFTER and one.waiting_for != Waiting.WORKER:
                journal.tell_waiting(one.id, Waiting.WORKER)


def call_worker(deployment_id: str) -> None:
    """Hint at once that the deployment wants a worker, rather than at the next look."""
    if not jobs.enqueue(deployment_id):
        journal.tell_waiting(deployment_id, Waiting.REDIS)
