"""How a deployment is drawn by how many instances it has. Pure, and without HTML.

Up to 60 there is a full tile for each, up to 300 its glyph and its name. Of more, each batch is a
bar, tiles are of the batches under way and of those that have failed, and all stand in a table.
static/js/tiles.js and static/js/table.js say the same for what comes after the first view.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from operator import itemgetter
from typing import Any

from django.core.paginator import Paginator

from dashboard import screens, stages

Json = dict[str, Any]

FULL, SMALL = 60, 300  # the most instances that are shown so
ROWS = 50  # of a page of the table
# Where not all have a tile, these have one though their batch is not under way.
FAILED = ("failed", "held_out")
# The states in the order of a bar, those of one hue side by side.
IN_BAR = (
    *("serving", "verified", "restored", "rolling_back", "checking", "updating", "draining"),
    *("failed", "held_out", "waiting", "untouched", "unknown"),
)
HUES = ("ok", "warn", "active", "fail", "wait")
SORTS = {"batch": "by batch", "name": "by name"}


def size(total: int) -> str:
    """Return how so many instances are drawn: "full", "small" or "wide"."""
    return "full" if total <= FULL else "small" if total <= SMALL else "wide"


def vocabulary() -> Json:
    """Return what the scripts need of this."""
    return {"failed": FAILED, "bar": IN_BAR, "hues": HUES, "rows": ROWS}


def fleet(snapshot: Mapping[str, Any], query: Mapping[str, str], now: datetime) -> Json:
    """Return what shows all instances of a deployment, in the size that fits."""
    traffic = stages.takes_traffic(snapshot)
    drawn = size(len(snapshot["targets"]))
    if drawn != "wide":
        return {"size": drawn, "lanes": screens.lanes(snapshot, now)}
    status = snapshot["status"]
    states = [(one, screens.tile_state(one, status, traffic)) for one in snapshot["targets"]]
    lanes = _lanes(snapshot, states)
    active = {lane["batch"] for lane in lanes if lane["lane"] == "active"}
    # Those of the batches under way keep their places until all of them are done.
    shown = [
        (place if target["batch"] in active else place + len(states), target)
        for place, (target, state) in enumerate(states)
        if target["batch"] in active or state in FAILED
    ]
    return {
        "size": drawn,
        "lanes": lanes,
        "now": [
            {**screens.tile(target, status, now, traffic), "rank": rank}
            for rank, target in sorted(shown, key=itemgetter(0))
        ],
        "table": table(states, status, query),
    }


def _lanes(snapshot: Mapping[str, Any], states: Iterable[tuple[Json, str]]) -> list[Json]:
    members: dict[int, list[tuple[Json, str]]] = {}
    for target, state in states:
        members.setdefault(target["batch"], []).append((target, state))
    zoned = (snapshot["policy"] or {}).get("by_zone")
    return [
        {
            "batch": number,
            "zone": stages.zone_words(mine[0][0]["zone"]) if zoned else "",
            **screens.lane_state((target for target, _ in mine), snapshot["status"]),
            "before": stages.before_batch(snapshot["steps"], number),
            "bar": bar(state for _, state in mine),
        }
        for number, mine in members.items()
    ]


def bar(states: Iterable[str]) -> Json:
    """Return a batch as a bar: "40 serving, 2 failed", and the parts of each hue in percent."""
    counts = Counter(states)
    total = counts.total() or 1
    parts: list[Json] = []
    at = 0.0
    for hue in HUES:
        found = sum(counts[state] for state in IN_BAR if screens.TILES[state].hue == hue)
        width = 100 * found / total
        parts.append({"hue": hue, "x": f"{at:g}%", "width": f"{width:g}%"})
        at += width
    told = (f"{counts[state]} {screens.TILES[state].word}" for state in IN_BAR if counts[state])
    return {"words": ", ".join(told), "parts": parts}


def table(states: Iterable[tuple[Json, str]], status: str, query: Mapping[str, str]) -> Json:
    """Return a page of all instances, as the address asks: `q`, `state`, `sort` and `page`."""
    wanted, asked, sort = query.get("q", ""), query.get("state", ""), query.get("sort", "")
    found = [
        (target, state)
        for target, state in states
        if wanted.lower() in target["instance"].lower() and asked in {"", state}
    ]
    if sort == "name":
        found.sort(key=lambda one: one[0]["instance"])
    page = Paginator(found, ROWS).get_page(query.get("page") or 1)
    words = f"Page {page.number} of {page.paginator.num_pages}, "
    return {
        "q": wanted,
        "state": asked,
        "sort": sort,
        "states": [(state, screens.TILES[state].word) for state in IN_BAR],
        "sorts": SORTS.items(),
        "words": words + stages.plural(len(found), "instance"),
        "earlier": page.number - 1,
        "later": page.number + 1 if page.has_next() else 0,
        "rows": [row(*one, status) for one in page],
    }


def row(target: Json, state: str, status: str) -> Json:
    """Return what the table shows of one instance."""
    return {
        **{key: target[key] for key in ("instance", "address", "batch")},
        **asdict(screens.TILES[state]),
        "state": state,
        "runs": screens.runs(target, status),
    }
