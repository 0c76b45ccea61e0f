"""The file that gives nginx its upstream: read, changed and written. Pure.

It holds all that there is to know: what a server may get by nginx's own directives, and why by a
comment beside them, so that whoever reads the file next knows as much as who wrote it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rollouts.balancers.servers import is_weight
from rollouts.facts import FULL_WEIGHT, Instance, ServerState

# By its first line a file is Lockgate's to write; it is what a person puts there to say so.
FIRST_LINE = "# Lockgate writes this file."
HINT = "# Whatever else is put into it is lost; `options` in the service's balancer are not."
GENERATION_HINT = (
    "# Nobody is served here. nginx listens where no earlier file had it listen, which shows that "
    "it has\n# loaded this one, and that no worker of an earlier one takes requests any more."
)

_SERVER = re.compile(r"server\s+([^\s;#]+)((?:\s+[^\s;#]+)*)\s*;\s*(?:#\s*(\{.*\}))?")
_UPSTREAM = re.compile(r"upstream\s+(\S+)\s*\{")
_LISTEN = re.compile(r"listen\s+(127(?:\.\d{1,3}){3}:\d{1,5})\s*;")
ADDRESS = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,300}")


class FileError(ValueError):
    """The file can't be read or may not be written; the message says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """One server; `name` is "" where a person wrote the line. `weight` is from 0 to 256."""

    name: str
    address: str
    state: ServerState
    weight: int


@dataclass(frozen=True)
class Wish:
    """What a server is to have; None: as it has it."""

    state: ServerState | None = None
    weight: int | None = None

    def on_top_of(self, other: "Wish") -> "Wish":
        """Return both in one, of which this one is the later."""
        return Wish(
            other.state if self.state is None else self.state,
            other.weight if self.weight is None else self.weight,
        )

    def done_to(self, entry: Entry) -> Entry:
        """Return `entry` as it is wished; what is in maintenance is drained more strictly."""
        state = entry.state if self.state is None else self.state
        if entry.state is ServerState.MAINT and state is ServerState.DRAIN:
            state = ServerState.MAINT
        return replace(
            entry, state=state, weight=entry.weight if self.weight is None else self.weight
        )


@dataclass(frozen=True)
class Content:
    """What a file says. `generation` is the address that shows it to be live.

    It is "" in a file that a person began, which nginx may have loaded or not.
    """

    entries: tuple[Entry, ...] = ()
    generation: str = ""


@dataclass(frozen=True)
class Shape:
    """What is the same in all files of an upstream: its name, directives, options of servers."""

    upstream: str
    options: tuple[str, ...] = ()
    server_options: str = ""

    def read(self, text: str) -> Content:
        """Return what `text` says; raise FileError where it is not Lockgate's, or not whole."""
        lines = [line.strip() for line in text.splitlines()]
        if not lines or lines[0] != FIRST_LINE:
            raise FileError(
                f'does not begin with the line "{FIRST_LINE}": put it there if Lockgate may '
                "write the file"
            )
        entries: list[Entry] = []
        generation, found, foreign = "", "", ""
        for number, line in enumerate(lines, 1):
            if match := _SERVER.fullmatch(line):
                entries.append(_entry(match, number))
            elif match := _UPSTREAM.fullmatch(line):
                found = match[1]
            elif match := _LISTEN.fullmatch(line):
                generation = match[1]
            elif line and not line.startswith("#") and line != "}":
                foreign = foreign or f"line {number} ({line[:80]})"
        if found != self.upstream:
            raise FileError(f'must hold "upstream {self.upstream} {{", each directive on a line')
        if foreign and not generation:
            raise FileError(
                f"holds {foreign}, which would be lost: move it into `options` or "
                "`server_options` of the service's balancer"
            )
        return Content(tuple(entries), generation)

    def write(self, entries: Iterable[Entry], generation: str) -> str:
        """Return the text of a file; raise FileError where an address would be more than one."""
        lines = [FIRST_LINE, HINT, f"upstream {self.upstream} {{"]
        lines += [f"    {option};" for option in self.options]
        lines += [f"    {self._line(entry)}" for entry in entries]
        lines += ["}", GENERATION_HINT, "server {"]
        lines += [f"    listen {generation};", "    access_log off;", "    return 204;", "}"]
        return "\n".join(lines) + "\n"

    def _line(self, entry: Entry) -> str:
        if not ADDRESS.fullmatch(entry.address):
            raise FileError(f"can't hold the address {entry.address[:64]!r} of {entry.name}")
        serves = entry.state is ServerState.READY and entry.weight > 0
        how = f"weight={entry.weight}" if serves else "down"
        more = f" {self.server_options}" if self.server_options else ""
        note = json.dumps({"name": entry.name, "state": entry.state.value, "weight": entry.weight})
        return f"server {entry.address} {how}{more}; # {note}"


def _entry(match: re.Match[str], number: int) -> Entry:
    """Return the server of one line.

    Its directive is what nginx does; of one that gets nothing the comment tells why.
    """
    parameters = match[2].split()
    if not match[3]:
        if more := [one for one in parameters if one != "down"]:
            raise FileError(
                f"says {more[0]} in line {number}, which would be lost: move it into `weights` or "
                "`server_options` of the service's balancer"
            )
        state = ServerState.DRAIN if parameters else ServerState.READY
        return Entry("", match[1], state, FULL_WEIGHT)
    name, state, weight = _note(match[3], number)
    weights = [one for one in parameters if re.fullmatch(r"weight=\d{1,5}", one)]
    if "down" not in parameters:
        return Entry(name, match[1], ServerState.READY, int(weights[0][7:]) if weights else 1)
    if state is ServerState.READY and weight:  # a person has put it there since
        state = ServerState.DRAIN
    return Entry(name, match[1], state, weight)


def _note(text: str, number: int) -> tuple[str, ServerState, int]:
    try:
        raw = json.loads(text)
        name, state, weight = raw["name"], ServerState(raw["state"]), raw["weight"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name, state, weight = None, ServerState.READY, None
    if not (isinstance(name, str) and is_weight(weight)):
        raise FileError(f"has a comment that can't be read in line {number}: delete the line")
    return name, state, weight


def placed(
    content: Content, instances: Sequence[Instance], configured: Mapping[str, int]
) -> tuple[Entry, ...]:
    """Return each instance as `content` has it; raise FileError about a server of nobody's.

    One that is not in it gets no requests, so it is out of rotation. A line that Lockgate wrote
    of an instance that there is no longer is left out; one that a person wrote is not.
    """
    names = {one.address: one.server for one in instances}
    found: dict[str, Entry] = {}
    for entry in content.entries:
        name = entry.name or names.get(entry.address)
        if name is None:
            raise FileError(
                f"has the server {entry.address}, which is no active instance of the service: "
                "add it to the inventory, with this address, or delete the line"
            )
        weight = entry.weight if entry.name else configured.get(name, FULL_WEIGHT)
        found[name] = replace(entry, name=name, weight=weight)
    return tuple(
        replace(
            found.get(one.server)
            or Entry(
                one.server,
                one.address,
                ServerState.DRAIN,
                configured.get(one.server, FULL_WEIGHT),
            ),
            address=one.address,
        )
        for one in instances
    )
