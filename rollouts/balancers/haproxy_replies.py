"""What HAProxy's runtime API answers, read into facts. Pure; made for HAProxy 2.4 and later."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from rollouts.facts import ServerState

# Bits of srv_admin_state. 0x04 is left out: it remembers that the configuration said
# `disabled`, and stays set after the server was made ready.
MAINT_BITS = 0x01 | 0x02 | 0x20
DRAIN_BITS = 0x08 | 0x10
# srv_op_state: stopped, starting (slow start), running, stopping.
UP_STATES = {"1", "2"}

STATE_COLUMNS = (
    "srv_name",
    "srv_admin_state",
    "srv_op_state",
    "srv_uweight",
    "srv_iweight",
    "be_id",
    "srv_check_result",
    "srv_addr",
    "srv_port",
    "srv_fqdn",
)
PASSED = {"3", "4"}  # of srv_check_result: passed, passed with a condition
STAT_COLUMNS = (
    "svname",
    "scur",
    "qcur",
    "rtime",
    "req_tot",
    "stot",
    "hrsp_5xx",
    "hrsp_2xx",
    "hrsp_3xx",
    "hrsp_4xx",
    "hrsp_other",
    "econ",
    "eresp",
    "wretr",
    "wredis",
    "srv_abrt",
)


class ReplyError(ValueError):
    """A reply is cut short or is not what was asked for."""


@dataclass(frozen=True)
class Row:
    """One server in the words of one HAProxy; `weight` of now and `configured` are absolute.

    `passed` says whether the last check of HAProxy's own was good: `up` it is before the first.
    `host` is an IP address, and `domain` what it was resolved from; "" where there is none.
    """

    name: str
    state: ServerState
    up: bool
    weight: int
    configured: int
    backend_id: str
    passed: bool = False
    host: str = ""
    port: int = 0
    domain: str = ""

    def __str__(self) -> str:
        up = "up" if self.up else "down by its own check"
        return f"{self.name}: {self.state}, {up}, weight {self.weight} of {self.configured}"


@dataclass(frozen=True)
class Counts:
    """What one HAProxy counts of one server: `sessions` of now, the rest since its start.

    `answers`, `errors` and `response_ms` are as in facts.Server.
    """

    sessions: int = 0
    answers: int | None = None
    errors: int | None = None
    response_ms: float | None = None


@dataclass(frozen=True)
class Whole:
    """Requests to the backend since HAProxy's start, and how many got an answer of 500 to 599."""

    requests: int = 0
    failed: int = 0


@dataclass(frozen=True)
class View:
    """The backend as one HAProxy sees it."""

    rows: Mapping[str, Row]
    counts: Mapping[str, Counts]
    whole: Whole


def _table(
    header: str, lines: Iterable[list[str]], columns: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Return of each line the fields of `columns`, empty where HAProxy has no such column.

    A thousand rows of a hundred columns are read many times a second: only these are picked.
    """
    names = header.lstrip("# ").replace(",", " ").split()
    known = dict(zip(names, range(len(names)), strict=True))
    pick = itemgetter(*(known.get(column, -1) for column in columns))
    for line in lines:
        if len(line) < len(names):
            raise ReplyError("a row of its answer is cut short")
        line.append("")
        yield pick(line)


def _state(admin: int) -> ServerState:
    if admin & MAINT_BITS:
        return ServerState.MAINT
    return ServerState.DRAIN if admin & DRAIN_BITS else ServerState.READY


def _number(text: str) -> int:
    return int(text) if text else 0


def read_state(reply: str, only: str = "") -> dict[str, Row]:
    """Return the servers in a reply to `show servers state BACKEND`; raise ReplyError.

    With `only` the rows of others are left unread: fifty drains in a backend of a thousand
    servers must not take seconds.
    """
    lines = [line for line in reply.splitlines() if line]
    if len(lines) < 2 or not lines[1].startswith("# be_id"):
        raise ReplyError(f"it answered {complaint(reply)}")
    rows = {}
    for name, admin, operation, weight, configured, backend_id, result, *place in _table(
        lines[1], (line.split() for line in lines[2:] if only in line), STATE_COLUMNS
    ):
        host, port, domain = ("" if field == "-" else field for field in place)
        rows[name] = Row(
            name=name,
            state=_state(int(admin)),
            up=operation in UP_STATES,
            weight=int(weight),
            configured=int(configured),
            backend_id=backend_id,
            passed=result in PASSED,
            host=host,
            port=_number(port),
            domain=domain,
        )
    return rows


def read_stat(reply: str) -> tuple[dict[str, Counts], Whole | None]:
    """Return the counters of each server, and of the backend where it is in the reply.

    `reply` is to `show stat BACKEND 6 -1`; raises ReplyError.
    """
    header, _, body = reply.partition("\n")
    if not header.startswith("# pxname"):
        raise ReplyError(f"it answered {complaint(reply)}")
    servers: dict[str, Counts] = {}
    whole = None
    lines = csv.reader(line for line in body.splitlines() if line)
    for name, current, queued, mean, requests, *totals in _table(header, lines, STAT_COLUMNS):
        if name == "BACKEND":
            total, failed, *_ = totals
            whole = Whole(_number(requests or total), _number(failed))
        else:
            servers[name] = _counts(_number(current), _number(queued), mean, totals)
    return servers, whole


def _counts(current: int, queued: int, mean: str, totals: Sequence[str]) -> Counts:
    """Return what is counted of one server; `totals` are the columns from stot on.

    `answers` and `errors` count each try once, which no column does. As HAProxy 2.8 counts a
    try that got no answer:
    - No connection: one of wretr (tried again here), wredis (tried elsewhere), econ (given up).
    - A connection that ended early or too late: 1 or 2 eresp. If it was tried again, as
      `retry-on` may say, 0 or 1 eresp, and 2 of wretr and wredis together.
    stot counts each such try once, as it does each answer, but neither the failures that
    connect() tells at once, as on Unix sockets, nor whether it was the client who went away.
    So stot has the word within the bounds that the other columns set. What is open now is left
    out of it, so both numbers may go back a little where answers take long to send.
    """
    # What waits in the server's own queue will reach it too.
    sessions = current + queued
    # In `mode tcp` the columns are there, but empty.
    if not all(totals):
        return Counts(sessions)
    tries, failed, *others, econ, eresp, wretr, wredis, aborted = map(int, totals)
    answered = failed + sum(others)
    # Of an answer that was cut off half-way its status is counted, and eresp with srv_abrt.
    halves = min(eresp, aborted)
    eresp -= halves
    most = econ + eresp + wretr + wredis
    least = econ + (max(eresp, wretr + wredis) + 1) // 2
    lost = min(most, max(least, tries - answered - current))
    return Counts(
        sessions,
        answers=answered + lost,
        errors=min(answered, failed + halves) + lost,
        response_ms=float(mean) if mean and answered else None,
    )


def split(reply: str) -> tuple[str, str]:
    """Return the two parts of a reply to `show servers state ...;show stat ...`."""
    state, mark, stat = reply.partition("# pxname")
    return state, mark + stat


def told(reply: str) -> list[str]:
    """Return what HAProxy said to each command of a line; nothing to one that it followed."""
    said, words = [], ""
    for line in reply.split("\n")[:-1]:
        if line.strip():
            words = f"{words} {line.strip()}".lstrip()
        else:
            said.append(words)
            words = ""
    return said


def complaint(reply: str) -> str:
    """Return what HAProxy said instead of what was asked, in quotes, for people."""
    words = next((line.strip() for line in reply.splitlines() if line.strip()), "")
    return f'"{words[:200]}"' if words else "nothing"
