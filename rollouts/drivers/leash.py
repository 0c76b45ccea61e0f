"""Runs a program for as long as its starter may: `leash.py UNTIL LC_CTYPE PROGRAM ARGUMENT...`.

Standard input is a socket to the starter. It hears the time until which the program may run,
in nanoseconds of `now()`, again and again; UNTIL is the first one. When that time comes or the
starter is gone, it kills the program with its group. It says the program's process id, which
is that of its group too, or minus the number of the error that kept it from being started;
then, when the program has ended, the exit status, or minus the number of the signal.

It is a program of its own because nothing else acts while the starter is stopped or gone. It
is run with `-I -S` and imports little: it delays every command by its own start.
"""

import _signal  # `signal` itself takes 4 ms more, to make enums of the numbers
import _thread
import errno
import os
import select
import sys
import time

NUMBER_BYTES = 8
LOOK_INTERVAL = 1_000_000_000  # ns between two looks at the clock; sleep of the machine adds
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> int:
    """Return nanoseconds by a clock that all processes share and that goes on in suspend."""
    return time.clock_gettime_ns(_CLOCK)


def encode(number: int) -> bytes:
    """Return `number` as it is sent, either way."""
    return number.to_bytes(NUMBER_BYTES, "big", signed=True)


def decode(data: bytes) -> int | None:
    """Return the number that was received; None where there was none because nobody is there."""
    return int.from_bytes(data, "big", signed=True) if data else None


def main() -> None:
    until, lc_ctype, *arguments = sys.argv[1:]
    # These may reach all processes of a service that is stopped, and are for the program alone.
    ours = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)
    for number in ours:
        _signal.signal(number, _signal.SIG_IGN)
    try:
        program = _start(int(until), lc_ctype, arguments, ours)
    except OSError as error:
        _say(-(error.errno or errno.EIO))
        return
    try:
        _thread.start_new_thread(_watch, (program, int(until)))
    except RuntimeError:  # no thread is to be had, and it may not run without
        _kill(program)
    _say(program)
    _, status = os.waitpid(program, 0)
    _say(os.waitstatus_to_exitcode(status))
    os._exit(0)  # at once: the starter waits


def _start(until: int, lc_ctype: str, arguments: list[str], ignored: tuple[int, ...]) -> int:
    if now() >= until:
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
    # Python sets this one by itself where the locale is C (PEP 538).
    os.environ.pop("LC_CTYPE", None)
    if lc_ctype:
        os.environ["LC_CTYPE"] = lc_ctype
    return os.posix_spawnp(
        arguments[0],
        arguments,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)],
        # It leads its group, for a program such as timeout(1) leaves the group of another.
        setpgroup=0,
        setsigdef=(*ignored, _signal.SIGPIPE, _signal.SIGXFSZ),  # Python ignores these two
    )


def _watch(program: int, until: int) -> None:
    """Return when the time is up or the starter is gone, having killed the program's group."""
    heard = select.poll()
    heard.register(0, select.POLLIN)
    try:
        while (left := until - now()) > 0:
            if heard.poll(min(left, LOOK_INTERVAL) // 1_000_000 + 1):
                word = decode(os.read(0, NUMBER_BYTES))
                if word is None:
                    return
                until = word
    except OSError:  # a starter that is gone may have left something of ours unread
        pass
    finally:
        _kill(program)


def _kill(group: int) -> None:
    try:  # noqa: SIM105 - contextlib is slow to import; so below
        os.killpg(group, _signal.SIGKILL)
    except OSError:  # nobody is there any more
        pass


def _say(number: int) -> None:
    try:  # noqa: SIM105
        os.write(0, encode(number))
    except OSError:  # the starter is gone, which ends the watch
        pass


if __name__ == "__main__":
    main()
