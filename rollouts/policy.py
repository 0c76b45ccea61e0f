"""Every knob of a deployment, once: type, unit, default, limits, help text.

The deploy form, the REST schema and the documentation are drawn from `KNOBS`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# An integer from 1, or a percentage of the service's active instances such as "25%".
Amount = int | str
Value = Any  # a number, a text, true or false, or what a key of steps or settings takes

PERCENT = re.compile(r"(100|[1-9]?[0-9])(\.[0-9]+)?%")
STRATEGIES = ("rolling", "canary", "blue_green")
# What a bake that is over does where too few requests came for a verdict.
TOO_LITTLE = ("wait", "ask", "go_on")


class PolicyError(ValueError):
    """A policy was refused; `errors` maps each bad key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


@dataclass(frozen=True)
class Knob:
    """One key of a policy; `check` returns the value or raises ValueError with what is right."""

    key: str
    kind: str  # number, integer, amount, switch, path, choice, names, steps or analysis
    unit: str
    default: Value
    help: str
    check: Callable[[Any], Value]
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    main: bool = False  # shown at once in the form; the rest is folded away


def _number(key: str, default: float, low: float, high: float, text: str, **more: Any) -> Knob:
    def check(value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return value

    return Knob(key, "number", "s", default, text, check, low, high, **more)


def _integer(key: str, default: int, low: int, high: int, text: str) -> Knob:
    def check(value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return Knob(key, "integer", "", default, text, check, low, high)


def _percent(key: str, default: float, text: str) -> Knob:
    def check(value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise ValueError("must be a percentage from 0 to 100, as a number")
        return value

    return Knob(key, "number", "%", default, text, check, 0, 100)


def _amount(key: str, default: Amount, text: str) -> Knob:
    def check(value: Any) -> Value:
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000
        share = isinstance(value, str) and PERCENT.fullmatch(value) and float(value[:-1]) > 0
        if not whole and not share:
            raise ValueError('must be a whole number from 1, or a percentage such as "25%"')
        return value

    return Knob(key, "amount", "instances", default, text, check, main=True)


def _switch(key: str, default: bool, text: str, **more: Any) -> Knob:
    def check(value: Any) -> Value:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    return Knob(key, "switch", "", default, text, check, **more)


def _path(key: str, default: str, text: str) -> Knob:
    # Only a path: the host comes from the inventory, whatever is typed here.
    shape = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,254}")

    def check(value: Any) -> Value:
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise ValueError("must be a path that begins with one /, such as /health")
        return value

    return Knob(key, "path", "", default, text, check)


def _names(key: str, text: str) -> Knob:
    shape = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

    def check(value: Any) -> Value:
        named = isinstance(value, list) and len(value) <= MOST_STEPS
        if not named or not all(isinstance(one, str) and shape.fullmatch(one) for one in value):
            raise ValueError(f'must be a list of names such as ["a", "b"], of at most {MOST_STEPS}')
        if twice := sorted({one for one in value if value.count(one) > 1}):
            raise ValueError(f"names twice: {', '.join(twice)}")
        return value

    return Knob(key, "names", "", [], text, check)


def _choice(key: str, default: str, choices: tuple[str, ...], text: str) -> Knob:
    def check(value: Any) -> Value:
        if value not in choices:
            raise ValueError(f"must be one of: {', '.join(choices)}")
        return str(value)

    return Knob(key, "choice", "", default, text, check, choices=choices)


HOUR = 3600
DAY = 24 * HOUR
MOST_STEPS = 50


def _steps(key: str, default: list[dict[str, Any]], text: str) -> Knob:
    def check(value: Any) -> Value:
        if not isinstance(value, list) or not value or len(value) > MOST_STEPS:
            raise ValueError(
                'must be a list of steps, such as [{"share": 5, "bake": 60}, {"approve": true}, '
                f'{{"share": 100}}], of at most {MOST_STEPS}'
            )
        wrong = [f"step {n}: {why}" for n, step in enumerate(value, 1) if (why := _bad_step(step))]
        shares = [step["share"] for step in value if isinstance(step, dict) and "share" in step]
        if not wrong and shares != sorted(set(shares)):
            wrong = [f"shares must rise from step to step, not {', '.join(map(str, shares))}"]
        if not wrong and (not shares or shares[-1] != 100):
            wrong = ["the last share must be 100, or the old version would stay"]
        if wrong:
            raise ValueError("; ".join(wrong))
        return value

    return Knob(key, "steps", "", default, text, check)


def _bad_step(step: Any) -> str:
    """Return what is wrong with one step of a canary or of a shift, or nothing."""
    if not isinstance(step, dict):
        return 'must be {"share": 5, "bake": 60} or {"approve": true}'
    if "approve" in step:
        if unknown := set(step) - {"approve", "timeout"}:
            return f"an approval has no {', '.join(sorted(map(str, unknown)))}"
        if step["approve"] is not True:
            return "approve must be true; leave the step out for none"
        return _bad_seconds("timeout", step.get("timeout", 1), 1)
    if unknown := set(step) - {"share", "bake"}:
        return f"a share has no {', '.join(sorted(map(str, unknown)))}"
    share = step.get("share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 100:
        return "share must be a percentage above 0 and up to 100"
    return _bad_seconds("bake", step.get("bake", 0), 0)


def _bad_seconds(name: str, value: Any, low: float) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if good and low <= value <= 7 * DAY:
        return ""
    return f"{name} must be a number of seconds from {low:g} to {7 * DAY}"


@dataclass(frozen=True)
class Analysis:
    """How the new side is judged against the old one, on live traffic.

    `alpha` bounds the probability that a version that is no worse is ever condemned for its
    errors, `min_requests` is what the new side must have answered before a bake may end, and
    `too_little` says what becomes of a bake without: wait, ask a person, or go on.
    """

    enabled: bool = True
    alpha: float = 0.01
    min_requests: int = 50
    too_little: str = "wait"


def _probability(key: str, default: float, low: float, high: float, text: str) -> Knob:
    def check(value: Any) -> Value:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            raise ValueError(f"must be a probability from {low:f} to {high:g}")
        return value

    return Knob(key, "number", "", default, text, check, low, high)


# What there is to set of the key `analysis`.
ANALYSIS = (
    _switch(
        "enabled", Analysis.enabled, "Whether the new side is judged by the balancer's counters."
    ),
    _probability(
        "alpha",
        Analysis.alpha,
        0.000_001,
        0.5,
        "How probable it is at most that a version that is no worse is condemned for its errors.",
    ),
    _integer(
        *("min_requests", Analysis.min_requests, 1, 10_000_000),
        "What the new side must have answered before a bake may end.",
    ),
    _choice(
        *("too_little", Analysis.too_little, TOO_LITTLE),
        "What a bake that is over does without that.",
    ),
)


def _analysis(key: str, text: str) -> Knob:
    by_key = {knob.key: knob for knob in ANALYSIS}

    def check(value: Any) -> Value:
        if not isinstance(value, dict):
            raise ValueError(
                'must be settings such as {"enabled": true, "alpha": 0.01, "min_requests": 50}'
            )
        wrong = []
        for name, given in value.items():
            if name not in by_key:
                wrong.append(f"{str(name)[:64]} is unknown; there are: {', '.join(by_key)}")
                continue
            try:
                by_key[name].check(given)
            except ValueError as error:
                wrong.append(f"{name} {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return {**asdict(Analysis()), **value}

    return Knob(key, "analysis", "", asdict(Analysis()), text, check)


KNOBS: tuple[Knob, ...] = (
    _choice("strategy", "rolling", STRATEGIES, "How the fleet is changed."),
    _steps(
        "canary_steps",
        [{"share": 5, "bake": 300}, {"share": 25, "bake": 300}, {"share": 100}],
        "Canary: shares of the traffic in percent, each with seconds to bake; approvals between.",
    ),
    _steps(
        "shift_steps",
        [{"share": 100}],
        "Blue/green: how the traffic moves to the new slot, in the same words as a canary's steps.",
    ),
    _switch("approve", False, "Blue/green: wait for a person before the shift."),
    _number("keep_old", 600, 0, 7 * DAY, "Blue/green: how long the old slot stays warm."),
    _switch(
        "retire_old",
        False,
        "Blue/green: take the old slot out of rotation then, rather than keep it as the next one.",
    ),
    _analysis("analysis", "Whether and how the new side is judged by the balancer's counters."),
    _amount("batch_size", 2, "Instances changed at once; a percentage is rounded down."),
    _amount(
        "max_unavailable",
        2,
        "Instances out of rotation at any instant, those already out before the start included.",
    ),
    _number("batch_pause", 10, 0, DAY, "Wait between batches.", main=True),
    _switch("by_zone", False, "Zone after zone: never are instances of two zones touched at once."),
    _names(
        "zone_order",
        "With by_zone: these zones first, in this order; then the others by name, and at the end "
        "the instances without a zone.",
    ),
    _number(
        "zone_bake",
        60,
        0,
        7 * DAY,
        "With by_zone: how long the traffic is watched before the next zone; "
        "0: no longer than between batches.",
    ),
    _number(
        "drain_timeout",
        30,
        0,
        HOUR,
        "Longest wait for open sessions; the drain ends as soon as the balancer reports none.",
        main=True,
    ),
    _number("update_timeout", 300, 1, DAY, "Longest run of the driver on one instance."),
    _path("health_check_path", "/health", "Where an instance says whether it is well."),
    _number("health_check_timeout", 5, 0.05, 300, "One probe, from connect to last byte."),
    _integer(
        "health_check_retries", 3, 1, 1000, "Bad answers in a row before an instance has failed."
    ),
    _number(
        "health_check_interval",
        1,
        0.05,
        300,
        "Between probes of an instance that answered badly; sooner while nothing listens yet.",
    ),
    _number(
        "min_healthy_time", 0, 0, HOUR, "Unbroken run of good answers before it counts as healthy."
    ),
    _number(
        "healthy_deadline",
        60,
        0.1,
        DAY,
        "From the end of the update to healthy; nothing listening yet is no bad answer until then.",
    ),
    _number(
        "progress_deadline",
        600,
        1,
        7 * DAY,
        "Without one more healthy instance for so long the deployment fails; never while paused.",
    ),
    _switch("auto_rollback", True, "Go back to the old versions by itself.", main=True),
    _percent(
        "rollback_threshold", 10, "Roll back when failed / updated x 100 is greater than this."
    ),
    _switch(
        "verify_version",
        True,
        "The instance must report the deployed version, where the service says how it reports one.",
    ),
    _number("slow_start", 0, 0, HOUR, "Ramp of the weight once it is back in rotation."),
    _switch(
        "preflight",
        True,
        "Look first whether hosts, keys and old versions are there; where not, touch nothing.",
    ),
    _switch(
        "allow_downtime", False, "Allow a service with a single instance to be down meanwhile."
    ),
    _switch(
        "allow_same_version", False, "Deploy again what every instance already runs (a restart)."
    ),
)
BY_KEY = {knob.key: knob for knob in KNOBS}


@dataclass(frozen=True)
class Policy:
    """The knobs of one deployment, frozen when it starts. Times in seconds."""

    strategy: str
    canary_steps: list[dict[str, Any]]
    shift_steps: list[dict[str, Any]]
    approve: bool
    keep_old: float
    retire_old: bool
    analysis: dict[str, Any]
    batch_size: Amount
    max_unavailable: Amount
    batch_pause: float
    by_zone: bool
    zone_order: list[str]
    zone_bake: float
    drain_timeout: float
    update_timeout: float
    health_check_path: str
    health_check_timeout: float
    health_check_retries: int
    health_check_interval: float
    min_healthy_time: float
    healthy_deadline: float
    progress_deadline: float
    auto_rollback: bool
    rollback_threshold: float
    verify_version: bool
    slow_start: float
    preflight: bool
    allow_downtime: bool
    allow_same_version: bool

    @property
    def judging(self) -> Analysis:
        """Return how the new side is judged."""
        return Analysis(**self.analysis)


def stored(raw: Mapping[str, Any]) -> Policy:
    """Return a policy as it was frozen; what came to be a key later has its default."""
    return Policy(**{**defaults(), **raw})


def resolve(amount: Amount, total: int) -> int:
    """Return `amount` as instances of `total`: a percentage is rounded down, at least 1."""
    if isinstance(amount, str):
        return max(1, int(total * float(amount[:-1]) / 100))
    return amount


def defaults() -> dict[str, Value]:
    """Return every key with its default."""
    return {knob.key: knob.default for knob in KNOBS}


def _sort_out(raw: Mapping[str, Any]) -> tuple[dict[str, Value], dict[str, str]]:
    """Return the known, well-typed keys of `raw`, and what is wrong with the others."""
    errors: dict[str, str] = {}
    values: dict[str, Value] = {}
    for key, value in raw.items():
        knob = BY_KEY.get(key)
        if knob is None:
            errors[str(key)[:64]] = f"is no key of a policy; there are: {', '.join(BY_KEY)}"
            continue
        try:
            values[key] = knob.check(value)
        except ValueError as error:
            errors[key] = str(error)
    return values, errors


def check_keys(raw: Mapping[str, Any]) -> None:
    """Raise PolicyError naming every key of `raw` that is unknown or not well-typed."""
    _, errors = _sort_out(raw)
    if errors:
        raise PolicyError(errors)


def parse(*layers: Mapping[str, Any], total: int | None = None) -> Policy:
    """Return the policy made of the defaults and `layers`, the later ones over the earlier.

    `total` is the number of active instances, which percentages refer to; without it they
    are not compared. Raises PolicyError with every bad key at once.
    """
    values = defaults()
    errors: dict[str, str] = {}
    for layer in layers:
        good, bad = _sort_out(layer)
        values.update(good)
        errors.update(bad)
    errors = {**_conflicts(values, total), **errors}
    if errors:
        raise PolicyError(errors)
    return Policy(**values)


def _conflicts(values: Mapping[str, Any], total: int | None) -> dict[str, str]:
    """Return what is impossible among values that are well-typed one by one."""
    errors: dict[str, str] = {}
    if values["healthy_deadline"] > values["progress_deadline"]:
        errors["healthy_deadline"] = (
            f"must not be greater than progress_deadline ({values['progress_deadline']:g} s)"
        )
    if values["min_healthy_time"] >= values["healthy_deadline"]:
        errors["min_healthy_time"] = (
            f"must be less than healthy_deadline ({values['healthy_deadline']:g} s)"
        )
    batch, limit = values["batch_size"], values["max_unavailable"]
    comparable = total is not None or (isinstance(batch, int) and isinstance(limit, int))
    if comparable and resolve(batch, total or 0) > resolve(limit, total or 0):
        errors["batch_size"] = (
            f"is a batch of {resolve(batch, total or 0)}, larger than max_unavailable "
            f"({resolve(limit, total or 0)}); lower the one or raise the other"
        )
    return errors
