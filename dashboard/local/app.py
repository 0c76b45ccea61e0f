"""The application of the demo fleet: it says its version, and shows the trouble that it names.

The standard library alone, and little of it: an instance is started at every update.
`app.py --name web-01 [--host 127.0.0.1] --port 20001 [--version-file FILE] [--balancer URL]`;
without a file the version is that of the environment, SHOP_VERSION.

A version that ends in one of these shows trouble: `-unhealthy` (/health answers 500), `-crash`
(ends at start), `-slow` (3 s to start), `-hang` (/health never answers), `-liar` (reports
another version), `-errors` (one in five other requests answers 500), `-sluggish` (300 ms
slower), `-flap` (/health is good and bad in turn), `-sticky` (one long request is open until
20 s after a drain began).

Every answer is marked by a header as the application's own, so that its errors can be told from
those of the balancer.
"""

import os
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import count

LOOPBACK = "127.0.0.1"
SLOW_START = 3.0  # seconds
SLUGGISH = 0.3  # seconds
STICKY = 20.0  # seconds that the long request outlives the begin of a drain
STICKY_RETRY = 0.2  # seconds
FINISH = 3.0  # seconds for open requests at the end
IDLE = 60.0  # seconds that a connection may be silent
LONGEST_HEAD = 64  # lines
BODY_LIMIT = 2**20  # bytes
MARK = "X-Answered-By"
REASONS = {200: "OK", 500: "Internal Server Error", 404: "Not Found"}


class App:
    """What an instance answers, by its version; shared by the threads of all connections."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.trouble = version.rpartition("-")[2] if "-" in version else ""
        self.ending = threading.Event()
        self.draining = threading.Event()
        self._requests = count(1)
        # Each asker gets good and bad in turn: the checks of one of the balancer's backends must
        # not take every second answer away from another, or from whoever else asks.
        self._checks: dict[str, count[int]] = defaultdict(count)

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return status and body for a request; may take its time."""
        if self.trouble == "sluggish":
            time.sleep(SLUGGISH)
        state = headers.get("x-haproxy-server-state", "")
        if state.startswith(("DRAIN", "NOLB", "MAINT")):
            self.draining.set()
        route = path.partition("?")[0]
        if route == "/health":
            return self._health(asker=state.partition("name=")[2].partition("/")[0])
        if route == "/version":
            return 200, self.version.removesuffix("-liar")
        if route == "/sticky" and self.trouble == "sticky":
            self._stick()
        elif self.trouble == "errors" and next(self._requests) % 5 == 0:
            return 500, "one in five fails\n"
        return 200, f"{self.name} {self.version}\n"

    def _health(self, asker: str) -> tuple[int, str]:
        if self.trouble == "hang":
            self.ending.wait()
            raise OSError("never answers")
        bad_turn = self.trouble == "flap" and next(self._checks[asker]) % 2 == 1
        if self.trouble == "unhealthy" or bad_turn:
            return 500, "unhealthy\n"
        return 200, "ok\n"

    def _stick(self) -> None:
        """Return 20 s after the drain began, or when the process is to end."""
        while not self.draining.is_set():
            if self.ending.wait(0.1):
                return
        self.ending.wait(STICKY)


class Connection(socketserver.StreamRequestHandler):
    """One client; its requests come one after another."""

    timeout = IDLE
    disable_nagle_algorithm = True
    server: "Server"

    def handle(self) -> None:
        try:
            while self._one():
                pass
        except (OSError, ValueError):
            return  # the client left, or does not speak HTTP

    def _one(self) -> bool:
        """Answer one request; return whether another may come."""
        words = self.rfile.readline(8192).decode("latin-1").split()
        if len(words) != 3:
            return False
        with self.server.busy:
            headers = self._headers()
            self.rfile.read(min(int(headers.get("content-length", "0")), BODY_LIMIT))
            status, body = self.server.app.answer(words[1], headers)
            keep = (
                words[2] == "HTTP/1.1"
                and headers.get("connection", "").lower() != "close"
                and not self.server.app.ending.is_set()
            )
            self._reply(status, body, keep, words[0] == "HEAD")
        return keep

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(LONGEST_HEAD):
            line = self.rfile.readline(8192).decode("latin-1").strip()
            if not line:
                return headers
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        raise ValueError("too many headers")

    def _reply(self, status: int, body: str, keep: bool, head: bool) -> None:
        payload = body.encode()
        lines = (
            f"HTTP/1.1 {status} {REASONS[status]}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(payload)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            f"{MARK}: {self.server.app.name} {self.server.app.version}",
        )
        reply = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self.wfile.write(reply if head else reply + payload)


class Busy:
    """How many requests are open."""

    def __init__(self) -> None:
        self._open = 0
        self._change = threading.Condition()

    def __enter__(self) -> None:
        with self._change:
            self._open += 1

    def __exit__(self, *error: object) -> None:
        with self._change:
            self._open -= 1
            self._change.notify_all()

    def wait(self, seconds: float) -> None:
        """Return when no request is open, or after `seconds`."""
        with self._change:
            self._change.wait_for(lambda: self._open == 0, seconds)


class Server(socketserver.ThreadingTCPServer):
    """Listens on loopback, a thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, app: App, host: str = LOOPBACK) -> None:
        self.app = app
        self.busy = Busy()
        super().__init__((host, port), Connection)

    def handle_error(self, request: object, client_address: object) -> None:
        print(f"connection of {client_address}: {sys.exc_info()[1]}", file=sys.stderr)


def hold_one_request(app: App, balancer: str) -> None:
    """Keep one long request open through the balancer, as a download or a websocket would."""
    host, _, port = balancer.removeprefix("http://").partition(":")
    request = f"GET /sticky HTTP/1.1\r\nHost: {host}\r\nX-Server: {app.name}\r\n\r\n".encode()
    while not app.ending.wait(STICKY_RETRY) and not app.draining.is_set():
        try:
            with socket.create_connection((host, int(port)), timeout=1) as connection:
                connection.settimeout(None)
                connection.sendall(request)
                connection.recv(4096)
        except OSError:
            continue


def _version(file_name: str | None) -> str:
    if file_name is None:
        return os.environ["SHOP_VERSION"]
    with open(file_name, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow
        return file.read().strip()


def main(arguments: list[str]) -> int:
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    app = App(options["--name"], _version(options.get("--version-file")))

    # A pipe into which Python writes at once: the handler itself waits until the main thread
    # returns from what it waits for, and never runs where the signal came just before that.
    stopped, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    print(f"{app.name} starts with {app.version}", flush=True)
    if app.trouble == "crash":
        print("crash: ended at start", file=sys.stderr)
        return 1
    if app.trouble == "slow" and any(select.select([stopped], [], [], SLOW_START)):
        return 0
    with Server(int(options["--port"]), app, options.get("--host", LOOPBACK)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        if app.trouble == "sticky" and "--balancer" in options:
            arguments_of_holder = (app, options["--balancer"])
            threading.Thread(target=hold_one_request, args=arguments_of_holder, daemon=True).start()
        os.read(stopped, 1)
        app.ending.set()
        server.socket.close()
        server.busy.wait(FINISH)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
