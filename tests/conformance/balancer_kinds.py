"""A real balancer of each kind, in front of real instances, for the claims about balancers.

To add a kind: a context manager that yields a subject, and a row in KINDS. It is entered once
for all claims, and `begin` is called before each.
"""

import asyncio
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from dashboard.local import binaries
from dashboard.local.places import CHECKOUT
from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.conformance.balancers import Ability, Subject
from rollouts.facts import Instance
from tests.conformance.aws_kind import AWS_ABILITIES, aws
from tests.servers import until

ALL = frozenset(Ability)
NAMES = ("web-01", "web-02", "web-03")
SCRIPT = Path(__file__).with_name("steer_haproxy.py")


# --- instances, and clients


class Web(ThreadingHTTPServer):
    """One instance: it answers its name, and at /ready whether it takes requests.

    At /hold it answers once it is released.
    """

    daemon_threads = True
    takes_requests = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.held = threading.Event()
        self.release = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.server.held.set()
            self.server.release.wait(10)
        ready = self.path != "/ready" or self.server.takes_requests
        self._answer(200 if ready else 503)

    def do_POST(self) -> None:
        self.server.takes_requests = self.path != "/drain"
        self._answer(202)

    def _answer(self, status: int) -> None:
        body = self.server.name.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@contextmanager
def instances(names: Sequence[str] = NAMES) -> Iterator[tuple[Web, ...]]:
    servers = tuple(Web(name) for name in names)
    threads = [threading.Thread(target=one.serve_forever, args=(0.02,)) for one in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
        for thread in threads:
            thread.join(5)
        for server in servers:
            server.server_close()


def around(servers: Sequence[Web]) -> Surroundings:
    """Return what an inventory has of these instances."""
    found = (Instance(f"i-{one.name}", "127.0.0.1", one.port, one.name) for one in servers)
    return Surroundings(instances=tuple(found))


async def get(where: str | int, path: str = "/") -> tuple[int, str]:
    """Return status and body of what a socket's path or a port of this machine answers.

    Status 0: nothing.
    """
    opening = (
        asyncio.open_unix_connection(where)
        if isinstance(where, str)
        else asyncio.open_connection("127.0.0.1", where)
    )
    try:
        async with asyncio.timeout(5):
            reader, writer = await opening
            writer.write(f"GET {path} HTTP/1.0\r\nHost: shop\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
    except OSError:
        return 0, ""
    return (int(head.split()[1]), body.decode()) if head else (0, "")


class Program:
    """A server in a folder; it is there once its socket answers."""

    def __init__(self, arguments: Sequence[str], socket: Path) -> None:
        self.socket = socket
        self.arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        log = self.socket.with_suffix(".log")
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "dashboard.local.leash", *self.arguments],
                cwd=CHECKOUT,
                stdout=output,
                stderr=output,
            )
        until(
            lambda: _answers(self.socket) or process.poll() is not None,
            what=f"{self.arguments[0]} answers",
        )
        assert process.poll() is None, log.read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        self.socket.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as plug, suppress(OSError):
        plug.connect(str(path))
        return True
    return False


class Proxied:
    """A balancer that clients reach at the socket `web`; `lost` is what goes out of reach."""

    def __init__(
        self,
        kind: str,
        abilities: frozenset[Ability],
        settings: Mapping[str, Any],
        servers: Sequence[Web],
        webs: Sequence[Path],
        lost: Program,
    ) -> None:
        self.abilities = abilities
        self.settings = {"kind": kind, **settings}
        self.surroundings = Surroundings(
            instances=tuple(
                Instance(f"i-{one.name}", "127.0.0.1", one.port, one.name) for one in servers
            )
        )
        self._webs = cycle(webs)
        self._lost = lost

    async def serve(self, requests: int) -> Counter[str]:
        answers = [await get(str(next(self._webs))) for _ in range(requests)]
        return Counter(body if status == 200 else "" for status, body in answers)

    async def lose(self) -> None:
        self._lost.stop()

    async def restart(self) -> None:
        self._lost.stop()
        self._lost.start()

    async def begin(self) -> None:
        """Put all back as it was at first."""
        balancer = balancers.make(self.settings, self.surroundings)
        servers = (await balancer.report()).servers
        for name, server in servers.items():
            if not server.ready:
                await balancer.ready(name)
        if any(server.weight != 100 for server in servers.values()):
            await balancer.set_weights(dict.fromkeys(servers, 100))
        await balancer.aclose()


# --- HAProxy

HAPROXY = """
global
    stats socket {admin} level admin
defaults
    mode http
    timeout connect 1s
    timeout client 20s
    timeout server 20s
frontend web
    bind unix@{web} mode 666
    default_backend app
backend app
    balance roundrobin
"""


def haproxy_program(folder: Path, name: str, addresses: Mapping[str, str]) -> Program:
    """Return an HAProxy of servers at `addresses`; its sockets are NAME.web and NAME.admin."""
    admin, config = folder / f"{name}.admin", folder / f"{name}.cfg"
    config.write_text(
        HAPROXY.format(admin=admin, web=folder / f"{name}.web")
        + "".join(
            f"    server {server} {address} weight 100\n" for server, address in addresses.items()
        )
    )
    return Program([str(binaries.haproxy()), "-db", "-f", str(config)], admin)


@contextmanager
def started(*programs: Program) -> Iterator[None]:
    with ExitStack() as stack:
        for program in programs:
            stack.callback(program.stop)
            program.start()
        yield


def _local(servers: Sequence[Web]) -> dict[str, str]:
    return {one.name: f"127.0.0.1:{one.port}" for one in servers}


@contextmanager
def haproxy(folder: Path) -> Iterator[Subject]:
    with instances() as servers:
        one = haproxy_program(folder, "one", _local(servers))
        settings = {"addresses": [f"unix:{one.socket}"], "backend": "app"}
        with started(one):
            yield Proxied("haproxy", ALL, settings, servers, [folder / "one.web"], one)


@contextmanager
def haproxy_pair(folder: Path) -> Iterator[Subject]:
    """Two side by side, which share the clients; the second one is what goes out of reach."""
    with instances() as servers:
        both = [haproxy_program(folder, name, _local(servers)) for name in ("one", "two")]
        settings = {"addresses": [f"unix:{each.socket}" for each in both], "backend": "app"}
        webs = [folder / "one.web", folder / "two.web"]
        with started(*both):
            yield Proxied("haproxy", ALL, settings, servers, webs, both[1])


@contextmanager
def chain(folder: Path) -> Iterator[Subject]:
    """Two in a row; of the edge all servers lead to the inner one."""
    with instances() as servers:
        inner = haproxy_program(folder, "inner", _local(servers))
        to_inner = dict.fromkeys(_local(servers), f"unix@{folder}/inner.web")
        edge = haproxy_program(folder, "edge", to_inner)
        links = [
            {"kind": "haproxy", "addresses": [f"unix:{each.socket}"], "backend": "app"}
            for each in (edge, inner)
        ]
        with started(inner, edge):
            yield Proxied("chain", ALL, {"balancers": links}, servers, [folder / "edge.web"], inner)


@contextmanager
def command(folder: Path) -> Iterator[Subject]:
    """A script that steers an HAProxy."""
    with instances() as servers:
        one = haproxy_program(folder, "one", _local(servers))
        script = [sys.executable, "-I", "-S", str(SCRIPT), str(one.socket)]
        settings = {
            "status": [*script, "status"],
            "drain": [*script, "drain", "{server}"],
            "ready": [*script, "ready", "{server}"],
            "weights": [*script, "weights", "{weights}"],
            "cut": [*script, "cut", "{server}"],
        }
        with started(one):
            yield Proxied("command", ALL, settings, servers, [folder / "one.web"], one)


# --- nginx

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    include {folder}/shop.conf;
    server {{
        listen unix:{folder}/nginx.web;
        location / {{ proxy_pass http://shop; }}
    }}
}}
"""


def nginx_program(folder: Path, servers: Mapping[str, str]) -> tuple[Program, dict[str, Any]]:
    """Return an nginx of servers at addresses, with the file that a person begins; its settings."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/bin")
    if nginx is None or sys.platform != "linux":
        pytest.skip("optional: no nginx on this machine, or no Linux")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    lines = "".join(f"    server {address};\n" for address in servers.values())
    (folder / "shop.conf").write_text(
        f"# Lockgate writes this file.\nupstream shop {{\n{lines}}}\n"
    )
    program = [nginx, "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "error.log")]
    settings = {
        "upstream": "shop",
        "file": str(folder / "shop.conf"),
        "test": [*program, "-t", "-q"],
        "reload": [*program, "-s", "reload"],
    }
    return Program(program, folder / "nginx.web"), settings


@contextmanager
def nginx(folder: Path) -> Iterator[Subject]:
    with instances() as servers:
        program, settings = nginx_program(folder, _local(servers))
        abilities = ALL - {Ability.COUNTS}
        with started(program):
            yield Proxied("nginx", abilities, settings, servers, [folder / "nginx.web"], program)


# --- none


class Unproxied:
    """Clients that ask each instance whether it is ready, and take the next one that is."""

    abilities: frozenset[Ability] = frozenset()

    def __init__(self, servers: Sequence[Web]) -> None:
        self._servers = servers
        self._turns = cycle(servers)
        self.settings = {
            "kind": "none",
            "ready_path": "/ready",
            "drain": {"path": "/drain"},
            "undrain": {"path": "/undrain"},
        }
        self.surroundings = Surroundings(
            instances=tuple(
                Instance(f"i-{one.name}", "127.0.0.1", one.port, one.name) for one in servers
            )
        )

    async def serve(self, requests: int) -> Counter[str]:
        got: Counter[str] = Counter()
        while got.total() < requests:
            for _ in self._servers:
                turn = next(self._turns)
                if (await get(turn.port, "/ready"))[0] == 200:
                    got[(await get(turn.port))[1]] += 1
                    break
            else:
                got[""] += 1
        return got

    async def begin(self) -> None:
        for server in self._servers:
            server.takes_requests = True


@contextmanager
def none(folder: Path) -> Iterator[Subject]:
    with instances() as servers:
        yield Unproxied(servers)


KINDS: dict[str, tuple[Callable[[Path], Any], frozenset[Ability]]] = {
    "aws": (aws, AWS_ABILITIES),
    "chain": (chain, ALL),
    "command": (command, ALL),
    "haproxy": (haproxy, ALL),
    "haproxy-pair": (haproxy_pair, ALL),
    "nginx": (nginx, ALL - {Ability.COUNTS}),
    "none": (none, frozenset()),
}
