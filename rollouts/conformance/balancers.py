"""What holds for every balancer: CLAIMS, each to be run against a fresh Subject.

    for claim in CLAIMS:
        if claim.needs <= Mine.abilities:
            await claim.check(subject)

A subject is a real balancer of the kind in front of real instances, with clients that send
requests through it. docs/adapters.md shows one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, TypeVar

from rollouts import balancers
from rollouts.adapters import SettingsError, Surroundings
from rollouts.facts import BalancerReport, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

T = TypeVar("T")

BOUND = 3.0  # seconds in which every call has to return; the engine waits no longer
FOLLOW = 2.0  # seconds in which clients have to notice what the balancer has confirmed
ROUND = 8  # requests for each server that are enough to reach everybody in rotation
ODD_NAMES = ("", "a;b", "a b", "web-01\n", "$(id)", "`id`", "../a", "a/b", "<b>", "x" * 300)
ODD_WEIGHTS = (-1, 257, 10**9)


class Ability(StrEnum):
    """What not every kind of balancer, or not every subject, can."""

    WEIGHTS = "weights"  # share traffic out by weights
    COUNTS = "counts"  # count what clients and servers answered
    LOSE = "lose"  # the subject can take the balancer out of reach
    RESTART = "restart"  # the subject can restart the balancer


class Subject(Protocol):
    """A balancer in front of the instances of `surroundings`, all of them well and in rotation.

    There are at least three, with equal weights.
    """

    abilities: frozenset[Ability]
    settings: Mapping[str, Any]
    surroundings: Surroundings

    async def serve(self, requests: int) -> Counter[str]:
        """Send requests, one after the other, as clients do; return how many each server got.

        "" stands for those that nobody answered.
        """
        ...

    async def lose(self) -> None:
        """Put the balancer, or a part of it that must confirm, out of reach."""
        ...

    async def restart(self) -> None:
        """Restart it, or start it again after `lose`; return once it is there."""
        ...


@dataclass(frozen=True)
class Claim:
    """Something that holds for every balancer; the check raises AssertionError if it does not."""

    check: Callable[[Subject], Awaitable[None]]
    needs: frozenset[Ability]

    @property
    def name(self) -> str:
        """Return the claim in words, joined by underscores."""
        return self.check.__name__


Check = Callable[[Subject], Awaitable[None]]
CLAIMS: list[Claim] = []


def _claim(*needs: Ability) -> Callable[[Check], Check]:
    def noted(check: Check) -> Check:
        CLAIMS.append(Claim(check, frozenset(needs)))
        return check

    return noted


# --- what a balancer tells


@_claim()
async def a_report_names_every_server(subject: Subject) -> None:
    """Each with its state and weights; what is not counted is None rather than 0."""
    balancer = _made(subject)
    report = await _bounded(balancer.report())
    await balancer.aclose()
    assert set(report.servers) >= set(_names(subject)), f"only {list(report.servers)} are named"
    for name in _names(subject):
        server = report.servers[name]
        assert server.name == name, f"{name} is called {server.name}"
        assert server.ready, f"{name} is {server.state}, up: {server.up}"
        for weight in (server.weight, server.configured):
            assert 0 <= weight <= 256, f"{name} has weight {weight}"
        assert server.weight == server.full, f"{name} has weight {server.weight} of {server.full}"
        for count in (server.sessions, server.answers, server.errors):
            assert count is None or count >= 0, f"of {name} {count} are counted"
    assert report.requests >= report.failed >= 0


@_claim(Ability.COUNTS)
async def requests_are_counted_once(subject: Subject) -> None:
    """Those of clients, and the answers of each server, however many balancers they pass."""
    balancer = _made(subject)
    before = await balancer.report()
    sent = 3 * len(_names(subject))
    got = await subject.serve(sent)
    report = await balancer.report()
    await balancer.aclose()
    assert report.requests - before.requests == sent, "the requests are not those of the clients"
    assert report.failed == before.failed
    for name, server in report.servers.items():
        assert server.answers is not None, f"no answers of {name} are counted"
        answers = server.answers - (before.servers[name].answers or 0)
        assert answers == got[name], f"{name} gave {got[name]} answers, {answers} are counted"


# --- in and out of rotation


@_claim()
async def a_drained_server_gets_no_request(subject: Subject) -> None:
    """From the moment at which the drain is confirmed; the others get all. Twice is as once."""
    balancer, out = _made(subject), _names(subject)[0]
    for _ in range(2):
        await _bounded(balancer.drain(out))
        assert (await _look(balancer, out)).state is not ServerState.READY
        await _expect_served(subject, set(_names(subject)) - {out})
    await balancer.ready(out)
    await balancer.aclose()


@_claim()
async def a_server_that_is_put_back_gets_requests(subject: Subject) -> None:
    """With the weight that it had; also where it never was out."""
    balancer, name = _made(subject), _names(subject)[0]
    had = await _look(balancer, name)
    await balancer.drain(name)
    for _ in range(2):
        await _bounded(balancer.ready(name))
        server = await _look(balancer, name)
        assert server.serving, f"{name} is {server.state}, up: {server.up}"
        assert (server.weight, server.configured) == (had.weight, had.configured)
    await _expect_soon(subject, set(_names(subject)))
    await balancer.aclose()


@_claim()
async def another_object_finds_what_one_was_told(subject: Subject) -> None:
    """As after a takeover: nothing that matters lives in the object alone."""
    first, name = _made(subject), _names(subject)[1]
    await first.drain(name)
    await first.aclose()
    second = _made(subject)
    assert (await _look(second, name)).state is not ServerState.READY
    await second.ready(name)
    await second.aclose()
    third = _made(subject)
    assert (await _look(third, name)).ready
    await third.aclose()


@_claim()
async def many_calls_at_once_all_come_true(subject: Subject) -> None:
    """Of one object and of several, as a batch and two workers make them."""
    first, second = _made(subject), _made(subject)
    *out, last = _names(subject)
    calls = [each.drain(name) for each in (first, second) for name in out for _ in range(2)]
    for call in asyncio.as_completed(calls):
        try:
            await call
        except BalancerUnreachable:  # worth repeating, and no more than that
            continue
    for name in out:
        await _repeated(partial(first.drain, name))
    await _expect_served(subject, {last})
    await _bounded(asyncio.gather(*(first.ready(name) for name in out)))
    for name in _names(subject):
        assert (await _look(second, name)).ready, f"{name} is not back"
    await first.aclose()
    await second.aclose()


# --- weights


@_claim(Ability.WEIGHTS)
async def a_server_without_weight_gets_no_request(subject: Subject) -> None:
    """Until it has its weight again; it stays ready meanwhile."""
    balancer, quiet = _made(subject), _names(subject)[0]
    full = (await _look(balancer, quiet)).full
    await _bounded(balancer.set_weights({quiet: 0}))
    server = await _look(balancer, quiet)
    assert (server.weight, server.state) == (0, ServerState.READY)
    await _expect_served(subject, set(_names(subject)) - {quiet})
    await _bounded(balancer.set_weights({quiet: full}))
    assert (await _look(balancer, quiet)).weight == full
    await _expect_soon(subject, set(_names(subject)))
    await balancer.aclose()


@_claim(Ability.WEIGHTS)
async def shares_follow_the_weights(subject: Subject) -> None:
    """All servers change together, and each gets its part."""
    balancer = _made(subject)
    light, *others = _names(subject)
    await _bounded(balancer.set_weights({light: 20, **dict.fromkeys(others, 80)}))
    report = await balancer.report()
    assert [report.servers[name].weight for name in (light, *others)] == [20, *[80] * len(others)]
    sent = 20 * len(_names(subject))
    got = await subject.serve(sent)
    share = 20 / (20 + 80 * len(others))
    assert 0.4 * share < got[light] / sent < 2 * share, f"{got[light]} of {sent}, not {share:.0%}"
    await balancer.set_weights(dict.fromkeys(_names(subject), report.servers[light].full))
    await balancer.aclose()


@_claim(Ability.WEIGHTS)
async def a_weight_outlasts_a_drain(subject: Subject) -> None:
    """What it was given before, or while it was out, it has when it is back."""
    balancer, name = _made(subject), _names(subject)[0]
    full = (await _look(balancer, name)).full
    await balancer.set_weights({name: 40})
    await balancer.drain(name)
    await balancer.ready(name)
    assert (await _look(balancer, name)).weight == 40
    await balancer.drain(name)
    await balancer.set_weights({name: full})
    assert (await _look(balancer, name)).state is not ServerState.READY
    await balancer.ready(name)
    assert (await _look(balancer, name)).weight == full
    await balancer.aclose()


@_claim()
async def full_weights_are_always_taken(subject: Subject) -> None:
    """Also where none can be set: this is how a rolling deployment ends."""
    balancer = _made(subject)
    report = await balancer.report()
    await _bounded(
        balancer.set_weights({name: report.servers[name].full for name in _names(subject)})
    )
    await balancer.set_weights({})
    await balancer.aclose()


# --- what is refused


@_claim()
async def an_unknown_server_is_refused(subject: Subject) -> None:
    """At once, not as something worth repeating, and nothing else is changed by it."""
    balancer, name = _made(subject), _names(subject)[0]
    for unknown in ("no-such-server", *ODD_NAMES):
        for call in (balancer.drain, balancer.ready, balancer.cut):
            await _expect_refused(call(unknown))
        await _expect_refused(balancer.set_weights({name: 0, unknown: 1}))
    report = await balancer.report()
    assert all(report.servers[one].serving for one in _names(subject)), "something was changed"
    await balancer.aclose()


@_claim()
async def an_impossible_weight_is_refused(subject: Subject) -> None:
    """With nothing changed."""
    balancer, (name, other, *_) = _made(subject), _names(subject)
    had = await balancer.report()
    for weight in ODD_WEIGHTS:
        await _expect_refused(balancer.set_weights({other: 1, name: weight}))
    assert (await _look(balancer, other)).weight == had.servers[other].weight
    await balancer.aclose()


@_claim()
async def all_wrong_settings_of_a_balancer_are_named_at_once(subject: Subject) -> None:
    """By their keys, with what is right; the good ones of them are left alone."""
    refused: dict[str, str] = {}
    try:
        balancers.check({**subject.settings, "nope": 1, "neither": 2})
    except SettingsError as error:
        refused = error.errors
    assert set(refused) == {"nope", "neither"}, f"of two unknown ones {refused} were refused"
    for key in set(subject.settings) - {"kind"}:
        try:
            balancers.check({**subject.settings, key: 7.5, "nope": 1})
        except SettingsError as error:
            refused = error.errors
        assert {key, "nope"} <= set(refused), f"{key}: 7.5 was not refused, but {refused}"


# --- out of reach, restarted, cancelled


@_claim(Ability.LOSE, Ability.RESTART)
async def a_balancer_out_of_reach_is_told_in_time(subject: Subject) -> None:
    """As something worth repeating, and the repetition succeeds once it is back."""
    balancer, name = _made(subject), _names(subject)[0]
    await balancer.report()
    await subject.lose()
    for call in (balancer.report, lambda: balancer.drain(name)):
        message = ""
        try:
            await _bounded(call())
        except BalancerUnreachable as error:
            message = str(error)
        assert message, "a balancer out of reach seems to have confirmed"
        assert message.isprintable(), f"the message is not plain: {message!r}"
    await subject.restart()
    await _repeated(lambda: balancer.drain(name))
    assert (await _look(balancer, name)).state is not ServerState.READY
    await _expect_served(subject, set(_names(subject)) - {name})
    await _repeated(lambda: balancer.ready(name))
    await balancer.aclose()


@_claim(Ability.RESTART)
async def what_a_restart_forgets_is_seen(subject: Subject) -> None:
    """The report says what requests do, so that whoever drives can tell it again."""
    balancer, name = _made(subject), _names(subject)[0]
    await balancer.drain(name)
    await subject.restart()
    report = await _repeated(balancer.report)
    if report.servers[name].state is ServerState.READY:
        await _expect_soon(subject, set(_names(subject)))
        await balancer.drain(name)
    await _expect_served(subject, set(_names(subject)) - {name})
    await balancer.ready(name)
    await balancer.aclose()


@_claim()
async def a_cancelled_call_ends_at_once(subject: Subject) -> None:
    """And does no harm to what comes after."""
    balancer, name = _made(subject), _names(subject)[0]
    for wait in (0, 0.01, 0.05):
        task = asyncio.create_task(balancer.drain(name))
        await asyncio.sleep(wait)
        task.cancel()
        begun = time.monotonic()
        await asyncio.wait({task}, timeout=BOUND)
        assert task.done(), "a cancelled call goes on"
        assert time.monotonic() - begun < 1, "a cancelled call took more than a second to end"
        await _repeated(lambda: balancer.ready(name))
        assert (await _look(balancer, name)).ready
    await balancer.aclose()


# --- how it is looked at


def _made(subject: Subject) -> Balancer:
    return balancers.make(subject.settings, subject.surroundings)


def _names(subject: Subject) -> list[str]:
    return [one.server for one in subject.surroundings.instances]


async def _bounded(call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(BOUND):
            return await call
    except TimeoutError:
        raise AssertionError(f"a call took more than {BOUND:g} s") from None


async def _look(balancer: Balancer, name: str) -> Server:
    report: BalancerReport = await _bounded(balancer.report())
    return report.servers[name]


async def _repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` gives, repeated while it is out of reach as the engine does."""
    deadline = time.monotonic() + 3 * BOUND
    while True:
        try:
            return await _bounded(call())
        except BalancerUnreachable:
            assert time.monotonic() < deadline, "it never was in reach again"
            await asyncio.sleep(0.05)


async def _expect_refused(call: Awaitable[None]) -> None:
    try:
        await _bounded(call)
    except BalancerUnreachable as error:
        raise AssertionError(f"what is refused for good seems worth repeating: {error}") from error
    except BalancerError:
        return
    raise AssertionError("what can't be seems to have been done")


async def _expect_served(subject: Subject, by: Collection[str]) -> None:
    """Fail unless these servers, and no others, get requests."""
    got = await subject.serve(ROUND * len(by))
    assert set(got) == set(by), f"{dict(got)} requests were answered, not by {sorted(by)}"


async def _expect_soon(subject: Subject, by: Collection[str]) -> None:
    """Return once these servers get requests."""
    deadline = time.monotonic() + FOLLOW
    while missing := set(by) - set(await subject.serve(ROUND * len(by))):
        assert time.monotonic() < deadline, f"{sorted(missing)} get no requests"
