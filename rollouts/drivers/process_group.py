"""Ending a program with all that it started and that stayed in its group."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TERM_GRACE = 1.0  # seconds from SIGTERM to SIGKILL
KILL_PATIENCE = 1.0  # seconds that the kernel may take to be done with killed processes
GONE_INTERVAL = 0.02  # seconds between two looks whether they are

PROC = Path("/proc")


async def end_group(group: int, leash: asyncio.subprocess.Process) -> None:
    """End all processes of `group`, and reap the `leash`, which ends with the group's leader.

    Cancelled once more while it waits, it kills them at once. A program that made yet
    another session for itself (a daemon) is out of reach.
    """
    try:
        if _signal(group, signal.SIGTERM):
            await _gone(group, TERM_GRACE)
    finally:
        if _signal(group, signal.SIGKILL):
            await _gone(group, KILL_PATIENCE)
    with suppress(TimeoutError):
        async with asyncio.timeout(KILL_PATIENCE):
            await leash.wait()


def _signal(group: int, number: int) -> bool:
    """Send a signal to `group`; return whether anybody was there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def _gone(group: int, timeout: float) -> None:
    """Return when nobody runs in `group` any more, or after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while _runs(group):
        if loop.time() >= deadline:
            return
        await asyncio.sleep(GONE_INTERVAL)


def _runs(group: int) -> bool:
    """Whether `group` has a member that runs.

    One that ended counts as there until its parent reads its status. Orphans fall to the
    first process of the machine, and in a container that one may never do so.
    """
    if not _signal(group, 0):
        return False
    if not PROC.is_dir():
        return True
    return any(each == group and state not in "ZX" for state, each in _processes())


def _processes() -> Iterator[tuple[str, int]]:
    """Return state and group of every process."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                # After the name, which may hold anything: state, parent, group.
                state, _, each = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                yield state, int(each)
