"""The charts of the figures: where bars stand, and that words and table say the same."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dashboard import charts
from dashboard.figures import Bar, Figures, Period, Told

NOW = datetime(2026, 9, 16, 12, tzinfo=UTC)


def told(days: int = 7, **now: float) -> Told:
    period = Period.last(days, NOW)
    bars = tuple(Bar(begin) for begin in period.begins())
    return Told(period, Figures(**now), Figures(), bars)  # type: ignore[arg-type]


def test_parts_of_a_bar_stand_upon_each_other() -> None:
    """What fills the chart is as high as it; the second part begins where the first ends."""
    [[low, high], [half]] = charts.rects([[("wait", 3), ("fail", 1)], [("wait", 2)]], 4)
    assert (low["y"], low["height"], high["y"], high["height"]) == ("10", "30", "0", "10")
    assert (half["x"], half["y"], half["width"], half["height"]) == ("168.75", "20", "112.5", "20")
    assert (low["hue"], high["hue"]) == ("wait", "fail")


def test_nothing_is_drawn_of_nothing() -> None:
    """Neither of a day without a deployment nor where there is none at all."""
    assert charts.rects([[("wait", 0)], [("wait", 1)]], 1)[0] == []
    assert charts.rects([[("wait", 0)]], 0) == [[]]
    assert charts.rects([], 0) == []


values = st.floats(0, 1e6)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=100))
def test_bars_stay_within_the_chart(columns: list[tuple[float, float]]) -> None:
    """However many and however different they are, each within its own room; what is little is
    still seen.
    """
    full = max(a + b for a, b in columns)
    drawn = charts.rects([[("wait", a), ("fail", b)] for a, b in columns], full)
    room = charts.WIDTH / len(columns)
    for number, stack in enumerate(drawn):
        for rect in stack:
            x, y, width, height = (float(rect[key]) for key in ("x", "y", "width", "height"))
            assert number * room - 0.02 <= x
            assert x + width <= (number + 1) * room + 0.02
            assert 0 <= y <= charts.HEIGHT
            assert height >= charts.LEAST


def test_the_figures_are_said_in_words() -> None:
    """With what they are made of, and the period before only where there was one."""
    found = charts.board(
        told(
            completed=8,
            rolled_back=1,
            failed=1,
            open=1,
            duration_median=90,
            duration_p90=200,
            time_to_restore=61,
        )
    )
    said = {one["key"]: (one["value"], one["before"], one["note"]) for one in found["figures"]}
    assert said == {
        "often": ("11", "", "10 deployments"),
        "failed": ("20%", "", "1 rolled back, 1 failed"),
        "restore": ("1 min 1 s", "", "1 not whole yet"),
        "duration": ("1 min 30 s", "", "nine in ten within 3 min 20 s"),
    }
    assert found["summary"] == ("10 deployments in 7 days: 8 completed, 1 rolled back, 1 failed.")


def test_what_nobody_knows_is_a_dash() -> None:
    """No deployment has no share that failed, and nobody knows how long one takes."""
    found = charts.board(told())
    assert [one["value"] for one in found["figures"]] == ["0", "–", "–", "–"]
    assert found["summary"] == "No deployment ended within 7 days."
    assert all(one["columns"] == [] for one in found["figures"])


def test_the_table_has_every_bar_the_newest_first() -> None:
    """Those that nothing is drawn of too."""
    found = charts.board(told(30))
    assert [row["begin"] for row in found["rows"]][:2] == [
        NOW.date(),
        NOW.date() - timedelta(days=1),
    ]
    assert len(found["rows"]) == 30
