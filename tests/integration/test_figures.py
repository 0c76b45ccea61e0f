"""The figures of the team on real PostgreSQL: what counts, and from when to when."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from dashboard import figures
from rollouts.models import Deployment, Service
from tests.integration.factories import make_service
from tests.integration.past import ended, plant

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 9, 16, 12, 0, tzinfo=UTC)  # a Wednesday
A_DAY = timedelta(days=1)
MINUTE = 60


@pytest.fixture
def shop() -> Service:
    return make_service(1)


def store(*deployments: Deployment) -> None:
    Deployment.objects.bulk_create(deployments)


def test_without_deployments_nothing_is_claimed(shop: Service) -> None:
    """No share, no median, no time: None, and not a flattering zero."""
    told = figures.of(shop.pk, 30, NOW)
    assert told.now == told.before == figures.Figures()
    assert told.now.failure_rate is None
    assert all(bar.deployments == 0 for bar in told.bars)


def test_rates_and_durations_are_those_computed_by_hand(shop: Service) -> None:
    """3 completed, 1 rolled back, 1 failed, 1 cancelled: 5 count, 2 in 5 failed."""
    hour = timedelta(hours=1)
    store(
        *(ended(shop, "completed", NOW - n * hour, 100 * n) for n in (1, 2, 3)),
        ended(shop, "rolled_back", NOW - 5 * hour, 50),
        ended(shop, "failed", NOW - 6 * hour, 50),
        ended(shop, "cancelled", NOW - 7 * hour, 5),
    )
    found = figures.of(shop.pk, 7, NOW).now
    assert (found.completed, found.rolled_back, found.failed, found.cancelled) == (3, 1, 1, 1)
    assert (found.deployments, found.failure_rate) == (5, 0.4)
    # Of 100, 200 and 300 s: the ninth tenth lies at 0.8 of the way from the second to the third.
    assert (found.duration_median, found.duration_p90) == (200, pytest.approx(280))


def test_a_weeks_number_is_by_the_time_that_has_passed(shop: Service) -> None:
    """Six days and a half have passed of seven at noon; the seven days before are whole."""
    store(*(ended(shop, "completed", NOW - n * A_DAY, 60) for n in (1, 2, 8)))
    told = figures.of(shop.pk, 7, NOW)
    now, before = told.period.lengths
    assert (now, before) == (timedelta(days=6.5), timedelta(days=7))
    assert told.now.weekly(now) == pytest.approx(2 * 7 / 6.5)
    assert told.before.weekly(before) == 1


def test_time_to_restore_is_from_the_start_until_the_service_was_whole(shop: Service) -> None:
    """Rolled back: its own end. Failed: the end of the next one that completed, not of any."""
    begun = NOW - A_DAY
    store(
        ended(shop, "rolled_back", begun - 5 * timedelta(hours=1), 4 * MINUTE),
        ended(shop, "failed", begun, 60),
        ended(shop, "failed", begun + timedelta(minutes=5), 60),
        ended(shop, "cancelled", begun + timedelta(minutes=7), 60),
        ended(shop, "completed", begun + timedelta(minutes=18), 2 * MINUTE),
    )
    found = figures.of(shop.pk, 7, NOW).now
    # 4 min, 20 min, and 15 min: each that failed counts.
    assert (found.time_to_restore, found.open) == (15 * MINUTE, 0)


def test_what_is_not_whole_yet_is_open_and_in_no_median(shop: Service) -> None:
    """A service that is still broken must not make the time to restore look short."""
    store(
        ended(shop, "completed", NOW - 3 * A_DAY, 60),
        ended(shop, "failed", NOW - 2 * A_DAY, 60),
        ended(shop, "cancelled", NOW - A_DAY, 60),
    )
    found = figures.of(shop.pk, 7, NOW).now
    assert (found.open, found.time_to_restore) == (1, None)


def test_services_are_not_mixed(shop: Service) -> None:
    """Neither the counts, nor does one service's success restore another."""
    billing = make_service(1, name="billing")
    store(
        ended(shop, "failed", NOW - 2 * A_DAY, 60),
        ended(billing, "completed", NOW - A_DAY, 90),
        ended(billing, "completed", NOW - 2 * A_DAY, 30),
    )
    assert figures.of(shop.pk, 7, NOW).now.open == 1
    assert figures.of(billing.pk, 7, NOW).now.failure_rate == 0
    assert figures.of(billing.pk, 7, NOW).now.duration_median == 60
    assert figures.of(None, 7, NOW).now.deployments == 3
    rows = figures.by_service(7, now=NOW)
    assert [(row["service"], row["deployments"]) for row in rows] == [("billing", 2), ("shop", 1)]
    assert [row["not_restored"] for row in rows] == [0, 1]


def test_a_period_begins_and_ends_where_it_says(shop: Service) -> None:
    """What ended at its first midnight is in, a moment before is of the period before; what
    began before and ended within counts.
    """
    first = datetime(2026, 9, 10, tzinfo=UTC)
    moment = timedelta(microseconds=1)
    store(
        ended(shop, "completed", first - A_DAY, A_DAY.total_seconds()),
        ended(shop, "failed", first - moment, 0),
        ended(shop, "rolled_back", first - 7 * A_DAY, 0),
        ended(shop, "completed", first - 7 * A_DAY - moment, 0),
        ended(shop, "completed", NOW, 0),
    )
    told = figures.of(shop.pk, 7, NOW)
    assert (told.now.completed, told.now.deployments) == (1, 1)
    assert (told.before.failed, told.before.rolled_back, told.before.completed) == (1, 1, 0)


def test_bars_are_days_and_over_a_long_period_weeks(shop: Service) -> None:
    """In UTC, none left out, those without a deployment too; weeks begin on Monday."""
    store(
        ended(shop, "completed", datetime(2026, 9, 14, 23, 59, tzinfo=UTC), 30),
        ended(shop, "rolled_back", datetime(2026, 9, 15, 0, 0, tzinfo=UTC), 30),
        ended(shop, "cancelled", datetime(2026, 9, 15, 0, 0, tzinfo=UTC), 30),
    )
    days = figures.of(shop.pk, 7, NOW).bars
    assert [bar.begin.day for bar in days] == [10, 11, 12, 13, 14, 15, 16]
    assert days[4] == figures.Bar(date(2026, 9, 14), 1, 0, 0, 30, None)
    assert days[5] == figures.Bar(date(2026, 9, 15), 0, 1, 1, None, 30)
    weeks = figures.of(shop.pk, 90, NOW).bars
    assert {bar.begin.weekday() for bar in weeks} == {0}
    assert weeks[0].begin == date(2026, 6, 15)  # the period begins on Friday the 19th
    assert weeks[-1] == figures.Bar(date(2026, 9, 14), 1, 1, 1, 30, 30)
    assert len(weeks) == 14


def test_only_known_periods_are_asked_for() -> None:
    """Whatever else an address says, the usual one is shown."""
    assert [figures.asked(text) for text in ("7", "30", "90")] == [7, 30, 90]
    assert {figures.asked(text) for text in ("", "8", "0", "-7", "1e9", "x")} == {30}


def test_one_query_reads_the_index_alone(shop: Service) -> None:
    """However long the past is: no row of a deployment is read, and nothing is sorted by Python."""
    others = [make_service(1, name=f"svc-{number}") for number in range(9)]
    plant([shop, *others], 4_000, NOW, timedelta(days=365))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE rollouts_deployment")
    with CaptureQueriesContext(
        connection,
    ) as asked:
        told = figures.of(shop.pk, 30, NOW)
        figures.of(None, 30, NOW)
    assert len(asked) == 2
    assert told.now.deployments > 20
    for query in asked.captured_queries:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + query["sql"])
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Index Only Scan using deployment_ended" in plan, plan
        assert "Seq Scan" not in plan, plan
