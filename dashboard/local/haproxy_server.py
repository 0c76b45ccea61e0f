"""The embedded HAProxy: a configuration that loses no request, and its runtime API."""

import csv
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from dashboard.local import binaries, fleet
from dashboard.local.places import Places
from dashboard.local.stack import LOOPBACK
from dashboard.local.supervision import Program

NAME = "haproxy"
BACKEND = "app"
ANSWER_LIMIT = 4 * 2**20  # bytes
ADMIN_PATIENCE = 2.0  # seconds for one answer of the runtime API

CONFIG = """\
# Written at each start: a change here is lost.
global
    maxconn 2000
    # The runtime API: drain, ready, weight and what is read back.
    stats socket "{admin}" mode 600 level admin
    # What was drained before a restart is drained after it.
    server-state-file "{state}"

defaults
    mode http
    load-server-state-from-file global
    option http-keep-alive
    # Only what reached no server is tried once more, elsewhere: nothing is ever sent twice.
    retries 2
    retry-on conn-failure
    option redispatch 1
    timeout connect 2s
    timeout queue 5s
    timeout http-request 10s
    timeout http-keep-alive 30s
    timeout client 60s
    timeout server 60s
    timeout check 2s

frontend http
    bind 127.0.0.1:{port}
{previews}    default_backend {backend}
"""

TRIED = "    # A slot can be tried below its name, whatever its part in the traffic is.\n"
PREVIEW = "    use_backend {backend} if {{ req.hdr(host) -i -m beg {slot}. }}\n"

SERVERS = """
backend {backend}
    balance roundrobin
    # They take an instance out that fell over by itself; a deployment drains, it does not wait
    # for them. With its check an instance is told whether it is being drained.
    option httpchk
    http-check send meth GET uri /health
    http-check send-state
    http-check expect status 200
    # Percent weights are truncated: 100 leaves them exact.
    default-server weight 100 check inter 2s fastinter 500ms downinter 500ms fall 3 rise 1
    # A client may ask for one server; it gets another where that one takes nobody in.
    use-server %[req.hdr(x-server)] if {{ req.hdr(x-server) -m found }}
{servers}
"""


def render(
    admin: Path,
    state: Path,
    port: int,
    servers: Mapping[str, int],
    slots: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> str:
    """Return a configuration that balances `port` to `servers`, names with ports.

    They are on 127.0.0.1 unless `hosts` has another address for them. Where `slots` has slots for
    them, the idle one gets no traffic, and each has a backend of its own that is reached below its
    name.
    """
    slots = slots or {}
    backends = {slot: f"{BACKEND}-{slot}" for slot in sorted(filter(None, slots.values()))}
    idle = {name for name in servers if slots.get(name) == fleet.IDLE}
    previews = TRIED if backends else ""
    for slot, backend in backends.items():
        previews += PREVIEW.format(backend=backend, slot=slot)
    text = CONFIG.format(admin=admin, state=state, port=port, previews=previews, backend=BACKEND)
    addresses = {name: f"{(hosts or {}).get(name, LOOPBACK)}:{servers[name]}" for name in servers}
    text += _backend(BACKEND, addresses, idle)
    for slot, backend in backends.items():
        text += _backend(backend, {n: a for n, a in addresses.items() if slots.get(n) == slot})
    return text


def _backend(name: str, servers: Mapping[str, str], idle: Collection[str] = ()) -> str:
    lines = [
        f"    server {server} {address}{' weight 0' if server in idle else ''}"
        for server, address in servers.items()
    ]
    return SERVERS.format(backend=name, servers="\n".join(lines))


def preview_url(port: int) -> str:
    """Return where a slot can be tried, `{slot}` standing for its name.

    Browsers look for every name below `localhost` on this machine.
    """
    return f"http://{{slot}}.localhost:{port}/"


def prepare(
    places: Places,
    port: int,
    servers: Mapping[str, int],
    slots: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> None:
    """Write the configuration; every server begins as it says, whatever was before."""
    text = render(places.haproxy_socket, places.haproxy_state, port, servers, slots, hosts)
    places.haproxy_config.write_text(text)
    places.haproxy_state.write_text("")


def program(places: Places) -> Program:
    """Return how the server is run."""
    return Program(NAME, (str(binaries.haproxy()), "-db", "-f", str(places.haproxy_config)))


def ask(admin: Path, command: str) -> str:
    """Return HAProxy's answer to `command`; raise OSError where it does not give one in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ADMIN_PATIENCE)
        connection.connect(str(admin))
        connection.sendall(command.encode() + b"\n")
        answer = b""
        while chunk := connection.recv(2**16):
            answer += chunk
            if len(answer) > ANSWER_LIMIT:
                raise OSError("HAProxy's answer has no end")
    return answer.decode(errors="replace")


def answers(admin: Path) -> bool:
    """Whether HAProxy answers on its runtime API."""
    with suppress(OSError):
        return "Version:" in ask(admin, "show info")
    return False


def statuses(admin: Path) -> dict[str, str]:
    """Return the status of each server (UP, DRAIN, MAINT, DOWN 1/3, ...); raise OSError."""
    rows = csv.DictReader(ask(admin, "show stat").removeprefix("# ").splitlines())
    return {
        row["svname"]: row["status"]
        for row in rows
        if row["pxname"] == BACKEND and row["svname"] not in {"FRONTEND", "BACKEND"}
    }


def out_of_rotation(admin: Path) -> set[str]:
    """Return the servers that get no new requests now; raise OSError."""
    return {
        name
        for name, status in statuses(admin).items()
        if not status.startswith(("UP", "no check"))
    }


def save_state(places: Places) -> None:
    """Keep what is drained and weighted, for a restart of HAProxy; raise OSError."""
    state = ask(places.haproxy_socket, "show servers state")
    draft = places.haproxy_state.with_suffix(".new")
    draft.write_text(state)
    draft.replace(places.haproxy_state)
