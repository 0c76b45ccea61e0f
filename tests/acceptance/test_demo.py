"""`manage.py demo` and `manage.py up` as a person runs them: from nothing, to nothing left."""

import json
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis
from django.core.management import CommandError, call_command

from tests.acceptance.running import command, free_port, marked, running_demo, until
from tests.environment import PLACES

PATIENCE = 150.0  # seconds for a whole run
RESULT_KEYS = {
    "deployment",
    "version",
    "status",
    "seconds",
    "requests",
    "failed_requests",
    "slow_requests",
    "max_out",
    "touched",
    "strategy",
    "app_errors",
    "most_share",
    "errors_ended",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for data, with a short path; PostgreSQL's account may pass through it."""
    with tempfile.TemporaryDirectory(prefix="lgt-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        yield Path(path) / "data"


def said_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Return the lines of standard error up to the one with `words`; fail if it never comes."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail(f"{words!r} was never said: {''.join(lines)[-2000:]}")


@dataclass(frozen=True)
class Once:
    """What a run of `demo --once --json` printed, and what was seen of it while it ran."""

    ready: dict[str, Any]
    reached: dict[str, bool]  # by key of the ready line
    commands: dict[str, list[str]]  # what runs as each of `pids`, by its key
    listening: set[str]  # the addresses on which anything of it listens
    logged_in: tuple[int, int]  # the statuses of the login and of the first page after it
    second: "Refused"  # another demo of the same folder
    pid: int
    results: list[dict[str, Any]]
    returncode: int
    left: list[psutil.Process]


@dataclass(frozen=True)
class Refused:
    """How a demo ended that was started while another one ran."""

    returncode: int
    said: str


@pytest.fixture(scope="module")
def once() -> Once:
    """One run for the tests that look at it from different sides."""
    with tempfile.TemporaryDirectory(prefix="lgt-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        data = Path(path) / "data"
        words = ("demo", "--once", "--json", "--data", str(data), "--port", str(free_port()))
        with command(*words, "--instances", "6", "--rate", "50") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready {"), line
            ready = json.loads(line.removeprefix("ready "))
            seen = (
                reach(ready),
                commands_of(ready["pids"]),
                listening(process.pid),
                logged_in(ready),
                second_of(data),
            )
            out, _ = process.communicate(timeout=PATIENCE)
        results = [json.loads(line) for line in out.splitlines()]
        return Once(ready, *seen, process.pid, results, process.returncode, marked(data))


def second_of(data: Path) -> Refused:
    """Start another demo of a folder that is in use."""
    with command("demo", "--data", str(data), "--port", str(free_port())) as process:
        _, err = process.communicate(timeout=60)
    return Refused(process.returncode, err)


def listening(pid: int) -> set[str]:
    """Return the addresses on which the processes below `pid` listen."""
    found = set()
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a work-horse comes and goes
            sockets = each.net_connections("inet")
            found |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def logged_in(ready: dict[str, Any]) -> tuple[int, int]:
    """Log in as the administrator; return the statuses of that and of the page after it."""
    answer = log_in(ready["url"], ready["admin_user"], ready["admin_password"])
    page = httpx.get(f"{ready['url']}/", cookies=answer.cookies, timeout=15)
    return answer.status_code, page.status_code


def reach(ready: dict[str, Any]) -> dict[str, bool]:
    """Use every address of a ready line; return which answers."""
    bearer = {"Authorization": f"Bearer {ready['api_token']}"}
    with (
        psycopg.connect(ready["database_url"]) as database,
        redis.Redis.from_url(ready["redis_url"]) as client,
        socket.socket(socket.AF_UNIX) as admin,
    ):
        admin.connect(ready["haproxy_admin"].removeprefix("unix:"))
        services = httpx.get(f"{ready['url']}/api/v1/services", headers=bearer, timeout=15)
        return {
            "database_url": database.execute("SELECT 1").fetchone() == (1,),
            "redis_url": bool(client.ping()),
            "balancer_url": httpx.get(ready["balancer_url"]).status_code == 200,
            "api_token": services.status_code == 200,
            "haproxy_admin": True,
        }


def commands_of(pids: dict[str, list[int]]) -> dict[str, list[str]]:
    """Return the command lines of processes."""
    return {
        kind: [" ".join(psutil.Process(pid).cmdline()) for pid in some]
        for kind, some in pids.items()
    }


@pytest.mark.timeout(2 * PATIENCE)
def test_once_deploys_a_good_and_a_bad_version_unnoticed(once: Once) -> None:
    """v2 completes, v3-unhealthy is rolled back, no request fails or stalls, nothing is left."""
    assert once.returncode == 0
    good, bad = once.results
    assert set(good) == set(bad) == RESULT_KEYS
    assert (good["version"], good["status"], good["touched"]) == ("v2", "completed", 6)
    assert (bad["version"], bad["status"]) == ("v3-unhealthy", "rolled_back")
    assert 1 <= bad["touched"] <= 2
    for result in (good, bad):
        assert re.fullmatch(r"deploy-[0-9a-f]{12}", result["deployment"])
        assert 1 <= result["max_out"] <= 2
        assert result["requests"] > 0
        assert (result["failed_requests"], result["slow_requests"]) == (0, 0)
    assert bad["seconds"] < 15
    assert not once.left


@pytest.mark.timeout(2 * PATIENCE)
def test_the_ready_line_says_how_to_reach_everything(once: Once) -> None:
    """Every address in it answers, and every process is the one that it is called."""
    assert len(once.reached) == 5
    assert all(once.reached.values()), once.reached
    names = {
        "web": "daphne",
        "worker": "manage.py worker",
        "scheduler": "manage.py dispatch",
        "haproxy": "haproxy",
        "redis": "redis-server",
        "postgres": "postgres",
    }
    assert set(once.commands) == set(names)
    for kind, word in names.items():
        assert once.commands[kind]
        assert all(word in line for line in once.commands[kind]), once.commands[kind]


def test_the_administrator_of_the_ready_line_can_log_in(once: Once) -> None:
    """Name and password open the pages."""
    assert once.logged_in == (302, 200)


def test_everything_listens_on_this_machine_alone(once: Once) -> None:
    """No process of the demo has a port on an address that others reach."""
    assert once.listening == {"127.0.0.1"}


def test_a_second_demo_of_the_same_folder_is_refused(once: Once) -> None:
    """It is told who has the folder, and leaves the first one alone."""
    assert once.second.returncode == 1
    assert f"in use by process {once.pid}" in once.second.said


@pytest.mark.parametrize("name", ["up", "demo"])
def test_a_taken_port_is_told_before_anything_starts(folder: Path, name: str) -> None:
    """The sentence names the port and the option; no server was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with command(name, "--data", str(folder), "--port", str(port)) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken" in err
    assert "--port" in err
    assert "Traceback" not in err
    assert "Starting" not in err
    assert out == ""
    assert not (folder / "postgres").exists()


@pytest.mark.parametrize(
    ("option", "wrong"),
    [("instances", 0), ("instances", 201), ("rate", 0.0), ("rate", 100000.0), ("ports", 80)],
)
def test_a_wrong_option_is_refused(option: str, wrong: float) -> None:
    """A number beyond the limits is an error in a sentence, before anything starts."""
    options: dict[str, Any] = {option: wrong}
    with pytest.raises(CommandError, match=f"--{option} must be"):
        call_command("demo", **options)


def test_a_stop_in_the_middle_of_the_start_leaves_nothing(folder: Path) -> None:
    """SIGTERM while the web starts: all that was started is stopped."""
    words = ("--data", str(folder), "--port", str(free_port()), "--instances", "2")
    with command("demo", *words) as process:
        said_until(process, "Starting web")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert not marked(folder)


@pytest.mark.timeout(2 * PATIENCE)
def test_a_demo_that_was_killed_starts_anew(folder: Path) -> None:
    """kill -9 in the middle of a deployment: the next start has a fresh fleet and deploys."""
    words = ("--data", str(folder), "--instances", "4", "--rate", "20")
    first = killed_in_a_deployment(words)
    with running_demo(*words) as demo:
        assert demo.versions() == {"v1"}
        assert demo.serving() == 4
        left = demo.get(first)
        assert left["status"] == "cancelled"
        assert "fresh fleet" in left["reason"]
        assert demo.ended(demo.start("v2", batch_pause=0))["status"] == "completed"
        assert demo.versions() == {"v2"}
    assert not marked(folder)


def killed_in_a_deployment(words: tuple[str, ...]) -> str:
    """Run a demo, kill every process of it while it deploys, and return the deployment."""
    with running_demo(*words) as demo:
        deployment = demo.start("v2")
        until(lambda: demo.get(deployment)["progress"]["updated"] > 0, 30, "one was updated")
        process = psutil.Process(demo.process.pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        demo.process.wait(10)
    return deployment


@pytest.mark.timeout(2 * PATIENCE)
def test_up_serves_keeps_its_data_and_leaves_nothing(folder: Path) -> None:
    """The first start says how to log in, the second finds the same installation."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ("up", "--data", str(folder), "--port", str(port))
    with command(*words) as process:
        said = "".join(said_until(process, "Log in as"))
        password = said.rsplit(maxsplit=1)[1]
        assert log_in(url, "admin", password).status_code == 302
    assert process.returncode == 0
    assert not marked(folder)
    with command(*words) as process:
        said = "".join(said_until(process, "first password"))
        assert password not in said
        assert log_in(url, "admin", password).status_code == 302
    assert (folder / "admin.password").stat().st_mode & 0o077 == 0
    assert not marked(folder)


def test_up_on_servers_that_are_set_starts_none(folder: Path, servers: Any) -> None:
    """With DATABASE_URL and REDIS_URL only the application itself is started."""
    port = free_port()
    web = f"http://127.0.0.1:{port}"
    url = PLACES.database_url.rsplit("/", 1)[0]
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS up_elsewhere")
        connection.execute("CREATE DATABASE up_elsewhere")
    settings = {
        "DATABASE_URL": f"{url}/up_elsewhere",
        "REDIS_URL": PLACES.redis_url.replace("db=0", "db=3"),
    }
    with command("up", "--data", str(folder), "--port", str(port), **settings) as process:
        said = said_until(process, "Log in as")
        assert log_in(web, "admin", said[-1].split()[-1]).status_code == 302
        names = {each.name() for each in psutil.Process(process.pid).children(recursive=True)}
        assert not names & {"postgres", "redis-server"}
    assert not (folder / "postgres").exists()
    assert not marked(folder)


def log_in(url: str, user: str, password: str) -> httpx.Response:
    """Return the answer to the login."""
    with httpx.Client(base_url=url, timeout=15) as browser:
        browser.get("/login/")
        form = {"username": user, "password": password}
        return browser.post(
            "/login/", data=form | {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        )
