"""What the command driver starts outlives neither the worker nor its ownership."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rollouts import drivers
from rollouts.drivers import leash, leashed
from rollouts.ports import DriverError
from tests.unit.test_command_driver import (
    FAMILY,
    WEB,
    cancelled,
    owned,
    python,
    runs,
    started,
    until,
    update,
)

ROOT = Path(__file__).parents[2]
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# Three process ids are printed: of the child, of the leash, of the leader.
FAMILY_OF_LEASH = FAMILY.format(child=DEAF, leader=f"{DEAF}; print(os.getppid(), flush=True)")
WORKER = """
import asyncio, sys
from rollouts import drivers
from rollouts.facts import Instance
web = Instance("web-01", "10.0.0.11", 8080, server="srv-1")
driver = drivers.make({"kind": "command", "update": [sys.executable, "-c", sys.argv[2]]})
left = float(sys.argv[1])
asyncio.run(driver.update(web, "v2", lambda text: print(text, flush=True), lambda: left))
"""


def state(pid: int) -> str:
    """What the kernel says that a process does: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_leash(pid: int) -> bool:
    return leash.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


def outside(*command: str) -> list[str]:
    """What a program prints that is started without a leash, as the driver would start it."""
    run = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def standard(line: str) -> tuple[str, int]:
    """A set of signals as the kernel tells it, without those that are the C library's own."""
    name, _, signals = line.partition(":")
    return name, int(signals, 16) & 0x7FFF_FFFF


@asynccontextmanager
async def worker(left: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """Yield a worker that is always `left` seconds from its end, and all that it started."""
    program = FAMILY_OF_LEASH.replace("{", "{{").replace("}", "}}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, str(left), program), cwd=ROOT, stdout=subprocess.PIPE
    )
    pids: list[int] = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(10):
            while len(pids) < 3:
                pids.append(int(await process.stdout.readline()))
        yield process, pids
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        for pid in pids:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


async def test_a_worker_killed_takes_all_that_it_started_along_at_once() -> None:
    """Program, child and leash end with a kill -9 of the worker, long before its time is over."""
    async with worker(left=60.0) as (process, pids):
        assert all(runs(pid) for pid in pids)
        process.kill()
        await until(lambda: not any(runs(pid) for pid in pids), seconds=1.0)


async def test_what_a_stopped_worker_started_ends_with_its_time() -> None:
    """A worker under SIGSTOP says nothing more: its last word runs out while it is stopped."""
    async with worker(left=1.5) as (process, pids):
        process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        try:
            await until(lambda: state(process.pid) == "T")
            assert all(runs(pid) for pid in pids)
            # The leash goes too, though nobody has reaped it yet.
            await until(lambda: not any(runs(pid) for pid in pids), seconds=3.0)
            assert 0.5 < time.monotonic() - begun < 2.0
            assert state(process.pid) == "T"
        finally:
            process.send_signal(signal.SIGCONT)


async def test_a_program_goes_on_while_its_time_is_renewed() -> None:
    """It may take any number of times as long as the worker is sure at once."""
    lines: list[str] = []
    program = drivers.make(python("import time; time.sleep(1.8); print('done')"))
    await program.update(WEB, "v2", lines.append, lambda: 0.8)
    assert lines == ["done"]


async def test_ownership_lost_ends_what_runs_at_once() -> None:
    """A worker that learns that another took over does not wait for its last word to run out."""
    lines: list[str] = []
    seconds = 60.0
    program = drivers.make(python(FAMILY_OF_LEASH))
    task = asyncio.create_task(program.update(WEB, "v2", lines.append, lambda: seconds))
    await until(lambda: len(lines) >= 3 or task.done())
    seconds = 0.0
    async with asyncio.timeout(leashed.WORD_INTERVAL + 1.0):
        with pytest.raises(DriverError, match="ended by SIGKILL"):
            await task
    await until(lambda: not any(runs(int(line)) for line in lines), seconds=1.0)


async def test_nothing_is_started_once_ownership_is_over(tmp_path: Path) -> None:
    """The leash may come to its turn late, and looks once more."""
    trace = tmp_path / "trace"
    program = drivers.make({"kind": "command", "update": ["touch", str(trace)]})
    with pytest.raises(DriverError, match="touch can't be started"):
        await program.update(WEB, "v2", lambda _: None, lambda: 0.001)
    assert not trace.exists()


async def test_a_leash_killed_takes_the_program_along() -> None:
    """A program that nobody watches may not go on, and the error is that of the leash."""
    task, pids = await started(python(FAMILY_OF_LEASH), 3)
    os.kill(next(pid for pid in pids if is_leash(pid)), signal.SIGKILL)
    with pytest.raises(DriverError, match="ended by SIGKILL"):
        await task
    assert not any(runs(pid) for pid in pids)


async def test_a_signal_to_all_of_a_service_is_for_the_program_to_heed(tmp_path: Path) -> None:
    """SIGTERM, SIGINT and SIGHUP leave the leash where it is, so that the status is told."""
    gate = tmp_path / "gate"
    code = (
        "import os, pathlib, sys, time\n"
        "print(os.getppid(), flush=True)\n"
        "deadline = time.monotonic() + 10\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.01)\n"
        "sys.exit(7)\n"
    )
    task, (parent,) = await started(python(code, str(gate)), 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(parent, number)
    gate.touch()
    with pytest.raises(DriverError, match="exit status 7"):
        await task


async def test_a_leash_that_hears_nothing_neither_holds_nor_breaks_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its socket full the words are dropped, and the loop and the program go on."""
    monkeypatch.setattr(leashed, "WORD_INTERVAL", 0.0005)
    asked = 0
    lines: list[str] = []

    def left() -> float:
        nonlocal asked
        asked += 1
        return 60.0

    program = drivers.make(
        python("import os, time; print(os.getppid(), flush=True); time.sleep(2)")
    )
    task = asyncio.create_task(program.update(WEB, "v2", lines.append, left))
    await until(lambda: bool(lines))
    os.kill(int(lines[0]), signal.SIGSTOP)
    try:
        await until(lambda: asked > 800 or task.done(), seconds=10.0)
        assert not task.done()
    finally:
        os.kill(int(lines[0]), signal.SIGCONT)
    async with asyncio.timeout(10):
        await task


@pytest.mark.parametrize("status", [1, 255])
async def test_the_status_is_that_of_the_program(status: int) -> None:
    """No number of an exit status is taken for anything else."""
    with pytest.raises(DriverError, match=f"exit status {status}: without"):
        await update(python(f"import os; os._exit({status})"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGPIPE"])
async def test_a_signal_that_ended_the_program_is_named(name: str) -> None:
    """Also one that the leash ignores for itself."""
    code = f"import os, signal as s; s.signal(s.{name}, s.SIG_DFL); os.kill(os.getpid(), s.{name})"
    if name == "SIGKILL":
        code = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(DriverError, match=f"ended by {name}: without any output"):
        await update(python(code))


async def test_a_program_deaf_to_sigterm_is_killed() -> None:
    """Cancelled, it ends with its child and its leash though it ignores what asks it to."""
    task, pids = await started(python(FAMILY_OF_LEASH), 3)
    await cancelled(task)
    assert not any(runs(pid) for pid in pids)


async def test_a_program_that_wants_to_lead_its_group_is_ended_with_it() -> None:
    """timeout(1) does so, and would be out of reach in a group apart from ours."""
    code = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(60)"
    task, pids = await started(python(code), 1)
    await cancelled(task)
    assert not any(runs(pid) for pid in pids)


async def test_no_descriptor_of_the_leash_reaches_the_program() -> None:
    """It has its input, its output and its errors, and the folder that it lists."""
    lines = await update({"kind": "command", "update": ["ls", "-l", "/proc/self/fd"]})
    places = [line.rpartition("-> ")[2] for line in lines if "->" in line]
    assert places[0] == "/dev/null"
    assert places[1] == places[2]
    assert places[1].startswith("pipe:")
    assert len(places) == 4
    assert places[3].startswith("/proc/")


async def test_the_environment_of_the_program_is_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the C locale too, where every Python tells what it starts that it's another."""
    for name in [name for name in os.environ if name.startswith("LC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name)
    lines = await update({"kind": "command", "update": ["env"], "env": {"REGION": "eu"}})
    assert sorted(lines) == sorted([*(line.rstrip() for line in outside("env")), "REGION=eu"])
    lines = await update({"kind": "command", "update": ["env"], "env": {"LC_CTYPE": "C"}})
    assert "LC_CTYPE=C" in lines


async def test_the_program_heeds_the_signals_that_it_would_without_a_leash() -> None:
    """None is blocked or ignored that isn't for any child of the worker."""
    command = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    lines = await update({"kind": "command", "update": command})
    assert [standard(line) for line in lines] == [standard(line) for line in outside(*command)]
    assert len(lines) == 2


async def test_a_program_is_sought_in_its_own_path(tmp_path: Path) -> None:
    """With `env` of the settings the PATH is the program's, and arguments arrive as they are."""
    program = tmp_path / "deploy"
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    settings = {"update": ["deploy", "", "-I", "a b", "\udcff"], "env": {"PATH": str(tmp_path)}}
    assert await update({"kind": "command", **settings}) == ["|-I|a b|\ufffd|"]
    program.write_text("not a program\n")
    with pytest.raises(
        DriverError, match=r"deploy can't be started: .*Exec format error: 'deploy'"
    ):
        await update({"kind": "command", **settings})


async def test_time_is_asked_for_while_the_program_runs_and_no_longer() -> None:
    """Once at the start, then every WORD_INTERVAL; not after the end."""
    asked = 0

    def left() -> float:
        nonlocal asked
        asked += 1
        return owned()

    program = drivers.make({"kind": "command", "update": ["sleep", "1.2"]})
    await program.update(WEB, "v2", lambda _: None, left)
    assert asked == 3
