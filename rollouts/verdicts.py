"""Pure: what is known and the time to a decision that carries its reason."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rollouts import planning, strategies, weights
from rollouts.facts import (
    Answer,
    Approve,
    Bake,
    Change,
    Finding,
    Pause,
    Rollout,
    Shift,
    Step,
    Target,
    Wish,
)
from rollouts.policy import Policy
from rollouts.states import IN_FLIGHT, TERMINAL, DeploymentStatus, TargetStatus

D = DeploymentStatus
T = TargetStatus

# While nothing listens yet: seconds to the next probe at first, and as a part of the time that
# the start has taken so far, so that a quick one is seen at once and a slow one costs little.
FIRST_INTERVAL = 0.02
INTERVAL_GROWTH = 0.1
# Between two looks at the traffic while nothing else goes on: seconds at first, as a part of
# the time since the last step, and at most.
LOOK_FIRST, LOOK_GROWTH, LOOK_LONGEST = 5.0, 0.05, 60.0


# Of one instance after its update.


@dataclass(frozen=True)
class Healthy:
    """It may go back into rotation."""

    reason: str


@dataclass(frozen=True)
class Unhealthy:
    """It has failed."""

    reason: str


@dataclass(frozen=True)
class AskAgain:
    """Not decided: probe again after `seconds`."""

    seconds: float
    reason: str


def judge(answer: Answer, wanted: str | None) -> Answer:
    """Return `answer`, made a bad one where it reports another version than `wanted`."""
    if not answer.ok or wanted is None or answer.version == wanted:
        return answer
    said = f"reports {answer.version}" if answer.version else "reports no version"
    why = f" ({answer.error})" if answer.error else ""
    return replace(answer, ok=False, error=f"{said} instead of {wanted}{why}")


def health(
    answers: Sequence[Answer], since: float, now: float, policy: Policy
) -> Healthy | Unhealthy | AskAgain:
    """Decide on the answers heard since the update ended at `since`.

    Nothing listening is no bad answer before `healthy_deadline`, but it breaks a run of good
    ones; `health_check_retries` bad ones in a row, or the deadline, are failure.
    """
    last = answers[-1] if answers else None
    if last is not None and last.ok:
        run = _run(answers, good=True)
        if last.at - run[0].at >= policy.min_healthy_time:
            return Healthy(_healthy_words(last, len(run), last.at - since))
    bad = [answer for answer in _run(answers, good=False) if answer.listening]
    if len(bad) >= policy.health_check_retries:
        return Unhealthy(
            f"check {len(bad)} of {policy.health_check_retries} failed: {describe(bad[-1])}"
        )
    left = since + policy.healthy_deadline - now
    if left <= 0:
        heard = describe(last) if last is not None else "no answer"
        return Unhealthy(
            f"not healthy within {policy.healthy_deadline:g} s (healthy_deadline); last: {heard}"
        )
    if last is None:
        return AskAgain(0, "not asked yet")
    if not last.listening:
        soon = max(FIRST_INTERVAL, INTERVAL_GROWTH * (now - since))
        return AskAgain(min(left, soon, policy.health_check_interval), "starting")
    pause = policy.health_check_interval
    if last.ok:
        # Not later than the moment at which the run is long enough.
        pause = min(pause, max(0.0, run[0].at + policy.min_healthy_time - now))
    return AskAgain(min(left, pause), describe(last))


def _run(answers: Sequence[Answer], *, good: bool) -> list[Answer]:
    """Return the answers at the end that are all good, or all not."""
    run: list[Answer] = []
    for answer in reversed(answers):
        if answer.ok is not good:
            break
        run.insert(0, answer)
    return run


def _healthy_words(last: Answer, count: int, seconds: float) -> str:
    version = f", reports {last.version}" if last.version else ""
    return f"healthy after {max(seconds, 0):.1f} s ({count} good in a row{version})"


def describe(answer: Answer) -> str:
    """Return `answer` in words: the status, the error, the time it took."""
    took = "" if answer.latency_ms is None else f" in {answer.latency_ms:.0f} ms"
    if answer.ok:
        return f"{answer.code}{took}"
    if answer.code is not None and str(answer.code) not in answer.error:
        return f"{answer.code}, {answer.error}{took}" if answer.error else f"{answer.code}{took}"
    return f"{answer.error}{took}"


# Of the whole deployment.


@dataclass(frozen=True)
class Begin:
    """Look at the fleet and start."""

    reason: str


@dataclass(frozen=True)
class Take:
    """Do this step, which is number `cursor`."""

    cursor: int
    step: Step


@dataclass(frozen=True)
class Wait:
    """Begin to wait at the step that is next, until `until`, seconds since the epoch."""

    until: float
    reason: str


@dataclass(frozen=True)
class Pass:
    """Nothing is left to wait for at the step that is next: go past it."""

    reason: str


@dataclass(frozen=True)
class Hold:
    """Wait until `until`, seconds since the epoch, or with None for a person or for traffic.

    `look_after` are the seconds until the traffic is looked at again, None where it is not
    judged.
    """

    until: float | None
    look_after: float | None = None


@dataclass(frozen=True)
class MoveTo:
    """Move to a status that ends nothing: paused, or going on."""

    status: DeploymentStatus
    reason: str


@dataclass(frozen=True)
class GoBack:
    """Bring targets back to their old versions; `everything`: those that are well too."""

    everything: bool
    ends_as: DeploymentStatus
    reason: str


@dataclass(frozen=True)
class Finish:
    """End with this status."""

    status: DeploymentStatus
    reason: str


@dataclass(frozen=True)
class Ended:
    """Nothing is left to do."""


Decision = Begin | Take | Wait | Pass | Hold | MoveTo | GoBack | Finish | Ended


def decide(rollout: Rollout, now: float) -> Decision:
    """Return what is next for `rollout`."""
    if rollout.status in TERMINAL:
        return Ended()
    if (decision := interruption(rollout, now)) is not None:
        return decision
    if rollout.going_back:
        return _next_back(rollout)
    if rollout.status is D.PENDING:
        return Begin(f"Started: {len(rollout.targets)} instances to {rollout.version}.")
    if rollout.status is D.PAUSED:
        if rollout.wish is Wish.RESUME:
            return MoveTo(D.IN_PROGRESS, f"Resumed by {rollout.wish_by}.")
        return Hold(None, look_after(rollout, now))
    if rollout.wish is Wish.PAUSE:
        return MoveTo(D.PAUSED, f"Paused by {rollout.wish_by}.")
    return _next_forward(rollout, now)


def _next_forward(rollout: Rollout, now: float) -> Decision:
    match rollout.step:
        case None:
            return _complete(rollout)
        case Pause(seconds):
            words = f"Waiting {seconds:g} s before the next batch."
            return _waited(rollout, now, seconds, words) or Pass("The pause is over.")
        case Bake() as step:
            return _baked(rollout, now, step)
        case Approve(timeout):
            return _approved(rollout, now, timeout)
        case step:
            return Take(rollout.cursor, step)


def _waited(rollout: Rollout, now: float, seconds: float, words: str) -> Wait | Hold | None:
    """Return how to wait for so long at the step that is next; None once that is over."""
    if rollout.waiting_until is None:
        return Wait(now + seconds, words)
    if now < rollout.waiting_until:
        return Hold(rollout.waiting_until, look_after(rollout, now))
    return None


def _baked(rollout: Rollout, now: float, step: Bake) -> Decision:
    """Return what comes of a bake: over by its time, if there was traffic enough to judge by."""
    if rollout.wish is Wish.PROMOTE or (rollout.wish is Wish.PROMOTE_ALL and not step.keep):
        return Pass(f"Promoted by {rollout.wish_by}.")
    before = " before the next zone" if rollout.policy.strategy == "rolling" else ""
    words = f"Baking for {step.seconds:g} s{before}."
    if step.keep:
        words = f"The old slot stays warm for {step.seconds:g} s."
    if waiting := _waited(rollout, now, step.seconds, words):
        return waiting
    if step.keep or not judged(rollout):
        return Pass("The bake is over." if not step.keep else "The old slot's time is over.")
    if rollout.judgement.finding is Finding.TOO_LITTLE:
        if rollout.policy.judging.too_little != "go_on":
            return Hold(None, look_after(rollout, now))
        return Pass(f"The bake is over, with too little traffic: {rollout.judgement.reason}.")
    return Pass(f"The bake is over. {rollout.judgement.reason}")


def _approved(rollout: Rollout, now: float, timeout: float | None) -> Decision:
    if rollout.wish is not None and rollout.wish.promotes:
        return Pass(f"Approved by {rollout.wish_by}.")
    if timeout is None:
        return Hold(None, look_after(rollout, now))
    words = f"Waiting for approval, for {timeout:g} s at most."
    return _waited(rollout, now, timeout, words) or GoBack(
        True, D.ROLLED_BACK, f"Nobody approved within {timeout:g} s. Rolling back."
    )


def judged(rollout: Rollout) -> bool:
    """Whether the live traffic of the new side is looked at."""
    watched = rollout.judgement.finding is not Finding.OFF and not rollout.going_back
    return watched and any(target.status is T.HEALTHY for target in rollout.targets)


def look_after(rollout: Rollout, now: float) -> float | None:
    """Return in how many seconds the traffic is to be looked at again, None for never.

    Often at first, and then as a part of the time that the state has lasted: a verdict that
    holds however often one looks may also be looked at rarely.
    """
    if not judged(rollout):
        return None
    return min(LOOK_LONGEST, max(LOOK_FIRST, LOOK_GROWTH * (now - rollout.progress_at)))


def interruption(rollout: Rollout, now: float) -> GoBack | Finish | None:
    """Return what must not wait for the end of a batch: a cancel, or too many failures.

    A rollback is never rolled back; all that can interrupt it is that nothing moves any more.
    """
    if rollout.going_back:
        return _stuck_back(rollout, now)
    if rollout.wish is not None and rollout.wish.ends:
        return _wished_end(rollout)
    if rollout.status is D.PAUSED:
        # What the traffic says against the new version waits for nobody.
        reason = _condemned(rollout) if rollout.policy.auto_rollback else None
    elif rollout.status is D.IN_PROGRESS:
        reason = trouble(rollout, now)
    else:
        reason = None
    if reason is None:
        return None
    if rollout.policy.auto_rollback:
        return GoBack(True, D.ROLLED_BACK, f"{reason} Rolling back.")
    if any(target.status in IN_FLIGHT for target in rollout.targets) and not _overdue(rollout, now):
        return None  # let what is under way come to its own end
    return Finish(D.FAILED, f"{reason} Rollback is switched off. {state_of(rollout)}")


def trouble(rollout: Rollout, now: float) -> str | None:
    """Return why the deployment can't go on, or None."""
    if (condemned := _condemned(rollout)) is not None:
        return condemned
    failed = [target for target in rollout.targets if target.status is T.FAILED]
    updated = [target for target in rollout.targets if target.touched]
    if failed:
        percent = 100 * len(failed) / max(1, len(updated))
        who = _failures(failed)
        if _slots(rollout):
            return f"{who} No traffic goes to a slot that is not whole."
        if percent > rollout.policy.rollback_threshold:
            return (
                f"{who} {len(failed)} of {len(updated)} updated failed, more than "
                f"rollback_threshold ({rollout.policy.rollback_threshold:g} %)."
            )
        waiting = any(target.status is T.PENDING for target in rollout.targets)
        limit = strategies.limit_of(rollout.policy, rollout.size)
        if waiting and len(failed) >= limit:
            return f"{who} {len(failed)} held out leave no room within max_unavailable ({limit})."
    if _overdue(rollout, now):
        return (
            f"No instance became healthy for {rollout.policy.progress_deadline:g} s "
            "(progress_deadline)."
        )
    return None


def _failures(failed: Sequence[Target]) -> str:
    """Return what failed one of them, and who else failed.

    They are in the order of the plan. Which was the first in time is not known here, and a page
    that pins it would seem to contradict a reason that names one alone.
    """
    one, *others = failed
    too = f"; {planning.names([each.instance.name for each in others])} too" if others else ""
    return f"{one.instance.name} failed: {one.error}{too}."


def _condemned(rollout: Rollout) -> str | None:
    against = rollout.judgement.finding is Finding.AGAINST
    return rollout.judgement.reason if against else None


def _slots(rollout: Rollout) -> bool:
    return any(isinstance(step, Shift) and step.old for step in rollout.plan)


def _overdue(rollout: Rollout, now: float) -> bool:
    # Time that only passes, be it for the traffic or for a person, is no lack of progress.
    if isinstance(rollout.step, Pause | Bake | Approve):
        return False
    return now - rollout.progress_at > rollout.policy.progress_deadline


def _wished_end(rollout: Rollout) -> GoBack | Finish:
    everything = rollout.wish is not Wish.CANCEL_STOP
    ends_as = planning.ending(cancelled=rollout.wish is not Wish.ROLL_BACK)
    verb = "Stopped" if ends_as is D.CANCELLED else "Rolled back"
    back = planning.to_bring_back(rollout, everything)
    steps = planning.way_back(rollout, everything=everything)
    if not steps and ends_as is D.CANCELLED:
        touched = any(target.touched for target in rollout.targets)
        how = f". {state_of(rollout)}" if touched else " before anything was touched."
        return Finish(ends_as, f"{verb} by {rollout.wish_by}{how}")
    what = "all" if everything else "what was under way"
    return GoBack(
        everything, ends_as, f"{verb} by {rollout.wish_by}: bringing {what} back ({len(back)})."
    )


def _stuck_back(rollout: Rollout, now: float) -> Finish | None:
    """Return the end of a way back on which nothing moves any more."""
    waits = rollout.cursor < len(rollout.steps)
    if not waits or not _overdue(rollout, now):
        return None
    left = [
        name
        for step in rollout.steps[rollout.cursor :]
        if isinstance(step, Change)
        for name in step.targets
        if not rollout.settled(rollout.target(name))
    ]
    return Finish(
        D.FAILED,
        f"{rollout.reason} The way back did not get on for "
        f"{rollout.policy.progress_deadline:g} s (progress_deadline); not back: "
        f"{planning.names(left)}.",
    )


def _next_back(rollout: Rollout) -> Take | Finish:
    steps = rollout.steps
    if rollout.cursor < len(steps):
        return Take(rollout.cursor, steps[rollout.cursor])
    concerned = {name for step in steps if isinstance(step, Change) for name in step.targets}
    lost = [
        target
        for target in rollout.targets
        if target.instance.name in concerned and target.status is not T.ROLLED_BACK
    ]
    cause = rollout.reason.removesuffix(" Rolling back.")
    if lost:
        which = "; ".join(f"{target.instance.name}: {target.error}" for target in lost[:5])
        return Finish(D.FAILED, f"{cause} The way back failed. Held out: {which}.")
    if rollout.ends_as is D.CANCELLED:
        return Finish(D.CANCELLED, f"Stopped by {rollout.wish_by}. {state_of(rollout)}")
    back = sum(target.status is T.ROLLED_BACK for target in rollout.targets)
    if not back:
        moved = any(isinstance(step, Shift) for step in steps)
        what = "All traffic is where it was" if moved else "Nothing had been touched"
        return Finish(D.ROLLED_BACK, f"{cause} {what}.")
    plural = "instance is" if back == 1 else "instances are"
    return Finish(D.ROLLED_BACK, f"{cause} {back} {plural} verified back on the old version.")


def _complete(rollout: Rollout) -> Finish:
    failed = [target for target in rollout.targets if target.status is T.FAILED]
    well = len(rollout.targets) - len(failed)
    if not failed:
        who = (
            f"All {well} instances run" if well > 1 else f"{rollout.targets[0].instance.name} runs"
        )
        return Finish(D.COMPLETED, f"{who} {rollout.version}.")
    held = "; ".join(f"{target.instance.name}: {target.error}" for target in failed[:5])
    return Finish(
        D.COMPLETED if well else D.FAILED,
        f"{well} of {len(rollout.targets)} instances run {rollout.version}. Held out: {held}.",
    )


def state_of(rollout: Rollout) -> str:
    """Return which versions the targets are left on, as a sentence."""
    total = len(rollout.targets)
    new = sum(target.status is T.HEALTHY for target in rollout.targets)
    lost = [t.instance.name for t in rollout.targets if t.status is T.FAILED or _half(t)]
    old = total - new - len(lost)
    words = f"{new} of {total} run {rollout.version}, {old} as before"
    shift = weights.last_shift(rollout)
    if shift is not None and 0 < shift.share < 100:
        words += f", with {shift.share:g} % of the traffic on {rollout.version}"
    return f"{words}, held out: {planning.names(lost)}." if lost else f"{words}."


def _half(target: Target) -> bool:
    return target.status in IN_FLIGHT


def room(
    rollout: Rollout, waiting: Sequence[str], out: Collection[str], down: Collection[str]
) -> tuple[tuple[str, ...], str]:
    """Return which of `waiting` may be taken out now, and why the others wait."""
    limit = strategies.limit_of(rollout.policy, rollout.size)
    admitted = planning.admit(waiting, out, down, limit)
    if admitted:
        return admitted, ""
    names = planning.names(sorted(out))
    return (), f"waiting for room: {names} out, max_unavailable is {limit}"
