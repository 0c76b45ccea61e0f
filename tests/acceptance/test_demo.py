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

from tests.acceptance.running import Demo, command, free_port, marked, running_demo, until
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
    results: list[dict[str, Any]]
    returncode: int
    left: list[psutil.Process]


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
            reached, commands = reach(ready), commands_of(ready["pids"])
            out, _ = process.communicate(timeout=PATIENCE)
        results = [json.loads(line) for line in out.splitlines()]
        return Once(ready, reached, commands, results, process.returncode, marked(data))


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


def test_the_administrator_of_the_ready_line_can_log_in(demo: Demo) -> None:
    """Name and password open the pages."""
    with httpx.Client(base_url=demo.ready["url"], timeout=15) as browser:
        browser.get("/login/")
        answer = browser.post(
            "/login/",
            data={
                "username": demo.ready["admin_user"],
                "password": demo.ready["admin_password"],
                "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            },
        )
        assert answer.status_code == 302
        assert browser.get("/").status_code == 200


def test_everything_listens_on_this_machine_alone(demo: Demo) -> None:
    """No process of the demo has a port on an address that others reach."""
    started = psutil.Process(demo.process.pid).children(recursive=True)
    addresses = {
        one.laddr.ip
        for each in started
        for one in each.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_a_second_demo_of_the_same_folder_is_refused(demo: Demo) -> None:
    """It is told who has the folder, and leaves the first one alone."""
    with command("demo", "--data", str(demo.data), "--port", str(free_port())) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"in use by process {demo.process.pid}" in err
    assert demo.client.get("/api/v1/services").status_code == 200


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


def test_a_wrong_option_is_refused(folder: Path) -> None:
    """A number of instances or a rate beyond the limits is an error in a sentence."""
    for words in (["--instances", "0"], ["--rate", "0"], ["--rate", "100000"]):
        with command("demo", "--data", str(folder), *words) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"{words[0]} must be" in err


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
    words = ("up", "--data", str(folder), "--port", str(port))
    with command(*words) as process:
        said = "".join(said_until(process, "Log in as"))
        password = said.rsplit(maxsplit=1)[1]
        assert log_in(port, password).status_code == 302
    assert process.returncode == 0
    assert not marked(folder)
    with command(*words) as process:
        said = "".join(said_until(process, "first password"))
        assert password not in said
        assert log_in(port, password).status_code == 302
    assert (folder / "admin.password").stat().st_mode & 0o077 == 0
    assert not marked(folder)


def test_up_on_servers_that_are_set_starts_none(folder: Path, servers: Any) -> None:
    """With DATABASE_URL and REDIS_URL only the application itself is started."""
    port = free_port()
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
        assert log_in(port, said[-1].split()[-1]).status_code == 302
        names = {each.name() for each in psutil.Process(process.pid).children(recursive=True)}
        assert not names & {"postgres", "redis-server"}
    assert not (folder / "postgres").exists()
    assert not marked(folder)


def log_in(port: int, password: str) -> httpx.Response:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as browser:
        browser.get("/login/")
        form = {"username": "admin", "password": password}
        return browser.post(
            "/login/", data=form | {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        )
