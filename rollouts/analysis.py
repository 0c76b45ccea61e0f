"""Pure: the new version's side judged against the old one's, by the balancer's own counters.

Errors are judged by a test that may be looked at as often as one likes and ended at any look
(`log_e`, `bet`): however the error rates change, a new side that is at no time worse than the
old one is condemned with a probability of alpha at most. It takes for granted that errors fall
on answers one by one, and on a side for no reason but its version. Times to respond are judged
by a rule of thumb without a proven bound (`_timed`).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from rollouts.facts import BalancerReport, Finding, Judgement, Server
from rollouts.policy import Analysis

OLD, NEW = "old", "new"

# The alternatives: how many times as high the odds of an error are on the new side. What is
# staked on 1, half at first, is never lost: it is still there when a version goes bad late.
RATIOS = (1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
STAKES = tuple(math.log(0.5 if ratio == 1 else 0.5 / (len(RATIOS) - 1)) for ratio in RATIOS)
# Errors in so many answers are expected before anything is known.
PRIOR_ERRORS, PRIOR_ANSWERS = 0.5, 100.0
# Answers of the new side until which an early find counts for more than a late one (see `bet`).
SETTLED = 10_000.0
# Seconds for which answers of one side may wait for some of the other to be compared with.
LONGEST_BLOCK = 30.0

# So far a counter may go back without a restart: what is open is taken off while it is sent.
WOBBLE = 20
# HAProxy's mean of a server's response times, in whole milliseconds, is over so many answers.
WINDOW, ROUNDING_MS = 512, 0.5
# What makes the new version slower: all of these, at so many looks in a row.
SLOWER_ERRORS = 4.0  # standard errors of the difference
SLOWER_RATIO = 2.0
SLOWER_MS = 50.0
SLOWER_LOOKS = 3

MOST_EVIDENCE = 1e12  # what is more is shown as this
UNSEEN = (
    "The balancer can't show percentiles (only a mean of the last answers), wrong answers with a "
    "good status, errors that the application hides, or clients that never arrive."
)


@dataclass(frozen=True)
class Side:
    """What one side answered while it was looked at; None where the balancer shows nothing."""

    answers: int = 0
    errors: int = 0
    response_ms: float | None = None  # the mean time to respond, now
    response_pm: float | None = None  # two standard errors of it, in ms


class Block(NamedTuple):
    """Answers of both sides that are compared with each other, and the errors among them."""

    old: int = 0
    old_errors: int = 0
    new: int = 0
    new_errors: int = 0

    def plus(self, other: "Block", times: int = 1) -> "Block":
        """Return the sum with `other`; with `times` -1 the difference."""
        return Block(*(one + times * more for one, more in zip(self, other, strict=True)))


class Count(NamedTuple):
    """A server at the last look: its side, its counters, and those when it joined the side."""

    side: str
    answers: int
    errors: int
    joined: int  # its answers when it joined
    joined_ms: float | None  # its mean time to respond then


@dataclass(frozen=True)
class Evidence:
    """What is known of both sides from all looks so far. Times in seconds since the epoch.

    `logs` are the natural logarithms of what the stake on each of RATIOS has become. Their sum
    is the evidence against the new version: 1 at first, and so without any traffic.
    """

    old: Side = Side()
    new: Side = Side()
    logs: tuple[float, ...] = STAKES
    open: Block = field(default_factory=Block)  # answers that wait for the other side
    opened: float | None = None  # since when
    compared: int = 0  # answers of the new side that some of the old one were compared with
    slower: int = 0  # looks in a row at which the new side was the slower one
    began: float | None = None  # when the new side began to answer
    at: float | None = None  # the last look
    shift_old: int = 0  # answers since the last shift of the traffic
    shift_new: int = 0
    counted: Mapping[str, Count] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Return the evidence against the new version, MOST_EVIDENCE at most."""
        return math.exp(min(log_sum(self.logs), math.log(MOST_EVIDENCE)))


def to_json(evidence: Evidence) -> dict[str, Any]:
    """Return `evidence` as what JSON can hold."""
    return asdict(evidence)


def from_json(stored: Mapping[str, Any]) -> Evidence:
    """Return the evidence that `to_json` stored; an empty one for an empty mapping."""
    if not stored:
        return Evidence()
    made: dict[str, Any] = {side: Side(**stored[side]) for side in (OLD, NEW)}
    made["open"] = Block(*stored["open"])
    made["counted"] = {name: Count(*values) for name, values in stored["counted"].items()}
    # Those of a release with other alternatives begin anew.
    made["logs"] = tuple(stored["logs"]) if len(stored["logs"]) == len(RATIOS) else STAKES
    return Evidence(**{**stored, **made})


def observe(
    evidence: Evidence, report: BalancerReport, sides: Mapping[str, str], now: float
) -> Evidence:
    """Return `evidence` with one more look at the balancer.

    `sides` maps servers to OLD or NEW; who is not in it is forgotten. A server's answers count
    from its first look on a side, and anew where a counter went down: its balancer restarted.
    """
    counted: dict[str, Count] = {}
    more = {OLD: (0, 0), NEW: (0, 0)}
    for name, side in sides.items():
        known = evidence.counted.get(name)
        known = known if known is not None and known.side == side else None
        count = _count(known, side, report.servers.get(name))
        if count is not None:
            counted[name] = count
        if count is None or known is None:
            continue
        answers, errors = count.answers - known.answers, count.errors - known.errors
        if min(answers, errors) >= 0:
            more[side] = more[side][0] + answers, more[side][1] + min(errors, answers)
    look = Block(*more[OLD], *more[NEW])
    first = evidence.began is None and look.new > 0
    return replace(
        _timed(_compared(evidence, look, now), look, counted, report.servers),
        began=evidence.at if first else evidence.began,  # they came since the look before
        at=now,
        shift_old=evidence.shift_old + look.old,
        shift_new=evidence.shift_new + look.new,
        counted=counted,
    )


def _count(known: Count | None, side: str, server: Server | None) -> Count | None:
    """Return a server's counters now: a new beginning where the balancer was restarted."""
    if server is None or server.answers is None or server.errors is None:
        return known
    if known is not None:
        back = max(known.answers - server.answers, known.errors - server.errors)
        if back <= WOBBLE:
            answers, errors = max(known.answers, server.answers), max(known.errors, server.errors)
            return known._replace(answers=answers, errors=errors)
    return Count(side, server.answers, server.errors, server.answers, server.response_ms)


def shifted(evidence: Evidence) -> Evidence:
    """Return `evidence` for traffic that was just shifted: shares are observed from here on."""
    return replace(evidence, shift_old=0, shift_new=0, open=Block(), opened=None)


def observed_share(evidence: Evidence) -> float | None:
    """Return the new side's percentage of the answers since the last shift; None without any."""
    total = evidence.shift_old + evidence.shift_new
    return 100 * evidence.shift_new / total if total else None


def log_e(block: Block, rate: float, ratio: float) -> float:
    """Return the logarithm of one block's e-variable, for odds that are `ratio` times as high.

    `rate`, between 0 and 1, is the error rate to expect of both sides together; it must not
    depend on the block's errors. A block without answers of both sides says nothing: 0.

    This is the likelihood with the rates a (old) and b > a (new), over that with their mean m
    weighted by the answers (Turner, Ly and Grünwald, "Generic E-variables for exact sequential
    k-sample tests that allow for optional stopping", 2024). Its expectation is at most 1 where
    the new side is no worse: in the mean an old answer that is an error with probability p
    multiplies it by 1 + (p - m)(a - m) / (m (1 - m)), and a new one with probability q by
    1 + (q - m)(b - m) / (m (1 - m)). As log(1 + x) <= x, and old (a - m) + new (b - m) = 0, the
    logarithm of the product is at most new (b - m)(q - p) / (m (1 - m)), so at most 0 if q <= p.
    No rate has to be constant: p and q are the means of this block's answers alone.
    """
    if ratio == 1 or not (block.old and block.new):
        return 0.0
    total = block.old + block.new
    # Such that both sides together have about `rate`.
    odds = rate / (1 - rate) * total / (block.old + ratio * block.new)
    good_old, good_new = 1 / (1 + odds), 1 / (1 + ratio * odds)
    bad_old, bad_new = odds * good_old, ratio * odds * good_new
    good = (block.old * good_old + block.new * good_new) / total
    bad = (block.old * bad_old + block.new * bad_new) / total
    return (
        block.old_errors * math.log(bad_old / bad)
        + block.new_errors * math.log(bad_new / bad)
        + (block.old - block.old_errors) * math.log(good_old / good)
        + (block.new - block.new_errors) * math.log(good_new / good)
    )


def bet(logs: Collection[float], block: Block, past: Block) -> tuple[float, ...]:
    """Return the stakes `logs` after `block`; `past` is all that was answered before it.

    They are the stakes of somebody who bets that the new version is worse, at odds that are at
    best fair if it is not: their sum ever exceeds 1 / alpha with a probability of alpha at most
    (Ville's inequality). What is set before a bet may depend on all that was before the block
    and on how many answers it has, but not on its errors. So do the rate, and the part of the
    sum that is spread evenly over RATIOS each time ("fixed share", Herbster and Warmuth, 1998):
    else a version that goes bad late would first have to make up for what its good hours cost.
    """
    whole = log_sum(logs)
    errors = past.old_errors + past.new_errors + PRIOR_ERRORS
    rate = errors / (past.old + past.new + PRIOR_ANSWERS)
    spread = block.new / (past.new + block.new + SETTLED)
    return tuple(
        whole
        + math.log((1 - spread) * math.exp(one - whole) + spread / len(RATIOS))
        + log_e(block, rate, ratio)
        for one, ratio in zip(logs, RATIOS, strict=True)
    )


def log_sum(logs: Collection[float]) -> float:
    """Return the logarithm of the sum of what `logs` are the logarithms of."""
    highest = max(logs)
    return highest + math.log(sum(math.exp(one - highest) for one in logs))


def _compared(evidence: Evidence, look: Block, now: float) -> Evidence:
    """Return `evidence` with the answers of `look`, bet on once both sides have some."""
    old, new = evidence.old, evidence.new
    waiting, opened = evidence.open, evidence.opened
    # What the old side answered before the new one came is of another time.
    if evidence.began is None or opened is None or now - opened > LONGEST_BLOCK:
        waiting, opened = Block(), now
    block = waiting.plus(look)
    more = replace(
        evidence,
        old=replace(old, answers=old.answers + look.old, errors=old.errors + look.old_errors),
        new=replace(new, answers=new.answers + look.new, errors=new.errors + look.new_errors),
    )
    if not (block.old and block.new):
        return replace(more, open=block, opened=opened)
    past = Block(old.answers, old.errors, new.answers, new.errors).plus(waiting, -1)
    more = replace(more, logs=bet(evidence.logs, block, past), open=Block(), opened=None)
    return replace(more, compared=evidence.compared + block.new)


# Of a server: answers, WINDOW at most; their mean time to respond; the variance of that mean.
_Recent = tuple[int, float, float]


def _timed(
    evidence: Evidence, look: Block, counted: Mapping[str, Count], servers: Mapping[str, Server]
) -> Evidence:
    """Return `evidence` with the times to respond, and for how many looks the new side is slower.

    A rule of thumb, not valid at any time as the test of errors is: the distribution is unknown,
    and looks depend on each other, as each sees the last WINDOW answers. So it asks for much.
    """
    recent: dict[str, list[_Recent]] = {OLD: [], NEW: []}
    for name, count in counted.items():
        if (one := _recent(count, servers.get(name))) is not None:
            recent[count.side].append(one)
    old, new = _mean(evidence.old, recent[OLD]), _mean(evidence.new, recent[NEW])
    looks = evidence.slower
    if old.response_ms is None or new.response_ms is None:
        looks = 0
    elif look.new:  # without an answer of the new side it would only repeat the look before
        error = math.hypot(old.response_pm or 0.0, new.response_pm or 0.0) / 2
        least = max(SLOWER_ERRORS * error, SLOWER_MS, (SLOWER_RATIO - 1) * old.response_ms)
        looks = looks + 1 if new.response_ms - old.response_ms > least else 0
    return replace(evidence, old=old, new=new, slower=looks)


def _recent(count: Count, server: Server | None) -> _Recent | None:
    """Return a server's answers since it joined its side; None where they tell nothing yet.

    Its moving mean still has a part of what it answered before that, on the old version or in
    another week. What that was and how much is left of it is known, so it is taken out.
    """
    since = count.answers - count.joined
    if server is None or server.response_ms is None or not since:
        return None
    kept = 0.0
    if count.joined_ms is not None:
        # HAProxy takes the plain mean of the first WINDOW answers; from then on each new one
        # counts 1 / WINDOW and takes as much from all before it.
        faded = max(0, count.answers - max(count.joined, WINDOW))
        kept = min(count.joined, WINDOW) / min(count.answers, WINDOW) * (1 - 1 / WINDOW) ** faded
        if SLOWER_MS * (1 - kept) < ROUNDING_MS:
            return None  # too little is of its own to be told from rounding
    ms = (server.response_ms - kept * (count.joined_ms or 0.0)) / (1 - kept)
    answers = min(since, WINDOW)
    return answers, max(0.0, ms), ms**2 / answers + (ROUNDING_MS / (1 - kept)) ** 2


def _mean(side: Side, servers: Collection[_Recent]) -> Side:
    """Return `side` with the mean over its servers, weighted by their answers.

    The balancer shows no spread. The standard error is the greater of what the differences
    between the servers tell, and that of exponential distributions (the spread is the mean).
    """
    if not servers:
        return replace(side, response_ms=None, response_pm=None)
    total = sum(answers for answers, _, _ in servers)
    mean = sum(answers * ms for answers, ms, _ in servers) / total
    variance = sum(answers**2 * own for answers, _, own in servers) / total**2
    if len(servers) > 1:
        apart = sum((answers * (ms - mean)) ** 2 for answers, ms, _ in servers) / total**2
        variance = max(variance, apart * len(servers) / (len(servers) - 1))
    return replace(side, response_ms=round(mean, 1), response_pm=round(2 * variance**0.5, 1))


def verdict(evidence: Evidence, settings: Analysis) -> Judgement:
    """Return what `evidence` says: of errors at any time, of slowness after `min_requests`."""
    new, old = evidence.new, evidence.old
    found, needed = _figure(evidence.value), _figure(1 / settings.alpha)
    errors = f"{_share(new)} against {_share(old)} of the old one; evidence {found}"
    if not settings.enabled:
        return Judgement(Finding.OFF, "The analysis is switched off.")
    if log_sum(evidence.logs) > -math.log(settings.alpha):
        asked = f"more than the {needed} that alpha {settings.alpha:.7g} asks for"
        words = f"The new version answers with errors: {errors}, {asked}."
        return Judgement(Finding.AGAINST, words)
    if (lacking := settings.min_requests - new.answers) > 0:
        return Judgement(Finding.TOO_LITTLE, _lacking_words(evidence, lacking))
    if evidence.slower >= SLOWER_LOOKS:
        times = [f"{side.response_ms:.0f} ms ± {side.response_pm:.0f}" for side in (new, old)]
        words = f"The new version is slower: {' against '.join(times)} mean time to respond."
        return Judgement(Finding.AGAINST, words)
    words = f"Nothing speaks against the new version: errors {errors} of {needed}."
    if not evidence.compared:
        words = f"Errors {_share(new)}; the old version answers nothing to compare that with."
    return Judgement(Finding.FINE, words)


def _lacking_words(evidence: Evidence, lacking: int) -> str:
    """Return how many more answers are needed, and how long they take at the rate so far."""
    when = ""
    if evidence.began is not None and evidence.at is not None and evidence.new.answers:
        seconds = lacking * (evidence.at - evidence.began) / evidence.new.answers
        when = f" ({_duration(seconds)})"
    return f"about {lacking:,} more request{'' if lacking == 1 else 's'}{when} needed"


def view(evidence: Evidence, settings: Analysis) -> dict[str, Any]:
    """Return what a page shows, as JSON; times in ms, `response_pm` two standard errors."""
    found = verdict(evidence, settings)
    return {
        "old": asdict(evidence.old),
        "new": asdict(evidence.new),
        "evidence": round(evidence.value, 3),
        "against_at": 1 / settings.alpha,
        "verdict": found.finding.value,
        "words": found.reason,
        "unseen": UNSEEN,
    }


def _share(side: Side) -> str:
    percent = 100 * side.errors / side.answers if side.answers else 0.0
    digits = 0 if percent >= 10 or not percent else 1 if percent >= 1 else 2
    return f"{side.errors:,} of {side.answers:,} ({percent:.{digits}f} %)"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
