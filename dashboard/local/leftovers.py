"""Processes that an earlier run left behind, by the mark in their environment."""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from dashboard.local.places import MARK, Places

ORDERLY = 20.0  # seconds for supervisord to stop what it runs
GRACE = 15.0  # seconds from the friendly signal to SIGKILL
KILLED = 5.0  # seconds until the kernel is done with the killed
TITLED = {"redis-server", "valkey-server", "sshd"}


def end(places: Places, say: Callable[[str], None], why: str) -> None:
    """End what runs for this data folder, and say so; call it only with the lock held.

    `why` begins the sentence: "An earlier run left behind", for instance.
    """
    found = _marked(places)
    if not found:
        return
    names = ", ".join(sorted(f"{_name(each)} {each.pid}" for each in found))
    say(f"{why}: {names}. Ending what is left.")
    supervisors = [each for each in found if _name(each) == "supervisord"]
    _signal(supervisors, signal.SIGTERM)
    psutil.wait_procs(supervisors, timeout=ORDERLY)
    _finish(_marked(places))


def _finish(found: list[psutil.Process]) -> None:
    for each in found:
        # To PostgreSQL SIGTERM means "when all have left", SIGINT "now, and tidily".
        _signal([each], signal.SIGINT if _name(each) == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=GRACE)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=KILLED)


def _marked(places: Places) -> list[psutil.Process]:
    """Return the processes of the data folder, but for this one and those it descends from."""
    spared = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if each.pid not in spared and _is_ours(each, places):
                found.append(each)
    return found


def _is_ours(process: psutil.Process, places: Places) -> bool:
    # These write their title over their environment; it names a file of theirs.
    titled = _name(process) in TITLED and f"{places.runtime}/" in " ".join(process.cmdline())
    return titled or process.environ().get(MARK) == str(places.data)


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for each in processes:
        with suppress(psutil.Error):
            each.send_signal(number)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        words = process.cmdline()
        if "supervisor.supervisord" in words:
            return "supervisord"
        return process.name()
    return "?"
