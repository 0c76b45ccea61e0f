"""Runs a program on the worker's machine for each instance.

The program is done when it exits. What it leaves running is left alone after a regular exit
and must have redirected its output: the pipe is closed. When the call is cancelled, all that
is still in the program's group is ended; when the worker is gone, stopped for too long, or no
longer the owner, that is killed.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rollouts.adapters import (
    OUR_SECRETS,
    VARIABLE,
    SettingsError,
    Surroundings,
    checked,
    wrong_keys,
)
from rollouts.drivers.leashed import Leashed
from rollouts.drivers.output import LineSink, failure
from rollouts.drivers.programs import PROGRAMS, Programs, running_of
from rollouts.drivers.templates import check_arguments, fill, values
from rollouts.facts import Instance, Running, Tick
from rollouts.ports import DriverError

LINGER = 0.5  # seconds that output may come on after the program's exit
ANSWER_TIMEOUT = 5.0  # seconds for a program that is asked something and changes nothing


class Command(Programs):
    """`programs` are argument lists with placeholders, by what they are for; see PROGRAMS."""

    def __init__(
        self,
        programs: Mapping[str, Sequence[str]],
        env: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        super().__init__(programs)
        self._env = dict(env or {})
        self._directory = directory

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Command":
        """Return the driver of `{kind, PROGRAMS, env, directory}`; raise SettingsError.

        `env` is kept and shown as plain text: it is no place for a secret.
        """
        errors = wrong_keys(
            raw, required=("kind", "update"), optional=(*PROGRAMS[1:], "env", "directory")
        )
        checks: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(PROGRAMS, check_arguments),
            "env": _check_env,
            "directory": _check_directory,
        }
        checked(raw, checks, errors)
        if errors:
            raise SettingsError(errors)
        programs = {key: raw[key] for key in PROGRAMS if key in raw}
        return cls(programs, raw.get("env"), raw.get("directory"))

    async def running(self, instance: Instance) -> Running:
        """Return the first line that the `version` command prints; raise DriverError."""
        lines: list[str] = []
        try:
            await self._ask("version", instance, "", LineSink(lines.append))
        except TimeoutError as error:
            raise DriverError(f"the version command: {error}") from error
        return running_of(lines[0] if lines else "")

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        """Return whether all programs are there, and whether `artifact` finds `old_version`."""
        ticks = [self._programs_there(instance)]
        if "artifact" in self._programs and old_version:
            ticks.append(await self._old_version_there(instance, old_version))
        else:
            why = (
                "an artifact command in the service's driver would tell"
                if old_version
                else "which version runs now is not known"
            )
            ticks.append(Tick("old version there", None, why))
        return ticks

    def _programs_there(self, instance: Instance) -> Tick:
        what = "programs there"
        if self._directory and not Path(self._directory).is_dir():
            return Tick(what, False, self._no_directory())
        for key, arguments in self._programs.items():
            program = fill(arguments[:1], values(instance, ""))[0]
            where = Path(self._directory or ".") / program if "/" in program else program
            path = self._env.get("PATH")
            if "{version}" not in arguments[0] and not shutil.which(where, path=path):
                return Tick(what, False, _no_program(key, program))
        return Tick(what, True, ", ".join(self._programs))

    async def _old_version_there(self, instance: Instance, old_version: str) -> Tick:
        what = "old version there"
        try:
            await self._ask("artifact", instance, old_version, LineSink(lambda text: None))
        except DriverError as error:
            return Tick(what, False, f"{old_version}: {error}; without it there is no way back")
        except TimeoutError as error:
            return Tick(what, None, f"{old_version}: the artifact command: {error}")
        return Tick(what, True, old_version)

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
        status = await self._execute(key, arguments, left, sink, sink)
        if status != 0:
            raise DriverError(failure(status, sink.last))

    async def _ask(self, key: str, instance: Instance, version: str, answer: LineSink) -> None:
        """Run a program that only looks; raise DriverError, or TimeoutError with words."""
        arguments = fill(self._programs[key], values(instance, version))
        loop = asyncio.get_running_loop()
        # The leash is for the case that we are gone; while we are there, we end it in order.
        until = loop.time() + ANSWER_TIMEOUT + 1
        errors = LineSink(lambda text: None)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status = await self._execute(
                    key, arguments, lambda: until - loop.time(), answer, errors
                )
        except TimeoutError:
            raise TimeoutError(f"no answer within {ANSWER_TIMEOUT:g} s") from None
        if status != 0:
            raise DriverError(failure(status, errors.last or answer.last))

    async def _execute(
        self,
        key: str,
        arguments: list[str],
        left: Callable[[], float],
        sink: LineSink,
        errors: LineSink,
    ) -> int:
        """Return the exit status of a program whose output has gone to the sinks."""
        async with AsyncExitStack() as stack:
            output = await stack.enter_async_context(_into(sink))
            others = output
            if errors is not sink:
                others = await stack.enter_async_context(_into(errors))
            with output, others:
                program = await self._start(key, arguments, output, others, left)
            with program:
                try:
                    return await program.wait()
                except asyncio.CancelledError:
                    await program.end()
                    raise

    async def _start(
        self,
        key: str,
        arguments: list[str],
        output: BinaryIO,
        errors: BinaryIO,
        left: Callable[[], float],
    ) -> Leashed:
        inherited = {name: value for name, value in os.environ.items() if name not in OUR_SECRETS}
        starting = asyncio.ensure_future(
            Leashed.start(
                arguments,
                left,
                output=output,
                errors=errors,
                env=inherited | self._env,
                directory=self._directory,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(OSError, ValueError), await starting as program:
                await program.end()
            raise
        except (OSError, ValueError) as error:
            raise DriverError(self._no_start(key, arguments[0], error)) from error

    def _no_start(self, key: str, program: str, error: OSError | ValueError) -> str:
        if self._directory and not Path(self._directory).is_dir():
            return self._no_directory()
        if isinstance(error, FileNotFoundError):
            return _no_program(key, program)
        if isinstance(error, PermissionError):
            return f"the program {program} may not be run by the worker: make it executable"
        return f"the program {program} can't be started: {error}"

    def _no_directory(self) -> str:
        return (
            f"the directory {self._directory} is not on the worker's machine: create it, "
            "or correct `directory` in the service's driver"
        )


def _no_program(key: str, program: str) -> str:
    return (
        f"the program {program} is not on the worker's machine: install it, "
        f"or correct `{key}` in the service's driver"
    )


def _check_env(raw: Any) -> None:
    if not isinstance(raw, dict):
        raise ValueError('must map names to texts, such as {"REGION": "eu"}')
    for name, value in raw.items():
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise ValueError(f"has the name {str(name)[:64]!r}; letters, digits and '_' are right")
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"must give {name} a text without null characters")


def _check_directory(raw: Any) -> None:
    if not isinstance(raw, str) or not raw.startswith("/") or "\0" in raw:
        raise ValueError("must be an absolute path on the worker's machine")


@asynccontextmanager
async def _into(sink: LineSink) -> AsyncIterator[BinaryIO]:
    """Yield a pipe's end to write to; what comes goes to `sink`, until the end or LINGER after.

    The pipe is ours rather than the process object's, so that whoever holds its end open does
    not delay the news of the program's exit.
    """
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as writer:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        pump = asyncio.create_task(_pump(reader, sink))
        try:
            yield writer
            await asyncio.wait({pump}, timeout=LINGER)
        finally:
            pump.cancel()
            await asyncio.wait({pump})
            sink.close()
            transport.close()
    if not pump.cancelled():
        pump.result()


async def _pump(reader: asyncio.StreamReader, sink: LineSink) -> None:
    """Pass what comes from the pipe to `sink` until its end."""
    while chunk := await reader.read(2**16):
        sink.feed(chunk)
