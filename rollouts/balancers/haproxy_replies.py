"""What HAProxy's runtime API answers, read into facts. Pure; made for HAProxy 2.4 and later."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rollouts.facts import BalancerReport, Server, ServerState

# Bits of srv_admin_state. 0x04 is left out: it remembers that the configuration said
# `disabled`, and stays set after the server was made ready.
MAINT_BITS = 0x01 | 0x02 | 0x20
DRAIN_BITS = 0x08 | 0x10
# srv_op_state: stopped, starting (slow start), running, stopping.
UP_STATES = {"1", "2"}

WORST_LAST = (ServerState.READY, ServerState.DRAIN, ServerState.MAINT)


class ReplyError(ValueError):
    """A reply is cut short or is not what was asked for."""


@dataclass(frozen=True)
class Row:
    """One server in the words of one HAProxy; `weight` of now and `configured` are absolute."""

    name: str
    state: ServerState
    up: bool
    weight: int
    configured: int
    backend_id: str

    def __str__(self) -> str:
        up = "up" if self.up else "down by its own check"
        return f"{self.name}: {self.state}, {up}, weight {self.weight} of {self.configured}"


@dataclass(frozen=True)
class Counts:
    """Open sessions, and requests and answers of 500 to 599 since HAProxy's start."""

    sessions: int = 0
    requests: int = 0
    failed: int = 0


@dataclass(frozen=True)
class View:
    """The backend as one HAProxy sees it."""

    rows: Mapping[str, Row]
    counts: Mapping[str, Counts]
    whole: Counts


def _table(header: str, lines: Iterable[list[str]]) -> Iterator[dict[str, str]]:
    names = header.lstrip("# ").replace(",", " ").split()
    for line in lines:
        if len(line) < len(names):
            raise ReplyError("a row of its answer is cut short")
        yield dict(zip(names, line, strict=False))


def _state(admin: int) -> ServerState:
    if admin & MAINT_BITS:
        return ServerState.MAINT
    return ServerState.DRAIN if admin & DRAIN_BITS else ServerState.READY


def read_state(reply: str) -> dict[str, Row]:
    """Return the servers in a reply to `show servers state BACKEND`; raise ReplyError."""
    lines = [line for line in reply.splitlines() if line]
    if len(lines) < 2 or not lines[1].startswith("# be_id"):
        raise ReplyError(f"it answered {complaint(reply)}")
    rows = {}
    for fields in _table(lines[1], (line.split() for line in lines[2:])):
        row = Row(
            name=fields["srv_name"],
            state=_state(int(fields["srv_admin_state"])),
            up=fields["srv_op_state"] in UP_STATES,
            weight=int(fields["srv_uweight"]),
            configured=int(fields["srv_iweight"]),
            backend_id=fields["be_id"],
        )
        rows[row.name] = row
    return rows


def _number(text: str | None) -> int:
    return int(text) if text else 0


def read_stat(reply: str) -> tuple[dict[str, Counts], Counts | None]:
    """Return the counters of each server, and of the backend where it is in the reply.

    `reply` is to `show stat BACKEND 6 -1`; raises ReplyError.
    """
    header, _, body = reply.partition("\n")
    if not header.startswith("# pxname"):
        raise ReplyError(f"it answered {complaint(reply)}")
    servers: dict[str, Counts] = {}
    whole = None
    for fields in _table(header, csv.reader(line for line in body.splitlines() if line)):
        counts = Counts(
            # What waits in the server's own queue will reach it too.
            sessions=_number(fields["scur"]) + _number(fields.get("qcur")),
            requests=_number(fields.get("req_tot") or fields["stot"]),
            failed=_number(fields.get("hrsp_5xx")),
        )
        if fields["svname"] == "BACKEND":
            whole = counts
        else:
            servers[fields["svname"]] = counts
    return servers, whole


def split(reply: str) -> tuple[str, str]:
    """Return the two parts of a reply to `show servers state ...;show stat ...`."""
    state, mark, stat = reply.partition("# pxname")
    return state, mark + stat


def complaint(reply: str) -> str:
    """Return what HAProxy said instead of what was asked, in quotes, for people."""
    words = next((line.strip() for line in reply.splitlines() if line.strip()), "")
    return f'"{words[:200]}"' if words else "nothing"


def merge(views: Sequence[View]) -> BalancerReport:
    """Return one report of all `views`: numbers added up, of states the worst.

    A server that not every HAProxy knows is left out: no call on it could succeed.
    """
    names = [name for name in views[0].rows if all(name in view.rows for view in views)]
    return BalancerReport(
        servers={name: _merge_server(name, views) for name in names},
        requests=sum(view.whole.requests for view in views),
        failed=sum(view.whole.failed for view in views),
    )


def _merge_server(name: str, views: Sequence[View]) -> Server:
    rows = [view.rows[name] for view in views]
    counts = [view.counts.get(name, Counts()) for view in views]
    return Server(
        name=name,
        state=max((row.state for row in rows), key=WORST_LAST.index),
        up=all(row.up for row in rows),
        sessions=sum(each.sessions for each in counts),
        weight=min(row.weight for row in rows),
        requests=sum(each.requests for each in counts),
        failed=sum(each.failed for each in counts),
    )
