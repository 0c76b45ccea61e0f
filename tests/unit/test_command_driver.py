"""The command driver against real processes."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from rollouts import drivers
from rollouts.adapters import SettingsError
from rollouts.drivers import command
from rollouts.drivers.output import MAX_LINE, MAX_OUTPUT, LineSink, clean
from rollouts.drivers.process_group import TERM_GRACE
from rollouts.drivers.templates import fill, values
from rollouts.facts import Instance
from rollouts.ports import DriverError

WEB = Instance("web-01", "10.0.0.11", 8080, server="srv-1", slot="blue", zone="a")


def owned() -> float:
    """Seconds for which the deployment is sure to be ours, as the driver asks for them."""
    return 60.0


def python(code: str, *arguments: str) -> dict[str, object]:
    """Settings of a driver that runs `code` in Python."""
    literal = code.replace("{", "{{").replace("}", "}}")
    return {"kind": "command", "update": [sys.executable, "-c", literal, *arguments]}


async def update(settings: dict[str, object], version: str = "v2") -> list[str]:
    lines: list[str] = []
    await drivers.make(settings).update(WEB, version, lines.append, owned)
    return lines


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie counts, for it was not reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def runs(pid: int) -> bool:
    """Whether a process that is no child of ours runs: its reaping is not our matter."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def who_waits_for_children() -> list[str]:
    """Names of asyncio's threads that wait for a process each, where it has such threads."""
    return [each.name for each in threading.enumerate() if each.name.startswith("asyncio-waitpid-")]


@pytest.fixture(autouse=True)
async def reaped() -> AsyncIterator[None]:
    """Let asyncio hear of the end of all that a test started, before its loop is closed."""
    yield
    await until(lambda: not who_waits_for_children())
    await asyncio.sleep(0)


def test_an_argument_gets_the_value_once_and_nothing_else() -> None:
    """A value that looks like a placeholder stays as it is; doubled braces are literal."""
    filled = fill(
        ["{name}:{port}", "{version}", "{{name}}", "{server}{slot}{zone}", "{hostname}"],
        values(WEB, "{hostname}"),
    )
    assert filled == ["web-01:8080", "{hostname}", "{name}", "srv-1bluea", "10.0.0.11"]


@pytest.mark.parametrize(
    "argument",
    ["{version.__class__}", "{version!r}", "{0}", "{}", "{port:>99999999}", "{nope}", "{", "a}"],
)
def test_any_other_brace_is_refused_when_it_is_saved(argument: str) -> None:
    """No attribute, index, conversion or format can be reached through a template."""
    with pytest.raises(SettingsError) as refusal:
        drivers.check({"kind": "command", "update": ["deploy", argument]})
    assert list(refusal.value.errors) == ["update"]


def test_every_wrong_setting_is_named_at_once() -> None:
    """All bad, unknown and missing keys come in one refusal, each with what is right."""
    with pytest.raises(SettingsError) as refusal:
        drivers.check(
            {
                "kind": "command",
                "prepare": "fetch {version}",
                "env": {"A-B": "x"},
                "directory": "relative",
                "shell": True,
            }
        )
    assert set(refusal.value.errors) == {"update", "prepare", "env", "directory", "shell"}
    assert "update, prepare" not in refusal.value.errors["update"]


@pytest.mark.parametrize("kind", [None, "telnet", ["command"], {}])
def test_an_unknown_kind_is_refused_with_those_there_are(kind: object) -> None:
    """Whatever stands for the kind, the answer is a list of kinds, not a crash."""
    with pytest.raises(SettingsError, match="must be one of: command"):
        drivers.check({"kind": kind, "update": ["deploy"]})


async def test_output_comes_line_by_line_while_it_runs(tmp_path: Path) -> None:
    """A line is passed on before the program ends: it waits for us to have seen it."""
    gate = tmp_path / "seen"
    code = (
        "import pathlib, sys, time\n"
        "print('fetching', flush=True)\n"
        "deadline = time.monotonic() + 10\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.01)\n"
        "print('done', file=sys.stderr)\n"
    )
    lines: list[str] = []

    def output(text: str) -> None:
        lines.append(text)
        gate.touch()

    await drivers.make(python(code, str(gate))).update(WEB, "v2", output, owned)
    assert lines == ["fetching", "done"]


async def test_no_shell_sees_the_version() -> None:
    """What a shell would run arrives as one plain argument."""
    lines = await update(
        python("import sys; print(sys.argv[1:])", "{version}", "{name}"), "$(id);`id`"
    )
    assert lines == ["['$(id);`id`', 'web-01']"]


async def test_a_failure_tells_status_and_last_words() -> None:
    """The message is for the screen: exit status and the last line that was not empty."""
    with pytest.raises(DriverError) as failure:
        await update(python("print('one'); print('no space left'); print(); exit(3)"))
    assert str(failure.value) == "exit status 3: no space left"


async def test_a_program_killed_by_a_signal_says_which() -> None:
    """Out of memory looks like SIGKILL, not like exit status -9."""
    with pytest.raises(DriverError, match="ended by SIGKILL: without any output"):
        await update(python("import os; os.kill(os.getpid(), 9)"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"update": ["/nowhere/deploy"]}, "program /nowhere/deploy is not on .*correct `update`"),
        ({"update": ["true"], "directory": "/nowhere"}, "directory /nowhere is not on"),
        ({"update": [__file__]}, "may not be run by the worker: make it executable"),
    ],
)
async def test_a_program_that_cannot_start_says_what_to_do(
    settings: dict[str, object], words: str
) -> None:
    """Each reason has its own cure."""
    with pytest.raises(DriverError, match=words):
        await update({"kind": "command", **settings})


async def test_our_secrets_stay_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child inherits the environment but for our secrets, and gets what was set for it."""
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "PROXY"):
        monkeypatch.setenv(name, f"{name}-value")
    settings = python("import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep='\\n')")
    lines = await update({**settings, "env": {"REGION": "{eu}"}})
    assert {"PROXY=PROXY-value", "REGION={eu}"} <= set(lines)
    text = "\n".join(lines)
    assert "SECRET_KEY" not in text
    assert "DATABASE_URL" not in text
    assert "REDIS_URL" not in text


async def test_nothing_can_be_read_from_the_terminal(tmp_path: Path) -> None:
    """A program that asks a question gets the end of its input instead of hanging."""
    settings = python("import os, sys; print(repr(sys.stdin.read()), os.getcwd(), os.getsid(0))")
    lines = await update({**settings, "directory": str(tmp_path)})
    answer, directory, session = lines[0].split()
    assert (answer, directory) == ("''", str(tmp_path))
    assert int(session) != os.getsid(0)


async def test_50_megabytes_are_cut_at_64_kib_and_the_last_words_kept() -> None:
    """The log stays small and says that it was cut; the error still has the last line."""
    code = "for i in range(50): print(('x' * 99 + chr(10)) * 10_000, end='')\nexit('disk full')"
    lines: list[str] = []
    with pytest.raises(DriverError, match="exit status 1: disk full"):
        await drivers.make(python(code)).update(WEB, "v2", lines.append, owned)
    assert lines[-1] == "… output cut here, after 64 KiB"
    assert MAX_OUTPUT - 200 < sum(len(line) + 1 for line in lines[:-1]) <= MAX_OUTPUT


async def test_an_endless_line_is_cut() -> None:
    """A line has 2,000 characters at most, and a line without an end takes no memory."""
    lines = await update(python("print('x' * 20_000_000, end='')"))
    assert lines == ["x" * MAX_LINE + " … (line cut)"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "textlink"),
        (b"a\x00b\x08c\x7fd\te", "abcd\te"),
        ("\u202eevil\u2066 \u009b31mx".encode(), "evil 31mx"),
        (b"\xff\xfe caf\xc3\xa9", "\ufffd\ufffd café"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_escapes_and_controls_are_stripped(raw: bytes, text: str) -> None:
    """No output of a program moves a cursor, sets a title or turns the writing around."""
    assert clean(raw) == text


async def test_progress_bars_and_windows_lines_are_lines() -> None:
    """A carriage return ends a line, with or without a newline after it."""
    lines = await update(python("import os; os.write(1, b'10%\\r20%\\r\\ndone\\r\\nend')"))
    assert lines == ["10%", "20%", "done", "end"]
    pieces: list[str] = []
    sink = LineSink(pieces.append)
    for chunk in (b"on", b"e\r", b"\ntwo\r", b"three\r"):
        sink.feed(chunk)
    sink.close()
    assert pieces == ["one", "two", "three"]


async def started(settings: dict[str, object], count: int) -> tuple[asyncio.Task[None], list[int]]:
    """Start an update; return it with the `count` process ids that it prints."""
    lines: list[str] = []
    task = asyncio.create_task(drivers.make(settings).update(WEB, "v2", lines.append, owned))
    await until(lambda: len(lines) >= count or task.done())
    return task, [int(line) for line in lines]


async def cancelled(task: asyncio.Task[None]) -> float:
    """Cancel `task`, see that it ends as cancelled, and return the seconds that it took."""
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - begun


FAMILY = """
import os, signal, subprocess, sys, time
child = "import signal, sys, time; {child}; print(__import__('os').getpid(), flush=True)" \
    "; time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
{leader}
print(os.getpid(), flush=True)
time.sleep(60)
"""


async def test_cancelled_it_ends_the_whole_family() -> None:
    """Leader and child are gone when the call returns, and it returns at once."""
    task, pids = await started(python(FAMILY.format(child="0", leader="0")), 2)
    seconds = await cancelled(task)
    assert not any(runs(pid) for pid in pids)
    assert seconds < 0.5


async def test_a_child_deaf_to_sigterm_is_killed_after_its_leader_is_gone() -> None:
    """The grace is for the group: who outlives the leader and ignores SIGTERM gets SIGKILL."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    task, pids = await started(python(FAMILY.format(child=deaf, leader="0")), 2)
    seconds = await cancelled(task)
    assert not any(runs(pid) for pid in pids)
    assert TERM_GRACE <= seconds < TERM_GRACE + 0.7


async def test_a_leader_may_tidy_up_within_its_grace(tmp_path: Path) -> None:
    """SIGTERM comes first, so a deploy script can put back what it has half done."""
    tidied = tmp_path / "tidied"
    code = (
        "import os, pathlib, signal, sys, time\n"
        "def tidy(*_):\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, tidy)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    task, pids = await started(python(code, str(tidied)), 1)
    seconds = await cancelled(task)
    assert tidied.exists()
    assert not alive(pids[0])
    assert seconds < TERM_GRACE


async def test_cancelled_twice_it_kills_at_once() -> None:
    """A second cancel (the worker is told to go) cuts the grace short and leaves nobody."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    task, pids = await started(python(FAMILY.format(child=deaf, leader=deaf)), 2)
    assert who_waits_for_children() or sys.version_info >= (3, 12)  # `reaped` sees the leash
    begun = time.monotonic()
    task.cancel()
    await asyncio.sleep(0)
    seconds = await cancelled(task)
    await until(lambda: not any(runs(pid) for pid in pids))
    assert time.monotonic() - begun < TERM_GRACE
    assert seconds < TERM_GRACE


async def test_a_timeout_of_the_caller_ends_it_and_leaves_no_zombie() -> None:
    """Under asyncio.timeout the caller sees TimeoutError, and the process was reaped."""
    lines: list[str] = []
    driver = drivers.make(python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"))

    async def run_out_of_time() -> None:
        async with asyncio.timeout(10) as limit:

            def output(text: str) -> None:
                lines.append(text)
                limit.reschedule(asyncio.get_running_loop().time())

            await driver.update(WEB, "v2", output, owned)

    with pytest.raises(TimeoutError):
        await run_out_of_time()
    assert not alive(int(lines[0]))


async def test_cancelled_while_it_starts_it_leaves_nobody(tmp_path: Path) -> None:
    """Cancelled at any of its first steps, the program is ended as well."""
    before = children()
    for steps in range(6):
        task = asyncio.create_task(update(python("import time; time.sleep(60)")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: children() == before and not who_waits_for_children())
    await asyncio.sleep(0)  # what they had to tell the loop


def children() -> set[str]:
    """Ids of this process's children, zombies included."""
    found: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= set(path.read_text().split())
    return found


async def test_a_daemon_left_behind_neither_holds_the_call_nor_is_ended() -> None:
    """The new version itself may be started by the program, holding its output open."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)\n"
    )
    begun = time.monotonic()
    lines = await update(python(code))
    seconds = time.monotonic() - begun
    daemon = int(lines[0])
    try:
        assert runs(daemon)
        assert seconds < command.LINGER + 2
    finally:
        os.kill(daemon, signal.SIGKILL)


async def test_prepare_runs_its_own_command_or_nothing() -> None:
    """Without `prepare` the step is done at once; with it, its failure is told like another's."""
    lines: list[str] = []
    plain = drivers.make({"kind": "command", "update": ["/nowhere/deploy"]})
    await plain.prepare(WEB, "v2", lines.append, owned)
    assert lines == []
    fetching = drivers.make(
        {"kind": "command", "update": ["true"], "prepare": ["sh", "-c", "echo {version}; exit 4"]}
    )
    with pytest.raises(DriverError, match="exit status 4: v2"):
        await fetching.prepare(WEB, "v2", lines.append, owned)
    assert lines == ["v2"]


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_descriptor_is_left_open() -> None:
    """Ends, failures and starts that fail close their pipes."""
    settings: Sequence[dict[str, object]] = (
        {"kind": "command", "update": ["true"]},
        {"kind": "command", "update": ["false"]},
        {"kind": "command", "update": ["/nowhere/deploy"]},
    )
    before = descriptors()
    for each in settings:
        try:
            await update(each)
        except DriverError:
            continue
    await until(lambda: descriptors() <= before)


def shell(script: str) -> list[str]:
    """Arguments that run `script`, with version and name as $1 and $2."""
    return ["sh", "-c", script, "sh", "{version}", "{instance}"]


async def test_the_way_back_has_its_own_command_or_is_an_update() -> None:
    """`rollback` is run where there is one; `{instance}` is another word for `{name}`."""
    lines: list[str] = []
    settings: dict[str, object] = {"kind": "command", "update": shell('echo "update $1 $2"')}
    await drivers.make(settings).roll_back(WEB, "v1", lines.append, owned)
    own = {**settings, "rollback": shell('echo "back $1 $2"')}
    await drivers.make(own).roll_back(WEB, "v1", lines.append, owned)
    assert lines == ["update v1 web-01", "back v1 web-01"]


async def test_the_version_is_the_first_line_that_is_printed() -> None:
    """Warnings go elsewhere; without a `version` command nothing is claimed."""
    plain: dict[str, object] = {"kind": "command", "update": ["true"]}
    assert not drivers.make(plain).reports_version
    asked = drivers.make({**plain, "version": shell("echo old key >&2; echo ' v7 '; echo more")})
    assert asked.reports_version
    assert (await asked.running(WEB)).version == "v7"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo v7; echo no route >&2; exit 5", "exit status 5: no route"),
        ("echo no route; exit 5", "exit status 5: no route"),
        ("true", "printed no version"),
        ("printf %0200d 1", "printed no version"),
    ],
)
async def test_a_version_command_that_fails_says_how(script: str, words: str) -> None:
    """No version is made up: neither of a failure, nor of nothing, nor of a long text."""
    settings = {"kind": "command", "update": ["true"], "version": shell(script)}
    with pytest.raises(DriverError, match=words):
        await drivers.make(settings).running(WEB)


async def test_a_version_command_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has a few seconds and leaves nobody."""
    monkeypatch.setattr(command, "ANSWER_TIMEOUT", 0.3)
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; sleep 60"
    settings = {"kind": "command", "update": ["true"], "version": shell(script)}
    with pytest.raises(DriverError, match="no answer within"):
        await drivers.make(settings).running(WEB)
    assert not runs(int(pid.read_text()))


async def ticks(old_version: str, **settings: object) -> dict[str, tuple[bool | None, str]]:
    """What preflight finds, by what it looked at."""
    driver = drivers.make({"kind": "command", "update": ["true"], **settings})
    return {each.what: (each.ok, each.detail) for each in await driver.preflight(WEB, old_version)}


async def test_preflight_names_a_program_that_is_not_there(tmp_path: Path) -> None:
    """Each configured program counts, relative to the directory where it has a slash."""
    (tmp_path / "deploy").write_text("#!/bin/sh\n")
    (tmp_path / "deploy").chmod(0o755)
    here: dict[str, object] = {"directory": str(tmp_path), "update": ["./deploy"]}
    assert (await ticks("v1", **here))["programs there"] == (True, "update")
    ok, detail = (await ticks("v1", **here, rollback=["./undo"]))["programs there"]
    assert ok is False
    assert "./undo is not on the worker's machine" in detail
    assert "correct `rollback`" in detail
    ok, detail = (await ticks("v1", directory="/nowhere"))["programs there"]
    assert ok is False
    assert "directory /nowhere" in detail


async def test_preflight_asks_for_the_old_version_and_changes_nothing(tmp_path: Path) -> None:
    """`artifact` gets the old version; what nobody can tell keeps nobody from deploying."""
    (tmp_path / "v1").touch()
    artifact = shell(f'test -e {tmp_path}/"$1" || {{{{ echo "no $1 here"; exit 1; }}}}')
    assert (await ticks("v1", artifact=artifact))["old version there"] == (True, "v1")
    ok, detail = (await ticks("v0", artifact=artifact))["old version there"]
    assert ok is False
    assert detail == "v0: exit status 1: no v0 here; without it there is no way back"
    assert (await ticks("", artifact=artifact))["old version there"][0] is None
    assert (await ticks("v1"))["old version there"][0] is None
    untouched = tmp_path / "updated"
    await ticks("v1", update=["touch", str(untouched)], artifact=artifact)
    assert not untouched.exists()
