"""What a canary or blue/green deployment is at, and what comes, in words. Pure, without HTML.

The pages draw the first view from this; static/js/stages.js says the same for what comes after.
`held` is a snapshot; functions that take a `summary` need no more than a deployment in a list has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dashboard.times import duration, moment

Json = dict[str, Any]
Held = Mapping[str, Any]

STRATEGIES = {"rolling": "rolling", "canary": "canary", "blue_green": "blue/green"}
MOVING = {"change", "pause", "shift"}
WAITS = {"bake", "approve"}
ENDING_WISHES = {"stop", "roll_back", "rollback"}
PROMOTING_WISHES = {"promote", "promote_all"}
OTHER_SLOT = {"blue": "green", "green": "blue"}


def percent(share: float) -> str:
    """Return a share in percent with one decimal at most: "5 %"."""
    return f"{math.floor(share * 10 + 0.5) / 10:g} %"


def plural(count: int, noun: str) -> str:
    """Return how many there are: "1 instance", "4 instances"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def capital(words: str) -> str:
    """Return `words` as the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def followed(held: Held) -> list[Json]:
    """Return the steps that are being followed: the plan, or the way back."""
    return list(held["steps"] if held["way_back"] is None else held["way_back"])


def step_now(held: Held) -> Json | None:
    """Return the step that is next or under way; None at the end."""
    steps = followed(held)
    return steps[held["step"]] if held["step"] < len(steps) else None


def slots(held: Held) -> tuple[str, str]:
    """Return the slot that is deployed to and the other one; "" where there are no slots."""
    mine = held["targets"][0]["slot"] if held["targets"] else ""
    in_slots = held["strategy"] == "blue_green"
    return (mine, OTHER_SLOT.get(mine, "")) if in_slots else ("", "")


def shares_set(summary: Held) -> Mapping[str, float]:
    """Return the shares of the traffic by version, as they are set by weights."""
    return summary["traffic"].get("shares") or {}


def strategy_words(summary: Held) -> str:
    """Return the strategy, and with what share of the traffic while it runs: "canary at 5 %"."""
    name = STRATEGIES.get(summary["strategy"], str(summary["strategy"]))
    moves = summary["status"] in {"in_progress", "paused"} and summary["strategy"] != "rolling"
    share = shares_set(summary).get(summary["version"], 0)
    same = summary["version"] == summary["previous_version"]
    if not moves or same:
        return name
    # As weights are whole numbers a share of 5 % may be set to 4.94 %.
    return f"{name} at {percent(100 * share if share < 0.01 else math.floor(100 * share + 0.5))}"


# --- the rail


@dataclass(frozen=True)
class Stop:
    """Some steps that are one to whoever watches; `first` is the number of the first one."""

    first: int
    steps: tuple[Json, ...]

    @property
    def end(self) -> int:
        """Return the number of the step that follows."""
        return self.first + len(self.steps)

    @property
    def names(self) -> list[str]:
        """Return the instances that are changed."""
        return [name for step in self.steps for name in step.get("targets", [])]


def stops(held: Held) -> list[Stop]:
    """Return the steps that are followed, grouped by what they are for."""
    steps = followed(held)
    wanted = {step.get("share") for step in (held["policy"] or {}).get("canary_steps", [])}
    back = held["way_back"] is not None
    starts = [
        number
        for number in range(len(steps))
        if number == 0 or not _joins(steps, number, back, wanted)
    ]
    ends = [*starts[1:], len(steps)]
    return [Stop(first, tuple(steps[first:end])) for first, end in zip(starts, ends, strict=True)]


def _joins(steps: Sequence[Json], number: int, back: bool, wanted: set[float]) -> bool:
    """Whether a step belongs to what the one before it is for."""
    step, before = steps[number], steps[number - 1]
    if back:
        return bool(step["kind"] == before["kind"] == "change")
    if before["kind"] == "prepare":
        return bool(step["kind"] == "shift" and step["share"] == 0)
    if before["kind"] == "shift" and not before["share"]:
        return number == 1  # a swap begins with it
    if not {step["kind"], before["kind"]} <= MOVING:
        return False
    if step["kind"] == "shift" and step["old"] and step["share"]:
        return False  # blue/green: the traffic moves once all are changed
    return before["kind"] != "shift" or not _reached(steps, number - 1, wanted)


def _reached(steps: Sequence[Json], number: int, wanted: set[float]) -> bool:
    """Whether the shift of that number leads to a share that was asked for, and is the first."""
    share = steps[number]["share"]
    earlier = [step["share"] for step in steps[:number] if step["kind"] == "shift"]
    return share > 0 and share not in earlier and (share in wanted or bool(steps[number]["old"]))


def label(held: Held, stop: Stop) -> str:
    """Return what a stop is for, in a few words."""
    step, (mine, other) = stop.steps[0], slots(held)
    match step["kind"]:
        case "prepare":
            return "prepare"
        case "bake" if step["keep"]:
            return f"keep {other} {duration(step['seconds'])}"
        case "bake":
            return f"bake {duration(step['seconds'])}"
        case "approve":
            return f"approve within {duration(step['timeout'])}" if step["timeout"] else "approve"
        case "retire":
            return f"retire {other}"
        case "restore":
            return "restore weights"
    if held["way_back"] is not None:
        return _label_back(held, stop, other)
    share = percent(shares_of(stop.steps)[-1])
    if not mine:
        return share
    if not stop.names:
        return f"{share} to {mine}"
    return f"update {mine}" if any(one.get("update") for one in stop.steps) else f"verify {mine}"


def _label_back(held: Held, stop: Stop, other: str) -> str:
    step = stop.steps[0]
    if step["kind"] == "change":
        return f"bring back {plural(len(stop.names), 'instance')}"
    if step["share"]:
        return f"{percent(step['share'])} as before"
    return f"all to {other or held['previous_version'] or 'the old version'}"


def shares_of(steps: Sequence[Json]) -> list[float]:
    """Return the shares that steps set, in percent."""
    return [step["share"] or 0 for step in steps if "share" in step] or [0]


def rail(held: Held, now: datetime) -> list[Json]:
    """Return the stops of a canary or of blue/green, each with its state; none for rolling."""
    if held["strategy"] == "rolling":
        return []
    return [
        {
            "label": label(held, stop),
            "detail": _detail(held, stop, state, now),
            "state": state,
            "current": state in {"now", "asks", "paused"},
        }
        for stop in stops(held)
        for state in [_state(held, stop)]
    ]


def _state(held: Held, stop: Stop) -> str:
    """Return which of the looks of a stop it has: done, now, asks, paused, coming or left."""
    if stop.end <= held["step"]:
        return "done"
    status = held["status"]
    if held["completed_at"]:
        return "left"
    if stop.first > held["step"] or status == "pending":
        return "coming"
    if status == "paused":
        return "paused"
    return "asks" if asks_approval(held) else "now"


def course(held: Held) -> list[Json]:
    """Return the stops of the plan for the scripts, which know how to show them and not how to
    form and name them.
    """
    if held["strategy"] == "rolling":
        return []
    plan = {**held, "way_back": None}
    return [
        {
            "first": stop.first,
            "end": stop.end,
            "kind": stop.steps[0]["kind"],
            "label": label(plan, stop),
            "count": len(stop.names),
        }
        for stop in stops(plan)
    ]


def _detail(held: Held, stop: Stop, state: str, now: datetime) -> str:
    """Return how long the wait under way still is, or how many instances are changed."""
    until = moment(held["waiting_until"])
    if stop.steps[0]["kind"] in WAITS:
        if state not in {"now", "asks"} or until is None:
            return ""
        left = (until - now).total_seconds()
        if left > 0:
            return f"{duration(left)} left"
        lacking = (held["analysis"] or {}).get("verdict") == "too_little"
        return "waits for more traffic" if lacking else "its time is over"
    if held["way_back"] is not None or stop.steps[0]["kind"] not in MOVING:
        return ""
    if held["strategy"] == "canary" and not stop.names:
        return "no more instances"
    return plural(len(stop.names), "instance") if stop.names else ""


def planned(
    strategy: str, steps: Sequence[Json], canary_steps: Sequence[Json], slot: str
) -> list[Json]:
    """Return what a plan will do, in words: each stop with its instances and the waits after it."""
    held = {
        "strategy": strategy,
        "steps": steps,
        "way_back": None,
        "policy": {"canary_steps": canary_steps},
        "targets": [{"slot": slot}],
    }
    found: list[Json] = []
    reached = 0
    for stop in stops(held):
        kind = stop.steps[0]["kind"]
        if kind in WAITS and found:
            found[-1]["then"].append(label(held, stop))
        elif kind not in {"prepare", "restore"}:
            reached += len(stop.names)
            row = {"label": label(held, stop), "names": stop.names, "reached": reached, "then": []}
            found.append(row)
    return found


def zone_words(zone: str) -> str:
    """Return which zone a batch is in, where zones are kept apart."""
    return f"zone {zone}" if zone else "without a zone"


def before_batch(steps: Sequence[Json], batch: int) -> str:
    """Return what is waited for before a batch of the plan begins: "after a pause of 10 s"."""
    waits: list[str] = []
    for step in steps:
        match step["kind"]:
            case "pause":
                waits.append(f"a pause of {duration(step['seconds'])}")
            case "bake":
                waits.append(f"a bake of {duration(step['seconds'])}")
            case "approve":
                waits.append("approval")
            case "change" if step["batch"] == batch:
                return f"after {' and '.join(waits)}" if waits else ""
            case "change":
                waits = []
    return ""


# --- the traffic


def given(held: Held) -> float | None:
    """Return the share that the new side was given last, in percent; None where none holds."""
    for step in reversed(followed(held)[: held["step"]]):
        if step["kind"] == "restore":
            return None
        if step["kind"] == "shift":
            return float(step["share"])
    if held["way_back"] is None:
        return None
    return 100 * float(shares_set(held).get(held["version"], 0))


def share_words(held: Held) -> str:
    """Return the share that the new side was given last, in words."""
    return percent(given(held) or 0)


def takes_traffic(held: Held) -> bool:
    """Whether a healthy instance on the new version takes traffic, as far as weights were set."""
    share = None if held["strategy"] == "rolling" else given(held)
    if share is None or share > 0:
        return True
    # An instance of a canary enters with its part of the share that comes next.
    begun = held["steps"][: held["step"] + 1] if held["way_back"] is None else []
    return any(step["kind"] == "change" and step["share"] for step in begun)


def asks_approval(summary: Held) -> bool:
    """Whether it goes on only when a person promotes it."""
    return (
        summary["status"] == "in_progress"
        and summary["step"] in summary["approvals"]
        and summary["wish"] not in ENDING_WISHES | PROMOTING_WISHES
    )


def decision(held: Held, now: datetime) -> str:
    """Return what a person has to decide, in a sentence or two; "" where nothing."""
    where = f"{held['version']} has {share_words(held)} of the traffic."
    if asks_approval(held):
        until = moment(held["waiting_until"])
        left = duration((until - now).total_seconds()) if until else ""
        back = f" Without an answer it goes back in {left}." if left else ""
        return f"Approval is needed: {where} Promote it, or stop.{back}"
    if _lacks_traffic(held, now):
        lacking = held["analysis"]["words"]
        return f"The bake is over without a verdict: {lacking}. {where} Promote it, stop, or wait."
    return ""


def _lacks_traffic(held: Held, now: datetime) -> bool:
    """Whether a bake is over in which too few requests came, and a person is to be asked then."""
    step, until = step_now(held), moment(held["waiting_until"])
    asked = (held["policy"] or {}).get("analysis", {}).get("too_little") == "ask"
    baked = step is not None and step["kind"] == "bake" and not step["keep"]
    verdict = (held["analysis"] or {}).get("verdict")
    free = held["status"] == "in_progress" and not held["wish"]
    return (
        asked and baked and free and verdict == "too_little" and until is not None and until <= now
    )
