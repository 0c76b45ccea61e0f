"""Steps of a canary or of a shift as a person types and reads them: one in a line, in words."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Step = dict[str, Any]

SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?%(?: for (.+))?")
APPROVE = re.compile(r"approve(?: within (.+))?")
TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|m|min|h|d)")
SECONDS = {"d": 86_400, "h": 3600, "min": 60, "m": 60, "s": 1}
LIKE = "write it like “5 % for 5 min”, “approve within 2 h” or “100 %”"
SHOWN = 40  # characters of a line that was not understood


def steps_of(text: str) -> list[Step]:
    """Return the steps that `text` says, in lines or with commas between.

    Raises ValueError with what is not understood, and how to write it.
    """
    lines = [" ".join(line.split()) for line in re.split(r"[\n,]", text)]
    return [_step(number, line) for number, line in enumerate(filter(None, lines), 1)]


def _step(number: int, line: str) -> Step:
    if found := SHARE.fullmatch(line.lower()):
        share, time = found.groups()
        step: Step = {"share": _number(share)}
        name = "bake"
    elif found := APPROVE.fullmatch(line.lower()):
        (time,) = found.groups()
        step, name = {"approve": True}, "timeout"
    else:
        raise ValueError(f"step {number}, “{line[:SHOWN]}”, is not understood: {LIKE}")
    if time is not None:
        if not (told := TIME.fullmatch(time)):
            raise ValueError(f"step {number}: “{time[:SHOWN]}” is no time: {LIKE}")
        step[name] = _number(told[1]) * SECONDS[told[2]]
    return step


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def lines(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return each of `steps` as it would be typed."""
    return [_line(step) for step in steps]


def _line(step: Mapping[str, Any]) -> str:
    if "approve" in step:
        return "approve" + (f" within {_time(step['timeout'])}" if "timeout" in step else "")
    return f"{step['share']:.9g} %" + (f" for {_time(step['bake'])}" if "bake" in step else "")


def _time(seconds: float) -> str:
    """Return a time in the largest unit of which it is a whole number, else in seconds."""
    whole = (unit for unit, size in SECONDS.items() if seconds >= size and not seconds % size)
    unit = next(whole, "s")
    return f"{seconds / SECONDS[unit]:.9g} {unit}"
