"""How long the pages take with many deployments behind them, and what PostgreSQL does for it.

`python -m tests.bench.figures [--deployments 100000] [--services 200] [--days 365] [--explain]`
starts a PostgreSQL and a Redis of its own, stores the past of a team, and prints the milliseconds
of each query and of each page: the median of some rounds, and the worst.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import timedelta

import tests.environment  # before the settings are read

import django  # isort: skip
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from dashboard import figures  # noqa: E402
from rollouts.models import Instance, Service  # noqa: E402
from tests.integration.factories import DRIVER, NOBODY_THERE  # noqa: E402
from tests.integration.past import plant  # noqa: E402
from tests.servers import running  # noqa: E402

ROUNDS = 7
INSTANCES = 5  # of each service


def make_services(count: int) -> list[Service]:
    """Store so many services with instances on v1."""
    services = Service.objects.bulk_create(
        Service(name=f"svc-{number:04}", driver=DRIVER, balancer=NOBODY_THERE)
        for number in range(count)
    )
    Instance.objects.bulk_create(
        Instance(
            service=service,
            name=f"web-{number:02}",
            server=f"web-{number:02}",
            hostname=f"127.0.0.{number}",
            port=9,
            version="v1",
        )
        for service in services
        for number in range(1, INSTANCES + 1)
    )
    return services


def measured(what: str, call: Callable[[], object]) -> None:
    """Print how long `call` takes."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        took.append(1_000 * (time.perf_counter() - began))
    print(f"{what:<44} {statistics.median(took):7.1f} ms, worst {max(took):7.1f} ms", flush=True)


def explain(service: int | None, days: int) -> None:
    """Print what PostgreSQL does for the figures of a period."""
    period = figures.Period.last(days)
    given = {
        "before": period.before,
        "since": period.since,
        "until": period.until,
        "service": service,
        "unit": period.unit,
    }
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {figures.TOLD}", given)
        print("\n".join(line for (line,) in cursor.fetchall()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deployments", type=int, default=100_000)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--explain", action="store_true")
    chosen = parser.parse_args()
    with running(tests.environment.PLACES, durable=False):
        call_command("migrate", verbosity=0)
        services = make_services(chosen.services)
        plant(services, chosen.deployments, timezone.now(), timedelta(days=chosen.days))
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
        print(
            f"{chosen.deployments} deployments of {chosen.services} services in {chosen.days} days"
        )
        report(services[0], chosen.explain)
        connection.close()


def report(service: Service, explained: bool) -> None:
    """Measure queries and pages."""
    for days in figures.PERIODS:
        measured(f"figures of all, {days} days", lambda days=days: figures.of(None, days))  # type: ignore[misc]
        measured(f"figures of one, {days} days", lambda days=days: figures.of(service.pk, days))  # type: ignore[misc]
        measured(f"table by service, {days} days", lambda days=days: figures.by_service(days))  # type: ignore[misc]
    settings.ALLOWED_HOSTS.append("testserver")
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    for page in ("/", "/figures/?days=7", "/figures/?days=30", "/figures/?days=90"):
        measured(f"page {page}", lambda page=page: client.get(page))  # type: ignore[misc]
    measured(f"page /services/{service}/", lambda: client.get(f"/services/{service}/"))
    if explained:
        explain(None, 90)
        explain(service.pk, 90)


if __name__ == "__main__":
    main()
