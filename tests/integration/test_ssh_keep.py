"""Long commands on a real host: heard as they speak, never two at once, gone with the lease."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from dashboard.local.places import CHECKOUT
from dashboard.local.stack import free_ports
from rollouts import ssh_connecting
from rollouts.ssh import Ssh, SshError, SshUnreachable
from tests.sshd import PORTS, Sshds, gone, holds, opened, running_sshds, runs, sshds

__all__ = ["sshds"]

STUBBORN = "trap '' TERM; "  # a shell that begins so, and what it runs, has to be killed


@pytest.fixture
async def ssh(sshds: Sshds) -> AsyncIterator[Ssh]:
    """Connections to the hosts."""
    async with opened(sshds.ssh()) as one:
        yield one


@pytest.fixture
def keep(ssh: Ssh, sshds: Sshds) -> Callable[..., asyncio.Task[int]]:
    """Start a shell script on the first host, kept for 10 s at a time."""

    def start(
        script: str,
        lock: str = "web-01",
        output: Callable[[bytes], None] = lambda data: None,
        left: Callable[[], float] = lambda: 10.0,
    ) -> asyncio.Task[int]:
        arguments = ["sh", "-c", script]
        host = sshds.hosts[0].address
        return asyncio.create_task(
            ssh.keep(host, arguments, lock=lock, output=output, left=left), name=script
        )

    return start


Keep = Callable[..., asyncio.Task[int]]


async def pid_in(path: Path) -> int:
    """Return the process id that a script has written to `path`."""
    words: list[str] = []

    def written() -> bool:
        words[:] = [path.read_text()] if path.exists() else [""]
        return words[0].endswith("\n")

    await holds(written)
    return int(words[0])


async def ended(task: asyncio.Task[int]) -> None:
    """Cancel `task` and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_output_is_heard_as_it_comes(keep: Keep, tmp_path: Path) -> None:
    """Standard output and errors both, while the program still runs."""
    heard: list[bytes] = []
    task = keep(
        f"echo one; echo two >&2; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo three",
        output=heard.append,
    )
    await holds(lambda: b"".join(heard) == b"one\ntwo\n")
    assert not task.done()
    (tmp_path / "go").touch()
    assert await task == 0
    assert b"".join(heard) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
async def test_the_exit_status_is_that_of_the_program(keep: Keep, script: str, status: int) -> None:
    """Or minus the number of the signal that ended it."""
    assert await keep(script) == status


async def test_a_program_finds_the_usual_around_it(keep: Keep) -> None:
    """No input, no open files of ours, no signal ignored but what is ignored by default."""
    heard: list[bytes] = []
    script = "cat; ls /proc/$$/fd; grep SigIgn /proc/self/status; grep SigBlk /proc/self/status"
    assert await keep(script, output=heard.append) == 0
    *files, ignored, blocked = b"".join(heard).split(b"\n")[:-1]
    assert files == [b"0", b"1", b"2"]
    usual = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM))
    assert not int(ignored.split()[1], 16) & usual
    assert int(blocked.split()[1], 16) == 0


async def test_arguments_are_no_commands_of_the_shell_that_keeps(ssh: Ssh, sshds: Sshds) -> None:
    """Neither as the program nor after it."""
    heard: list[bytes] = []
    host = sshds.hosts[0].address
    nasty = ["$(id);", "`id`", "it's", "", "new\nline", "--", "*"]
    for program, status in ((["printf", "%s|", *nasty], 0), (["exit", "0"], 127), (["cd"], 127)):
        kept = ssh.keep(host, program, lock="a", output=heard.append, left=lambda: 10.0)
        assert await kept == status
    assert b"".join(heard).startswith("|".join([*nasty, ""]).encode())


async def test_what_a_program_leaves_running_is_left_alone(keep: Keep, tmp_path: Path) -> None:
    """Though it has the output still open; and it does not hold the lock."""
    began = time.monotonic()
    assert await keep(f"sleep 30 & echo $! >{tmp_path}/pid") == 0
    assert await keep("true") == 0
    assert time.monotonic() - began < 5
    left_over = await pid_in(tmp_path / "pid")
    assert runs(left_over)
    os.kill(left_over, signal.SIGKILL)


async def test_a_cancelled_program_is_gone_when_the_call_returns(
    keep: Keep, tmp_path: Path
) -> None:
    """With all that it started; who does not heed SIGTERM is killed."""
    task = keep(
        f"(trap 'echo ended >{tmp_path}/word; exit' TERM; echo $$ >{tmp_path}/a; "
        f"while :; do sleep 0.02; done) & ({STUBBORN} sleep 60) & echo $! >{tmp_path}/b; wait"
    )
    stubborn = await pid_in(tmp_path / "b")
    leader = await pid_in(tmp_path / "a")
    began = time.monotonic()
    await ended(task)
    assert time.monotonic() - began < 5
    assert not runs(leader)
    assert not runs(stubborn)
    assert (tmp_path / "word").read_text() == "ended\n"


async def test_a_program_ends_when_what_is_left_is_over(keep: Keep, tmp_path: Path) -> None:
    """Though nobody cancels; the error says so."""
    until = time.monotonic() + 1.0
    task = keep(f"echo $$ >{tmp_path}/pid; exec sleep 60", left=lambda: until - time.monotonic())
    pid = await pid_in(tmp_path / "pid")
    with pytest.raises(SshError, match="time that it was given was over"):
        await task
    assert not runs(pid)
    assert 0.5 < time.monotonic() - until + 1.0 < 4


async def test_nothing_starts_when_nothing_is_left(keep: Keep, tmp_path: Path) -> None:
    """Not even for a moment."""
    with pytest.raises(SshError, match="time that it was given was over"):
        await keep(f"touch {tmp_path}/done", left=lambda: -1.0)
    assert not (tmp_path / "done").exists()


CALLER = """
import asyncio, sys
from rollouts.ssh import Ssh, SshSettings
from tests.sshd import Known

user, key, host, port, public, path = sys.argv[1:]
known = Known({(host, int(port)): [public]})
ssh = Ssh(SshSettings.parse({"user": user, "key": key}), known)
script = ["sh", "-c", f"echo $$ >{path}; exec sleep 60"]
asyncio.run(ssh.keep(f"{host}:{port}", script, lock="a", output=print, left=lambda: 1.0))
"""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_program_ends_when_its_caller_is_not_heard_of(
    sshds: Sshds, tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped or killed: some time after the last word nothing of it runs."""
    host = sshds.hosts[0]
    given = [sshds.user, str(sshds.key), "127.0.0.1", str(host.port), host.host_key]
    caller = subprocess.Popen(  # noqa: ASYNC220 - started at once
        [sys.executable, "-c", CALLER, *given, str(tmp_path / "pid")], cwd=CHECKOUT
    )
    try:
        pid = await pid_in(tmp_path / "pid")
        caller.send_signal(number)
        await gone(pid, within=5.0)
    finally:
        caller.kill()
        caller.wait()


async def test_a_program_ends_when_the_connection_breaks(
    keep: Keep, sshds: Sshds, tmp_path: Path
) -> None:
    """At once, and the caller is told; the next call has a connection again."""
    task = keep(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    pid = await pid_in(tmp_path / "pid")
    sshds.hosts[0].cut()
    with pytest.raises(SshUnreachable, match="was lost"):
        await task
    await gone(pid, within=5.0)
    assert await keep("true") == 0


async def test_a_program_ends_when_no_word_gets_through(
    sshds: Sshds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is cut, so that nobody is told anything: both sides notice by themselves."""
    monkeypatch.setitem(ssh_connecting._ALWAYS, "keepalive_interval", 0.3)
    host = sshds.hosts[0]
    script = ["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"]
    async with opened(sshds.ssh()) as ssh:
        task = asyncio.create_task(
            ssh.keep(host.address, script, lock="a", output=lambda data: None, left=lambda: 1.0)
        )
        pid = await pid_in(tmp_path / "pid")
        frozen = host.connections()
        for process in frozen:
            process.suspend()
        try:
            with pytest.raises(SshUnreachable):
                await task
            await gone(pid, within=5.0)
        finally:
            for process in frozen:
                process.kill()


async def test_a_successor_waits_until_the_earlier_program_is_gone(
    keep: Keep, sshds: Sshds, tmp_path: Path
) -> None:
    """A takeover: the first connection breaks while its program does not heed SIGTERM."""
    first = keep(f"{STUBBORN} echo $$ >{tmp_path}/pid; while :; do sleep 0.05; done")
    pid = await pid_in(tmp_path / "pid")
    sshds.hosts[0].cut()
    with pytest.raises(SshUnreachable):
        await first
    assert runs(pid)
    heard: list[bytes] = []
    alone = f"kill -0 {pid} 2>/dev/null && [ ! -e /proc/{pid}/exe ] || ! kill -0 {pid} 2>/dev/null"
    assert await keep(alone, output=heard.append) == 0
    assert b"waiting until an earlier run" in b"".join(heard)


async def test_programs_of_one_lock_take_turns(keep: Keep, tmp_path: Path) -> None:
    """Those of others don't wait for them."""
    script = f"mkdir {tmp_path}/held || exit 9; sleep 0.1; rmdir {tmp_path}/held"
    held = keep(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", lock="another")
    assert await asyncio.gather(*(keep(script) for _ in range(4))) == [0] * 4
    assert not held.done()
    (tmp_path / "go").touch()
    assert await held == 0


async def test_who_waits_for_the_lock_and_is_cancelled_never_starts(
    keep: Keep, tmp_path: Path
) -> None:
    """It is gone from the queue too."""
    first = keep(f"echo $$ >{tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    await pid_in(tmp_path / "pid")
    heard: list[bytes] = []
    second = keep(f"touch {tmp_path}/second", output=heard.append)
    await holds(lambda: heard)
    await ended(second)
    (tmp_path / "go").touch()
    assert await first == 0
    assert await keep("true") == 0
    assert not (tmp_path / "second").exists()


async def kept_with(folder: Path, sshds_path: str, argv: Sequence[str]) -> int:
    """Keep `argv` on a host whose PATH is `sshds_path`."""
    with running_sshds(folder, free_ports(1, PORTS), f"PATH={sshds_path}") as hosts:
        async with opened(hosts.ssh()) as ssh:
            return await ssh.keep(
                hosts.hosts[0].address, argv, lock="a", output=print, left=lambda: 5.0
            )


async def test_what_a_host_lacks_is_named(tmp_path: Path) -> None:
    """And nothing is started."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "setsid", "sleep", "id", "mkdir"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    with pytest.raises(SshError, match="lacks the program flock: install it"):
        await kept_with(tmp_path, str(tools), ["touch", str(tmp_path / "done")])
    assert not (tmp_path / "done").exists()


async def test_a_login_shell_that_runs_nothing_is_told(tmp_path: Path) -> None:
    """With what it says."""
    with pytest.raises(SshError, match=r"does not run what it is given: .*sh.*not found"):
        await kept_with(tmp_path, "/nowhere", ["true"])
