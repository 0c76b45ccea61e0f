"""A real place for each kind of driver, where its ways of going wrong can be chosen."""

import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from dashboard.local.docker_engine import DockerEngine, make_image, shared
from dashboard.local.stack import free_ports
from rollouts.adapters import Surroundings
from rollouts.conformance.drivers import NEW, OLD, OTHER, Subject, Trouble
from rollouts.facts import Instance
from tests import agent
from tests.dockerd import running_dockerd
from tests.sshd import HOST, PORTS, Known, Sshds, running_sshds

SCRIPT = Path(__file__).with_name("place.sh")
WEB = Instance("web-01", "127.0.0.1", 8080, server="srv-1")
DEPLOYMENT = "deploy-0123456789ab"
ALL = frozenset(Trouble)
IMAGE = "127.0.0.1:1/shop"  # where no registry is: what is not there can't be fetched


class Servers:
    """What the places need and can share, each started when it is asked for first."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-")))

    @cached_property
    def sshds(self) -> Sshds:
        """Return a running sshd."""
        try:
            return self._stack.enter_context(running_sshds(self._folder, free_ports(1, PORTS)))
        except RuntimeError as error:
            pytest.skip(f"optional: {error}")

    @cached_property
    def dockerd(self) -> DockerEngine:
        """Return a running engine with an image of each version, under a name of its own."""
        engine = self._stack.enter_context(running_dockerd())
        client = engine.client()
        for version in (OLD, NEW, OTHER):
            told = {"PATH": "/usr/bin:/bin", "VERSION": version}
            make_image(client, f"kept:{version}", {}, env=told, cmd=("sh", "-c", CONTAINER))
        client.close()
        return engine


class Folder:
    """A place that is a folder: place.sh says what runs there."""

    troubles = ALL
    lease = 2.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Mapping[str, Any] = {}
        self.surroundings = Surroundings(instances=(WEB,), deployment=DEPLOYMENT)
        self.instance = WEB
        self.broken: tuple[Mapping[str, Any], Instance, str] = ({}, WEB, "")
        (folder / "at-work").mkdir()
        (folder / "runs").write_text(OLD)
        (folder / "trouble").write_text(f"{Trouble.NONE}\n")

    def arguments(self, *last: str) -> list[str]:
        return ["sh", str(SCRIPT), str(self.folder), *last]

    def programs(self) -> dict[str, list[str]]:
        """Return what the kinds that run programs are told."""
        return {
            "update": self.arguments("update", "{version}"),
            "prepare": ["true"],
            "version": self.arguments("version"),
            "artifact": self.arguments("artifact", "{version}"),
        }

    async def runs(self) -> str:
        return (self.folder / "runs").read_text()

    async def arrange(self, trouble: Trouble) -> None:
        # At once, for somebody may be reading it.
        (self.folder / "next").write_text(f"{trouble}\n")
        (self.folder / "next").rename(self.folder / "trouble")

    async def at_work(self) -> bool:
        return any(_runs(entry.name) for entry in (self.folder / "at-work").iterdir())


def _runs(pid: str) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@contextmanager
def command(servers: Servers, folder: Path) -> Iterator[Subject]:
    place = Folder(folder)
    place.settings = {"kind": "command", **place.programs()}
    gone = {**place.settings, "rollback": ["/nowhere/back", "{version}"]}
    place.broken = (gone, WEB, "/nowhere/back")
    yield place


@contextmanager
def ssh(servers: Servers, folder: Path) -> Iterator[Subject]:
    place = Folder(folder)
    [port] = servers.sshds.ports
    place.settings = {
        "kind": "ssh",
        **place.programs(),
        "ssh": servers.sshds.settings(port=port),
    }
    place.surroundings = Surroundings((WEB,), Known.of(servers.sshds), DEPLOYMENT)
    # Nothing listens on the first port.
    nobody = {**place.settings, "ssh": servers.sshds.settings(port=1)}
    place.broken = (nobody, WEB, HOST)
    yield place


@contextmanager
def webhook(servers: Servers, folder: Path) -> Iterator[Subject]:
    """An agent that runs the same script for what it is asked."""
    place = Folder(folder)
    at_work = agent.Agent(lambda asked: place.arguments("update", asked["version"]))

    def answer(request: agent.Request) -> agent.Answer:
        if request.method == "GET" and request.target == "/version":
            return agent.Answer(200, {"version": (folder / "runs").read_text()})
        return at_work(request)

    with agent.serving(answer) as address:
        place.settings = {
            "kind": "webhook",
            "url": f"{address}/update",
            "version_url": f"{address}/version",
            "secret_env": "CONFORMANCE_SECRET",
            "cancel": True,
        }
        elsewhere = {**place.settings, "url": "http://localhost:1/update"}
        place.broken = (elsewhere, WEB, "localhost:1")
        try:
            yield place
        finally:
            at_work.close()


# Told to end, it does so only when there is no trouble any more.
CONTAINER = """
rm -f /place/asked
trap 'asked=yes; touch /place/asked' TERM
while :; do
    read -r trouble </place/trouble
    [ "$asked" ] && [ "$trouble" != hang ] && exit
    sleep 0.05
done
"""


class Watched(socketserver.ThreadingUnixStreamServer):
    """A Unix socket at `path` before another one, which sees when somebody asks for something."""

    daemon_threads = True

    def __init__(self, path: Path, behind: Path) -> None:
        self.asked_at = 0.0
        watched = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as there, suppress(OSError):
                    there.connect(str(behind))
                    back = threading.Thread(target=pass_on, args=(there, self.request), daemon=True)
                    back.start()
                    while data := self.request.recv(2**16):
                        watched.asked_at = time.monotonic()
                        there.sendall(data)
                    there.shutdown(socket.SHUT_RDWR)
                    back.join(10)

        super().__init__(str(path), Handler)

    @contextmanager
    def serving(self) -> Iterator["Watched"]:
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join(10)


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Container(Folder):
    """A container on a real engine. It hangs by not ending, and fails for want of an image."""

    troubles = frozenset({Trouble.NONE, Trouble.FAIL_FIRST, Trouble.HANG})
    lease = 6.5  # it begins nothing that could outlive its lease

    def __init__(self, folder: Path, client: APIClient, watched: Watched) -> None:
        super().__init__(folder)
        folder.chmod(0o755)
        self._client = client
        self._watched = watched
        self.settings = {
            "kind": "docker",
            "image": f"{IMAGE}:{{version}}",
            "engine": f"unix://{watched.server_address}",
            "pull": "missing",
            "stop_timeout": 60,
        }
        nowhere = {**self.settings, "engine": "unix:///nowhere/docker.sock"}
        self.broken = (nowhere, WEB, "/nowhere/docker.sock")
        for version in (OLD, NEW, OTHER):
            client.tag(f"kept:{version}", IMAGE, version)
        host = {"Binds": [*shared(), f"{folder}:/place"], "NetworkMode": "none", "Init": True}
        body = {"Image": f"{IMAGE}:{OLD}", "HostConfig": host}
        client.start(client.create_container_from_config(body, WEB.name)["Id"])

    def close(self) -> None:
        for one in self._client.containers(all=True):
            self._client.remove_container(one["Id"], force=True)
        self._client.close()

    async def runs(self) -> str:
        found = self._client.inspect_container(WEB.name)
        assert found["State"]["Running"], found["State"]
        return dict(each.split("=", 1) for each in found["Config"]["Env"])["VERSION"]

    async def arrange(self, trouble: Trouble) -> None:
        await super().arrange(trouble)
        if trouble is Trouble.FAIL_FIRST:
            self._client.remove_image(f"{IMAGE}:{NEW}")
        else:
            self._client.tag(f"kept:{NEW}", IMAGE, NEW)

    async def at_work(self) -> bool:
        recently = time.monotonic() - self._watched.asked_at < 0.5
        return recently and (self.folder / "asked").exists()


@contextmanager
def docker(servers: Servers, folder: Path) -> Iterator[Subject]:
    engine = servers.dockerd
    with tempfile.TemporaryDirectory(prefix="lg-") as short:
        watched = Watched(Path(short) / "docker.sock", engine.socket)
        with watched.serving():
            place = Container(folder, engine.client(), watched)
            try:
                yield place
            finally:
                place.close()


Make = Callable[[Servers, Path], AbstractContextManager[Subject]]
KINDS: dict[str, tuple[Make, frozenset[Trouble]]] = {
    "command": (command, ALL),
    "docker": (docker, Container.troubles),
    "ssh": (ssh, ALL),
    "webhook": (webhook, ALL),
}
