"""What changed, from what to what, in words for the audit trail. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

SHOWN = 200  # characters of one value
NEW = object()  # in place of the old value, where there was none


def shown(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None or value in ("", {}, []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M %Z}"
    text = (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, dict | list)
        else str(value)
    )
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def differences(values: Iterable[tuple[str, Any, Any]]) -> str:
    """Return what differs among (name, old, new), such as `port: 80 → 8080; zone: none → a.`."""
    told = [
        f"{path}: {shown(before)} → {shown(after)}"
        if before is not NEW
        else f"{path}: {shown(after)}"
        for name, old, new in values
        for path, before, after in _differing(name, old, new)
    ]
    return f"{'; '.join(told)}." if told else ""


def _differing(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys that differ of settings, the value itself of anything else."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and old and new):
        if shown(None if old is NEW else old) != shown(new):
            yield name, old, new
        return
    for key in dict.fromkeys((*old, *new)):
        yield from _differing(f"{name}.{key}", old.get(key), new.get(key))
