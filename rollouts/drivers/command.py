"""Runs a program on the worker's machine for each instance.

The program is done when it exits. What it leaves running is left alone after a regular exit
and must have redirected its output: the pipe is closed. When the call is cancelled, all that
is still in the program's group is ended; when the worker is gone, stopped for too long, or no
longer the owner, that is killed.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rollouts.adapters import SettingsError, wrong_keys
from rollouts.drivers.leashed import Leashed
from rollouts.drivers.output import LineSink
from rollouts.drivers.templates import check_arguments, fill, values
from rollouts.facts import Instance
from rollouts.ports import DriverError

LINGER = 0.5  # seconds that output may come on after the program's exit
OUR_SECRETS = frozenset({"SECRET_KEY", "DATABASE_URL", "REDIS_URL"})
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Command:
    """`update`, and `prepare` where there is one, are argument lists with placeholders."""

    def __init__(
        self,
        update: Sequence[str],
        prepare: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        self._update = tuple(update)
        self._prepare = tuple(prepare)
        self._env = dict(env or {})
        self._directory = directory

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any]) -> "Command":
        """Return the driver of `{kind, update, prepare, env, directory}`; raise SettingsError.

        `env` is kept and shown as plain text: it is no place for a secret.
        """
        errors = wrong_keys(
            raw, required=("kind", "update"), optional=("prepare", "env", "directory")
        )
        checks: dict[str, Callable[[Any], None]] = {
            "update": check_arguments,
            "prepare": check_arguments,
            "env": _check_env,
            "directory": _check_directory,
        }
        for key, check in checks.items():
            if key in raw:
                try:
                    check(raw[key])
                except ValueError as error:
                    errors[key] = str(error)
        if errors:
            raise SettingsError(errors)
        return cls(raw["update"], raw.get("prepare", ()), raw.get("env"), raw.get("directory"))

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run the `prepare` command, where there is one; raise DriverError if it fails."""
        if self._prepare:
            arguments = fill(self._prepare, values(instance, version))
            await self._run("prepare", arguments, output, left)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run the `update` command; raise DriverError if it fails or can't be started."""
        await self._run("update", fill(self._update, values(instance, version)), output, left)

    async def _run(
        self,
        key: str,
        arguments: list[str],
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        sink = LineSink(output)
        async with _pipe() as (reader, write_end):
            with write_end:
                program = await self._start(key, arguments, write_end, left)
            pump = asyncio.create_task(_pump(reader, sink))
            with program:
                try:
                    status = await program.wait()
                    await asyncio.wait({pump}, timeout=LINGER)
                except asyncio.CancelledError:
                    await program.end()
                    raise
                finally:
                    pump.cancel()
                    await asyncio.wait({pump})
                    sink.close()
        if not pump.cancelled():
            pump.result()
        if status != 0:
            raise DriverError(_failure(status, sink.last))

    async def _start(
        self, key: str, arguments: list[str], write_end: BinaryIO, left: Callable[[], float]
    ) -> Leashed:
        inherited = {name: value for name, value in os.environ.items() if name not in OUR_SECRETS}
        starting = asyncio.ensure_future(
            Leashed.start(
                arguments,
                left,
                output=write_end,
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
            return (
                f"the directory {self._directory} is not on the worker's machine: create it, "
                "or correct `directory` in the service's driver"
            )
        if isinstance(error, FileNotFoundError):
            return (
                f"the program {program} is not on the worker's machine: install it, "
                f"or correct `{key}` in the service's driver"
            )
        if isinstance(error, PermissionError):
            return f"the program {program} may not be run by the worker: make it executable"
        return f"the program {program} can't be started: {error}"


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


def _failure(status: int, last: str) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}: {last or 'without any output'}"
    return f"exit status {status}: {last or 'without any output'}"


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, BinaryIO]]:
    """Yield both ends of a pipe, which is ours rather than the process object's.

    So whoever holds the other end open does not delay the news of the program's exit.
    """
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as writer:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            yield reader, writer
        finally:
            transport.close()


async def _pump(reader: asyncio.StreamReader, sink: LineSink) -> None:
    """Pass what comes from the pipe to `sink` until its end."""
    while chunk := await reader.read(2**16):
        sink.feed(chunk)
