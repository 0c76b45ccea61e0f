"""What balancers, drivers and probes share: how settings from the inventory are refused."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Maker = Callable[[Mapping[str, Any]], T]


class SettingsError(ValueError):
    """Settings of an adapter were refused; `errors` maps each bad key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


def wrong_keys(
    raw: Mapping[str, Any], required: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """Return what is wrong about the keys of `raw` alone: the unknown and the missing ones."""
    known = [*required, *optional]
    errors = {
        str(key)[:64]: f"is no setting here; there are: {', '.join(known)}"
        for key in raw
        if key not in known
    }
    return errors | {key: "is missing" for key in required if key not in raw}


def make(makers: Mapping[str, Maker[T]], raw: Mapping[str, Any]) -> T:
    """Return the adapter that `raw` describes, made by the maker of its `kind`.

    Raises SettingsError with every bad key. Makers do no I/O: making checks settings too.
    """
    kind = raw.get("kind")
    maker = makers.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise SettingsError({"kind": f"must be one of: {', '.join(makers)}"})
    return maker(raw)
