"""The demo's hosts: sshd on loopback, with keys that are made for it and end with it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import asyncssh
import psutil
import pytest

from dashboard.local import leftovers, sshd_server
from dashboard.local.errors import LocalError
from dashboard.local.places import MARK, Places
from dashboard.local.sshd_server import Host
from dashboard.local.stack import Owner, Stack, free_ports
from tests.environment import SHARE
from tests.servers import until

ADDRESS = "127.0.0.1"
PORTS = 29_800 + 20 * SHARE


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture
def places() -> Iterator[Places]:
    with tempfile.TemporaryDirectory(prefix="lgh-", dir="/tmp") as folder:
        places = Places.of(Path(folder) / "data")
        places.make()
        yield places


@pytest.fixture
def host(places: Places) -> Iterator[Host]:
    """A host that can be logged in to."""
    [port] = free_ports(1, PORTS)
    host = Host(ADDRESS, port, places.ssh)
    with Owner(places, quiet):
        sshd_server.prepare([host], places.data)
        with Stack(places, sshd_server.programs([host]), quiet) as stack:
            stack.start(sshd_server.name(host), partial(sshd_server.answers, host))
            yield host
    assert not places.ssh.exists()


def connect(host: Host, key: Path) -> asyncssh.connect:
    known = asyncssh.import_known_hosts(f"[{host.address}]:{host.port} {host.key}\n")
    return asyncssh.connect(
        host.address,
        host.port,
        username=sshd_server.user(),
        client_keys=[str(key)],
        known_hosts=known,
        config=None,
        agent_path=None,
    )


async def test_the_key_of_the_demo_lets_in(host: Host, places: Places) -> None:
    """The host shows its own key, and what runs there is marked as the demo's."""
    async with connect(host, sshd_server.client_key(places.ssh)) as connection:
        done = await connection.run(f"printenv {MARK}")
    assert str(done.stdout).strip() == str(places.data)


async def test_another_key_does_not(host: Host, tmp_path: Path) -> None:
    """Nobody else gets in, by whatever is in the account's own folders."""
    key = tmp_path / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(host, key)


@pytest.mark.parametrize(("password", "locked"), [("!", True), ("!*", True), ("*", False)])
def test_an_account_that_is_locked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, locked: bool
) -> None:
    """Before anything starts: sshd would refuse it without a word to who logs in."""
    shadow = tmp_path / "shadow"
    shadow.write_text(f"daemon:*:1::::::\n{sshd_server.user()}:{password}:1::::::\n")
    monkeypatch.setattr(sshd_server, "SHADOW", shadow)
    with pytest.raises(LocalError, match="is locked") if locked else nullcontext():
        sshd_server.check()


def test_keys_are_nobody_elses(host: Host, places: Places) -> None:
    """They can be read by their owner alone, and so can the folder."""
    for path in (sshd_server.client_key(places.ssh), host.private_key):
        assert path.stat().st_mode & 0o077 == 0
    assert places.runtime.stat().st_uid == os.geteuid()


def test_one_that_lost_its_supervisor_is_found(host: Host, places: Places) -> None:
    """Though its title hides the mark in its environment."""
    # Others of its processes come and go; of one that is gone nothing is told here.
    everybody = psutil.process_iter(["cmdline"])
    [sshd] = [one for one in everybody if str(host.config) in " ".join(one.info["cmdline"] or ())]
    supervisor = sshd.parent()
    assert supervisor is not None
    supervisor.kill()
    assert sshd.is_running()
    leftovers.end(places, quiet, "Left")
    until(lambda: not sshd.is_running(), what="it was ended")
