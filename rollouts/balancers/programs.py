"""Short programs on the worker's machine that steer a balancer or tell of it.

A program has a second or two, and is killed with its group then, when the call is cancelled, and
when the worker is gone: it must not act once somebody else steers.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from typing import IO

from rollouts.adapters import OUR_SECRETS
from rollouts.drivers.leashed import Leashed
from rollouts.drivers.output import clean
from rollouts.ports import BalancerError, BalancerUnreachable
from rollouts.ssh import Completed

MAX_OUTPUT = 2**20  # bytes
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: worth repeating
LEASH_SPARE = 0.5  # seconds more than the call has, for the case that the worker is gone


async def run(what: str, arguments: Sequence[str], timeout: float) -> bytes:
    """Return what a program prints if it exits with 0 within `timeout` seconds.

    `what` names it in messages. Raises BalancerError, and BalancerUnreachable where it took too
    long or exited with 75.
    """
    try:
        done = await _run(arguments, timeout)
    except TimeoutError:
        raise BalancerUnreachable(f"{what} took longer than {timeout:.1f} s") from None
    except FileNotFoundError as error:
        raise BalancerError(
            f"{what}: the program {arguments[0]} is not on the worker's machine: install it, or "
            "correct the service's balancer"
        ) from error
    except (OSError, ValueError) as error:
        raise BalancerError(
            f"{what}: the program {arguments[0]} can't be started: {error}"
        ) from error
    if done.status == TEMPORARY_FAILURE:
        raise BalancerUnreachable(f"{what}: {_last(done)}")
    if done.status:
        raise BalancerError(f"{what}, exit status {done.status}: {_last(done)}")
    if len(done.stdout) > MAX_OUTPUT:
        raise BalancerError(f"{what} prints more than {MAX_OUTPUT // 2**20} MiB")
    return done.stdout


async def _run(arguments: Sequence[str], timeout: float) -> Completed:
    """Return how a program ended; raise TimeoutError, or OSError and ValueError at its start."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    inherited = {name: value for name, value in os.environ.items() if name not in OUR_SECRETS}
    # Files rather than pipes: what the program leaves running may keep them open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        async with asyncio.timeout_at(until):
            program = await Leashed.start(
                arguments,
                lambda: until + LEASH_SPARE - loop.time(),
                output=output,
                errors=errors,
                env=inherited,
                directory=None,
            )
            try:
                with program:
                    status = await program.wait()
            except asyncio.CancelledError:
                await program.end()  # it was killed by its leash: until it is gone
                raise
        return Completed(status, _start_of(output), _start_of(errors))


def _start_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MAX_OUTPUT + 1)


def _last(done: Completed) -> str:
    lines = [clean(line) for line in (done.stderr or done.stdout).splitlines()]
    return next((line for line in reversed(lines) if line.strip()), "without any output")
