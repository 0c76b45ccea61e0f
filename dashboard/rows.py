"""What the lists of services show in a row: looks, mixes and moments. Without HTML."""

from collections.abc import Mapping
from typing import Any

from dashboard import screens
from dashboard.times import moment

Json = dict[str, Any]


def service_row(service: Mapping[str, Any]) -> Json:
    """Return what the overview shows of a service."""
    last = service["last_deployment"]
    look = screens.DEPLOYMENTS.get(last["status"]) if last else None
    return {
        **service,
        "mix": mix(service["versions"]),
        "halves": halves(service),
        "last": {**last, "look": look, "moment": moment(last["created_at"])} if last else None,
        "until": moment(service["lock"]["until"]),
        "looked_moment": moment(service["looked_at"]),
    }


def mix(versions: Mapping[str, int]) -> list[Json]:
    """Return versions with how many instances run each, most first."""
    most_first = sorted(versions.items(), key=lambda pair: -pair[1])
    return [{"version": version or "?", "count": count} for version, count in most_first]


def halves(service: Mapping[str, Any]) -> list[Json]:
    """Return the two slots, the live one first; nothing where the service has not both."""
    slots, live = service["slots"], service["live_slot"]
    if len(slots) < 2:
        return []
    return [
        {
            "slot": slot,
            "live": slot == live,
            "idle": bool(live) and slot != live,
            "mix": mix(slots[slot]),
            "total": sum(slots[slot].values()),
            "words": " and ".join(version or "?" for version in slots[slot]),
        }
        for slot in sorted(slots, key=lambda slot: (slot != live, slot))
    ]
