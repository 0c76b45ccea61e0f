"""A plan in words and as a picture: who, when, how many serve meanwhile, and the way back. Pure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard import stages
from dashboard.times import duration
from rollouts.actions import Draft
from rollouts.facts import Approve, Bake, Change, Pause, Step
from rollouts.planning import names, steps_to_json
from rollouts.strategies import names_of

Json = dict[str, Any]

BLOCKS = 60  # batches that are drawn one by one; of more several are one block
LISTED = 20  # batches that are listed; of more the first and the last ones
LISTED_FIRST, LISTED_LAST = 12, 3
NAMED = 8  # instances of a batch that are named
LEAST = 0.008  # part of the width that a block has at least, however short it is
APPROVAL = 0.03  # part of the width that stands for what a person takes
COUNTS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Block:
    """A stretch of the plan; `seconds` is None where a person decides."""

    kind: str  # change, pause, bake, keep or approve
    seconds: float | None
    words: str


def expected(draft: Draft) -> str:
    """Return about how long it takes, no more precisely than anybody can know."""
    seconds = draft.expected_seconds
    grain = 60 if seconds >= 600 else 15 if seconds >= 60 else 1
    return f"about {duration(round(seconds / grain) * grain)}"


def gist(draft: Draft) -> str:
    """Return the plan in a line, for where it is not in sight."""
    count = len(draft.plan.batches)
    return (
        f"{count} {'batch' if count == 1 else 'batches'}, {draft.least_in_service} in rotation at "
        f"least, {expected(draft)}."
    )


def measured(draft: Draft) -> str:
    """Return what the expected time is known from."""
    if not draft.measured:
        return "a guess: no deployment was measured yet"
    if draft.measured == 1:
        return "as the last one took"
    return f"median of the last {COUNTS[min(5, draft.measured)]}"


def way_back(draft: Draft) -> str:
    """Return where a failure leads back to, and from how many failures on."""
    policy, total = draft.policy, draft.plan.total
    if not policy.auto_rollback:
        return "switched off: a bad version stays where it failed"
    if policy.strategy == "blue_green":
        other = stages.OTHER_SLOT[draft.plan.batches[0][0].instance.slot]
        kept = f"; {other} stays warm for {duration(policy.keep_old)}" if policy.keep_old else ""
        return f"all traffic stays on or returns to {other} at the first failure{kept}"
    judged = policy.strategy == "canary" and policy.judging.enabled
    verdict = ", or when the traffic speaks against it" if judged else ""
    return f"back to {_old_versions(draft)} {_failures(draft, total)}{verdict}"


def _old_versions(draft: Draft) -> str:
    known = Counter(one.version for batch in draft.plan.batches for one in batch if one.version)
    if len(known) == 1:
        return next(iter(known))
    most_first = [version for version, _ in known.most_common()]
    return f"the old versions ({names(most_first, 3)})" if known else "the old versions"


def _failures(draft: Draft, total: int) -> str:
    """Return how many failures it takes.

    The share counts among those updated so far, so that a first one weighs most at the beginning;
    and whoever is held out takes the place of one that may be out.
    """
    threshold = draft.policy.rollback_threshold
    early = math.ceil(100 / threshold) - 1 if threshold else total
    if early >= total or (draft.plan.limit == 1 and total > 1):
        return "at the first failure"
    later = f"when more than {threshold:g} % of those updated fail"
    if early == 0:
        return later
    first = "if the first one fails" if early == 1 else f"at a failure among the first {early}"
    return f"{first}, then {later}"


def batches(draft: Draft, everything: bool) -> Json:
    """Return the batches with who serves meanwhile and what is waited for before each.

    Of many only the first and the last ones, unless `everything` is asked for.
    """
    steps = steps_to_json(draft.plan.steps)
    zoned, starts = draft.policy.by_zone, _starts(draft)
    count = len(draft.plan.batches)
    cut = count > LISTED and not everything
    shown = set(range(1, count + 1))
    if cut:
        shown = {*range(1, LISTED_FIRST + 1), *range(count - LISTED_LAST + 1, count + 1)}
    rows = [
        {
            "number": number,
            "names": names(names_of(batch), NAMED),
            "zone": stages.zone_words(batch[0].instance.zone) if zoned else "",
            "in_service": in_service,
            "before": stages.before_batch(steps, number) if number in shown else "",
            "starts": f"+{duration(starts[number])}" if starts[number] else "at once",
        }
        for number, (batch, in_service) in enumerate(
            zip(draft.plan.batches, draft.plan.in_service, strict=True), 1
        )
        if number in shown
    ]
    first = rows[:LISTED_FIRST] if cut else rows
    return {"first": first, "left_out": count - len(rows), "last": rows[len(first) :]}


def _starts(draft: Draft) -> dict[int, float]:
    """Return about how many seconds after the start each batch begins."""
    at, found = 0.0, {}
    for step in draft.plan.steps:
        if isinstance(step, Change):
            found[step.batch] = at
        at += _seconds(step, draft) or 0
    return found


def _seconds(step: Step, draft: Draft) -> float | None:
    match step:
        case Change():
            policy = draft.policy
            return draft.batch_seconds + policy.min_healthy_time + policy.slow_start
        case Pause() | Bake():
            return step.seconds
        case Approve():
            return None
    return 0.0


def course(draft: Draft) -> list[Json]:
    """Return what a canary or blue/green does, each with its instances and what is waited for."""
    if draft.policy.strategy == "rolling":
        return []
    found = stages.planned(
        draft.policy.strategy,
        steps_to_json(draft.plan.steps),
        draft.policy.canary_steps,
        draft.plan.batches[0][0].instance.slot,
    )
    total = draft.plan.total
    return [{**one, "names": names(one["names"], NAMED), "total": total} for one in found]


def picture(draft: Draft) -> Json:
    """Return the plan over time as blocks in percent of the width, and what it says in words."""
    blocks = list(_blocks(draft))
    known = sum(block.seconds or 0 for block in blocks) or 1.0
    weights = [
        APPROVAL if block.seconds is None else max(LEAST, block.seconds / known) for block in blocks
    ]
    full, at = sum(weights), 0.0
    drawn: list[Json] = []
    for block, weight in zip(blocks, weights, strict=True):
        width = 100 * weight / full
        place = {"x": f"{at:.2f}%", "width": f"{width:.2f}%"}
        drawn.append({"kind": block.kind, "words": block.words, **place})
        at += width
    kinds = list(dict.fromkeys(block.kind for block in blocks))
    return {"blocks": drawn, "kinds": kinds, "words": _in_words(draft)}


def _blocks(draft: Draft) -> Iterator[Block]:
    """Yield what is drawn, in order; of very many batches several as one."""
    together = math.ceil(len(draft.plan.batches) / BLOCKS)
    held: list[tuple[Change, float]] = []
    waited = 0.0
    for step in draft.plan.steps:
        seconds = _seconds(step, draft)
        if isinstance(step, Change):
            if together == 1:
                yield Block("change", seconds, _batch_words([step.batch]))
                continue
            held.append((step, (seconds or 0) + waited))
            waited = 0.0
            if len(held) == together:
                yield _merged(held)
                held = []
        elif isinstance(step, Pause) and together > 1:
            waited += step.seconds
        elif isinstance(step, Pause | Bake | Approve):
            if held:
                yield _merged(held)
                held = []
            yield Block(_kind(step), seconds, _wait_words(step))
    if held:
        yield _merged(held)


def _merged(held: Sequence[tuple[Change, float]]) -> Block:
    numbers = [step.batch for step, _ in held]
    return Block("change", sum(seconds for _, seconds in held), _batch_words(numbers))


def _batch_words(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"Batch {numbers[0]}"
    return f"Batches {numbers[0]} to {numbers[-1]}"


def _kind(step: Step) -> str:
    if isinstance(step, Bake) and step.keep:
        return "keep"
    return type(step).__name__.lower()


def _wait_words(step: Pause | Bake | Approve) -> str:
    if isinstance(step, Approve):
        return "A person approves"
    what = "Pause" if isinstance(step, Pause) else "Old slot stays warm" if step.keep else "Bake"
    return f"{what} of {duration(step.seconds)}" if what != "Old slot stays warm" else what


def _in_words(draft: Draft) -> str:
    """Return what the picture shows, for who does not see it."""
    steps = draft.plan.steps
    counts = [
        (sum(isinstance(step, Change) for step in steps), "batch", "batches"),
        (sum(isinstance(step, Pause) for step in steps), "pause", "pauses"),
        (sum(isinstance(step, Bake) for step in steps), "bake", "bakes"),
        (sum(isinstance(step, Approve) for step in steps), "approval", "approvals"),
    ]
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    return f"Over time, {expected(draft)}: {', '.join(parts)}."
