"""A constant, bounded load through the balancer that counts every answer and every failure.

`load.py --url http://127.0.0.1:PORT --rate 100 --counts FILE`. Requests are sent on a
schedule, whether or not earlier ones were answered, on connections that are kept. The counts
are written to FILE several times a second, always as a whole.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dashboard.local.app import MARK
from dashboard.local.places import Places
from dashboard.local.supervision import Program

NAME = "load"
TIMEOUT = 10.0  # seconds for one request, from its connection to its last byte
SLOW = 1.0  # seconds
MAX_OPEN = 256  # requests at the same time; one more is a failure
PUBLISH = 0.2  # seconds
STALE = 10.0  # seconds after which an idle connection is not used again
BEHIND = 1.0  # seconds behind the schedule after which it begins anew
LOGGED = 200  # failures that are written to the log
BODY_LIMIT = 2**20


@dataclass
class Counts:
    """All since the start. `settled` counts the requests up to the oldest one still open.

    `app_errors` are those of `failed` that the application itself answered, the last of them at
    `last_app_error_at`, in seconds since the epoch; 0.0 for none.
    """

    requests: int = 0
    answered: int = 0
    failed: int = 0
    slow: int = 0
    settled: int = 0
    app_errors: int = 0
    last_app_error_at: float = 0.0


class BadAnswer(Exception):
    """An answer that is no success."""


class AppError(BadAnswer):
    """A bad answer that bears the mark of the application."""


@dataclass
class Load:
    """Sends GET requests to `host`:`port` and counts what becomes of them."""

    host: str
    port: int
    path: str
    counts: Counts = field(default_factory=Counts)
    _open: set[int] = field(default_factory=set)
    _idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=list
    )
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, rate: float) -> None:
        """Send `rate` requests a second until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.send()
            due += 1 / rate
            if loop.time() - due > BEHIND:
                due = loop.time()

    def send(self) -> None:
        """Begin one request."""
        number = self.counts.requests
        self.counts.requests += 1
        if len(self._open) >= MAX_OPEN:
            self._failure("too many requests are open")
            return
        self._open.add(number)
        task = asyncio.get_running_loop().create_task(self._request(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def settle(self) -> Counts:
        """Return the counts, with `settled` brought up to date."""
        self.counts.settled = min(self._open, default=self.counts.requests)
        return self.counts

    async def finish(self) -> None:
        """Return when every open request has ended."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Drop what is open, without counting it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, _, writer in self._idle:
            writer.close()

    async def _request(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._exchange()
        except (OSError, EOFError, ValueError, BadAnswer) as error:
            self._failure(f"{type(error).__name__} {error}")
            if isinstance(error, AppError):
                self.counts.app_errors += 1
                self.counts.last_app_error_at = time.time()
        else:
            self.counts.answered += 1
        finally:
            self._open.discard(number)
        if loop.time() - began > SLOW:
            self.counts.slow += 1

    async def _exchange(self) -> None:
        reader, writer = await self._connection()
        kept = False
        try:
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(maxsplit=2)[1])
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(min(int(length or 0), BODY_LIMIT))
            kept = "connection: close" not in head and bool(length)
        finally:
            if kept:
                self._idle.append((asyncio.get_running_loop().time(), reader, writer))
            else:
                writer.close()
        if status != 200:
            marked = f"\r\n{MARK.lower()}:" in head
            raise (AppError if marked else BadAnswer)(f"status {status}")

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if not reader.at_eof() and asyncio.get_running_loop().time() - since < STALE:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    def _failure(self, why: str) -> None:
        self.counts.failed += 1
        if self.counts.failed <= LOGGED:
            print(f"request {self.counts.requests} failed: {why}", flush=True)


def program(places: Places, url: str, rate: float) -> Program:
    """Return how the load on `url` is run, at `rate` requests a second."""
    return Program(
        NAME,
        (
            *(sys.executable, "-m", "dashboard.local.load", "--url", url),
            *("--rate", str(rate), "--counts", str(places.counts)),
        ),
    )


def read(path: Path) -> Counts:
    """Return the counts that a load wrote last; raise OSError where none did yet."""
    return Counts(**json.loads(path.read_text()))


def publish(path: Path, counts: Counts) -> None:
    """Write the counts as a whole."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(asdict(counts)))
    draft.replace(path)


async def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="load", description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--counts", type=Path, required=True)
    chosen = parser.parse_args(argv)
    parts = urlsplit(chosen.url)
    load = Load(parts.hostname or "127.0.0.1", parts.port or 80, parts.path or "/")
    running = asyncio.create_task(load.run(chosen.rate))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    while not running.done():
        publish(chosen.counts, load.settle())
        await asyncio.wait({running}, timeout=PUBLISH)
    with suppress(asyncio.CancelledError):
        await running
    await load.close()
    publish(chosen.counts, load.settle())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
