"""`manage.py worker`: executes rollouts that are handed out over the queue."""

import asyncio
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from rollouts import jobs, looks

# Seconds: a worker that rests tells the queue twice as often, and so comes back to its list
# after a Redis that lost everything.
WORKER_TTL = 30


class Command(BaseCommand):
    """An RQ worker on our queues. It reads jobs as JSON alone: pickle in Redis is code."""

    help = "Execute rollouts. Several may run; each drives one deployment at a time."

    def handle(self, *args: Any, **options: Any) -> None:
        # Each job runs in a fork of this process: what is loaded here, no job waits for.
        asyncio.run(jobs.warm_up())
        call_command(
            "rqworker",
            jobs.QUEUE,
            looks.QUEUE,  # served last
            worker_class="rollouts.workers.Worker",
            worker_ttl=WORKER_TTL,
            serializer="rq.serializers.JSONSerializer",
            verbosity=options["verbosity"],
        )
