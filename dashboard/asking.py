"""What a person may ask of a deployment as it is, and what would come of it, in words. Pure.

The words stand in dialogs, which the server alone draws; what is offered at all is told by
static/js/stages.js too.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

from dashboard import traffic
from dashboard.stages import (
    ENDING_WISHES,
    PROMOTING_WISHES,
    WAITS,
    capital,
    given,
    percent,
    plural,
    share_words,
    shares_of,
    slots,
    step_now,
    zone_words,
)
from dashboard.times import duration, moment
from rollouts.states import ACTIVE, DeploymentStatus

Json = dict[str, Any]
Held = Mapping[str, Any]

STOPPABLE = frozenset(status.value for status in ACTIVE - {DeploymentStatus.ROLLING_BACK})


def offers(held: Held, now: datetime) -> Json:
    """Return what may be asked, and the words of the dialogs that ask."""
    return {
        "may_pause": may_pause(held),
        "promotion": promotion(held),
        "shift_back": shift_back(held),
        "stop": stopping(held, now),
        "rates": traffic.errors_so_far(held),
    }


def opened(held: Held, offered: Json, wanted: Container[str]) -> str:
    """Return the dialog that is wanted; "" where none is, or where it would ask for nothing."""
    possible = {
        "stop": held["status"] in STOPPABLE,
        "promote": bool(offered["promotion"]),
        "back": bool(offered["shift_back"]),
    }
    return next((name for name, able in possible.items() if able and name in wanted), "")


def promotion(held: Held) -> Json | None:
    """Return what a promotion would do, in words; None where nothing is waited for.

    `end` is the word of the way to the end, "" where that is the same as the next stop.
    """
    step = step_now(held)
    kept = step is not None and bool(step.get("keep"))
    free = {"", "promote_all"} if kept else {""}
    if step is None or step["kind"] not in WAITS or held["way_back"] is not None:
        return None
    if held["status"] != "in_progress" or held["wish"] not in free:
        return None
    if kept:
        return _letting_go(held)
    coming = held["steps"][held["step"] + 1 :]
    stretch = list(takewhile(lambda one: one["kind"] not in WAITS, coming))
    further = any(_asks_more(one) for one in coming[len(stretch) :])
    now = given(held) or 0
    share = max(now, *shares_of(stretch))
    if held["strategy"] == "rolling":
        words = _next_zone(held, stretch)
    elif share <= now:
        words = _shortened(held, step, coming[len(stretch) :])
    else:
        words = {
            "title": f"Promote {held['version']}?",
            "facts": _moved(held, now, share, stretch),
            "next": f"Promote to {percent(share)}",
        }
    end = _moved(held, now, 100, coming) if further else ""
    word = "Promote to the end" if further else ""
    return {"open": "Promote…", **words, "end": word, "end_facts": end}


def _next_zone(held: Held, stretch: Sequence[Json]) -> Json:
    """Return the words where a bake between two zones is cut short."""
    coming = {name for step in stretch for name in step.get("targets", [])}
    zones = [one["zone"] for one in held["targets"] if one["instance"] in coming]
    where = zone_words(zones[0]) if zones else "the rest"
    what = plural(len(coming), "instance")
    facts = f"{held['version']} is watched no longer; {what} ({where}) come next."
    words = {"open": "End the bake…", "title": "End the bake?"}
    return {**words, "facts": facts, "next": "Go on"}


def _asks_more(step: Json) -> bool:
    return step["kind"] in WAITS and not step.get("keep")


def _moved(held: Held, now: float, share: float, steps: Sequence[Json]) -> str:
    """Return what a promotion moves: "From 5 % to 25 %: 4 more instances get v42."."""
    mine, _ = slots(held)
    count = sum(len(step.get("targets", [])) for step in steps)
    version = held["version"]
    if held["strategy"] == "rolling":
        return f"Without a bake between: {plural(count, 'more instance')} get {version}."
    course = f"From {percent(now)} to {percent(share)}"
    if mine:
        return f"{course} of the traffic for {version} on {mine}; no instance is changed."
    if count:
        what = f"{count} more {'instance gets' if count == 1 else 'instances get'} {version}"
    else:
        what = f"no more instances get {version}, those that run it get more traffic"
    return f"{course}: {what}."


def _shortened(held: Held, step: Json, rest: Sequence[Json]) -> Json:
    """Return the words where a promotion moves no traffic by itself."""
    word = "End the bake" if step["kind"] == "bake" else "Approve"
    then = {"approve": "then it waits for approval", "bake": "then a bake begins"}
    after = then[rest[0]["kind"]] if rest else "then the deployment ends"
    facts = f"{held['version']} keeps its {share_words(held)} of the traffic; {after}."
    return {"title": f"{word} of {held['version']}?", "facts": facts, "next": word}


def _letting_go(held: Held) -> Json:
    mine, other = slots(held)
    retired = any(step["kind"] == "retire" for step in held["steps"])
    after = "is taken out of rotation" if retired else "stays as it is, without traffic"
    facts = (
        f"The deployment ends at once, with all traffic on {mine}; {other} {after}. "
        "Only a swap of the slots, or another deployment, leads back from there."
    )
    title = f"Keep {other} no longer?"
    word = f"Let {other} go"
    words = {"open": f"{word}…", "title": title, "facts": facts, "next": word}
    return {**words, "end": "", "end_facts": ""}


def may_pause(held: Held) -> bool:
    """Whether it can be paused, and was not asked to be."""
    ready = held["status"] in {"pending", "in_progress"}
    return ready and held["wish"] in {"", *PROMOTING_WISHES}


def shift_back(held: Held) -> str:
    """Return what shifting back would do; "" where no traffic was shifted to another slot."""
    mine, other = slots(held)
    begun = held["steps"][: held["step"] + 1] if held["way_back"] is None else []
    shifted = any(step["kind"] == "shift" and step["old"] and step["share"] for step in begun)
    open_to_it = held["status"] in {"in_progress", "paused"} and held["wish"] not in ENDING_WISHES
    if not (mine and shifted and open_to_it):
        return ""
    there = " and ".join(sorted({one["old_version"] or "?" for one in held["targets"]}))
    changed = any(step.get("update") for step in held["steps"])
    after = f"; {mine} is then brought back to {there} off traffic" if changed else ""
    return f"All traffic goes back to {held['previous_version']} on {other} at once{after}."


def stopping(held: Held, now: datetime) -> Json:
    """Return what each way of stopping leads to: facts, `here`, `back` and the word for it."""
    version, progress = held["version"], held["progress"]
    updated, total = progress["updated"], progress["total"]
    given_to = (
        f"{updated} of {total} instances were given {version} so far, {total - updated} were not."
        if updated
        else f"No instance was given {version} yet."
    )
    if not any(step.get("update") for step in held["steps"]):
        given_to = "It changes no instance."
    safe = "What is under way is brought to a safe end first; no request is dropped."
    target = held["previous_version"] or "their old versions"
    canary = held["strategy"] == "canary"
    return {
        "facts": f"{given_to} {safe}",
        "here": _stopping_here(held),
        "word": f"Abort canary, back to {target}" if canary else f"Roll back to {target}",
        "back": f"{_going_back(held)}{_going_back_takes(held, now)}",
    }


def _stopping_here(held: Held) -> str:
    mine, other = slots(held)
    updated, total = held["progress"]["updated"], held["progress"]["total"]
    if mine:
        has = share_words(held)
        return f"The traffic stays as it is, {has} of it on {mine}; {other} is left alone."
    mixed = 0 < updated < total
    parts = held["strategy"] == "canary" and mixed
    share = f", with {share_words(held)} of the traffic" if parts else ""
    fleet = ": a mixed fleet" if mixed else ""
    return f"{updated} of {total} stay on {held['version']}{share}{fleet}."


def _going_back(held: Held) -> str:
    mine, _ = slots(held)
    plain = "All go back to the version that they had, as carefully as they came."
    if mine:
        return shift_back(held) or f"{capital(mine)} goes back to what it ran, off traffic."
    if held["strategy"] != "canary":
        return plain
    progress = held["progress"]
    if 2 * (progress["total"] - progress["healthy"] - progress["failed"]) >= progress["total"]:
        return "Its share goes to 0 first; then the instances that have it go back, off traffic."
    return f"Too few are left on the old version to take all at once. {plain}"


def _going_back_takes(held: Held, now: datetime) -> str:
    """Return about how long the way back takes, at the pace so far; "" while nobody can tell."""
    begun, progress = moment(held["started_at"]), held["progress"]
    if held["strategy"] != "rolling" or begun is None or not progress["healthy"]:
        return ""
    pace = (now - begun).total_seconds() / progress["healthy"]
    return f" About {duration(pace * progress['updated'])}."
