"""Small charts of the team's figures: where each bar stands, and what is said beside it. Pure.

Every chart is told in words too, and all of it again as a table.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from dashboard.figures import Bar, Figures, Told
from dashboard.times import duration

Json = dict[str, Any]

WIDTH, HEIGHT = 300, 40  # units of a chart
GAP = 0.25  # of a bar's room
LEAST = 2  # units; what is not nothing is seen
NONE = "–"


def rects(columns: Sequence[Sequence[tuple[str, float]]], full: float) -> list[list[Json]]:
    """Return the rectangles of each column: its parts, hue and value, one upon the other.

    `full` is the value that fills the height; nothing is drawn of a part that is nothing.
    """
    step = WIDTH / max(1, len(columns))
    drawn = []
    for number, parts in enumerate(columns):
        at = float(HEIGHT)
        stack = []
        for hue, value in parts:
            if value <= 0 or full <= 0:
                continue
            height = max(LEAST, HEIGHT * value / full)
            at = max(0.0, at - height)
            place = {"x": _units(number * step + step * GAP / 2), "y": _units(at)}
            size = {"width": _units(step * (1 - GAP)), "height": _units(height)}
            stack.append({"hue": hue, **place, **size})
        drawn.append(stack)
    return drawn


def _units(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def board(told: Told, name: str = "") -> Json:
    """Return the four figures as they are drawn, of the service of this name or of all."""
    period, now, before = told.period, told.now, told.before
    length, length_before = period.lengths
    bars = told.bars
    most = max((bar.deployments for bar in bars), default=0)
    slowest = max((bar.duration or 0 for bar in bars), default=0)
    longest = max((bar.time_to_restore or 0 for bar in bars), default=0)
    return {
        "days": period.days,
        "service": name,
        "unit": period.unit,
        "since": period.since,
        "any": bool(now.deployments or now.cancelled),
        "cancelled": now.cancelled,
        "figures": [
            {
                "key": "often",
                "name": "Deployments a week",
                "value": _rate(now, length),
                "before": _rate(before, length_before) if before.deployments else "",
                "note": _count(now.deployments, "deployment"),
                **_chart(bars, [[("wait", b.completed), ("fail", b.failed)] for b in bars], most),
            },
            {
                "key": "failed",
                "name": "Share that failed",
                "value": _share(now),
                "before": _share(before) if before.deployments else "",
                "note": f"{now.rolled_back} rolled back, {now.failed} failed",
                **_chart(bars, [[("fail", _failed(b))] for b in bars], 1.0),
            },
            {
                "key": "restore",
                "name": "Time to restore",
                "value": _time(now.time_to_restore),
                "before": _time(before.time_to_restore) if before.time_to_restore else "",
                "note": _restored(now),
                **_chart(bars, [[("warn", b.time_to_restore or 0)] for b in bars], longest),
            },
            {
                "key": "duration",
                "name": "Time of one deployment",
                "value": _time(now.duration_median),
                "before": _time(before.duration_median) if before.duration_median else "",
                "note": f"nine in ten within {_time(now.duration_p90)}" if now.completed else "",
                **_chart(bars, [[("wait", b.duration or 0)] for b in bars], slowest),
            },
        ],
        "rows": [_row(bar) for bar in reversed(bars)],
        "summary": summary(told),
    }


def _chart(
    bars: Sequence[Bar], columns: Sequence[Sequence[tuple[str, float]]], full: float
) -> Json:
    """Return the columns that anything is drawn in."""
    drawn = zip(bars, rects(columns, full), strict=True)
    return {"columns": [{"begin": bar.begin, "rects": stack} for bar, stack in drawn if stack]}


def _row(bar: Bar) -> Json:
    """Return what the table says of a bar."""
    return {
        "begin": bar.begin,
        "completed": bar.completed,
        "failed": bar.failed,
        "cancelled": bar.cancelled,
        "restored": _time(bar.time_to_restore),
        "took": _time(bar.duration),
    }


def summary(told: Told) -> str:
    """Return in a sentence what the charts show, for those who hear it."""
    now = told.now
    if not now.deployments:
        return f"No deployment ended within {told.period.days} days."
    return (
        f"{_count(now.deployments, 'deployment')} in {told.period.days} days: "
        f"{now.completed} completed, {now.rolled_back} rolled back, {now.failed} failed."
    )


def listed(row: Json) -> Json:
    """Return a row of the table by service as it is shown."""
    share = row["failure_rate"]
    return {
        **row,
        "share": NONE if share is None else f"{share:.0%}",
        "weekly": _plain(row["deployments_per_week"]),
        "restore": _time(row["time_to_restore"]),
        "took": _time(row["duration_median"]),
        "took_p90": _time(row["duration_p90"]),
    }


def _rate(figures: Figures, length: timedelta) -> str:
    return _plain(figures.weekly(length))


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def _share(figures: Figures) -> str:
    return NONE if figures.failure_rate is None else f"{figures.failure_rate:.0%}"


def _failed(bar: Bar) -> float:
    return bar.failed / bar.deployments if bar.deployments else 0.0


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else duration(seconds)


def _restored(figures: Figures) -> str:
    if figures.open:
        return f"{figures.open} not whole yet"
    return "median, from start to whole again" if figures.time_to_restore else "nothing to restore"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
