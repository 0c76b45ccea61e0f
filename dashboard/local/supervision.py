"""supervisord and what it runs: its configuration, starting in order, waiting, stopping.

It starts again what dies, keeps the logs and stops all in the reverse order of the start.
"""

import http.client
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboard.local import control
from dashboard.local.errors import LocalError
from dashboard.local.places import CHECKOUT, MARK, Places

POLL = 0.05  # seconds between two questions
SUPERVISOR_PATIENCE = 15.0  # seconds until supervisord answers
KILL_PATIENCE = 5.0  # seconds from SIGKILL to the end of a process
STOP_PATIENCE = 75.0  # seconds for supervisord to end, before it is killed
TAIL = 20  # lines of a log that go into a failure
# At a first start, one failed attempt is reason enough to say so.
GONE = {"BACKOFF", "EXITED", "FATAL", "UNKNOWN"}
REFUSED = (OSError, http.client.HTTPException)

HEAD = """\
; Written at each start of Lockgate: a change here is lost.
[supervisord]
nodaemon=true
logfile={logs}/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile={runtime}/supervisord.pid
childlogdir={logs}
umask=077
nocleanup=true
{user}
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command={command}
directory={directory}
environment={environment}
priority={priority}
autostart=false
autorestart=true
startsecs=1
startretries={retries}
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile={logs}/{name}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups=1
{user}"""


@dataclass(frozen=True)
class Program:
    """One process that is kept running.

    `group` joins programs that are started and stopped together. `retries` is how often in a
    row a start may fail, each attempt a second later than the one before.
    """

    name: str
    command: Sequence[str]
    group: str = ""
    user: str | None = None
    directory: Path = CHECKOUT
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    retries: int = 30
    log_bytes: int = 5_000_000

    @property
    def address(self) -> str:
        """What supervisord calls it."""
        return f"{self.group}:{self.name}" if self.group else self.name


def render(places: Places, programs: Sequence[Program]) -> str:
    """Return supervisord's configuration; programs stop in the reverse of their order."""
    user = "user=root\n" if os.geteuid() == 0 else ""
    parts = [
        HEAD.format(
            logs=_escape(str(places.logs)),
            runtime=_escape(str(places.runtime)),
            socket=_escape(str(places.supervisor_socket)),
            user=user,
        )
    ]
    for priority, (name, members) in enumerate(_groups(programs).items(), start=1):
        parts += [_section(places, each, priority) for each in members]
        if members[0].group:
            names = ",".join(each.name for each in members)
            parts.append(f"\n[group:{name}]\nprograms={names}\npriority={priority}\n")
    return "".join(parts)


def _groups(programs: Iterable[Program]) -> dict[str, list[Program]]:
    groups: dict[str, list[Program]] = {}
    for each in programs:
        groups.setdefault(each.group or each.name, []).append(each)
    return groups


def _section(places: Places, each: Program, priority: int) -> str:
    environment = ",".join(f'{key}="{value}"' for key, value in each.environment.items())
    return PROGRAM.format(
        name=each.name,
        command=_escape(shlex.join(each.command)),
        directory=_escape(str(each.directory)),
        environment=_escape(environment),
        priority=priority,
        retries=each.retries,
        stop_signal=each.stop_signal,
        stop_seconds=each.stop_seconds,
        logs=_escape(str(places.logs)),
        log_bytes=each.log_bytes,
        user=f"user={each.user}\n" if each.user else "",
    )


def _escape(text: str) -> str:
    # supervisord expands %(...)s.
    return text.replace("%", "%%")


class Supervisor:
    """One supervisord of one data folder."""

    def __init__(self, places: Places, programs: Sequence[Program]) -> None:
        self._places = places
        self._programs = {each.name: each for each in programs}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start supervisord, with no program running yet; raise LocalError if it does not."""
        config = self._places.supervisor_config
        config.write_text(render(self._places, list(self._programs.values())))
        log = self._places.logs / "supervisord.out"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dashboard.local.leash"),
                    *(sys.executable, "-m", "supervisor.supervisord", "-c", str(config)),
                ],
                cwd=CHECKOUT,
                env={**os.environ, MARK: str(self._places.data), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches every process of the terminal: only the parent acts on it.
                start_new_session=True,
            )
        deadline = time.monotonic() + SUPERVISOR_PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LocalError(f"supervisord does not start:\n{tail(log)}")
            time.sleep(POLL)

    def _ready(self) -> bool:
        try:
            return bool(self.call("getState")["statename"] == "RUNNING")
        except REFUSED:
            return False

    @property
    def alive(self) -> bool:
        """Whether supervisord runs."""
        return self._process is not None and self._process.poll() is None

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the answer of supervisord; raise OSError or xmlrpc.client.Fault."""
        return control.call(self._places.supervisor_socket, method, *arguments)

    def launch(self, *names: str) -> None:
        """Start programs, without waiting until they serve; raise LocalError if one can't be."""
        for name in names:
            try:
                self.call("startProcess", self._programs[name].address, False)
            except xmlrpc.client.Fault as fault:
                raise LocalError(f"{name} can't be started: {fault.faultString}.") from fault

    def wait(self, name: str, answers: Callable[[], bool], within: float) -> None:
        """Return when `answers` says so; raise LocalError after `within` seconds or its end."""
        deadline = time.monotonic() + within
        while not answers():
            state = self.call("getProcessInfo", self._programs[name].address)["statename"]
            if state in GONE or time.monotonic() > deadline:
                what = "ended" if state in GONE else f"does not answer after {within:g} s"
                log = self._places.logs / f"{name}.log"
                raise LocalError(f"{name} {what}. The end of {log}:\n{tail(log)}")
            time.sleep(POLL)

    def processes(self) -> list[dict[str, Any]]:
        """Return supervisord's view of each program: name, group, statename, pid and more."""
        return list(self.call("getAllProcessInfo"))

    def pids(self) -> dict[str, list[int]]:
        """Return the numbers of the running processes by group."""
        found: dict[str, list[int]] = {}
        for each in self.processes():
            if each["pid"]:
                found.setdefault(each["group"], []).append(each["pid"])
        return found

    def stop(self) -> None:
        """Stop all programs in the reverse of their order, and supervisord itself; bounded."""
        if self._process is None:
            return
        try:
            # By itself it would do the same, but rest for a second after each group.
            for members in reversed(_groups(self._programs.values()).values()):
                self._stop_group(members)
            self.call("shutdown")
        except (*REFUSED, xmlrpc.client.Fault):
            self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _stop_group(self, members: Sequence[Program]) -> None:
        """Return when all are stopped; after its `stop_seconds` supervisord kills a program."""
        for each in members:
            with suppress(xmlrpc.client.Fault):  # it does not run
                self.call("stopProcess", each.address, False)
        deadline = time.monotonic() + max(each.stop_seconds for each in members) + KILL_PATIENCE
        names = {each.name for each in members}
        while any(each["name"] in names and each["pid"] for each in self.processes()):
            if time.monotonic() > deadline:
                return
            time.sleep(POLL)


def tail(path: Path, lines: int = TAIL) -> str:
    """Return the last lines of a log, or a word where there are none."""
    try:
        text = path.read_bytes()[-16_384:].decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
