"""All of one data folder: one owner, servers started in order, everything stopped at the end."""

import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import IO

import psutil

from dashboard.local import leftovers
from dashboard.local.errors import LocalError
from dashboard.local.places import Places
from dashboard.local.supervision import Program, Supervisor

LOOPBACK = "127.0.0.1"
WATCH = 0.5  # seconds between two looks at the processes
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: everything is to be stopped. Nothing on the way may swallow it."""


def say(text: str) -> None:
    """Tell the person at the terminal what happens; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def interrupt_on_signals() -> None:
    """Make Ctrl-C, SIGTERM and a closed terminal raise Stopped, once; later ones are ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    for each in STOP_SIGNALS:
        signal.signal(each, stop)


class Stack:
    """The programs of an owned data folder; when it is left, nothing of it runs any more."""

    def __init__(self, places: Places, programs: Sequence[Program], say: Say = say) -> None:
        self.places = places
        self.supervisor = Supervisor(places, programs)
        self.say = say

    def __enter__(self) -> "Stack":
        try:
            self.supervisor.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.say("Stopping.")
        self._stop()
        self.say("Stopped: nothing is left running.")

    def _stop(self) -> None:
        # Half stopped is worse than a second's patience.
        before = {each: signal.signal(each, signal.SIG_IGN) for each in STOP_SIGNALS}
        self.supervisor.stop()
        leftovers.end(self.places, self.say, "Still there after the stop")
        for number, handler in before.items():
            signal.signal(number, handler)

    def start(self, name: str, answers: Callable[[], bool], within: float = 30) -> None:
        """Start a program and wait until it answers; raise LocalError after `within` seconds."""
        self.say(f"Starting {name}.")
        self.supervisor.launch(name)
        self.supervisor.wait(name, answers, within)

    def watch(self, each_time: Callable[[], None] = lambda: None) -> None:
        """Look after the processes until a signal raises Stopped.

        Raises LocalError if supervisord itself is gone: then nobody starts again what dies.
        """
        told: set[str] = set()
        while True:
            time.sleep(WATCH)
            if not self.supervisor.alive:
                raise LocalError("supervisord was killed from outside: everything is stopped.")
            each_time()
            with suppress(OSError):
                self._tell_of_failures(told)

    def _tell_of_failures(self, told: set[str]) -> None:
        for each in self.supervisor.processes():
            if each["statename"] == "FATAL" and each["name"] not in told:
                told.add(each["name"])
                self.say(f"{each['name']} does not start any more: see {each['logfile']}.")


class Owner:
    """The one process that may run a data folder, by a lock that ends with it."""

    def __init__(self, places: Places, say: Say = say) -> None:
        self._places = places
        self._say = say
        self._file: IO[str] | None = None

    def __enter__(self) -> "Owner":
        """Take the folder and end what an earlier run left; raise LocalError if it is in use."""
        file = self._places.lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise LocalError(
                f"{self._places.data} is in use by {holder}: stop that one first, or name "
                "another folder with --data."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        self._file = file
        self._places.make_runtime()
        leftovers.end(self._places, self._say, "An earlier run left processes behind")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            shutil.rmtree(self._places.runtime, ignore_errors=True)
            self._file.truncate(0)
            self._file.close()


def check_port(port: int, host: str = LOOPBACK) -> None:
    """Raise LocalError, with who has it where that can be known, unless `port` is free."""
    if not is_free(port, host):
        raise LocalError(
            f"Port {port} of {host} is taken{_holder(port)}: stop that, or choose another "
            "with --port."
        )


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, start: int, hosts: Sequence[str] = (LOOPBACK,)) -> list[int]:
    """Return `count` ports from `start` on that are free on all `hosts`.

    They lie below the range that outgoing connections take theirs from: otherwise one of
    those could sit on the port of an instance while it is being restarted.
    """
    found = []
    for port in range(start, start + 10_000):
        if all(is_free(port, host) for host in hosts):
            found.append(port)
        if len(found) == count:
            return found
    raise LocalError(f"There are no {count} free ports from {start} on.")


def _holder(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and tuple(each.laddr)[1:] == (port,) and each.pid:
                return f" by process {each.pid} ({psutil.Process(each.pid).name()})"
    return ""
