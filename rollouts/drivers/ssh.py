"""Runs commands on the host of each instance, over SSH.

The settings are argument lists with placeholders; they are quoted, so that no shell takes any
of them for more than a text. What changes something runs there one at a time for each
instance, and ends with the lease; see `ssh_keeper`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollouts.adapters import SettingsError, Surroundings, checked, wrong_keys
from rollouts.drivers.output import LineSink, clean, failure
from rollouts.drivers.programs import PROGRAMS, Programs, running_of
from rollouts.drivers.templates import check_arguments, fill, values
from rollouts.facts import Instance, Running, Tick
from rollouts.ports import DriverError
from rollouts.ssh import (
    Completed,
    HostKeyRefused,
    LoginRefused,
    Ssh,
    SshError,
    SshSettings,
    SshUnreachable,
)

ANSWER_TIMEOUT = 5.0  # seconds for a command that only looks
PREFLIGHT_TIMEOUT = 15.0  # seconds: a connection and two commands that only look, at worst
NOT_FOUND = 127  # the exit status of a shell that does not find a program

REACHABLE, HOST_KEY, LOGIN, TOOLS = "host reachable", "host key confirmed", "login", "tools"
OLD_VERSION = "old version there"


class SshDriver(Programs):
    """`programs` are argument lists with placeholders, by the key of PROGRAMS."""

    def __init__(
        self, programs: Mapping[str, Sequence[str]], settings: SshSettings, ssh: Ssh
    ) -> None:
        super().__init__(programs)
        self._settings = settings
        self._ssh = ssh

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "SshDriver":
        """Return the driver of `{kind, PROGRAMS, ssh}`; raise SettingsError."""
        errors = wrong_keys(raw, required=("kind", "update"), optional=(*PROGRAMS[1:], "ssh"))
        checks: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(PROGRAMS, check_arguments),
            "ssh": SshSettings.parse,
        }
        checked(raw, checks, errors)
        if errors:
            raise SettingsError(errors)
        settings = SshSettings.parse(raw.get("ssh"))
        programs = {key: raw[key] for key in PROGRAMS if key in raw}
        return cls(programs, settings, Ssh(settings, surroundings.known_hosts))

    async def running(self, instance: Instance) -> Running:
        """Return the first line that the `version` command prints; raise DriverError."""
        try:
            answer = await self._ask("version", instance, "")
        except SshError as error:
            raise DriverError(f"the version command: {error}") from error
        if answer.status != 0:
            raise DriverError(f"the version command: {self._failure_of(answer)}")
        return running_of(clean(answer.stdout.partition(b"\n")[0]))

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        """Return whether the host can be reached and used, and whether `old_version` is there."""
        ticks: dict[str, Tick] = {}
        try:
            async with asyncio.timeout(PREFLIGHT_TIMEOUT):
                await self._look(instance, old_version, ticks)
        except TimeoutError:
            why = f"no answer within {PREFLIGHT_TIMEOUT:g} s"
        else:
            why = "could not be asked"
        order = (REACHABLE, HOST_KEY, LOGIN, TOOLS, OLD_VERSION)
        return [ticks.get(what, Tick(what, None, why)) for what in order]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._ssh.aclose()

    async def _look(self, instance: Instance, old_version: str, ticks: dict[str, Tick]) -> None:
        """Add to `ticks` what is found, up to the first thing without which no other is."""
        host = self._settings.host_of(instance)
        stages = {SshUnreachable: REACHABLE, HostKeyRefused: HOST_KEY, LoginRefused: LOGIN}
        failed, why = "", ""
        try:
            await self._ssh.reach(host)
        except SshError as error:
            failed, why = stages.get(type(error), REACHABLE), str(error)
        for what in (REACHABLE, HOST_KEY, LOGIN):
            if what == failed:
                ticks[what] = Tick(what, False, why)
                return
            ticks[what] = Tick(what, True, str(self._settings.place(host)))
        ticks[TOOLS] = await self._tools(instance, host)
        ticks[OLD_VERSION] = await self._old_version(instance, old_version)

    async def _tools(self, instance: Instance, host: str) -> Tick:
        """Find out whether a program can be kept on the host, by keeping one that does nothing."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_TIMEOUT
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status = await self._ssh.keep(
                    host,
                    ["true"],
                    lock=f"preflight of {instance.address}",
                    output=lambda data: None,
                    left=lambda: until - loop.time(),
                )
        except SshError as error:
            return Tick(TOOLS, False, str(error))
        except TimeoutError:
            return Tick(TOOLS, None, f"no answer within {ANSWER_TIMEOUT:g} s")
        return Tick(TOOLS, status == 0, "" if status == 0 else f"true exits with status {status}")

    async def _old_version(self, instance: Instance, old_version: str) -> Tick:
        if not old_version:
            return Tick(OLD_VERSION, None, "which version runs now is not known")
        if "artifact" not in self._programs:
            why = "an artifact command in the service's driver would tell"
            return Tick(OLD_VERSION, None, why)
        try:
            answer = await self._ask("artifact", instance, old_version)
        except SshError as error:
            return Tick(OLD_VERSION, None, f"{old_version}: the artifact command: {error}")
        if answer.status == 0:
            return Tick(OLD_VERSION, True, old_version)
        why = f"{old_version}: {self._failure_of(answer)}; without it there is no way back"
        return Tick(OLD_VERSION, False, why)

    async def _ask(self, key: str, instance: Instance, version: str) -> Completed:
        arguments = fill(self._programs[key], values(instance, version))
        host = self._settings.host_of(instance)
        return await self._ssh.run(host, arguments, timeout=ANSWER_TIMEOUT)

    async def _run(
        self,
        key: str,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        arguments = fill(self._programs[key], values(instance, version))
        sink = LineSink(output)
        host = self._settings.host_of(instance)
        try:
            status = await self._ssh.keep(
                host, arguments, lock=instance.address, output=sink.feed, left=left
            )
        except SshError as error:
            raise DriverError(str(error)) from error
        finally:
            sink.close()
        if status == NOT_FOUND:
            raise DriverError(
                f"exit status {status}: {sink.last or arguments[0]}; where {arguments[0]} is not "
                f"on {host}, install it, or correct `{key}` in the service's driver"
            )
        if status != 0:
            raise DriverError(failure(status, sink.last))

    def _failure_of(self, answer: Completed) -> str:
        words = LineSink(lambda text: None)
        words.feed(answer.stdout + b"\n" + answer.stderr)
        words.close()
        return failure(answer.status, words.last)
