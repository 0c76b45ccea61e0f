"""What a deployment's page shows of the traffic: its split, both sides' figures, the evidence.

Pure, without HTML. The pages draw the first view from this; static/js/traffic.js says the same for
what comes after.
"""

import math
from collections.abc import Mapping
from typing import Any

from dashboard import stages

Json = dict[str, Any]
Held = Mapping[str, Any]

TOO_LITTLE = "Too little traffic for a verdict"
VAGUE = 100.0  # ms; what is less certain than that, and than itself, is no time
VERDICTS = {
    "against": {"glyph": "✕", "hue": "fail"},
    "fine": {"glyph": "✓", "hue": "ok"},
    "too_little": {"glyph": "○", "hue": "wait"},
    "off": {"glyph": "–", "hue": "wait"},
}


def split(held: Held) -> list[Json]:
    """Return the bars of the traffic by version: as set by weights, and as observed since then.

    What was observed in a rolling deployment is of all its shares so far, and not comparable.
    """
    traffic = held["traffic"]
    exact = held["strategy"] != "rolling"
    bars = [{"name": "set", "parts": _parts(stages.shares_set(held), held["version"], exact)}]
    if exact and traffic.get("observed"):
        observed = _parts(traffic["observed"], held["version"], exact)
        bars.append({"name": "observed", "parts": observed})
    return bars


def _parts(shares: Mapping[str, float], version: str, exact: bool) -> list[Json]:
    """Return the parts of a bar, the new version last; positions in percent."""
    drawn: list[Json] = []
    at = 0.0
    for name in sorted(shares, key=lambda one: (one == version, one)):
        width = 100 * shares[name]
        drawn.append(
            {
                "version": name,
                "new": name == version,
                "x": f"{at:g}%",
                "width": f"{width:g}%",
                "percent": rounded(width, 1 if exact else 0) + " %",
            }
        )
        at += width
    return drawn


def rounded(value: float, digits: int) -> str:
    """Return `value` with so many decimals, a half rounded up."""
    scale = 10**digits
    return f"{math.floor(value * scale + 0.5) / scale:.{digits}f}"


def split_words(held: Held) -> list[Json]:
    """Return each version with its shares in words: "set 5.0 %, observed 4.8 %"."""
    bars = split(held)
    percents = [{part["version"]: part["percent"] for part in bar["parts"]} for bar in bars]
    parts = {part["version"]: part for bar in reversed(bars) for part in bar["parts"]}
    words = []
    for version in sorted(parts, key=lambda one: (one == held["version"], one)):
        told = [percent.get(version, "0.0 %") for percent in percents]
        said = f"set {told[0]}, observed {told[1]}" if len(told) > 1 else told[0]
        words.append({"version": version, "new": parts[version]["new"], "words": said})
    return words


def rate(side: Mapping[str, Any]) -> str:
    """Return a side's errors as a part of its answers: "3 (0.06 %)"."""
    errors, answers = side["errors"], side["answers"]
    share = 100 * errors / answers if answers else 0.0
    digits = 0 if share >= 10 or not share else 1 if share >= 1 else 2
    return f"{errors:,} ({rounded(share, digits)} %)"


def sides(held: Held) -> list[Json]:
    """Return the rows of both sides' figures; none where nothing is counted."""
    found = held["analysis"]
    if not found:
        return []
    versions = {"old": held["previous_version"] or "old versions", "new": held["version"]}
    return [
        {
            "side": side,
            "version": versions[side],
            "answers": f"{found[side]['answers']:,}",
            "errors": rate(found[side]),
            "time": _time(found[side]),
        }
        for side in ("old", "new")
    ]


def _time(side: Mapping[str, Any]) -> str:
    mean, error = side["response_ms"], side["response_pm"] or 0
    if mean is None or error > max(VAGUE, mean):
        return "–"
    return f"{rounded(mean, 1)} ± {rounded(error, 1)}"


def evidence(held: Held) -> Json | None:
    """Return how much speaks against the new version, of what is needed; None without any."""
    found = held["analysis"]
    if not found:
        return None
    value, needed = found["evidence"], found["against_at"]
    # Evidence multiplies: 10 is half the way to 100.
    part = math.log(value) / math.log(needed) if value > 1 else 0.0
    return {
        "words": f"evidence {figure(value)} of {figure(needed)} against {held['version']}",
        "width": f"{rounded(100 * min(1.0, part), 1)}%",
        "verdict": found["verdict"],
        "verdict_words": _verdict_words(held),
        "unseen": found["unseen"],
        **VERDICTS[found["verdict"]],
    }


def _verdict_words(held: Held) -> str:
    found = held["analysis"]
    if found["verdict"] != "too_little":
        return str(found["words"])
    return TOO_LITTLE if held["completed_at"] else f"{TOO_LITTLE}: {found['words']}"


def figure(value: float) -> str:
    """Return evidence with as many digits as say something."""
    if value >= 10:
        return f"{math.floor(value + 0.5):,}"
    return rounded(value, 1 if value >= 1 else 2)


def errors_so_far(held: Held) -> list[str]:
    """Return both sides' error rates in a sentence each, the new side's first."""
    found = held["analysis"]
    if not found or not (found["new"]["answers"] or found["old"]["answers"]):
        return ["No traffic was counted yet."]
    return [
        f"{row['version']}: {row['answers']} answered, {row['errors']} with errors."
        for row in reversed(sides(held))
    ]
