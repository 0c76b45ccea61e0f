"""Pure: how the container of an instance is replaced, one small step at a time.

Three names matter on an engine: the container's own, `NAME-next` for the one that will take its
place, and `NAME-before` for the one that had it, kept stopped for the way back. Every step is
decided from what is found, never from what was done: whoever comes after one that died at any
point finds the next step in the same way. The engine gives a name to one container alone, which
keeps two that do this at the same time from making two of one.

The one that will take the place is made before anything else is changed, and with the restart
policy of the old one: so this is on record when the old one, stopped, must not be restarted by
the engine and has its policy taken away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

INSTANCE = "lockgate.instance"  # labels of the containers that Lockgate made
VERSION = "lockgate.version"
IMAGE = "lockgate.image"  # the ID of the image that the version stands for
DEPLOYMENT = "lockgate.deployment"
REPLACES = "lockgate.replaces"  # the ID of the container whose place it took
LABELS = frozenset({INSTANCE, VERSION, IMAGE, DEPLOYMENT, REPLACES})


class Place(StrEnum):
    """What is added to the container's own name."""

    CURRENT = ""
    NEXT = "-next"
    BEFORE = "-before"


class InTheWay(Exception):
    """A container that is not Lockgate's has a name that is needed."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Restart:
    """A restart policy."""

    name: str = "no"
    retries: int = 0


NEVER = Restart()


@dataclass(frozen=True)
class Container:
    """What an engine says of one container; `version` is None where nothing tells it."""

    id: str
    image: str
    version: str | None
    running: bool
    restart: Restart = NEVER
    networks: frozenset[str] = frozenset()
    instance: str | None = None
    deployment: str | None = None
    replaces: str = ""
    dead: bool = False  # its removal was begun and failed: it never runs again
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, raw: Mapping[str, Any], version: str | None) -> "Container":
        """Return what `raw`, the engine's own words, says; `version` is what its image's tag is."""
        labels = raw["Config"].get("Labels") or {}
        policy = raw["HostConfig"].get("RestartPolicy") or {}
        networks = (raw.get("NetworkSettings") or {}).get("Networks") or {}
        if labels.get(IMAGE) == raw["Image"]:
            version = labels.get(VERSION)
        return cls(
            id=raw["Id"],
            image=raw["Image"],
            version=version,
            running=bool(raw["State"].get("Running")),
            restart=Restart(policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0),
            networks=frozenset(networks),
            instance=labels.get(INSTANCE),
            deployment=labels.get(DEPLOYMENT),
            replaces=labels.get(REPLACES, ""),
            dead=raw["State"].get("Status") == "dead",
            raw=raw,
        )


@dataclass(frozen=True)
class Found:
    """The containers that have the three names."""

    current: Container | None = None
    next: Container | None = None
    before: Container | None = None


@dataclass(frozen=True)
class Wanted:
    """What an instance should run: `version`, which is the image with the ID `image`."""

    instance: str
    version: str
    deployment: str
    image: str = ""

    def is_(self, one: Container) -> bool:
        """Whether `one` was made for just this."""
        return self.ours(one) and (one.version, one.image) == (self.version, self.image)

    def ours(self, one: Container) -> bool:
        """Whether `one` was made for the instance by this deployment, so that it may go."""
        return one.instance == self.instance and one.deployment == self.deployment

    def was(self, one: Container) -> bool:
        """Whether `one` is what ran before this deployment, and is the version wanted again.

        Of one whose version nothing tells it is taken for granted.
        """
        return not self.ours(one) and one.version in {self.version, None}


@dataclass(frozen=True)
class Create:
    """Make the next container like `source`; of the settings where there is none."""

    source: Container | None
    replaces: str


@dataclass(frozen=True)
class Connect:
    """Connect the container to a network as `source` is."""

    id: str
    network: str
    source: Container


@dataclass(frozen=True)
class SetRestart:
    """Give the container a restart policy."""

    id: str
    restart: Restart


@dataclass(frozen=True)
class Stop:
    """Stop the container in its own way, and kill it where that takes too long."""

    container: Container


@dataclass(frozen=True)
class Remove:
    """Remove the container, but no volume of it."""

    id: str
    place: Place


@dataclass(frozen=True)
class Rename:
    """Give the container another of the three names."""

    id: str
    place: Place


@dataclass(frozen=True)
class Start:
    """Start the container, which is the last step always."""

    id: str


Step = Create | Connect | SetRestart | Stop | Remove | Rename | Start


def clearing(found: Found) -> Remove | None:
    """Return the step that removes what is left of a container that is dead."""
    there = ((found.current, Place.CURRENT), (found.next, Place.NEXT), (found.before, Place.BEFORE))
    return next((Remove(one.id, place) for one, place in there if one and one.dead), None)


def forward(found: Found, wanted: Wanted) -> Step | None:
    """Return the next step to what is wanted; None where it runs. Raises InTheWay."""
    current, coming = found.current, found.next
    if coming and coming.instance != wanted.instance:
        raise InTheWay(Place.NEXT)
    if current and wanted.is_(current):
        if coming:
            return Remove(coming.id, Place.NEXT)
        return None if current.running else Start(current.id)
    source = current or found.before
    if coming and not wanted.is_(coming):
        return _give_back(coming, source) or Remove(coming.id, Place.NEXT)
    if coming is None:
        # What this deployment made already and replaces again is not what it keeps.
        again = source is not None and wanted.ours(source)
        replaces = (source.replaces if again else source.id) if source else ""
        return Create(source, replaces)
    if source and (missing := source.networks - coming.networks):
        return Connect(coming.id, min(missing), source)
    if current:
        return _make_way(found, current, wanted)
    if found.before and found.before.restart != NEVER:
        return SetRestart(found.before.id, NEVER)
    return Rename(coming.id, Place.CURRENT)


def _make_way(found: Found, current: Container, wanted: Wanted) -> Step:
    """Return the next step to have no container of the name; the next one is ready."""
    if wanted.ours(current):
        return Stop(current) if current.running else Remove(current.id, Place.CURRENT)
    if current.restart != NEVER:
        return SetRestart(current.id, NEVER)
    if current.running:
        return Stop(current)
    if found.before:
        if not _kept(found, wanted):
            raise InTheWay(Place.BEFORE)
        return Remove(found.before.id, Place.BEFORE)
    return Rename(current.id, Place.BEFORE)


def back(found: Found, wanted: Wanted) -> tuple[bool, Step | None]:
    """Return whether what ran before is still there, and the next step to have it again.

    The step is None where it runs. Where it is not there, the way is that of `forward`.
    """
    current, coming, before = found.current, found.next, found.before
    if coming and coming.instance != wanted.instance:
        coming = None
    if current and wanted.was(current):
        return True, _as_before(current, coming)
    if not before or not wanted.was(before) or (current and not wanted.ours(current)):
        return False, None
    if (made := current or coming) and (step := _give_back(made, before)):
        return True, step
    if current:
        return True, Stop(current) if current.running else Remove(current.id, Place.CURRENT)
    return True, Rename(before.id, Place.CURRENT)


def _as_before(current: Container, coming: Container | None) -> Step | None:
    """Return the next step to have `current` as it was before its place was to be taken."""
    if coming:
        return _give_back(coming, current) or Remove(coming.id, Place.NEXT)
    return None if current.running else Start(current.id)


def _give_back(made: Container, old: Container | None) -> SetRestart | None:
    """Return the step that gives `old` the restart policy that `made` has on record for it."""
    if old and made.replaces == old.id and made.restart != old.restart:
        return SetRestart(old.id, made.restart)
    return None


def letting_go(found: Found, wanted: Wanted) -> Step | None:
    """Return the next step to keep nothing but the current container, which must run."""
    if not found.current or not found.current.running:
        return None
    if found.next and found.next.instance == wanted.instance:
        return Remove(found.next.id, Place.NEXT)
    if found.before and _kept(found, wanted):
        return Remove(found.before.id, Place.BEFORE)
    return None


def _kept(found: Found, wanted: Wanted) -> bool:
    """Whether the container from before is one that Lockgate kept."""
    before = found.before
    others = (found.current, found.next)
    return before is not None and (
        before.instance == wanted.instance
        or any(one and one.replaces == before.id for one in others)
    )
