"""Runs a long program on a host for as long as it may run there, and no longer.

What keeps it is a shell script that goes with the command: nothing is installed on the host,
which needs a POSIX shell, coreutils and util-linux. The program runs in a group of its own,
after all that ran earlier under the same lock is gone. The script hears again and again until
when the program may run, by the host's own clock. When nobody is there any more it ends the
group: SIGTERM, and a second later SIGKILL; when that time comes, at once. So it does while
the caller is stopped or the network is cut. What the program leaves running after a regular
exit is left alone.

The program's output goes to standard output; standard error is for what the script says, a
line each that begins with PREFIX: `clock N` (hundredths of a second since the host's start),
`busy` (waits for an earlier run), `over` (ends the group), `gone` (did that), `missing TOOL`.
"""

import asyncio
import hashlib
import shlex
from collections.abc import Callable, Sequence

from rollouts.lease import clock
from rollouts.ssh_connecting import SshError, SshUnreachable
from rollouts.ssh_sessions import Channel, Session, say

START_PATIENCE = 10.0  # seconds until a host has started the script
WORD_INTERVAL = 0.5  # seconds between two words to it
LINGER = 0.5  # seconds that output may come on after a program's exit
END_PATIENCE = 4.0  # seconds for a program to be ended there, its grace of 1 s included
LONGEST_LINE = 4096  # bytes
LONGEST_NOISE = 300  # characters

PREFIX = b"lockgate: "

# Standard input and output of a program in the background are not those of the session, so
# what needs them gets them by number. Descriptor 9 is the lock; nobody else may inherit it.
_TOOLS = """
for tool in flock setsid sleep id mkdir; do
    command -v "$tool" >/dev/null 2>&1 || { echo "lockgate: missing $tool" >&2; exit 127; }
done
exec setsid -w sh -c "$@"
"""

# The lock lies in /tmp rather than in XDG_RUNTIME_DIR or TMPDIR: the one goes away with the last
# session of its user, and either may be another one, or none, in the next.
_MAIN = """
watch=$1 lock=$2
shift 2
dir=${LOCKGATE_LOCKS:-/tmp/lockgate-$(id -u)}
mkdir -m 700 "$dir" 2>/dev/null
if [ -L "$dir" ] || [ ! -d "$dir" ] || [ ! -O "$dir" ]; then
    echo "lockgate: refused $dir" >&2
    exit 126
fi
exec 9>>"$dir/$lock" || exit 126
read -r up rest </proc/uptime
echo "lockgate: clock ${up%.*}${up#*.}" >&2
read -r until || exit 125
read -r up rest </proc/uptime
if [ "${up%.*}${up#*.}" -ge "$until" ]; then
    echo "lockgate: over" >&2
    exit 143
fi
exec 3<&0 </dev/null
ended=
trap 'ended=1' TERM
setsid sh -c "$watch" keeper "$$" "$until" 0<&3 >/dev/null &
watcher=$!
exec 3<&-
flock -n 9 || { echo "lockgate: busy" >&2; flock 9; } || exit 125
[ -z "$ended" ] || exit 143
touch "$dir/$lock"
(exec "$@") 2>&1 9>&-
status=$?
[ -z "$ended" ] || exit 143
# It may not have come so far as to be a group.
kill -s KILL -- "-$watcher" 2>/dev/null || kill -s KILL "$watcher"
exit "$status"
"""

# It is a group of its own too, and holds the lock until the other one is gone. A reader, a
# ticker and who acts on what both say: a shell can't wait for a line and for a time at once.
# It acts earlier by a tick, so that nothing is left when the time comes.
_WATCH = """
over() {
    read -r up rest </proc/uptime
    [ "$((${up%.*}${up#*.} + 21))" -ge "$until" ]
}
{
    { while read -r word; do echo "$word"; done; echo gone; } 0<&3 3<&- &
    exec 3<&-
    while sleep 0.2; do echo tick; done
} 3<&0 | {
    trap '' PIPE
    until=$2
    while read -r word; do
        case $word in
            tick) ;;
            *[!0-9]* | '') break ;;
            *) until=$word ;;
        esac
        over && break
    done
    echo "lockgate: over" >&2
    kill -s TERM -- "-$1" 2>/dev/null
    looks=0
    while [ "$looks" -lt 20 ] && ! over && kill -s 0 -- "-$1" 2>/dev/null; do
        sleep 0.05
        looks=$((looks + 1))
    done
    kill -s KILL -- "-$1" 2>/dev/null
    looks=0
    while [ "$looks" -lt 20 ] && kill -s 0 -- "-$1" 2>/dev/null; do
        sleep 0.05
        looks=$((looks + 1))
    done
    echo "lockgate: gone" >&2
    kill -s KILL -- "-$$"
}
"""


def command(argv: Sequence[str], lock: str) -> str:
    """Return what the login shell of a host is given to run `argv` there, kept under `lock`."""
    name = hashlib.sha256(lock.encode()).hexdigest()[:32]
    return shlex.join(["sh", "-c", _TOOLS, "keeper", _MAIN, "keeper", _WATCH, name, *argv])


class Deadlines:
    """Turns our time into that of a host, never in the program's favour.

    The host's clock was read before our own: so much later than what it said is not too late,
    however long the answer was under way.
    """

    def __init__(self, host_clock: int, here: float) -> None:
        """Take hundredths of a second that the host said, and our seconds as we heard it."""
        self._host_clock = host_clock
        self._here = here

    def until(self, now: float, left: float) -> bytes:
        """Return the word that gives the program `left` seconds from `now`."""
        return b"%d\n" % max(0, self._host_clock + int((now - self._here + left) * 100))


class Kept:
    """Our side of one program: hears the script, and tells it how long the program may go on."""

    def __init__(self, host: str, output: Callable[[bytes], None]) -> None:
        self._host = host
        self._output = output
        loop = asyncio.get_running_loop()
        self._deadlines: asyncio.Future[Deadlines] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._over = False
        self._lacking = ""
        self._noise = ""
        self._rest = b""

    def heard(self, data: bytes, on_stderr: bool) -> None:
        """Take what the host says: output of the program, or words of the script."""
        if not on_stderr:
            self._output(data)
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LONGEST_LINE]
        for line in lines:
            if line.startswith(PREFIX):
                word, _, value = line.removeprefix(PREFIX).decode(errors="replace").partition(" ")
                self._take(word, value)
            else:  # of the login shell, or of a tool that fails
                text = "".join(filter(str.isprintable, line.decode(errors="replace")))
                self._noise = text.strip()[:LONGEST_NOISE] or self._noise

    def _take(self, word: str, value: str) -> None:
        if word == "clock" and value.isdecimal() and not self._deadlines.done():
            self._deadlines.set_result(Deadlines(int(value), clock()))
        elif word == "busy":
            self._output(f"waiting until an earlier run on {self._host} has ended\n".encode())
        elif word == "over":
            self._over = True
        elif word == "gone" and not self._gone.done():
            self._gone.set_result(None)
        elif word == "missing":
            self._lacking = f"{self._host} lacks the program {value}: install it"
        elif word == "refused":
            self._lacking = f"{value} on {self._host} belongs to somebody else: remove it"

    async def run(self, channel: Channel, session: Session, left: Callable[[], float]) -> int:
        """Return the exit status, or minus the number of a signal; raise SshError."""
        deadlines = await self._started(session)
        while not session.exited.done():
            # The clock is read first, so that being stopped in between takes away from the rest.
            say(channel, deadlines.until(clock(), left()))
            await session.exited_within(WORD_INTERVAL)
        await session.closed_within(LINGER)
        if self._over:
            await session.closed_within(END_PATIENCE, self._gone)
            raise SshError(f"ended on {self._host}, for the time that it was given was over")
        status = session.exited.result()
        if status is None:
            raise SshUnreachable(
                f"the connection to {self._host} was lost; what ran there ends by itself"
            )
        return status

    async def _started(self, session: Session) -> Deadlines:
        await session.exited_within(START_PATIENCE, self._deadlines)
        if self._deadlines.done():
            return self._deadlines.result()
        await session.closed_within(LINGER)
        if self._lacking:
            raise SshError(self._lacking)
        why = self._noise or "it says nothing"
        raise SshError(f"the login shell on {self._host} does not run what it is given: {why}")

    async def end(self, channel: Channel, session: Session) -> None:
        """Have the program ended, and return when it is gone, or when nobody says so in time."""
        channel.write_eof()
        await session.closed_within(END_PATIENCE, self._gone)
