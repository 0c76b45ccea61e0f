"""What balancers, drivers and probes share: how they are found, and how settings are refused."""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

from rollouts.facts import Instance

T = TypeVar("T")

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What holds these never leaves us, not even as a signature.
OUR_SECRETS = frozenset({"SECRET_KEY", "DATABASE_URL", "REDIS_URL"})


class KnownHosts(Protocol):
    """The host keys that a person has confirmed, as Lockgate keeps them."""

    async def keys(self, host: str, port: int) -> Sequence[str]:
        """Return the confirmed keys of a host's sshd as `TYPE BASE64`, none for an unknown one."""
        ...

    async def met(self, host: str, port: int, key: str) -> None:
        """Keep `key`, which is not confirmed, for a person to confirm or to refuse."""
        ...


class NoHosts:
    """Nobody was ever met: where settings are only checked."""

    async def keys(self, host: str, port: int) -> Sequence[str]:
        return ()

    async def met(self, host: str, port: int, key: str) -> None:
        return None


NOBODY_MET = NoHosts()


def anywhere(address: str) -> None:
    """Refuse no IP address."""


@dataclass(frozen=True)
class Surroundings:
    """What an adapter may know beside its own settings.

    `instances` are all that are active, as they were when the deployment was started;
    `deployment` is its id, "" outside of one. `refuses` says of an IP address why instances can't
    be there, None where they may be: an adapter that asks instances itself heeds it.
    """

    instances: tuple[Instance, ...] = ()
    known_hosts: KnownHosts = NOBODY_MET
    deployment: str = ""
    refuses: Callable[[str], str | None] = anywhere


NOWHERE = Surroundings()  # where settings are only checked
Maker = Callable[[Mapping[str, Any], Surroundings], T]


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


def checked(
    raw: Mapping[str, Any], checks: Mapping[str, Callable[[Any], None]], errors: dict[str, str]
) -> None:
    """Add to `errors` what the check of each key that is there raises as ValueError."""
    for key, check in checks.items():
        if key in raw:
            try:
                check(raw[key])
            except ValueError as error:
                errors[key] = str(error)


def check_secret(raw: Any) -> None:
    """Raise ValueError unless `raw` names a variable of the worker's environment."""
    if not (isinstance(raw, str) and VARIABLE.fullmatch(raw)):
        raise ValueError(
            "must be the name of an environment variable of workers and web that holds the "
            "secret, such as SHOP_DEPLOY_SECRET"
        )
    if raw in OUR_SECRETS:
        raise ValueError(f"must be another variable: {raw} is Lockgate's own")


def secret(name: str) -> str:
    """Return the secret that the environment variable `name` holds; raise LookupError."""
    value = os.environ.get(name, "")
    if not value:
        raise LookupError(f"the environment variable {name} is not set for this process: set it")
    return value


def make(
    makers: Mapping[str, Maker[T]],
    group: str,
    raw: Mapping[str, Any],
    surroundings: Surroundings,
) -> T:
    """Return the adapter that `raw` describes, made by the maker of its `kind`.

    Kinds that are not among `makers` come from installed packages, as entry points of `group`.
    Raises SettingsError with every bad key. Makers do no I/O: making checks settings too.
    """
    kind = raw.get("kind")
    maker = makers.get(kind) if isinstance(kind, str) else None
    if maker is None:
        others = {one.name: one for one in entry_points(group=group)}
        if not isinstance(kind, str) or kind not in others:
            raise SettingsError(
                {"kind": f"must be one of: {', '.join(dict.fromkeys([*makers, *others]))}"}
            )
        made: T = _foreign(others[kind], raw, surroundings)
        return made
    return maker(raw, surroundings)


def _foreign(entry: EntryPoint, raw: Mapping[str, Any], surroundings: Surroundings) -> Any:
    """Return what an installed package makes; raise SettingsError whatever it raises."""
    try:
        maker = entry.load()
    except Exception as error:
        raise SettingsError({"kind": f"{entry.value} can't be loaded: {error}"}) from error
    try:
        return maker(raw, surroundings)
    except SettingsError:
        raise
    except Exception as error:
        words = f"{entry.value} broke, which its package has to mend: {error!r}"
        raise SettingsError({"kind": words}) from error
