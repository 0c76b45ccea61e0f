"""One machine with nginx on it: looks at the file and at what nginx listens to, and writes.

Both are done by a shell script on the machine, the same here and over SSH, so that a write is
done under a lock of that machine, and is whole even when the connection is lost half-way.
"""

import asyncio
import hashlib
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from rollouts.adapters import OUR_SECRETS
from rollouts.balancers.servers import CALL_TIMEOUT
from rollouts.drivers.output import clean
from rollouts.ports import BalancerError, BalancerUnreachable
from rollouts.ssh import Completed, Ssh, SshError, SshUnreachable

# Runs a program with some bytes as its input; raises BalancerError.
Run = Callable[[Sequence[str], bytes], Awaitable[Completed]]

# What the kernel says of listening sockets comes first in its tables, of which the rest is long
# on a busy machine. `before` is kept beside the file from one write to the next.
_LOOK = r"""
file=$(readlink -f -- "$1") || { echo "$1 is not there" >&2; exit 74; }
for table in /proc/net/tcp /proc/net/tcp6; do
    if [ -r "$table" ]; then awk 'NR > 1 && $4 != "0A" { exit } NR > 1 { print $2 }' "$table"; fi
done
printf '\0'
cat -- "$file" || exit 74
printf '\0'
before=${file%/*}/.${file##*/}.before
if [ -f "$before" ]; then cat -- "$before"; fi
"""

# $1 the file, $2 the SHA-256 of what it must hold yet, $3 what to do with it. The directory is
# what is locked, so that services of one nginx wait for each other and no file is left of it.
_WRITE = r"""
umask 022
file=$(readlink -f -- "$1") || exit 74
folder=${{file%/*}} name=${{file##*/}}
before=$folder/.$name.before new=$folder/.$name.new
exec 9< "$folder" || exit 74
flock -w 1 9 || {{ echo "another process is writing" >&2; exit 75; }}
[ "$(sha256sum < "$file")" = "$2  -" ] || exit 76
if [ "$3" = replace ]; then cp -p -- "$file" "$before" || exit 74; fi
if [ "$3" != load ]; then
    if cp -p -- "$file" "$new" && dd of="$new" conv=fsync status=none; then
        mv -f -- "$new" "$file" || exit 74
    else
        rm -f -- "$new"; exit 74
    fi
fi
{test} >&2 9<&- || {{
    if [ -f "$before" ]; then mv -f -- "$before" "$file"; fi
    exit 77
}}
{reload} >&2 9<&- || exit 78
"""


class Status(IntEnum):
    """With what a script ends where it does not do what it should."""

    NO_FILE = 74
    BUSY = 75
    CHANGED = 76
    TEST_FAILED = 77
    RELOAD_FAILED = 78


class How(StrEnum):
    """What a write does with the file that is there."""

    REPLACE = "replace"  # it is kept as the one before
    LOAD = "load"  # it stays, and is loaded once more


@dataclass(frozen=True)
class Seen:
    """What was there at one look; `listening` are addresses such as 127.1.2.3:20001."""

    listening: frozenset[str]
    text: str
    before: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode(errors="surrogateescape")).hexdigest()


class Changed(Exception):
    """Somebody else wrote the file since it was looked at."""


class Host:
    """The machine called `name`, on which `run` runs programs."""

    def __init__(
        self, name: str, run: Run, file: str, test: Sequence[str], reload: Sequence[str]
    ) -> None:
        self.name = name
        self.file = file
        self._run = run
        self._write = _WRITE.format(test=shlex.join(test), reload=shlex.join(reload))

    async def look(self) -> Seen:
        """Return what is there now; raise BalancerError."""
        done = await self._run(("sh", "-c", _LOOK, "lockgate", self.file), b"")
        if done.status:
            raise BalancerError(f"nginx on {self.name}: can't read {self.file}: {_last(done)}")
        sockets, text, before = (
            part.decode(errors="surrogateescape") for part in done.stdout.split(b"\0", 2)
        )
        return Seen(frozenset(map(_address, sockets.split())) - {""}, text, before)

    async def write(self, seen: Seen, how: How, text: str = "") -> None:
        """Write the file, unless it is only loaded anew; have nginx test it and load it.

        Where nginx finds it bad the one before is put back. Raises BalancerError, and Changed
        where it is no longer as it was `seen`.
        """
        arguments = ("sh", "-c", self._write, "lockgate", self.file, seen.digest, how.value)
        done = await self._run(arguments, text.encode())
        words = _last(done)
        match done.status:
            case 0:
                return
            case Status.CHANGED:
                raise Changed
            case Status.BUSY:
                raise BalancerUnreachable(f"nginx on {self.name}: {words}")
            case Status.TEST_FAILED:
                raise BalancerError(
                    f"nginx on {self.name} refuses the file {self.file}, so the one before was "
                    f"put back: {words}"
                )
            case Status.RELOAD_FAILED:
                # It may be about to start; the file is what it will load then.
                raise BalancerUnreachable(f"nginx on {self.name} could not be reloaded: {words}")
        raise BalancerError(f"nginx on {self.name}: can't write {self.file}: {words}")


def _last(done: Completed) -> str:
    """Return the last words of a program that say something, an error of nginx before others."""
    lines = [clean(line) for line in done.stderr.splitlines()]
    telling = [line for line in lines if "[emerg]" in line] or [line for line in lines if line]
    return telling[-1] if telling else f"exit status {done.status}"


def _address(text: str) -> str:
    """Return the address that /proc/net/tcp shows as 0100007F:1F90, "" for an IPv6 one.

    Of IPv6 the wildcard alone matters, which takes the port of IPv4 addresses as well.
    """
    address, _, port = text.partition(":")
    if len(address) > 8:
        return "" if address.strip("0") else f"[::]:{int(port, 16)}"
    # As it lies in memory: the last number first on all machines that matter.
    numbers = reversed(bytes.fromhex(address))
    return f"{'.'.join(map(str, numbers))}:{int(port, 16)}"


async def run_there(ssh: Ssh, name: str, arguments: Sequence[str], data: bytes) -> Completed:
    """Run a program on the host `name`; raise BalancerError."""
    try:
        return await ssh.run(name, arguments, stdin=data, timeout=CALL_TIMEOUT)
    except SshUnreachable as error:
        raise BalancerUnreachable(f"nginx on {name}: {error}") from error
    except SshError as error:
        raise BalancerError(f"nginx on {name}: {error}") from error


async def run_here(arguments: Sequence[str], data: bytes) -> Completed:
    """Run a program on this machine, killed with its group when this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in OUR_SECRETS},
        start_new_session=True,
    )
    try:
        stdout, stderr = await process.communicate(data)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Completed(await process.wait(), stdout, stderr)
