"""A service of little web servers behind a real HAProxy, for looks at it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rollouts.models import Instance, Service
from tests.integration.factories import DRIVER
from tests.servers import Balancer

VERSION = {"path": "/version"}


class Handler(BaseHTTPRequestHandler):
    """Answers /health, and /version with what its server is said to run."""

    server: "LittleServer"

    def do_GET(self) -> None:
        body = self.server.version.encode() if self.path == "/version" else b""
        self.send_response(503 if self.server.sick else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # HAProxy's own check hangs up once it knows
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class LittleServer(ThreadingHTTPServer):
    """One instance; tests change what it says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = "v1"
        self.sick = False


@contextmanager
def little_servers(count: int) -> Iterator[list[LittleServer]]:
    """Run `count` instances until the end of the block."""
    servers = [LittleServer() for _ in range(count)]
    threads = [threading.Thread(target=one.serve_forever, args=[0.05]) for one in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def ports(servers: list[LittleServer]) -> dict[str, int]:
    """Return what HAProxy has to know of `servers`: web-01, web-02, ..."""
    return {f"web-{number:02}": one.server_port for number, one in enumerate(servers, 1)}


def stored(servers: list[LittleServer], balancer: Balancer, **fields: Any) -> Service:
    """Return the service of `servers`, each verified on v1, as the inventory has it."""
    fields = {
        "name": "little",
        "driver": DRIVER,
        "balancer": {"kind": "haproxy", "addresses": [balancer.address], "backend": "app"},
        "version_source": VERSION,
        "policy": {"health_check_timeout": 3},
        **fields,
    }
    service = Service(**fields)
    service.full_clean()
    service.save()
    for name, port in ports(servers).items():
        Instance.objects.create(
            service=service, name=name, hostname="127.0.0.1", port=port, server=name, version="v1"
        )
    return service


def states(balancer: Balancer) -> list[list[str]]:
    """Return of each server its name, how it was told to treat it, and its weight."""
    rows = [line.split() for line in balancer.ask("show servers state app").splitlines()]
    return [[row[3], row[6], row[7]] for row in rows if len(row) > 8 and row[0] != "#"]
