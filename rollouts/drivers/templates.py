"""Argument templates: `{name}` in an argument becomes the instance's name, and no more than that.

A value goes into its argument as it is, once: it is never parsed again, and no shell sees it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.facts import Instance

# `instance` is another word for `name`.
PLACEHOLDERS = ("name", "instance", "hostname", "port", "version", "server", "slot", "zone")

# A doubled brace is a literal one, as in str.format; attributes can't be reached.
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_HINT = "; write {{ and }} for braces that are meant literally"


def check_arguments(raw: Any) -> None:
    """Raise ValueError with what is right unless `raw` is a list of argument templates."""
    if not isinstance(raw, list) or not raw or not all(isinstance(each, str) for each in raw):
        raise ValueError(
            "must be a list of texts, the program first, such as "
            '["/opt/shop/deploy", "{name}", "{version}"]'
        )
    if not raw[0].strip():
        raise ValueError("must begin with a program")
    for argument in raw:
        check_template(argument)


def check_template(text: str) -> None:
    """Raise ValueError with what is right unless `text` holds no other braces than placeholders."""
    if "\0" in text:
        raise ValueError("must hold no null character")
    for match in _BRACES.finditer(text):
        _check_brace(match)


def _check_brace(match: re.Match[str]) -> None:
    if match[0] in {"{{", "}}"} or match[1] in PLACEHOLDERS:
        return
    if match[1] is None:
        raise ValueError(f"has a lone {match[0]}{_HINT}")
    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
    raise ValueError(f"has the unknown placeholder {match[0][:64]}; there are: {known}{_HINT}")


def values(instance: Instance, version: str) -> dict[str, str]:
    """Return what each placeholder stands for."""
    return {
        "name": instance.name,
        "instance": instance.name,
        "hostname": instance.hostname,
        "port": str(instance.port),
        "version": version,
        "server": instance.server,
        "slot": instance.slot,
        "zone": instance.zone,
    }


def fill(arguments: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return the checked `arguments` with their placeholders replaced by the `known` values."""

    def value(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else known[match[1]]

    return [_BRACES.sub(value, argument) for argument in arguments]
