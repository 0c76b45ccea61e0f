"""What a snapshot looks like on a screen: glyphs, words, figures. Pure, and without HTML.

The pages draw the first view from this; static/js/states.js says the same for what comes after.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dashboard import stages
from dashboard.times import duration, moment
from rollouts.facts import Waiting
from rollouts.states import ACTIVE, IN_FLIGHT

Json = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """How a state is shown: never by its hue alone."""

    glyph: str
    word: str
    hue: str  # wait, active, ok, warn or fail


TILES: dict[str, Look] = {
    "waiting": Look("○", "waiting", "wait"),
    "untouched": Look("○", "untouched", "wait"),
    "draining": Look("⇣", "draining", "active"),
    "updating": Look("⟳", "updating", "active"),
    "checking": Look("◔", "checking", "active"),
    "serving": Look("✓", "serving", "ok"),
    "verified": Look("◎", "verified", "ok"),
    "failed": Look("✕", "failed", "fail"),
    "rolling_back": Look("↶", "rolling back", "warn"),
    "restored": Look("↺", "restored", "ok"),
    "held_out": Look("–", "held out", "fail"),
    "unknown": Look("?", "unknown", "wait"),
}
DEPLOYMENTS: dict[str, Look] = {
    "pending": Look("○", "waiting to start", "wait"),
    "in_progress": Look("▶", "deploying", "active"),
    "paused": Look("‖", "paused", "warn"),
    "rolling_back": Look("↶", "rolling back", "warn"),
    "completed": Look("✓", "completed", "ok"),
    "rolled_back": Look("↺", "rolled back", "warn"),
    "failed": Look("✕", "failed", "fail"),
    "cancelled": Look("■", "cancelled", "wait"),
}
# What the state of a deployment is called while a person has to say how it goes on.
ASKS = Look("!", "waiting for approval", "warn")
# Of the stops of a canary or of blue/green.
STOPS: dict[str, Look] = {
    "done": Look("✓", "done", "ok"),
    "now": Look("▶", "under way", "active"),
    "asks": ASKS,
    "paused": Look("‖", "paused", "warn"),
    "coming": Look("○", "to come", "wait"),
    "left": Look("–", "left out", "wait"),
}
WISHES = {
    "stop": "Stopping here",
    "roll_back": "Stopping and rolling back",
    "rollback": "Rolling back",
    "pause": "Pausing when this batch is done",
    "resume": "Resuming",
    "promote": "Promoting",
    "promote_all": "Promoting to the end",
}
STEPS = {"draining": "draining", "updating": "updating", "health_checking": "checking"}
PLAIN = {"pending": "waiting", "healthy": "serving", "rolled_back": "restored", **STEPS}
ACTIVE_VALUES = frozenset(status.value for status in ACTIVE)
IN_FLIGHT_VALUES = frozenset(status.value for status in IN_FLIGHT)

# The sparkline in its own units: each bar and a gap, the newest at the right.
BARS_WIDTH = 60
BAR_STEP, BAR_STEP_OF_MANY = 4, 2
BARS_HEIGHT = 16
BAR_LEAST = 4
LATENCY_FULL = 300.0  # milliseconds that fill a bar


def vocabulary() -> Json:
    """Return the looks as data, for the scripts."""
    return {
        "tiles": {key: asdict(look) for key, look in TILES.items()},
        "deployments": {key: asdict(look) for key, look in DEPLOYMENTS.items()},
        "asks": asdict(ASKS),
        "stops": {key: asdict(look) for key, look in STOPS.items()},
        "wishes": WISHES,
        "waiting": {one.value: [one.words(False), one.words(True)] for one in Waiting},
    }


def tile_state(target: Mapping[str, Any], deployment_status: str, traffic: bool = True) -> str:
    """Return which of TILES the target is, within a deployment of that status.

    `traffic` is whether who is healthy on the new version is given any.
    """
    status = target["status"]
    if status == "healthy" and not traffic:
        return "verified"
    over = deployment_status not in ACTIVE_VALUES
    if status == "failed":
        return "held_out" if over else "failed"
    if status == "pending" and (over or deployment_status == "rolling_back"):
        return "untouched"
    if status in IN_FLIGHT_VALUES and deployment_status == "rolling_back":
        return "rolling_back"
    return PLAIN.get(status, "unknown")


def runs(target: Mapping[str, Any], deployment_status: str) -> str:
    """Return the version that the instance runs, as far as it is known, in words."""
    old, new, status = target["old_version"] or "?", target["new_version"], target["status"]
    back = deployment_status == "rolling_back"
    if status == "updating":
        return f"{new if back and target['touched'] else old} → {old if back else new}"
    if status == "rolled_back" or not target["touched"] or (back and status == "health_checking"):
        return old
    return str(new)


def bars(checks: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Return the sparkline: a bar for each check, as high as it took, full if it was bad.

    No answer at all looks different from a bad one: it may be no more than a start.
    """
    drawn: list[Json] = []
    step = BAR_STEP if BAR_STEP * len(checks) <= BARS_WIDTH else BAR_STEP_OF_MANY
    first = BARS_WIDTH - step * len(checks)
    for number, check in enumerate(checks):
        good = well(check)
        share = min(1.0, (check["latency_ms"] or 0.0) / LATENCY_FULL) ** 0.5 if good else 1.0
        height = max(BAR_LEAST, round(share * BARS_HEIGHT))
        place = {"x": first + number * step, "y": BARS_HEIGHT - height}
        kind = "good" if good else "bad" if check["status"] else "none"
        drawn.append({**place, "width": step - 1, "height": height, "kind": kind})
    return drawn


def well(check: Mapping[str, Any]) -> bool:
    """Whether a check passed: a good status and nothing to complain of."""
    return not check["error"] and 200 <= (check["status"] or 0) < 300


def tile(
    target: Mapping[str, Any], deployment_status: str, now: datetime, traffic: bool = True
) -> Json:
    """Return what the tile of one target shows."""
    state = tile_state(target, deployment_status, traffic)
    since = moment(target["updated_at"])
    running = deployment_status in ACTIVE_VALUES and target["status"] != "pending"
    seconds = (now - since).total_seconds() if since else 0
    return {
        **target,
        **asdict(TILES[state]),
        "state": state,
        "detail": detail(target, state),
        "runs": runs(target, deployment_status),
        # There is room for the larger unit alone.
        "seconds": " ".join(duration(seconds).split()[:2]) if running else "",
        "spark": spark(target["health_checks"]),
    }


def spark(checks: Sequence[Mapping[str, Any]]) -> Json:
    """Return the sparkline as one path for each kind of bar, with how it was drawn from what."""
    paths = dict.fromkeys(("good", "bad", "none"), "")
    for one in bars(checks):
        paths[one["kind"]] += "M{x} {y}h{width}v{height}h-{width}z".format(**one)
    last = checks[-1]["at"] if checks else ""
    return {"drawn": f"{len(checks)} {last}", "paths": paths}


def detail(target: Mapping[str, Any], state: str) -> str:
    """Return what more there is to say: the step on the way back, the sessions still open."""
    if state == "verified":
        return "no traffic"
    step = STEPS.get(target["status"], "") if state == "rolling_back" else ""
    draining = target["status"] == "draining" and target["sessions"] is not None
    sessions = f"{target['sessions']} open" if draining else ""
    return ", ".join(part for part in (step, sessions) if part)


def lanes(snapshot: Mapping[str, Any], now: datetime) -> list[Json]:
    """Return the batches in the order of the plan, each with its tiles and its state."""
    batches: dict[int, list[Json]] = {}
    traffic = stages.takes_traffic(snapshot)
    zoned = (snapshot["policy"] or {}).get("by_zone")
    for target in snapshot["targets"]:
        drawn = tile(target, snapshot["status"], now, traffic)
        batches.setdefault(target["batch"], []).append(drawn)
    return [
        {
            "batch": number,
            "tiles": tiles,
            "zone": stages.zone_words(tiles[0]["zone"]) if zoned else "",
            **lane_state(tiles, snapshot["status"]),
            "before": stages.before_batch(snapshot["steps"], number),
        }
        for number, tiles in batches.items()
    ]


def across(targets: Iterable[Mapping[str, Any]]) -> int:
    """Return how many tiles wide a lane has to be, 3 for those that take a row each."""
    sizes: dict[int, int] = {}
    for target in targets:
        sizes[target["batch"]] = sizes.get(target["batch"], 0) + 1
    return min(3, max(sizes.values(), default=1))


def lane_state(tiles: Iterable[Mapping[str, Any]], deployment_status: str) -> Json:
    """Return how far a batch is, in a word."""
    statuses = [tile["status"] for tile in tiles]
    failed = statuses.count("failed")
    if any(status in IN_FLIGHT_VALUES for status in statuses):
        return {"lane": "active", "words": "under way"}
    if failed:
        return {"lane": "failed", "words": f"{failed} failed"}
    if all(status == "pending" for status in statuses):
        ahead = deployment_status in ACTIVE_VALUES - {"rolling_back"}
        return (
            {"lane": "coming", "words": "to come"}
            if ahead
            else {"lane": "left", "words": "untouched"}
        )
    if all(status == "healthy" for status in statuses):
        return {"lane": "done", "words": "done"}
    if all(status in {"rolled_back", "pending"} for status in statuses):
        return {"lane": "done", "words": "restored"}
    over = deployment_status not in ACTIVE_VALUES
    return {"lane": "left" if over else "active", "words": "partly done"}


def segments(progress: Mapping[str, int]) -> list[Json]:
    """Return the parts of the progress bar, in percent of all targets."""
    total = progress["total"] or 1
    touched = progress["healthy"] + progress["failed"] + progress["rolled_back"]
    parts = [
        ("ok", "✓", progress["healthy"]),
        ("warn", "↺", progress["rolled_back"]),
        ("fail", "✕", progress["failed"]),
        ("active", "⟳", max(0, progress["updated"] - touched)),
    ]
    drawn: list[Json] = []
    at = 0.0
    for hue, _glyph, count in parts:
        width = 100 * count / total
        drawn.append({"hue": hue, "x": f"{at:g}%", "width": f"{width:g}%"})
        at += width
    return drawn


def card(summary: Mapping[str, Any], now: datetime) -> Json:
    """Return what a deployment looks like in a list or in the head of its page."""
    look = look_of(summary)
    begun = moment(summary["started_at"]) or moment(summary["created_at"]) or now
    ended = moment(summary["completed_at"])
    took = ((ended or now) - begun).total_seconds()
    left = None if ended else seconds_left(summary, took)
    return {
        **summary,
        **asdict(look),
        "active": summary["status"] in ACTIVE_VALUES,
        "segments": segments(summary["progress"]),
        "counts": counts(summary),
        "done": done(summary["progress"]),
        "strategy_words": stages.strategy_words(summary),
        "elapsed": duration(took),
        "left": "" if left is None else f"about {duration(left)} left",
        "wish_words": WISHES.get(summary["wish"], "") if summary["wish"] else "",
        "waiting_words": waiting_words(summary),
    }


def look_of(summary: Mapping[str, Any]) -> Look:
    """Return how the state of a deployment looks, a person being asked for included."""
    if stages.asks_approval(summary):
        return ASKS
    return DEPLOYMENTS.get(summary["status"], Look("?", str(summary["status"]), "wait"))


def waiting_words(summary: Mapping[str, Any]) -> str:
    """Return what a deployment waits for that nobody drives; nothing where somebody does."""
    what = summary["waiting_for"]
    return Waiting(what).words(bool(summary["started_at"])) if what else ""


def done(progress: Mapping[str, int]) -> int:
    """Return how many instances have the new version; where none is changed, who is verified."""
    return max(progress["updated"], progress["healthy"])


def counts(summary: Mapping[str, Any]) -> str:
    """Return how far it is: "8/20 updated, 0 failed, batch 5 of 10".

    On the way back nobody counts as failed who failed on the way there: nothing is said of it then.
    """
    progress = summary["progress"]
    back = progress["rolled_back"] or summary["status"] in {"rolling_back", "rolled_back"}
    silent = back and not progress["failed"]
    failed = "" if silent else f", {progress['failed']} failed"
    if progress["healthy"] > progress["updated"]:
        return f"{progress['healthy']}/{progress['total']} verified{failed}"
    restored = f", {progress['rolled_back']} restored" if progress["rolled_back"] else ""
    return (
        f"{progress['updated']}/{progress['total']} updated{failed}{restored}, "
        f"batch {progress['batch']} of {progress['batches']}"
    )


def seconds_left(summary: Mapping[str, Any], took: float) -> float | None:
    """Return about how long it still takes at the pace so far; None while nobody can tell.

    Nobody can of what waits for the traffic or for a person on its way.
    """
    progress = summary["progress"]
    steady = summary["strategy"] == "rolling" and summary["status"] == "in_progress"
    if not steady or not progress["healthy"]:
        return None
    rest = progress["total"] - progress["healthy"] - progress["failed"]
    return float(took * rest / progress["healthy"])


def rail(snapshot: Mapping[str, Any], now: datetime) -> list[Json]:
    """Return the stops of a canary or of blue/green with their looks; none for rolling."""
    return [{**stop, **asdict(STOPS[stop["state"]])} for stop in stages.rail(snapshot, now)]
