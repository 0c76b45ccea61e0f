"""A service's instances as a list that can be filtered and paged. Pure, and without HTML.

What is chosen stands in the address, so that a list can be reloaded, kept and shared.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dashboard.paging import paged, query
from dashboard.screens import IN_FLIGHT_VALUES, STEPS, TILES, Look
from dashboard.times import moment

Json = dict[str, Any]
Row = Mapping[str, Any]

# Without scripts too, fewer are seen at a glance.
FILTERED_ABOVE = 12
VERSIONS_IN_BAR = 6
KEYS = ("slot", "zone", "version")
FILTERS = ("state", *KEYS, "q")
STATES: dict[str, Look] = {
    "in": Look("✓", "in rotation", "ok"),
    "out": Look("○", "out of rotation", "wait"),
    "changing": Look("⟳", "under way", "active"),
    "failed": TILES["failed"],
    "held": Look("–", "held out", "fail"),
    "drift": Look("≠", "drifting", "warn"),
    "inactive": Look("·", "not active", "wait"),
    "unseen": Look("?", "not looked at", "wait"),
}


def states_of(instance: Row, live_slot: str) -> list[str]:
    """Return which of STATES an instance is in, what matters most first."""
    if not instance["active"]:
        return ["inactive"]
    if instance["part"]:
        return [_state_of_part(instance, live_slot)]
    found: list[str] = []
    if instance["held_out"]:
        found.append("held")
    if instance["drift"]:
        found.append("drift")
    seen = instance["seen"]
    if seen and seen["in_rotation"]:
        found.append("in")
    elif seen and seen["in_rotation"] is False and not instance["held_out"]:
        found.append("out")
    return found or ["unseen"]


def _state_of_part(instance: Row, live_slot: str) -> str:
    """Return which of STATES an instance is in that a running deployment has begun with."""
    status = instance["part"]["status"]
    if status in IN_FLIGHT_VALUES:
        return "changing"
    if status == "failed":
        return "failed"
    # What is verified in the other slot waits for the traffic.
    return "in" if live_slot in {"", instance["slot"]} else "out"


def row(instance: Row, service: Row) -> Json:
    """Return what the list shows of an instance."""
    states = states_of(instance, service["live_slot"])
    held, seen, part = instance["held_out"], instance["seen"], instance["part"]
    since = part["since"] if part else seen.get("rotation_since") if seen and not held else None
    return {
        **instance,
        "states": states,
        "looks": [asdict(_look(one, part)) for one in states],
        "mixed": _differs(instance, service),
        "version_moment": moment(instance["version_at"]),
        "held_moment": moment(held["since"]) if held else None,
        "since": since,
        "since_moment": moment(since),
    }


def _look(state: str, part: Row | None) -> Look:
    """Return the look of a state; of what is under way that of its step."""
    return TILES[STEPS[part["status"]]] if part and state == "changing" else STATES[state]


def _differs(instance: Row, service: Row) -> bool:
    """Whether the instance runs something else than most do, of its slot where it has one."""
    versions = service["slots"].get(instance["slot"]) or service["versions"]
    most = max(versions, key=lambda version: versions[version], default="")
    return bool(instance["active"]) and instance["version"] != most


def listed(rows: Sequence[Json], given: Mapping[str, str]) -> Json:
    """Return the page of `rows` that `given` asks for, and what else may be asked for."""
    chosen = {key: given.get(key, "") for key in FILTERS}
    fitting = [one for one in rows if _fits(one, chosen)]
    counted = Counter(state for one in rows for state in one["states"])
    found = paged(fitting, given)
    return {
        **found,
        "chosen": chosen,
        "filtered": any(chosen.values()),
        "offered": len(rows) > FILTERED_ABOVE or any(chosen.values()),
        "all": len(rows),
        "states": _states(counted, given, chosen["state"]),
        "everything": {"url": query(given, state="", page=""), "chosen": not chosen["state"]},
        "choices": [one for key in KEYS if (one := _choice(key, rows, chosen[key]))],
        "columns": {key: any(one[key] for one in rows) for key in ("slot", "zone")},
        "others": {key: text for key, text in given.items() if key not in (*FILTERS, "page")},
        "cleared": query({key: text for key, text in given.items() if key not in FILTERS}, page=""),
    }


def _fits(one: Row, chosen: Mapping[str, str]) -> bool:
    wanted = chosen["q"].lower()
    return (
        (not chosen["state"] or chosen["state"] in one["states"])
        and all(not chosen[key] or one[key] == chosen[key] for key in KEYS)
        and (wanted in one["name"].lower() or wanted in one["address"].lower())
    )


def _states(counted: Mapping[str, int], given: Mapping[str, str], chosen: str) -> list[Json]:
    return [
        {
            **asdict(look),
            "state": state,
            "count": counted.get(state, 0),
            "chosen": state == chosen,
            "url": query(given, state="" if state == chosen else state, page=""),
        }
        for state, look in STATES.items()
        if counted.get(state) or state == chosen
    ]


def _choice(key: str, rows: Iterable[Row], chosen: str) -> Json | None:
    """Return what can be chosen of a column; None where all are alike."""
    values = sorted({str(one[key]) for one in rows if one[key]} | {chosen} - {""})
    alike = len({one[key] for one in rows}) < 2 and not chosen
    return None if alike else {"key": key, "values": values, "chosen": chosen}


def version_bar(versions: Mapping[str, int]) -> list[Json]:
    """Return the parts of a bar of versions, most first; what most run is the usual one."""
    total = sum(versions.values()) or 1
    ordered = sorted(versions.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [(version or "?", count) for version, count in ordered[:VERSIONS_IN_BAR]]
    if rest := ordered[VERSIONS_IN_BAR:]:
        parts.append((f"{len(rest)} more", sum(count for _, count in rest)))
    drawn: list[Json] = []
    at = 0.0
    for number, (version, count) in enumerate(parts):
        width = 100 * count / total
        hue = "wait" if version == "?" else "ok" if number == 0 else "warn"
        part = {"version": version, "count": count, "hue": hue}
        drawn.append({**part, "x": f"{at:.3f}%", "width": f"{width:.3f}%"})
        at += width
    return drawn
