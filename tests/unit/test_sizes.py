"""How a deployment is drawn by how many instances it has, as the server draws it first."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dashboard import sizes

Json = dict[str, Any]
NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def target(number: int, status: str = "pending") -> Json:
    return {
        "instance": f"web-{number:04}",
        "address": f"10.0.0.1:{number}",
        "batch": number // 100,
        "zone": "",
        "status": status,
        "touched": status != "pending",
        "old_version": "v1",
        "new_version": "v2",
        "updated_at": None,
        "error": "",
        "attempt": 1,
        "health_checks": [],
    }


@pytest.mark.parametrize(
    ("total", "drawn"),
    [(1, "full"), (60, "full"), (61, "small"), (300, "small"), (301, "wide"), (1000, "wide")],
)
def test_the_more_there_are_the_smaller_each_is(total: int, drawn: str) -> None:
    """The limits themselves still fit the larger form."""
    assert sizes.size(total) == drawn


def test_tiles_are_of_what_is_under_way_and_then_of_what_has_failed() -> None:
    """Each in its own order; what is done or to come has none."""
    status = {3: "failed", 5: "healthy", 204: "failed", 250: "updating"}
    targets = [target(number, status.get(number, "pending")) for number in range(400)]
    for number in [*range(100), *range(300, 400)]:
        targets[number]["status"] = status.get(number, "healthy" if number < 100 else "pending")
    snapshot = {
        "status": "in_progress",
        "strategy": "rolling",
        "policy": {},
        "steps": [],
        "targets": targets,
    }
    found = sizes.fleet(snapshot, {}, NOW)
    assert found["size"] == "wide"
    names = [tile["instance"] for tile in found["now"]]
    assert names == [*(f"web-{number:04}" for number in range(200, 300)), "web-0003"]
    ranks = [tile["rank"] for tile in found["now"]]
    assert ranks == [*range(200, 300), 403]
    assert [lane["lane"] for lane in found["lanes"]] == ["failed", "coming", "active", "coming"]


def test_a_bar_is_told_in_words_and_fills_its_width() -> None:
    """States of one hue are one part; their order is the same whatever the instances' is."""
    found = sizes.bar(["waiting", "failed", "serving", "serving"])
    assert found["words"] == "2 serving, 1 failed, 1 waiting"
    assert [(part["hue"], part["x"], part["width"]) for part in found["parts"]] == [
        ("ok", "0%", "50%"),
        ("warn", "50%", "0%"),
        ("active", "50%", "0%"),
        ("fail", "50%", "25%"),
        ("wait", "75%", "25%"),
    ]


@pytest.mark.parametrize(
    ("query", "words", "first", "links"),
    [
        ({}, "Page 1 of 3, 120 instances", "web-0119", (0, 2)),
        ({"page": "3"}, "Page 3 of 3, 120 instances", "web-0019", (2, 0)),
        ({"page": "99"}, "Page 3 of 3, 120 instances", "web-0019", (2, 0)),
        ({"page": "x"}, "Page 1 of 3, 120 instances", "web-0119", (0, 2)),
        ({"sort": "name"}, "Page 1 of 3, 120 instances", "web-0000", (0, 2)),
        ({"q": "WEB-011"}, "Page 1 of 1, 10 instances", "web-0119", (0, 0)),
        ({"q": "0007"}, "Page 1 of 1, 1 instance", "web-0007", (0, 0)),
        ({"state": "failed"}, "Page 1 of 1, 1 instance", "web-0007", (0, 0)),
    ],
)
def test_the_table_is_what_the_address_asks_for(
    query: Json, words: str, first: str, links: tuple[int, int]
) -> None:
    """Filtered, sorted, and a page that is not there is the nearest."""
    states = [
        (target(number), "failed" if number == 7 else "waiting") for number in range(119, -1, -1)
    ]
    found = sizes.table(states, "in_progress", query)
    assert found["words"] == words
    assert found["rows"][0]["instance"] == first
    assert (found["earlier"], found["later"]) == links


def test_a_page_of_the_table_has_fifty_rows() -> None:
    """The last one has the rest."""
    states = [(target(number), "waiting") for number in range(101)]
    counts = [
        len(sizes.table(states, "in_progress", {"page": str(page)})["rows"]) for page in (1, 2, 3)
    ]
    assert counts == [50, 50, 1]
