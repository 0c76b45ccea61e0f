"""The audit trail: what changed in words, and what commands add to the trail of the admin."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models

# Nobody can log in as this one or take its name: it has a space, no password, and is not active.
COMMANDS = "command line"
Entry = tuple[models.Model, str, str]  # row; create, change or delete; words
KINDS = {"create": ADDITION, "change": CHANGE, "delete": DELETION}
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


def note(entries: Iterable[Entry]) -> None:
    """Write down what somebody at a terminal did."""
    chosen = list(entries)
    if not chosen:
        return
    user, _ = get_user_model()._default_manager.get_or_create(
        username=COMMANDS, defaults={"is_active": False, "password": "!"}
    )
    write(user.pk, chosen)


def write(user: int, entries: Iterable[Entry]) -> None:
    """Write down what a user did to each row, at once: a file may have thousands of them."""
    chosen = list(entries)
    kinds = {type(row): ContentType.objects.get_for_model(row).pk for row, _, _ in chosen}
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=user,
            content_type_id=kinds[type(row)],
            object_id=row.pk,
            object_repr=str(row)[:200],
            action_flag=KINDS[kind],
            change_message=words,
        )
        for row, kind, words in chosen
    )
