"""Figures of the team: the four keys of DORA (dora.dev, "DORA's software delivery metrics: the
four keys"), as far as an engine of deployments can know them. Computed in the database.

- How often: deployments a week. Counted is what ended within the period as completed, rolled back
  or failed. A swap counts, it changes what users get; so does a retry of instances that were held
  out, it can fail as any other. Cancelled ones are told apart: a person stopped them, which says
  nothing of the version.
- Share that failed: rolled back and failed among those counted.
- Time to restore: from the start of a deployment that failed until the service was whole again.
  That is its own end where it was rolled back, or else the end of the next one of the service
  that completed. Its start is the earliest moment at which it can have done harm, so the time is
  never too short. What is not whole yet is told as open, and is in no median.
- Time of one deployment (of the lead time, the part that is seen from here): from start to end,
  of those that completed.

A period is the last so many days in UTC, today included; the one before has as many days, whole.
A week's number is by the time that has passed, so that the day that has begun does not look slow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

Json = dict[str, Any]

PERIODS = (7, 30, 90)  # days
USUAL = 30
WEEKLY_FROM = 60  # days; from here on a bar is a week
A_WEEK = timedelta(days=7)

# Made of constants alone: what is asked for are parameters. With this condition and these columns
# the index `deployment_ended` (`deployment_ended_of` for one service) is all that is read.
ENDED = """
    SELECT d.service_id, d.status, d.completed_at, d.completed_at >= %(since)s AS now,
        EXTRACT(EPOCH FROM d.completed_at - COALESCE(d.started_at, d.created_at)) AS took,
        CASE d.status
            WHEN 'rolled_back' THEN d.completed_at
            WHEN 'failed' THEN (
                SELECT n.completed_at FROM rollouts_deployment n
                WHERE n.service_id = d.service_id AND n.status = 'completed'
                    AND n.completed_at > d.completed_at
                ORDER BY n.completed_at LIMIT 1
            )
        END - COALESCE(d.started_at, d.created_at) AS restored
    FROM rollouts_deployment d
    WHERE d.completed_at >= %(before)s AND d.completed_at < %(until)s
        AND (%(service)s::bigint IS NULL OR d.service_id = %(service)s)
"""
SUMS = """
    COUNT(*) FILTER (WHERE status = 'completed') AS completed,
    COUNT(*) FILTER (WHERE status = 'rolled_back') AS rolled_back,
    COUNT(*) FILTER (WHERE status = 'failed') AS failed,
    COUNT(*) FILTER (WHERE status = 'cancelled') AS cancelled,
    COUNT(*) FILTER (WHERE status = 'failed' AND restored IS NULL) AS open,
    PERCENTILE_CONT(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY took)
        FILTER (WHERE status = 'completed') AS took,
    PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY EXTRACT(EPOCH FROM restored)) AS restored
"""
TOLD = f"""
    WITH ended AS MATERIALIZED ({ENDED}), dated AS (
        SELECT *, CASE WHEN now THEN
            (DATE_TRUNC(%(unit)s, completed_at, 'UTC') AT TIME ZONE 'UTC')::date END AS begin
        FROM ended
    )
    SELECT now, begin, GROUPING(begin) = 0 AS bar, {SUMS} FROM dated
    GROUP BY GROUPING SETS ((now), (now, begin))
"""  # noqa: S608
BY_SERVICE = f"""
    WITH ended AS MATERIALIZED ({ENDED}),
    summed AS (SELECT service_id, {SUMS} FROM ended GROUP BY service_id)
    SELECT name, summed.* FROM summed
    JOIN rollouts_service ON rollouts_service.id = service_id
    ORDER BY completed + rolled_back + failed DESC, name
"""  # noqa: S608


@dataclass(frozen=True)
class Figures:
    """What ended within some time, in seconds and counts; None where nothing tells."""

    completed: int = 0
    rolled_back: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0  # failed, and the service not whole since
    duration_median: float | None = None
    duration_p90: float | None = None
    time_to_restore: float | None = None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Figures":
        """Return what a row of SUMS says."""
        completed, rolled_back, failed, cancelled, still_open, took, restored = row
        median, p90 = took or (None, None)
        return cls(
            *(completed, rolled_back, failed, cancelled, still_open),
            duration_median=_seconds(median),
            duration_p90=_seconds(p90),
            time_to_restore=_seconds(restored),
        )

    @property
    def deployments(self) -> int:
        """How many count as a deployment."""
        return self.completed + self.rolled_back + self.failed

    @property
    def failure_rate(self) -> float | None:
        """The share of those that failed, from 0 to 1."""
        if not self.deployments:
            return None
        return (self.rolled_back + self.failed) / self.deployments

    def weekly(self, period: timedelta) -> float:
        """Return how many deployments a week that is, of `period`."""
        return self.deployments * (A_WEEK / period)


@dataclass(frozen=True)
class Bar:
    """What ended on a day, or in a week that began then."""

    begin: date
    completed: int = 0
    failed: int = 0  # rolled back ones too
    cancelled: int = 0
    duration: float | None = None  # seconds, medians as in Figures
    time_to_restore: float | None = None

    @classmethod
    def of(cls, begin: date, sums: Figures) -> "Bar":
        """Return the bar that begins then, of these sums."""
        failed = sums.rolled_back + sums.failed
        return cls(
            *(begin, sums.completed, failed, sums.cancelled),
            duration=sums.duration_median,
            time_to_restore=sums.time_to_restore,
        )

    @property
    def deployments(self) -> int:
        """How many count as a deployment."""
        return self.completed + self.failed


@dataclass(frozen=True)
class Period:
    """The days that are asked for, and as many before them."""

    days: int
    before: datetime
    since: datetime
    until: datetime

    @classmethod
    def last(cls, days: int, now: datetime | None = None) -> "Period":
        """Return the last `days` days, the one of `now` included."""
        now = now or timezone.now()
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        since = midnight - timedelta(days=days - 1)
        return cls(days, since - timedelta(days=days), since, now)

    @property
    def unit(self) -> str:
        """What one bar is."""
        return "week" if self.days >= WEEKLY_FROM else "day"

    @property
    def lengths(self) -> tuple[timedelta, timedelta]:
        """How long it has lasted, and the one before."""
        return self.until - self.since, self.since - self.before

    def begins(self) -> list[date]:
        """Return when each bar begins; weeks begin on Monday, the first maybe before the period."""
        step = 7 if self.unit == "week" else 1
        first = self.since.date()
        first -= timedelta(days=first.weekday() if step == 7 else 0)
        count = ((self.until - timedelta(microseconds=1)).date() - first).days // step + 1
        return [first + timedelta(days=step * number) for number in range(count)]


@dataclass(frozen=True)
class Told:
    """The figures of a period, of the one before, and bar by bar."""

    period: Period
    now: Figures
    before: Figures
    bars: tuple[Bar, ...]


def asked(text: str) -> int:
    """Return the days that an address asks for: one of PERIODS."""
    return int(text) if text in map(str, PERIODS) else USUAL


def of(service: int | None, days: int, now: datetime | None = None) -> Told:
    """Return the figures of one service, by its key, or of all, over the last `days` days."""
    period = Period.last(days, now)
    totals: dict[bool, Figures] = {}
    drawn: dict[date, Bar] = {}
    for current, begin, bar, *sums in _rows(TOLD, period, service):
        if bar:
            drawn[begin] = Bar.of(begin, Figures.of(sums))
        else:
            totals[current] = Figures.of(sums)
    bars = tuple(drawn.get(begin, Bar(begin)) for begin in period.begins())
    return Told(period, totals.get(True, Figures()), totals.get(False, Figures()), bars)


def by_service(days: int, now: datetime | None = None) -> list[Json]:
    """Return the figures of each service with deployments over the last `days` days, most first."""
    period = Period.last(days, now)
    rows = _rows(BY_SERVICE, period, None, before=period.since)
    length = period.lengths[0]
    return [{"service": name, **fields(Figures.of(sums), length)} for name, _, *sums in rows]


def fields(figures: Figures, length: timedelta) -> Json:
    """Return `figures` of a time of this length, as programs get them."""
    return {
        "deployments": figures.deployments,
        "deployments_per_week": round(figures.weekly(length), 2),
        "completed": figures.completed,
        "rolled_back": figures.rolled_back,
        "failed": figures.failed,
        "cancelled": figures.cancelled,
        "failure_rate": figures.failure_rate,
        "time_to_restore": figures.time_to_restore,
        "not_restored": figures.open,
        "duration_median": figures.duration_median,
        "duration_p90": figures.duration_p90,
    }


def _seconds(found: Any) -> float | None:
    return None if found is None else float(found)


def _rows(query: str, period: Period, service: int | None, **more: Any) -> list[tuple[Any, ...]]:
    given: Mapping[str, Any] = {
        "before": period.before,
        "since": period.since,
        "until": period.until,
        "unit": period.unit,
        "service": service,
        **more,
    }
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        found: Iterable[tuple[Any, ...]] = cursor.fetchall()
    return list(found)
