"""What holds for every driver: CLAIMS, each to be run against a fresh Subject.

    for claim in CLAIMS:
        if claim.needs <= Mine.troubles:
            await claim.check(subject)

A subject is a real place where a driver of the kind changes something, and whose ways of going
wrong can be chosen. docs/adapters.md shows one.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rollouts import drivers
from rollouts.adapters import SettingsError, Surroundings
from rollouts.drivers.output import MAX_LINE, MAX_OUTPUT
from rollouts.facts import Instance
from rollouts.ports import Driver, DriverError

OLD, NEW, OTHER = "v1", "v2", "v3"
ODD = "1;touch$IFS$(id)`id`&&|<>'\"\\ {name} --flag *"
OWNED = 10.0  # seconds for which the deployment is said to be ours
BOUND = 8.0  # seconds in which a call that is cancelled or out of time has to return
CONTROL = frozenset(map(chr, [*range(9), *range(10, 32), 127, *range(128, 160)]))


class Trouble(StrEnum):
    """What a place can be told to do wrong in its next updates, until it is told otherwise."""

    NONE = "none"
    FAIL_FIRST = "fail-first"  # before it has any effect
    FAIL_LATE = "fail-late"  # after it took effect
    HANG = "hang"  # until there is no trouble any more; then it goes on
    LOUD = "loud"  # says a megabyte, with escapes for a terminal


class Subject(Protocol):
    """One real place with an instance that runs OLD.

    `troubles` are those that it can be told; `lease` is the shortest in seconds with which an
    update begins; `broken` are settings and an instance of which a
    preflight has something to say, and a word that it has to hold, such as the host's name.
    """

    troubles: frozenset[Trouble]
    lease: float
    settings: Mapping[str, Any]
    surroundings: Surroundings
    instance: Instance
    broken: tuple[Mapping[str, Any], Instance, str]

    async def runs(self) -> str:
        """Return the version that really runs, asked of the place rather than of a driver."""
        ...

    async def arrange(self, trouble: Trouble) -> None:
        """Let updates go wrong, or right again."""
        ...

    async def at_work(self) -> bool:
        """Return whether anything that an update has started is still at it."""
        ...


@dataclass(frozen=True)
class Claim:
    """Something that holds for every driver; the check raises AssertionError where it does not."""

    check: Callable[[Subject], Awaitable[None]]
    needs: frozenset[Trouble]

    @property
    def name(self) -> str:
        """Return the claim in words, joined by underscores."""
        return self.check.__name__


CLAIMS: list[Claim] = []


def _claim(
    *needs: Trouble,
) -> Callable[[Callable[[Subject], Awaitable[None]]], Callable[[Subject], Awaitable[None]]]:
    def noted(check: Callable[[Subject], Awaitable[None]]) -> Callable[[Subject], Awaitable[None]]:
        CLAIMS.append(Claim(check, frozenset(needs)))
        return check

    return noted


# --- what a driver does


@_claim()
async def an_update_takes_effect_and_can_be_repeated(subject: Subject) -> None:
    """Done twice it is the same as done once, and it can be done in both directions."""
    driver = _made(subject)
    for version in (NEW, NEW, OLD):
        await driver.update(subject.instance, version, _ignore, _owned)
        await _expect_version(subject, version)
        await _expect_told(driver, subject, version)
    await driver.aclose()


@_claim()
async def fetching_changes_nothing_that_runs(subject: Subject) -> None:
    """`prepare` can be repeated, and an update finds what it fetched or does without."""
    driver = _made(subject)
    for _ in range(2):
        await driver.prepare(subject.instance, NEW, _ignore, _owned)
        await _expect_version(subject, OLD)
    await driver.update(subject.instance, NEW, _ignore, _owned)
    await _expect_version(subject, NEW)
    await driver.aclose()


@_claim()
async def the_way_back_ends_at_the_old_version(subject: Subject) -> None:
    """By another object, as after a takeover; and letting go at the end can be repeated."""
    first, successor = _made(subject), _made(subject)
    await first.update(subject.instance, NEW, _ignore, _owned)
    await first.aclose()
    await successor.roll_back(subject.instance, OLD, _ignore, _owned)
    await _expect_version(subject, OLD)
    await successor.roll_back(subject.instance, OLD, _ignore, _owned)
    for _ in range(2):
        await successor.finish(subject.instance, _ignore, _owned)
        await _expect_version(subject, OLD)
    await successor.aclose()


@_claim()
async def a_version_arrives_verbatim_or_not_at_all(subject: Subject) -> None:
    """Nothing that a shell or a template would understand is understood."""
    driver = _made(subject)
    expected = ODD
    try:
        await driver.update(subject.instance, ODD, _ignore, _owned)
    except DriverError:
        expected = OLD
    await _expect_version(subject, expected)
    await driver.aclose()


# --- failures


@_claim(Trouble.FAIL_FIRST)
async def a_failure_is_told_in_a_sentence(subject: Subject) -> None:
    """For the screen: some printable words; and what has failed can be done again."""
    await subject.arrange(Trouble.FAIL_FIRST)
    driver = _made(subject)
    await _expect_failure(driver, subject)
    await _expect_version(subject, OLD)
    await subject.arrange(Trouble.NONE)
    await driver.update(subject.instance, NEW, _ignore, _owned)
    await _expect_version(subject, NEW)
    await driver.aclose()


@_claim(Trouble.FAIL_LATE)
async def a_failure_after_the_effect_hides_nothing(subject: Subject) -> None:
    """What runs is told as it is, and the way back is open."""
    await subject.arrange(Trouble.FAIL_LATE)
    driver = _made(subject)
    await _expect_failure(driver, subject)
    await _expect_version(subject, NEW)
    await _expect_told(driver, subject, NEW)
    await subject.arrange(Trouble.NONE)
    await driver.roll_back(subject.instance, OLD, _ignore, _owned)
    await _expect_version(subject, OLD)
    await driver.aclose()


@_claim(Trouble.HANG)
async def a_hang_is_ended_by_a_cancel(subject: Subject) -> None:
    """In bounded time, with nothing left at work, and without harm to what comes after."""
    await subject.arrange(Trouble.HANG)
    driver = _made(subject)
    task = asyncio.create_task(driver.update(subject.instance, NEW, _ignore, lambda: subject.lease))
    await _at_work(subject, task)
    begun = time.monotonic()
    task.cancel()
    await asyncio.wait({task}, timeout=BOUND)
    assert task.done(), f"a cancelled update goes on for more than {BOUND:g} s"
    assert task.cancelled(), "a cancelled update ends as if it had not been cancelled"
    await _expect_idle(subject, begun + BOUND)
    await subject.arrange(Trouble.NONE)
    await driver.update(subject.instance, OTHER, _ignore, _owned)
    await _expect_version(subject, OTHER)
    await driver.aclose()


@_claim(Trouble.HANG)
async def work_ends_with_the_lease(subject: Subject) -> None:
    """When the deployment is not sure to be ours any more, nothing of ours is at work."""
    await subject.arrange(Trouble.HANG)
    driver = _made(subject)
    ends = time.monotonic() + subject.lease
    task = asyncio.create_task(
        driver.update(subject.instance, NEW, _ignore, lambda: ends - time.monotonic())
    )
    await _at_work(subject, task)
    await _expect_idle(subject, ends + 1)
    await asyncio.wait({task}, timeout=BOUND)
    assert task.done(), "an update goes on though the deployment may be another's"
    assert isinstance(task.exception(), DriverError), "an update without a lease seems to be done"
    await _expect_version(subject, OLD)
    await driver.aclose()


@_claim(Trouble.HANG)
async def after_the_death_of_its_controller_a_successor_goes_on(subject: Subject) -> None:
    """Killed in the middle, it leaves nothing that could undo what the successor does."""
    await subject.arrange(Trouble.HANG)
    controller = multiprocessing.get_context("spawn").Process(
        target=_control,
        args=(subject.settings, subject.surroundings, subject.instance, subject.lease),
    )
    controller.start()
    try:
        await _until(subject.at_work, time.monotonic() + 2 * BOUND, "the update never began")
    finally:
        controller.kill()
        controller.join()
    driver = _made(subject)
    successor = asyncio.create_task(driver.update(subject.instance, NEW, _ignore, _owned))
    await subject.arrange(Trouble.NONE)
    await asyncio.wait_for(successor, 2 * BOUND)
    await _expect_version(subject, NEW)
    await _expect_idle(subject, time.monotonic() + BOUND)
    await _expect_version(subject, NEW)
    await driver.aclose()


@_claim()
async def an_update_that_is_begun_twice_is_done_once(subject: Subject) -> None:
    """By an owner and by its successor, at the same time: one of them at least says so."""
    await _expect_one_of_both(subject, NEW, NEW)


@_claim()
async def two_updates_at_once_do_no_harm(subject: Subject) -> None:
    """What runs in the end is one of both, and an update after them is as good as ever."""
    await _expect_one_of_both(subject, NEW, OTHER)


@_claim(Trouble.LOUD)
async def output_is_bounded_and_plain(subject: Subject) -> None:
    """Lines for a log: without escapes, cut at a size, and said to be cut."""
    await subject.arrange(Trouble.LOUD)
    driver = _made(subject)
    lines: list[str] = []
    await driver.update(subject.instance, NEW, lines.append, _owned)
    await _expect_version(subject, NEW)
    await driver.aclose()
    assert lines, "no output was passed on"
    size = sum(len(line.encode()) + 1 for line in lines)
    assert size <= MAX_OUTPUT + 200, f"{size} bytes of output were passed on"
    assert all(len(line) <= MAX_LINE + 50 for line in lines), "a line is longer than may be"
    assert not any(CONTROL & set(line) for line in lines), "control characters were passed on"
    assert any("cut" in line for line in lines), "nothing says that the output was cut"


# --- before a deployment


@_claim()
async def a_look_before_changes_nothing(subject: Subject) -> None:
    """Where all is well no tick says otherwise; without a known old version too."""
    driver = _made(subject)
    for old_version in (OLD, ""):
        for tick in await driver.preflight(subject.instance, old_version):
            assert tick.ok is not False, f"{tick.what}: {tick.detail}"
    await driver.aclose()
    await _expect_version(subject, OLD)
    await _expect_idle(subject, time.monotonic() + 1)


@_claim()
async def a_look_before_names_what_is_wrong(subject: Subject) -> None:
    """In bounded time and without raising, so that it is seen before anything is touched."""
    settings, instance, word = subject.broken
    driver = drivers.make(settings, subject.surroundings)
    begun = time.monotonic()
    ticks = await driver.preflight(instance, OLD)
    await driver.aclose()
    assert time.monotonic() - begun < 15, "a look before took more than 15 s"
    bad = [f"{tick.what}: {tick.detail}" for tick in ticks if tick.ok is False]
    assert bad, "nothing was found to be wrong"
    assert any(word in text for text in bad), f"nothing names {word}: {bad}"


@_claim()
async def all_wrong_settings_are_named_at_once(subject: Subject) -> None:
    """By their keys, with what is right; the good ones of them are left alone."""
    refused: set[str] = set()
    try:
        drivers.check({**subject.settings, "nope": 1, "neither": 2})
    except SettingsError as error:
        refused = set(error.errors)
    assert refused == {"nope", "neither"}, f"of two unknown settings {refused} were refused"


# --- how it is looked at


def _made(subject: Subject) -> Driver:
    return drivers.make(subject.settings, subject.surroundings)


def _ignore(text: str) -> None:
    """Take a line of output."""


def _owned() -> float:
    return OWNED


def _control(
    settings: Mapping[str, Any], around: Surroundings, instance: Instance, lease: float
) -> None:
    """What a worker does that is killed in the middle of it."""

    async def update() -> None:
        driver = drivers.make(settings, around)
        await driver.update(instance, NEW, _ignore, lambda: lease)

    asyncio.run(update())


async def _until(condition: Callable[[], Awaitable[bool]], deadline: float, otherwise: str) -> None:
    while not await condition():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.02)


async def _at_work(subject: Subject, task: asyncio.Task[None]) -> None:
    """Return once the update is at work; fail where it ends instead."""

    async def begun_or_over() -> bool:
        return task.done() or await subject.at_work()

    await _until(begun_or_over, time.monotonic() + 2 * BOUND, "the update never began")
    assert not task.done(), f"the update did not hang: {task.exception()!r}"


async def _expect_idle(subject: Subject, deadline: float) -> None:
    async def idle() -> bool:
        return not await subject.at_work()

    await _until(idle, deadline, "something is still at work")


async def _expect_version(subject: Subject, version: str) -> None:
    found = await subject.runs()
    assert found == version, f"{found!r} runs, not {version!r}"


async def _expect_told(driver: Driver, subject: Subject, version: str) -> None:
    if driver.reports_version:
        told = (await driver.running(subject.instance)).version
        assert told == version, f"the driver tells {told!r}, and {version!r} runs"


async def _expect_one_of_both(subject: Subject, *versions: str) -> None:
    made = [_made(subject) for _ in versions]
    results = await asyncio.gather(
        *(
            driver.update(subject.instance, version, _ignore, _owned)
            for driver, version in zip(made, versions, strict=True)
        ),
        return_exceptions=True,
    )
    assert None in results, f"of two updates at once none was done: {results}"
    found = await subject.runs()
    assert found in versions, f"after two updates at once it runs {found!r}"
    await _expect_idle(subject, time.monotonic() + BOUND)
    await made[0].update(subject.instance, OLD, _ignore, _owned)
    await _expect_version(subject, OLD)
    for driver in made:
        await driver.aclose()


async def _expect_failure(driver: Driver, subject: Subject) -> None:
    try:
        await driver.update(subject.instance, NEW, _ignore, _owned)
    except DriverError as error:
        message = str(error)
    else:
        raise AssertionError("an update that failed seems to be done")
    assert 5 <= len(message) <= MAX_LINE + 200, f"the message has {len(message)} characters"
    assert message.isprintable(), f"the message is not plain: {message!r}"
