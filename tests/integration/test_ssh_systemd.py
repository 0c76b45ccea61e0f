"""The recipe for systemd: releases beside each other on a real host, a link, a restarted unit.

systemd itself runs where it is the first process alone. A stand-in for systemctl takes its
place here, which really ends and starts the processes of units.
"""

import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dashboard.local.places import CHECKOUT
from dashboard.local.stack import free_ports
from rollouts import drivers
from rollouts.adapters import Surroundings
from rollouts.facts import Instance
from rollouts.ports import Driver, DriverError
from tests.sshd import HOST, PORTS, Known, Sshds, running_sshds

WEB = Instance("web-01", HOST, 8080, "web-01")
SCRIPT = CHECKOUT / "docs" / "recipes" / "lockgate-release"

# Its units have their pids in UNITS/NAME, and run `./serve` in the folder of their link.
SYSTEMCTL = """#!/bin/sh
for unit; do :; done
pid=$(cat "{units}/$unit" 2>/dev/null)
case $1 in
    restart)
        [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
        cd "{root}/${{unit#shop@}}" || exit 1
        setsid ./serve >/dev/null 2>&1 </dev/null &
        echo $! >"{units}/$unit"
        ;;
    is-active)
        [ -n "$pid" ] && sleep 0.05 && [ -d "/proc/$pid/cwd/" ]
        ;;
    status) echo "the unit $unit has failed" ;;
esac
"""


def release(folder: Path, version: str, serve: str = "exec sleep 300") -> None:
    """Put the archive of a version into `folder`, with its checksum."""
    archive = folder / f"shop-{version}.tar.gz"
    text = f"#!/bin/sh\n{serve}\n".encode()
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("serve")
        entry.size, entry.mode = len(text), 0o755
        tar.addfile(entry, io.BytesIO(text))


class Machine:
    """A host with a root for releases, archives of some, and units."""

    def __init__(self, folder: Path, hosts: Sshds) -> None:
        self.root, self.archives, self.units = (
            folder / each for each in ("srv", "archives", "units")
        )
        self.hosts = hosts

    def runs(self, unit: str = "shop@current") -> str:
        """Return the release that the process of a unit runs in; "" where there is none."""
        with suppress(OSError):
            pid = int((self.units / unit).read_text())
            return Path(f"/proc/{pid}/cwd").readlink().name
        return ""

    def releases(self) -> set[str]:
        """Return the releases that are there."""
        return {each.name for each in (self.root / "releases").iterdir()}

    def driver(self, keep: int = 5, link: str = "current", more: tuple[str, ...] = ()) -> Driver:
        """Return the driver as docs/systemd.md has it."""
        root = ["-r", str(self.root)]
        unit = [*root, "-u", f"shop@{link}", "-l", link]
        source = ["-s", f"{self.archives}/shop-{{version}}.tar.gz", *more]
        raw = {
            "kind": "ssh",
            "prepare": ["lockgate-release", "prepare", *root, *source, "{version}"],
            "update": ["lockgate-release", "update", *unit, *source, "-k", str(keep), "{version}"],
            "rollback": ["lockgate-release", "rollback", *unit, "{version}"],
            "version": ["lockgate-release", "version", *unit],
            "artifact": ["lockgate-release", "artifact", *root, "{version}"],
            "ssh": self.hosts.settings(port=self.hosts.ports[0]),
        }
        return drivers.make(raw, Surroundings((WEB,), Known.of(self.hosts)))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A host where the recipe was followed."""
    tools = tmp_path / "bin"
    for each in ("bin", "srv", "archives", "units"):
        (tmp_path / each).mkdir()
    (tools / "lockgate-release").symlink_to(SCRIPT)
    systemctl = SYSTEMCTL.format(units=tmp_path / "units", root=tmp_path / "srv")
    for name, text in {"systemctl": systemctl, "sudo": '#!/bin/sh\nshift\nexec "$@"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with running_sshds(tmp_path, free_ports(1, PORTS), f"PATH={tools}:/usr/bin:/bin") as hosts:
        made = Machine(tmp_path, hosts)
        for version in ("v1", "v2"):
            release(made.archives, version)
        try:
            yield made
        finally:
            for each in made.units.iterdir():
                with suppress(OSError):
                    os.kill(int(each.read_text()), signal.SIGKILL)


@pytest.fixture
async def driver(machine: Machine) -> AsyncIterator[Driver]:
    """The driver of that host."""
    made = machine.driver()
    yield made
    await made.aclose()


async def give(driver: Driver, version: str, *, back: bool = False) -> list[str]:
    """Have the instance updated or put back, and return what was said."""
    lines: list[str] = []
    how = driver.roll_back if back else driver.update
    await how(WEB, version, lines.append, lambda: 10.0)
    return lines


async def test_a_release_is_unpacked_started_and_rolled_back(
    machine: Machine, driver: Driver
) -> None:
    """Prepared without a change to what runs; the way back needs no archive."""
    await give(driver, "v1")
    assert machine.runs() == "v1"
    await driver.prepare(WEB, "v2", lambda text: None, lambda: 10.0)
    assert machine.releases() == {"v1", "v2"}
    assert machine.runs() == "v1"
    assert (await driver.running(WEB)).version == "v1"
    lines = await give(driver, "v2")
    assert lines == ["shop@current runs v2"]
    assert (machine.runs(), (await driver.running(WEB)).version) == ("v2", "v2")
    for archive in machine.archives.iterdir():
        archive.unlink()
    await give(driver, "v1", back=True)
    assert (machine.runs(), (await driver.running(WEB)).version) == ("v1", "v1")


async def test_all_of_it_may_be_done_twice(machine: Machine, driver: Driver) -> None:
    """As a takeover does; and what an interrupted one has left is no trouble."""
    rubbish = machine.root / "releases" / ".new"
    rubbish.mkdir(parents=True)
    (rubbish / "tree").touch()
    for _ in range(2):
        await driver.prepare(WEB, "v1", lambda text: None, lambda: 10.0)
        await give(driver, "v1")
        assert machine.runs() == "v1"


async def test_preflight_looks_for_the_old_release(machine: Machine, driver: Driver) -> None:
    """Without it there is no way back."""
    await give(driver, "v1")
    found = {tick.what: tick.ok for tick in await driver.preflight(WEB, "v1")}
    assert found["old version there"]
    missing = {tick.what: tick for tick in await driver.preflight(WEB, "v0")}["old version there"]
    assert missing.ok is False
    assert "releases/v0 is not here" in missing.detail


async def test_a_release_that_does_not_start_is_a_failure(machine: Machine, driver: Driver) -> None:
    """What systemd says of it goes to the log, and the version is not the new one."""
    await give(driver, "v1")
    release(machine.archives, "v3", "exit 1")
    with pytest.raises(DriverError, match="shop@current does not run with v3"):
        await give(driver, "v3")
    with pytest.raises(DriverError, match="does not run"):
        await driver.running(WEB)
    await give(driver, "v1", back=True)
    assert machine.runs() == "v1"


async def test_what_is_not_there_or_not_whole_is_told(machine: Machine, driver: Driver) -> None:
    """No archive, one cut short, one that is not what its checksum says; nothing is left of it."""
    await give(driver, "v1")
    (machine.archives / "shop-v5.tar.gz").write_bytes(
        (machine.archives / "shop-v1.tar.gz").read_bytes()[:60]
    )
    checked = machine.driver(more=("-c",))
    (machine.archives / "shop-v2.tar.gz.sha256").write_text("0" * 64)
    try:
        for one, version, words in (
            (driver, "v4", "shop-v4.tar.gz"),
            (driver, "v5", "exit status"),
            (checked, "v2", "wrong checksum"),
        ):
            with pytest.raises(DriverError, match=words):
                await give(one, version)
        with pytest.raises(DriverError, match="releases/v4 is not here"):
            await give(driver, "v4", back=True)
    finally:
        await checked.aclose()
    assert machine.releases() - {".new"} == {"v1"}
    assert machine.runs() == "v1"


async def test_old_releases_go_but_those_that_something_runs(machine: Machine) -> None:
    """The newest stay, and those of other instances on the host."""
    other = machine.driver(link="web-02")
    driver = machine.driver(keep=2)
    try:
        await give(other, "v1")
        for version in ("v2", "v3", "v4"):
            release(machine.archives, version)
            await give(driver, version)
        assert machine.releases() == {"v1", "v3", "v4"}
        assert machine.runs("shop@web-02") == "v1"
    finally:
        await driver.aclose()
        await other.aclose()
