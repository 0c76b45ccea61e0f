"""The new version judged against the old one: the test of errors, the times, the verdicts."""

import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest

from rollouts import analysis
from rollouts.analysis import (
    NEW,
    OLD,
    RATIOS,
    STAKES,
    WINDOW,
    Block,
    Evidence,
    Side,
)
from rollouts.facts import BalancerReport, Finding, Judgement, Server, ServerState
from rollouts.policy import Analysis
from tests.bench.verdicts import LOOKS, binomial, seconds_until_found

START = 1_700_000_000.0
SIDES = {"a": OLD, "b": NEW}
# What counters show of one server: answers, errors, mean time to respond.
Shown = tuple[int | None, int | None, float | None]


def report(shown: Mapping[str, Shown]) -> BalancerReport:
    return BalancerReport(
        {
            name: Server(
                name,
                ServerState.READY,
                up=True,
                sessions=0,
                weight=100,
                answers=answers,
                errors=errors,
                response_ms=ms,
            )
            for name, (answers, errors, ms) in shown.items()
        }
    )


def looks(
    *shown: Mapping[str, Shown],
    sides: Mapping[str, str] = SIDES,
    begin: Evidence | None = None,
    every: float = 1.0,
) -> Evidence:
    """Look at these counters in turn, `every` so many seconds."""
    evidence = begin or Evidence()
    for one in shown:
        now = START if evidence.at is None else evidence.at + every
        evidence = analysis.observe(evidence, report(one), sides, now)
    return evidence


def sums(blocks: Iterable[Block]) -> list[dict[str, Shown]]:
    """Return the counters of one old and one new server after each block, and before the first."""
    total = Block()
    shown: list[dict[str, Shown]] = []
    for block in (Block(), *blocks):
        total = total.plus(block)
        shown.append(
            {"a": (total.old, total.old_errors, None), "b": (total.new, total.new_errors, None)}
        )
    return shown


def chance_of(count: int, errors: int, rate: float) -> float:
    return math.comb(count, errors) * rate**errors * (1 - rate) ** (count - errors)


def outcomes(old: int, new: int, p: float, q: float) -> list[tuple[Block, float]]:
    """Return all that can come of so many answers, each with its probability."""
    return [
        (Block(old, i, new, j), chance_of(old, i, p) * chance_of(new, j, q))
        for i in range(old + 1)
        for j in range(new + 1)
    ]


RATES = (0.0, 0.001, 0.05, 0.5, 0.9, 1.0)
NO_WORSE = [(p, q) for p in RATES for q in RATES if q <= p]


# The test of errors.


@pytest.mark.parametrize(("old", "new"), [(6, 2), (3, 3), (1, 9), (12, 1)])
def test_the_factor_of_one_block_is_never_above_1_in_the_mean_for_a_version_that_is_no_worse(
    old: int, new: int
) -> None:
    """By enumeration: for equal rates and for a better version, whatever rate was expected."""
    for (p, q), ratio, rate in itertools.product(NO_WORSE, RATIOS, (1e-5, 0.02, 0.5, 0.97)):
        mean = sum(
            chance * math.exp(analysis.log_e(block, rate, ratio))
            for block, chance in outcomes(old, new, p, q)
        )
        assert mean <= 1 + 1e-9, (p, q, ratio, rate)


def test_the_factor_grows_for_a_worse_version() -> None:
    """With any ratio of the odds: otherwise nothing would ever be found."""
    for ratio in RATIOS[1:]:
        mean = sum(
            chance * analysis.log_e(block, 0.1, ratio)
            for block, chance in outcomes(9, 1, 0.01, 0.9)
        )
        assert mean > 0.01


def test_a_block_of_one_side_says_nothing() -> None:
    """There is nothing that its errors could be compared with."""
    assert analysis.log_e(Block(0, 0, 9, 9), 0.01, 8) == 0
    assert analysis.log_e(Block(9, 9, 0, 0), 0.01, 8) == 0


def test_a_bet_never_wins_in_the_mean_against_a_version_that_is_no_worse() -> None:
    """Nor does spreading the stakes anew make anything of nothing, wherever they stand."""
    past = Block(50, 1, 400, 9)
    for logs in (STAKES, tuple(-float(n) for n in range(len(RATIOS)))):
        for p, q in NO_WORSE:
            mean = sum(
                chance * math.exp(analysis.log_sum(analysis.bet(logs, block, past)))
                for block, chance in outcomes(5, 3, p, q)
            )
            assert mean <= math.exp(analysis.log_sum(logs)) * (1 + 1e-9)


PATTERNS = {
    "both sides at each look": [(2, 1), (2, 1), (1, 1)],
    "sides by turns": [(1, 1), (2, 0), (0, 1), (1, 1)],
    "the new side first": [(0, 1), (0, 1), (2, 0), (1, 1)],
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(("p", "q"), [(0.3, 0.3), (0.9, 0.9), (0.02, 0.02), (0.5, 0.2)])
def test_looks_in_a_row_are_a_fair_game_too(
    pattern: list[tuple[int, int]], p: float, q: float
) -> None:
    """By enumeration through `observe`: the expected rate never peeks at the block bet on."""
    mean = 0.0
    for path in itertools.product(*(outcomes(old, new, p, q) for old, new in pattern)):
        evidence = looks(*sums(block for block, _ in path))
        mean += math.prod(chance for _, chance in path) * evidence.value
    assert mean <= 1 + 1e-9


@pytest.mark.parametrize(("old", "new", "within"), [(0.005, 0.05, 15), (0.001, 0.01, 60)])
def test_ten_times_the_errors_are_found_soon(old: float, new: float, within: int) -> None:
    """180 requests/s on the old side, 20 on the new one, a look a second: the median of 40."""
    found = [seconds_until_found(old, new, f"power {n}") or LOOKS for n in range(40)]
    assert statistics.median(found) <= within


@pytest.mark.parametrize("rate", [0.001, 0.005, 0.05])
def test_identical_versions_are_hardly_ever_condemned(rate: float) -> None:
    """Of 100 runs of 10 minutes, looked at each second, 1 is what alpha allows in the mean."""
    found = [seconds_until_found(rate, rate, f"same {n}") for n in range(100)]
    assert sum(one is not None for one in found) <= 3


def test_a_better_version_is_never_condemned() -> None:
    """The test has one side only: fewer errors are no news."""
    assert not any(seconds_until_found(0.02, 0.005, f"better {n}") for n in range(20))


def stream(
    evidence: Evidence, old: Callable[[], int], new: Callable[[], int], seconds: int
) -> tuple[Evidence, int | None]:
    """Look each second at 180 and 20 answers with these errors; stop where it is condemned."""
    total = tallies(evidence)
    if evidence.at is None:
        evidence = looks(sums([])[0])
    for second in range(1, seconds + 1):
        total = total.plus(Block(180, old(), 20, new()))
        evidence = looks(sums([total])[1], begin=evidence)
        if evidence.value > 100:
            return evidence, second
    return evidence, None


def test_a_version_that_goes_bad_after_a_good_hour_is_found_as_well() -> None:
    """What the good hour cost need not be made up for first."""
    chance = random.Random("late")
    old, good, bad = (
        binomial(180, 0.005, chance),
        binomial(20, 0.005, chance),
        binomial(20, 0.05, chance),
    )
    evidence, found = stream(Evidence(), old, good, 3600)
    assert found is None
    after = [stream(evidence, old, bad, 120)[1] or 120 for _ in range(9)]
    assert statistics.median(after) <= 25


def test_a_crash_is_found_within_a_few_requests() -> None:
    """Nobody saw an error until the new version answered nothing but errors."""
    evidence = looks(*sums([Block(9, 0, 1, 0)] * 60))
    total = Block(540, 0, 60, 0)
    for request in itertools.count(1):
        total = total.plus(Block(9, 0, 1, 1))
        evidence = looks(sums([total])[1], begin=evidence)
        if evidence.value > 100:
            break
        assert request < 8
    first = looks(*sums([Block(9, 0, 1, 1)] * 5))
    assert analysis.verdict(first, Analysis()).finding is Finding.AGAINST


def test_a_burst_of_errors_on_both_sides_condemns_nobody() -> None:
    """A database that is down for half a minute, from 0.1 % to 50 % and back."""
    chance = random.Random("burst")
    calm = binomial(180, 0.001, chance), binomial(20, 0.001, chance)
    burst = binomial(180, 0.5, chance), binomial(20, 0.5, chance)
    for _ in range(10):
        evidence = Evidence()
        for (old, new), seconds in ((calm, 60), (burst, 30), (calm, 60)):
            evidence, found = stream(evidence, old, new, seconds)
            assert found is None


def test_a_burst_that_begins_when_the_new_side_enters_condemns_nobody() -> None:
    """What the old side answered before is of another time."""
    before = looks(*sums([Block(180, 0)] * 60))
    total = Block(180 * 60, 0)
    entered = looks(sums([total.plus(Block(180, 90, 20, 10))])[1], begin=before)
    assert entered.value < 2


@pytest.mark.parametrize("every", [0.1, 0.5, 4.0])
def test_looking_often_or_seldom_matters_little(every: float) -> None:
    """200 requests/s, by chance one of ten to the new side: found within 15 s all the same."""
    found = []
    for seed in range(9):
        chance = random.Random(f"often {seed}")
        total, now, evidence = Block(), START, looks(sums([])[0])
        while evidence.value <= 100 and now < START + 60:
            now += every
            new = sum(chance.random() < 0.1 for _ in range(round(200 * every)))
            old = round(200 * every) - new
            bad_old = sum(chance.random() < 0.005 for _ in range(old))
            bad_new = sum(chance.random() < 0.05 for _ in range(new))
            total = total.plus(Block(old, bad_old, new, bad_new))
            evidence = analysis.observe(evidence, report(sums([total])[1]), SIDES, now)
        found.append(now - START)
    assert statistics.median(found) <= 15


# Looks.


def test_evidence_survives_json() -> None:
    """All of it, in the middle of things; and nothing stored is no evidence."""
    evidence = looks(
        {"a": (100, 3, 5.0), "b": (40, 1, 9.0)},
        {"a": (280, 4, 5.0), "b": (60, 3, 9.5)},
        {"a": (380, 4, 5.0), "b": (60, 3, 9.5)},
    )
    assert evidence.open != Block()
    stored = json.loads(json.dumps(analysis.to_json(evidence)))
    assert analysis.from_json(stored) == evidence
    assert analysis.from_json({}) == Evidence()


def test_stored_stakes_on_other_alternatives_begin_anew() -> None:
    """A release may change them while a deployment runs."""
    evidence = looks(*sums([Block(180, 1, 20, 3)]))
    stored = {**analysis.to_json(evidence), "logs": [0.0, 1.0]}
    assert analysis.from_json(stored) == replace(evidence, logs=STAKES)


def tallies(evidence: Evidence) -> Block:
    """Return all that both sides are known to have answered."""
    old, new = evidence.old, evidence.new
    return Block(old.answers, old.errors, new.answers, new.errors)


def test_what_was_counted_before_the_first_look_does_not_count() -> None:
    """A balancer counts from its start on."""
    evidence = looks({"a": (1000, 500, None), "b": (900, 900, None)})
    assert tallies(evidence) == Block()
    assert tallies(looks({"a": (1010, 501, None), "b": (903, 900, None)}, begin=evidence)) == Block(
        10, 1, 3, 0
    )


@pytest.mark.parametrize(("before", "fallen"), [((500, 0), (4, 0)), ((500, 45), (900, 2))])
def test_counters_that_went_down_begin_anew(
    before: tuple[int, int], fallen: tuple[int, int]
) -> None:
    """The balancer was restarted: what it counted since is not known to be of this look."""
    evidence = looks(
        {"a": (*before, None), "b": (0, 0, None)},
        {"a": (*fallen, None), "b": (10, 0, None)},
    )
    assert tallies(evidence) == Block(0, 0, 10, 0)
    more = looks({"a": (fallen[0] + 6, fallen[1] + 1, None), "b": (10, 0, None)}, begin=evidence)
    assert tallies(more) == Block(6, 1, 10, 0)


def test_a_second_restart_is_seen_though_the_counters_are_where_they_were() -> None:
    """Nothing ever counts below zero: a good version would be condemned by that."""
    evidence = looks(*[{"a": (count, 0, None), "b": (9, 0, None)} for count in (0, 300, 0, 270)])
    assert tallies(evidence) == Block(300 + 270, 0)
    again = looks({"a": (0, 0, None), "b": (9, 0, None)}, begin=evidence)
    assert tallies(again) == tallies(evidence)


def test_counters_that_go_back_by_a_few_are_no_restart() -> None:
    """HAProxy's do while answers are being sent; each answer counts once all the same."""
    shown = [(100, 10), (97, 9), (110, 12), (108, 12), (120, 12)]
    evidence = looks(*[{"a": (*counts, None), "b": (9, 0, None)} for counts in shown])
    assert tallies(evidence) == Block(20, 2)


def test_a_server_counts_for_a_new_side_from_then_on() -> None:
    """What it answered between the last look on the old version and the first on the new one
    is of nobody."""
    evidence = looks({"a": (0, 0, None)}, {"a": (10, 1, None)}, sides={"a": OLD})
    evidence = looks({"a": (30, 9, None)}, begin=evidence, sides={"a": NEW})
    assert tallies(evidence) == Block(10, 1)
    evidence = looks({"a": (34, 10, None)}, begin=evidence, sides={"a": NEW})
    assert tallies(evidence) == Block(10, 1, 4, 1)


def test_who_was_out_of_rotation_begins_anew() -> None:
    """Nothing is kept of a server that is on no side, and its answers meanwhile count nowhere."""
    evidence = looks({"a": (0, 0, None)}, {"a": (10, 1, None)}, sides={"a": OLD})
    evidence = looks({"a": (20, 9, None)}, begin=evidence, sides={})
    assert evidence.counted == {}
    evidence = looks({"a": (30, 9, None)}, {"a": (31, 9, None)}, begin=evidence, sides={"a": OLD})
    assert tallies(evidence) == Block(11, 1)


def test_a_balancer_that_does_not_count_for_a_while_is_waited_for() -> None:
    """Its counters go on where they were; without any there is nothing to judge."""
    evidence = looks(
        {"a": (5, 0, None), "b": (5, 0, None)},
        {"b": (9, 0, None)},
        {"a": (None, None, None), "b": (9, 0, None)},
        {"a": (25, 2, None), "b": (9, 0, None)},
    )
    assert tallies(evidence) == Block(20, 2, 4, 0)
    assert tallies(looks({"a": (None, None, 3.0)}, {"a": (None, None, 3.0)})) == Block()


def test_errors_never_count_as_more_than_the_answers() -> None:
    """Two counters of a balancer are not read at the very same instant."""
    evidence = looks({"a": (0, 0, None), "b": (0, 0, None)}, {"a": (3, 7, None), "b": (1, 2, None)})
    assert tallies(evidence) == Block(3, 3, 1, 1)


def test_the_share_is_observed_since_the_last_shift() -> None:
    """And is unknown without an answer since."""
    shown = sums([Block(180, 0, 20, 0), Block(150, 0, 50, 0)])
    evidence = looks(*shown[:2])
    assert analysis.observed_share(evidence) == pytest.approx(10)
    evidence = analysis.shifted(evidence)
    assert analysis.observed_share(evidence) is None
    evidence = looks(shown[2], begin=evidence)
    assert analysis.observed_share(evidence) == pytest.approx(25)
    assert tallies(evidence) == Block(330, 0, 70, 0)


def test_little_traffic_waits_for_the_other_side_but_not_for_long() -> None:
    """Answers of one side are compared with those of the other that come soon after."""
    blocks = [Block(3, 0, 1, 0), Block(9, 0, 0, 0), Block(0, 0, 1, 1)]
    soon = looks(*sums(blocks))
    late = looks(*sums(blocks), every=analysis.LONGEST_BLOCK + 1)
    assert soon.value > 1.5 > late.value
    assert (soon.compared, late.compared) == (2, 1)
    assert tallies(soon) == tallies(late) == Block(12, 0, 2, 1)
    assert analysis.shifted(looks(*sums(blocks[:2]))).open == Block()


# Times to respond.


class Measured:
    """A server of HAProxy 2.8 that answers: counters, and its mean of whole milliseconds."""

    def __init__(self, times: Iterable[float] = ()) -> None:
        self.answers = self.total = 0
        self.answer(times)

    def answer(self, times: Iterable[float]) -> None:
        for ms in times:
            self.answers += 1
            faded = -(-self.total // WINDOW) if self.answers > WINDOW else 0
            self.total += int(ms) - faded

    @property
    def shown(self) -> Shown:
        mean = -(-self.total // min(self.answers, WINDOW)) if self.answers else None
        return self.answers, 0, mean


def timed(
    servers: Mapping[str, Measured],
    times: Mapping[str, Callable[[], float]],
    seconds: int,
    rates: Mapping[str, int],
) -> Evidence:
    """Let servers answer for so many seconds; names that begin with n are of the new side."""
    sides = {name: NEW if name.startswith("n") else OLD for name in servers}
    evidence = Evidence()
    for second in range(seconds + 1):
        shown = {name: server.shown for name, server in servers.items()}
        evidence = analysis.observe(evidence, report(shown), sides, START + second)
        if analysis.verdict(evidence, Analysis()).finding is Finding.AGAINST:
            break
        for name, server in servers.items():
            server.answer(times[name]() for _ in range(rates[name]))
    return evidence


def around(mean: float, chance: random.Random) -> Callable[[], float]:
    return lambda: chance.expovariate(1 / mean)


def served(mean: float, chance: random.Random, answers: int = 2000) -> Measured:
    """Return a server that has answered for long."""
    return Measured(around(mean, chance)() for _ in range(answers))


@pytest.mark.parametrize("history", [0, 100, 2000])
def test_a_sluggish_version_is_condemned(history: int) -> None:
    """300 ms slower, on servers whose mean still has the fast answers of the old version."""
    chance = random.Random("sluggish")
    servers = {name: served(5, chance, history) for name in ("o1", "o2", "n1")}
    fast, slow = around(5, chance), lambda: 300 + chance.expovariate(1 / 5)
    times = {"o1": fast, "o2": fast, "n1": slow}
    evidence = timed(servers, times, 15, {"o1": 90, "o2": 90, "n1": 10})
    found = analysis.verdict(evidence, Analysis())
    assert found.finding is Finding.AGAINST
    assert found.reason.startswith("The new version is slower: 3")
    assert evidence.new.answers < 100
    # The 5 ms before have been taken out of the mean, as far as whole milliseconds allow.
    assert evidence.new.response_ms == pytest.approx(305, abs=12)


def test_noise_is_not_slowness() -> None:
    """Collections of garbage: one answer of a hundred takes 30 times as long, on both sides."""
    chance = random.Random("garbage")
    pausing = lambda: chance.expovariate(1 / (600 if chance.random() < 0.01 else 20))  # noqa: E731
    for _ in range(10):
        servers = {name: served(20, chance, 800) for name in ("o1", "o2", "n1")}
        rates = {"o1": 60, "o2": 60, "n1": 7}
        evidence = timed(servers, dict.fromkeys(servers, pausing), 60, rates)
        assert evidence.new.answers > 400
        assert analysis.verdict(evidence, Analysis()).finding is Finding.FINE


def test_what_a_server_answered_before_it_joined_is_not_held_against_it() -> None:
    """An idle slot whose last answers, a week ago, took 800 ms each."""
    chance = random.Random("idle")
    servers = {"o1": served(5, chance), "n1": served(800, chance)}
    fast = around(5, chance)
    evidence = timed(servers, dict.fromkeys(servers, fast), 20, {"o1": 90, "n1": 10})
    assert analysis.verdict(evidence, Analysis()).finding is Finding.FINE
    assert (servers["n1"].shown[2] or 0) > 500  # what the balancer itself shows


def test_one_slow_machine_does_not_condemn_a_version() -> None:
    """The difference between the servers of a side is part of the uncertainty."""
    chance = random.Random("machine")
    servers = {name: Measured() for name in ("o1", "o2", "n1", "n2", "n3")}
    times = {**dict.fromkeys(servers, around(5, chance)), "n3": around(400, chance)}
    evidence = timed(servers, times, 20, dict.fromkeys(servers, 20))
    assert (evidence.new.response_ms or 0) > 80
    assert analysis.verdict(evidence, Analysis()).finding is Finding.FINE


def test_two_servers_that_differ_leave_half_their_difference_in_doubt() -> None:
    """And a mean is never below nothing, whatever is taken out of it."""
    begin: dict[str, Shown] = {"a": (0, 0, None), "b": (0, 0, None), "c": (9000, 0, 800.0)}
    after: dict[str, Shown] = {"a": (900, 0, 10.0), "b": (900, 0, 30.0), "c": (9010, 0, 700.0)}
    evidence = looks(begin, after, sides={"a": OLD, "b": OLD, "c": NEW})
    assert (evidence.old.response_ms, evidence.old.response_pm) == (20.0, 20.0)
    assert evidence.new.response_ms == 0


def test_slowness_needs_enough_answers_and_looks() -> None:
    """Not the first few, not one look, and a look without an answer is none."""
    shown: list[dict[str, Shown]] = [
        {"a": (1000 * n, 0, 5.0), "b": (40 * n, 0, 400.0 if n else None)} for n in range(5)
    ]
    evidence = looks(*shown[:3])
    idle: dict[str, Shown] = {"a": (5000, 0, 5.0), "b": shown[2]["b"]}
    evidence = looks(idle, idle, idle, begin=evidence)
    assert analysis.verdict(evidence, Analysis()).finding is Finding.FINE
    slow = looks(*shown[:4])
    assert analysis.verdict(slow, Analysis()).finding is Finding.AGAINST
    assert analysis.verdict(slow, Analysis(min_requests=121)).finding is Finding.TOO_LITTLE
    gone = looks(shown[4], begin=slow, sides={"a": OLD})
    assert analysis.verdict(gone, Analysis()).finding is Finding.FINE


@pytest.mark.parametrize(("old", "new"), [(5.0, 54.0), (400.0, 700.0)])
def test_a_difference_that_does_not_matter_is_none(old: float, new: float) -> None:
    """By less than 50 ms, or less than twice the time, however sure it is."""
    shown: list[dict[str, Shown]] = [
        {"a": (9000 * n, 0, old if n else None), "b": (9000 * n, 0, new if n else None)}
        for n in range(6)
    ]
    assert analysis.verdict(looks(*shown), Analysis()).finding is Finding.FINE


# Verdicts.


def test_the_words_against_errors_carry_the_numbers() -> None:
    """Those of both sides, the evidence, and what it is measured by."""
    logs = (math.log(143.2), *(-math.inf for _ in RATIOS[1:]))
    evidence = Evidence(Side(2190, 9), Side(243, 12), logs)
    assert analysis.verdict(evidence, Analysis()) == Judgement(
        Finding.AGAINST,
        "The new version answers with errors: 12 of 243 (4.9 %) against 9 of 2,190 (0.41 %) of "
        "the old one; evidence 143, more than the 100 that alpha 0.01 asks for.",
    )
    fine = analysis.verdict(evidence, Analysis(alpha=0.001))
    assert fine.finding is Finding.FINE


def test_the_words_against_slowness_carry_the_uncertainty() -> None:
    """As two standard errors."""
    evidence = Evidence(Side(900, 0, 5.2, 0.6), Side(90, 0, 312.4, 14.1), slower=3)
    assert analysis.verdict(evidence, Analysis()) == Judgement(
        Finding.AGAINST,
        "The new version is slower: 312 ms ± 14 against 5 ms ± 1 mean time to respond.",
    )


def test_nothing_found_says_what_was_compared() -> None:
    """And that nothing was, where the old side has no traffic."""
    evidence = looks(*sums([Block(900, 9, 100, 1)]))
    fine = analysis.verdict(evidence, Analysis())
    assert fine.finding is Finding.FINE
    assert "1 of 100 (1.0 %) against 9 of 900 (1.0 %) of the old one" in fine.reason
    alone = analysis.verdict(looks(*sums([Block(0, 0, 100, 1)])), Analysis())
    assert alone == Judgement(
        Finding.FINE,
        "Errors 1 of 100 (1.0 %); the old version answers nothing to compare that with.",
    )


def test_too_little_says_how_much_is_lacking_and_for_how_long() -> None:
    """At the new side's own rate; without an answer there is no rate."""
    settings = Analysis(min_requests=100)
    evidence = looks(*sums([Block(90, 0, 0, 0), Block(90, 0, 4, 0), Block(90, 0, 6, 0)]), every=5)
    assert analysis.verdict(evidence, settings) == Judgement(
        Finding.TOO_LITTLE, "about 90 more requests (2 min) needed"
    )
    nothing = analysis.verdict(looks(*sums([Block(90, 0, 0, 0)])), settings)
    assert nothing == Judgement(Finding.TOO_LITTLE, "about 100 more requests needed")
    last = analysis.verdict(looks(*sums([Block(90, 0, 99, 0)])), settings)
    assert last == Judgement(Finding.TOO_LITTLE, "about 1 more request (1 s) needed")
    assert analysis.verdict(looks(*sums([Block(90, 0, 100, 0)])), settings).finding is Finding.FINE


def test_no_traffic_speaks_neither_for_nor_against() -> None:
    """However long one looks."""
    evidence = looks(*[sums([])[0]] * 100)
    assert evidence.value == pytest.approx(1)
    assert analysis.verdict(evidence, Analysis(min_requests=1)).finding is Finding.TOO_LITTLE


def test_switched_off_nothing_is_judged() -> None:
    """Not even a crash."""
    evidence = looks(*sums([Block(90, 0, 10, 10)] * 5))
    assert analysis.verdict(evidence, Analysis()).finding is Finding.AGAINST
    assert analysis.verdict(evidence, Analysis(enabled=False)).finding is Finding.OFF


def test_the_page_is_told_all_of_it() -> None:
    """In what JSON can hold, with the evidence bounded."""
    evidence = looks(
        {"a": (0, 0, None), "b": (0, 0, None)},
        {"a": (9000, 9, 5.0), "b": (1000, 1000, 4.0)},
        {"a": (18000, 9, 5.0), "b": (2000, 2000, 4.0)},
    )
    shown = analysis.view(evidence, Analysis())
    assert json.loads(json.dumps(shown)) == shown
    assert shown["old"] == {"answers": 18000, "errors": 9, "response_ms": 5.0, "response_pm": 1.1}
    assert shown["new"]["errors"] == 2000
    assert shown["evidence"] == pytest.approx(analysis.MOST_EVIDENCE)
    assert shown["against_at"] == pytest.approx(100)
    assert shown["verdict"] == "against"
    assert shown["words"].startswith("The new version answers with errors: 2,000 of 2,000 (100 %)")
    assert shown["unseen"] == analysis.UNSEEN
    assert analysis.view(Evidence(), Analysis())["verdict"] == "too_little"
    assert analysis.view(Evidence(), Analysis(enabled=False))["verdict"] == "off"
