"""Servers of one data folder: owned by one, gone after a stop, back after a kill."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from dashboard.local import postgres_account, postgres_server, redis_server
from dashboard.local.errors import LocalError
from dashboard.local.places import CHECKOUT, MARK, Places, is_root
from dashboard.local.stack import Owner, Stack
from dashboard.local.supervision import Program
from tests.servers import until

# Runs PostgreSQL and Redis of a data folder until it is stopped.
RUNNER = """
import sys
from pathlib import Path
from dashboard.local import postgres_server, redis_server
from dashboard.local.places import Places
from dashboard.local.stack import Owner, Stack, Stopped, interrupt_on_signals, say

interrupt_on_signals()
places = Places.of(Path(sys.argv[1]))
places.make()
try:
    with Owner(places):
        postgres_server.prepare(places, say)
        redis_server.prepare(places)
        programs = [postgres_server.program(places), redis_server.program(places)]
        with Stack(places, programs) as stack:
            stack.start("postgres", lambda: postgres_server.answers(places))
            stack.start("redis", lambda: redis_server.answers(places))
            print("up", flush=True)
            stack.watch()
except Stopped:
    pass
"""


@pytest.fixture
def places() -> Iterator[Places]:
    """Places that PostgreSQL's account can enter; short, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lgs-", dir="/tmp") as folder:
        if is_root():
            Path(folder).chmod(0o711)
        places = Places.of(Path(folder) / "data")
        yield places
        shutil.rmtree(places.runtime, ignore_errors=True)


@contextmanager
def runner(places: Places) -> Iterator[subprocess.Popen[str]]:
    """Run the servers in a process of their own; they answer when it is entered."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(places.data)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "up\n":
            pytest.fail(process.communicate()[1])
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def marked(places: Places) -> list[psutil.Process]:
    """Return all processes that were started for the data folder."""
    found = []
    for each in psutil.process_iter():
        try:
            words = " ".join(each.cmdline())
            ours = str(places.data) in words or str(places.runtime) in words
            if ours or each.environ().get(MARK) == str(places.data):
                found.append(each)
        except psutil.Error:
            continue
    return [each for each in found if each.pid != os.getpid()]


def programs(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return supervisord and what it runs, without their own children, which come and go."""
    [supervisor] = psutil.Process(process.pid).children()
    return [supervisor, *supervisor.children()]


def runs(process: psutil.Process) -> bool:
    """Whether `process` is alive; an orphan may wait long for somebody to read its status."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def write_and_read(places: Places) -> int:
    """Add a row to a table and return how many there are."""
    with psycopg.connect(places.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES ('kept')")
        [count] = connection.execute("SELECT count(*) FROM note").fetchone() or [0]
        return int(count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_after_a_stop(places: Places, number: int) -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop all, and the sockets are gone."""
    with runner(places) as process:
        started = programs(process)
        assert {"postgres", "redis-server"} <= {each.name() for each in started}
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert not [each for each in started if runs(each)]
    assert not marked(places)
    assert not places.runtime.exists()


def test_both_answer_and_postgresql_keeps_its_data(places: Places) -> None:
    """After a stop and a start the rows are there; Redis begins empty, as it should."""
    for round_ in (1, 2):
        with runner(places), redis.Redis.from_url(places.redis_url) as client:
            assert write_and_read(places) == round_
            assert client.incr("round") == 1


def test_no_server_listens_beyond_its_sockets(places: Places) -> None:
    """Neither PostgreSQL nor Redis nor supervisord has a TCP port; the sockets are private."""
    with runner(places) as process:
        for each in programs(process):
            assert [one for one in each.net_connections("inet") if one.status == "LISTEN"] == []
        for socket in (places.redis_socket, places.supervisor_socket):
            assert socket.stat().st_mode & 0o077 == 0
        assert places.postgres_sockets.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not is_root(), reason="optional: only root has another account to use")
def test_postgresql_does_not_run_as_root(places: Places) -> None:
    """As root, PostgreSQL runs as an account without rights."""
    with runner(places) as process:
        [server] = [each for each in programs(process) if each.name() == "postgres"]
        assert server.uids().real != 0


def test_a_second_owner_is_refused(places: Places) -> None:
    """Whoever comes second is told who has the folder, and starts nothing."""
    places.make()
    with Owner(places), runner_output(places) as said:
        assert f"in use by process {os.getpid()}" in said
        assert "--data" in said


@contextmanager
def runner_output(places: Places) -> Iterator[str]:
    """Yield what a runner that can't start says."""
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, str(places.data)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    yield ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="optional: only Linux tells of a parent's end")
def test_supervisord_ends_with_its_killed_parent(places: Places) -> None:
    """kill -9 of manage.py: supervisord hears of it and stops all by itself."""
    with runner(places) as process:
        process.kill()
        process.communicate()
        until(lambda: not marked(places), 30, "all have ended")


def test_a_start_after_killing_everything_above_the_servers(places: Places) -> None:
    """kill -9 of manage.py and supervisord: the next start ends what is left, and serves."""
    with runner(places) as process:
        write_and_read(places)
        supervisor, *servers = programs(process)
        # Neither may see the end of the other: each would stop the servers by itself.
        process.send_signal(signal.SIGSTOP)
        supervisor.kill()
        process.kill()
        process.communicate()
    assert len([each for each in servers if runs(each)]) == 2
    with runner(places):
        assert write_and_read(places) == 2
        assert not [each for each in servers if runs(each)]


def test_a_start_after_killing_all(places: Places) -> None:
    """kill -9 of every process at once: stale notes and sockets do not stop the next start."""
    with runner(places) as process:
        write_and_read(places)
        whole = psutil.Process(process.pid)
        for each in [*whole.children(recursive=True), whole]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()
    with runner(places):
        assert write_and_read(places) == 2


def test_supervisord_killed_alone_ends_the_run(places: Places) -> None:
    """kill -9 of supervisord: nobody would start again what dies, so all is ended, and said."""
    with runner(places) as process:
        supervisor, *_ = programs(process)
        supervisor.kill()
        _, said = process.communicate(timeout=60)
    assert "supervisord was killed" in said
    assert not marked(places)


def test_a_killed_server_is_started_again(places: Places) -> None:
    """kill -9 of Redis: a new one answers on the same socket."""
    with runner(places) as process, redis.Redis.from_url(places.redis_url) as client:
        [server] = [each for each in programs(process) if each.name() == "redis-server"]
        server.kill()
        until(lambda: not server.is_running(), what="the old one is gone")
        until(lambda: redis_server.answers(places), what="a new one answers")
        assert client.ping()


def test_a_program_that_ends_at_start_is_told_with_its_log(places: Places) -> None:
    """The failure names the program and shows the end of its log; nothing is left."""
    places.make()
    bad = Program("bad", (sys.executable, "-c", "print('no such setting'); raise SystemExit(3)"))
    with (
        Owner(places, lambda text: None),
        pytest.raises(LocalError, match=r"bad ended(.|\n)*no such setting"),
        Stack(places, [bad], lambda text: None) as stack,
    ):
        stack.start("bad", lambda: False, within=20)
    assert not marked(places)


def test_a_program_that_never_answers_is_given_up(places: Places) -> None:
    """A wait is bounded, and its end says how long it was."""
    places.make()
    deaf = Program("deaf", (sys.executable, "-c", "import signal; signal.pause()"))
    with (
        Owner(places, lambda text: None),
        pytest.raises(LocalError, match=r"deaf does not answer after 0.2 s"),
        Stack(places, [deaf], lambda text: None) as stack,
    ):
        stack.start("deaf", lambda: False, within=0.2)
    assert not marked(places)


def test_a_cluster_of_another_major_version_is_refused(places: Places) -> None:
    """The sentence names the version that made it; the cluster is left as it was."""
    places.make()
    places.make_runtime()
    places.cluster.mkdir()
    (places.cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(LocalError, match=r"PostgreSQL 9 is not on this machine .*--data"):
        postgres_server.prepare(places, lambda text: None)
    assert [each.name for each in places.cluster.iterdir()] == ["PG_VERSION"]


@pytest.mark.skipif(not is_root(), reason="optional: only root has another account to use")
def test_a_folder_that_postgresql_cannot_enter(tmp_path: Path) -> None:
    """Its parents stay closed: the database is kept elsewhere, and goes with the folder."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    places = Places.of(closed / "data")
    places.make()
    runner_account = postgres_account.account()
    home = postgres_account.home(places, runner_account, said.append)
    assert home.parent == postgres_account.CLUSTERS
    assert str(home) in said[-1]
    assert closed.stat().st_mode & 0o777 == 0o700
    home.mkdir()
    places.fleet.rmdir()
    places.logs.rmdir()
    places.data.rmdir()
    postgres_account.home(Places.of(closed), runner_account, said.append)
    assert not home.exists()
    (postgres_account.CLUSTERS / f"{Places.of(closed).runtime.name}.of").unlink()
