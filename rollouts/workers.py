"""The RQ worker, as a deployment needs it: what ends it is no end of a deployment."""

import logging
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import django_rq
import rq
from django.db import connections
from redis.exceptions import RedisError
from rq import worker_registration

from rollouts import jobs, ownership
from rollouts.jobs import QUEUE
from rollouts.orphans import end_with_parent

log = logging.getLogger(__name__)

ALIVE_WITHIN = timedelta(seconds=60)  # of its last word; one with a job says one every 30 s


def alive() -> int:
    """Return how many workers were heard of lately; raise RedisError or OSError."""
    now = datetime.now(UTC)
    beats = [worker.last_heartbeat for worker in rq.Worker.all(queue=django_rq.get_queue(QUEUE))]
    return sum(now - beat.replace(tzinfo=UTC) < ALIVE_WITHIN for beat in beats if beat)


class Worker(rq.Worker):
    """Hands over at SIGTERM, outlives a Redis that is away, and tells of a killed work-horse."""

    def handle_warm_shutdown_request(self) -> None:
        """Pass SIGTERM on: RQ alone would wait for the end of the job, without limit."""
        super().handle_warm_shutdown_request()
        if self.horse_pid:
            with suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)

    def setup_work_horse_signals(self) -> None:
        """Let the work-horse hand over where this worker is killed without a word."""
        super().setup_work_horse_signals()
        end_with_parent(self.pid or os.getppid())

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """Also come back to the list of workers, which an emptied Redis has lost."""
        super().heartbeat(*args, **kwargs)
        if not kwargs.get("pipeline"):
            worker_registration.register(self)

    def maintain_heartbeats(self, *args: Any, **kwargs: Any) -> None:
        """Go on where Redis is away: the work-horse needs none."""
        try:
            super().maintain_heartbeats(*args, **kwargs)
        except RedisError as error:
            log.warning("Redis does not take the heartbeat: %s", error)

    def handle_work_horse_killed(self, job: Any, retpid: int, ret_val: int, rusage: Any) -> None:
        """Let a successor in at once: the owner is surely dead."""
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)
        try:
            for deployment_id in ownership.bury(ownership.owner_name(retpid)):
                jobs.enqueue(deployment_id)
        except ownership.AWAY as error:
            log.warning("The lease of %s ends by itself: %s", retpid, error)
        finally:
            connections.close_all()  # no fork may share one
