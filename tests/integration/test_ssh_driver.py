"""The ssh driver on a real sshd: what it runs where, how it fails, what it looks at before."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dashboard.local.stack import free_ports
from rollouts import drivers
from rollouts import ssh as rooms
from rollouts.adapters import Surroundings
from rollouts.facts import Instance
from rollouts.ports import Driver, DriverError
from tests.sshd import HOST, PORTS, Known, Sshds, running_sshds, sshds

__all__ = ["sshds"]

WEB = Instance("web-01", HOST, 8080, "srv-1", slot="blue")
TICKS = ["host reachable", "host key confirmed", "login", "tools", "old version there"]


@asynccontextmanager
async def driver_of(
    sshds: Sshds, known: Known | None = None, ssh: dict[str, Any] | None = None, **programs: Any
) -> AsyncIterator[Driver]:
    """Yield the driver of `programs` on the first of `sshds`, as a service has it."""
    settings = sshds.settings(port=sshds.ports[0]) | (ssh or {})
    raw = {"kind": "ssh", "update": ["true"], "ssh": settings} | programs
    driver = drivers.make(raw, Surroundings((WEB,), known or Known.of(sshds)))
    try:
        yield driver
    finally:
        await driver.aclose()


async def update(driver: Driver, output: Callable[[str], None] = lambda text: None) -> None:
    """Have the driver update the instance to v2."""
    await driver.update(WEB, "v2", output, lambda: 10.0)


async def test_each_command_runs_with_what_it_was_told(sshds: Sshds) -> None:
    """The placeholders are those of every driver, and the output goes to the log, cleaned."""
    lines: list[str] = []
    echo = ["printf", "\\033[1m%s\\033[0m\n"]
    async with driver_of(
        sshds,
        prepare=[*echo, "prepare {version}"],
        update=[*echo, "{instance} {name} {hostname} {port} {version} {server} {slot}"],
        rollback=[*echo, "back to {version}"],
    ) as driver:
        await driver.prepare(WEB, "v2", lines.append, lambda: 10.0)
        await update(driver, lines.append)
        await driver.roll_back(WEB, "v1", lines.append, lambda: 10.0)
    assert lines == [
        "prepare v2",
        f"web-01 web-01 {HOST} 8080 v2 srv-1 blue",
        "back to v1",
    ]


async def test_without_commands_of_their_own_the_way_back_is_an_update(sshds: Sshds) -> None:
    """And there is nothing to prepare."""
    lines: list[str] = []
    async with driver_of(sshds, update=["echo", "{version}"]) as driver:
        await driver.prepare(WEB, "v2", lines.append, lambda: 10.0)
        await driver.roll_back(WEB, "v1", lines.append, lambda: 10.0)
        assert not driver.reports_version
    assert lines == ["v1"]


async def test_no_shell_takes_a_value_apart(sshds: Sshds, tmp_path: Path) -> None:
    """Whatever the settings and the inventory hold."""
    lines: list[str] = []
    bad = f"$(touch {tmp_path}/x); `touch {tmp_path}/x` '\" > {tmp_path}/x"
    async with driver_of(sshds, update=["printf", "%s\n", bad, "{server}"]) as driver:
        strange = Instance("web-01", HOST, 8080, server=bad)
        await driver.update(strange, "v2", lines.append, lambda: 10.0)
    assert lines == [bad, bad]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sh", "-c", "echo no space left >&2; exit 3"], "exit status 3: no space left"),
        (["false"], "exit status 1: without any output"),
        (["sh", "-c", "echo oh; kill -9 $$"], "ended by SIGKILL: oh"),
        (["/opt/no/such", "{version}"], "where /opt/no/such is not on .* correct `update`"),
    ],
)
async def test_a_failure_is_told_in_words(sshds: Sshds, command: list[str], words: str) -> None:
    """The status or signal, and the last that the command said."""
    async with driver_of(sshds, update=command) as driver:
        with pytest.raises(DriverError, match=words):
            await update(driver)


async def test_two_updates_of_one_instance_take_turns(sshds: Sshds, tmp_path: Path) -> None:
    """Be they of two owners: each has connections of its own."""
    script = f"mkdir {tmp_path}/held && sleep 0.2 && rmdir {tmp_path}/held"
    command = ["sh", "-c", script]
    async with (
        driver_of(sshds, update=command) as one,
        driver_of(sshds, update=command) as other,
    ):
        await asyncio.gather(update(one), update(other), update(one))


async def test_the_version_is_the_first_line_of_what_the_command_prints(sshds: Sshds) -> None:
    """Without a command of that name nobody is asked."""
    async with driver_of(sshds, version=["printf", "%s\n", " v{port} ", "more"]) as driver:
        assert driver.reports_version
        assert (await driver.running(WEB)).version == "v8080"
    for command, words in {"true": "printed no version", "false": "exit status 1"}.items():
        async with driver_of(sshds, version=[command]) as driver:
            with pytest.raises(DriverError, match=words):
                await driver.running(WEB)


async def test_a_host_may_be_elsewhere_than_the_instance(sshds: Sshds) -> None:
    """Where its sshd is, `hosts` says."""
    lines: list[str] = []
    hosts = {"web-01": sshds.hosts[1].address}
    command = ["sh", "-c", "echo $SSH_CONNECTION"]
    async with driver_of(sshds, ssh={"hosts": hosts}, update=command) as driver:
        await update(driver, lines.append)
    assert lines[0].split()[3] == str(sshds.ports[1])


async def test_a_driver_that_is_closed_leaves_no_connection(sshds: Sshds) -> None:
    """The host is rid of it."""
    async with driver_of(sshds) as driver:
        await update(driver)
        assert len(sshds.hosts[0].connections()) == 1
    await asyncio.to_thread(lambda: [one.wait(10) for one in sshds.hosts[0].connections()])
    assert not sshds.hosts[0].connections()


async def ticked(driver: Driver, old_version: str = "v1") -> dict[str, tuple[bool | None, str]]:
    """Return what preflight says, by what it looked at."""
    ticks = await driver.preflight(WEB, old_version)
    assert [tick.what for tick in ticks] == TICKS
    return {tick.what: (tick.ok, tick.detail) for tick in ticks}


async def test_preflight_ticks_all_that_the_way_there_and_back_needs(sshds: Sshds) -> None:
    """The old version by its own command, which alone can tell."""
    async with driver_of(sshds, artifact=["test", "{version}", "=", "v1"]) as driver:
        ticks = await ticked(driver)
        assert all(ok for ok, _ in ticks.values())
        ok, detail = (await ticked(driver, "v0"))["old version there"]
        assert ok is False
        assert "v0: exit status 1" in detail
        assert "no way back" in detail
        assert (await ticked(driver, ""))["old version there"][0] is None
    async with driver_of(sshds) as driver:
        assert (await ticked(driver))["old version there"][0] is None


async def test_preflight_names_the_first_thing_that_is_missing(
    sshds: Sshds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do; what can't be asked without it is left open."""
    [free] = free_ports(1, PORTS)
    monkeypatch.setattr(rooms, "CONNECT_TIMEOUT", 2.0)
    for changes, known, what, words in (
        ({"port": free}, None, "host reachable", "no sshd listens"),
        ({}, Known(), "host key confirmed", "manage.py hostkeys confirm"),
        ({"key": "/nowhere/key"}, None, "login", "can't be read by the worker"),
    ):
        async with driver_of(sshds, known, changes) as driver:
            ticks = await ticked(driver)
        ok, detail = ticks[what]
        assert ok is False
        assert words in detail
        before = TICKS[: TICKS.index(what)]
        assert all(ticks[each][0] for each in before)
        assert all(ticks[each][0] is None for each in TICKS[TICKS.index(what) + 1 :])


async def test_preflight_names_a_tool_that_a_host_lacks(tmp_path: Path) -> None:
    """So that it is installed before it is needed."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "flock", "sleep", "id", "mkdir", "timeout", "true"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    with running_sshds(tmp_path, free_ports(1, PORTS), f"PATH={tools}") as hosts:
        async with driver_of(hosts, artifact=["true"]) as driver:
            ticks = await ticked(driver)
    assert ticks["tools"] == (False, f"{HOST} lacks the program setsid: install it")
    assert ticks["old version there"][0]
