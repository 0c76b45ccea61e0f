"""A real agent for the webhook driver: it runs a process for each thing that it is asked for."""

import hashlib
import hmac
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "a shared secret of the tests"
LOOK_INTERVAL = 0.02  # seconds between two looks at a lease
SHOWN = 300  # lines of output in a status


@dataclass(frozen=True)
class Request:
    """What was asked, as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    def signed(self) -> bool:
        """Whether whoever sent it knows the secret; worked out here, not by what is tested."""
        timestamp = self.headers["X-Lockgate-Timestamp"]
        signed = self.body or f"{self.method} {self.target}".encode()
        mac = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + signed, hashlib.sha256)
        fresh = abs(time.time() - int(timestamp)) < 300
        return fresh and self.headers["X-Lockgate-Signature"] == f"sha256={mac.hexdigest()}"


@dataclass(frozen=True)
class Answer:
    code: int
    body: Any = None  # sent as JSON unless it is bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def serving(
    answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Yield the address of a server that answers as `answer` says, over TLS if that is given."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, self.headers, body)
            found = answer(request)
            content = b"" if found.body is None else found.body
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            with suppress(ConnectionError):
                self.send_response(found.code)
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - as the library asks for

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(LOOK_INTERVAL,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Job:
    """One process, ended when nobody has asked for it in time."""

    def __init__(self, arguments: Sequence[str], lease: float) -> None:
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.until = time.monotonic() + lease
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))

    def _watch(self) -> None:
        while self.process.poll() is None:
            if time.monotonic() > self.until:
                self.end()
            time.sleep(LOOK_INTERVAL)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def status(self) -> dict[str, Any]:
        code = self.process.poll()
        if code is None:
            return {"status": "running", **self._output()}
        self._reading.join(1)
        if code == 0:
            return {"status": "done", **self._output()}
        last = self.lines[-1] if self.lines else "without any output"
        return {"status": "failed", **self._output(), "message": f"status {code}: {last}"}

    def _output(self) -> dict[str, Any]:
        first = max(0, len(self.lines) - SHOWN)
        return {"output": self.lines[first:][:SHOWN], "first": first}


class Agent:
    """Does what is asked by the arguments that `command` returns for it; call it for an answer."""

    def __init__(self, command: Callable[[dict[str, Any]], Sequence[str]]) -> None:
        self.jobs: dict[str, Job] = {}
        self._command = command
        self._at_work: dict[str, str] = {}  # instance -> key
        self._lock = threading.Lock()

    def close(self) -> None:
        for job in self.jobs.values():
            job.end()

    def __call__(self, request: Request) -> Answer:
        if not request.signed():
            return Answer(401, {"message": "the signature is wrong"})
        lease = float(request.headers.get("X-Lockgate-Lease", 0))
        with self._lock:
            if request.method == "POST":
                return self._begin(request.headers["Idempotency-Key"], request, lease)
            job = self.jobs.get(request.target.rpartition("/")[2])
            if job is None:
                return Answer(404, {"message": "there is no such job"})
            if request.method == "DELETE":
                job.end()
                return Answer(204)
            job.until = time.monotonic() + lease
            return Answer(200, job.status())

    def _begin(self, key: str, request: Request, lease: float) -> Answer:
        asked = json.loads(request.body)
        name = asked["instance"]["name"]
        job, other = self.jobs.get(key), self._at_work.get(name, key)
        if other != key and self.jobs[other].process.poll() is None:
            return Answer(409, {"message": f"{name} is being changed by another"})
        # What runs goes on, what is done is done; what failed is begun anew.
        if job is None or job.process.poll() not in {None, 0}:
            job = self.jobs[key] = Job(self._command(asked), lease)
        job.until = time.monotonic() + lease
        self._at_work[name] = key
        return Answer(202, job.status(), {"Location": f"/jobs/{key}"})
