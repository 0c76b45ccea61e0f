"""Containers as hosts of the demo: on an engine of its own, or on the one of DOCKER_HOST."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import docker
from docker.errors import DockerException

from dashboard.local import docker_engine, dockerd_server, fleet, shop_images
from dashboard.local.dockerd_server import Server
from dashboard.local.errors import LocalError
from dashboard.local.hosting import Processes
from dashboard.local.places import MARK, Places
from dashboard.local.stack import Stack
from dashboard.local.supervision import POLL, Program

LABEL = "lockgate.demo"  # of all that is ours; its value is the data folder
INSTANCE = "lockgate.demo.instance"
OURS = "unix://"  # how the address of an engine of this machine begins
ANSWER = 60  # seconds for one answer of the engine
AT_ONCE = 4  # containers that are made at the same time
STOP = 5  # seconds from SIGTERM to SIGKILL


class Containers(Processes):
    """A container for each instance, which Lockgate replaces by one of another image."""

    @staticmethod
    def check() -> None:
        if not (host := os.environ.get("DOCKER_HOST")):
            dockerd_server.check()
        elif not host.startswith(OURS):
            raise LocalError(
                f"DOCKER_HOST is {host}: the demo's containers use the files and the network of "
                "this machine. Set it to the socket of an engine here (unix://...), or unset it."
            )

    @staticmethod
    def clear(places: Places) -> None:
        if places.docker_host.exists():
            with suppress(DockerException), _client(places.docker_host.read_text()) as client:
                _remove(client, places)
            places.docker_host.unlink()
        Server(places).clear()

    def __init__(self, places: Places, count: int, first_port: int) -> None:
        super().__init__(places, count, first_port)
        self.server = None if os.environ.get("DOCKER_HOST") else Server(places)
        self.engine = self.server.address if self.server else os.environ["DOCKER_HOST"]
        self.balancer_url = ""

    @property
    def driver(self) -> Mapping[str, Any]:
        return {
            "kind": "docker",
            "image": shop_images.reference("{version}"),
            "engine": self.engine,
            "pull": "missing",
            "stop_timeout": STOP,
        }

    def prepare(self) -> None:
        if self.server:
            self.server.prepare()
        else:
            self.places.docker_host.write_text(self.engine)

    def programs(self, balancer_url: str) -> list[Program]:
        self.balancer_url = balancer_url
        return [self.server.program()] if self.server else []

    def start(self, stack: Stack) -> None:
        if self.server:
            stack.start(dockerd_server.NAME, self.server.answers, dockerd_server.PATIENCE)
        stack.say(
            f"Starting {len(self.instances)} containers. There are images of v1 to "
            f"v{shop_images.VERSIONS}, each with every trouble too."
        )
        try:
            with _client(self.engine) as client, ThreadPoolExecutor(AT_ONCE) as pool:
                client.images.load(shop_images.archive({LABEL: str(self.places.data)}))
                list(pool.map(partial(self._run, client), self.instances))
                self._wait(client)
        except DockerException as error:
            raise LocalError(f"The Docker engine at {self.engine} refuses: {error}") from error

    def _run(self, client: docker.DockerClient, name: str) -> None:
        client.containers.run(
            shop_images.reference(fleet.FIRST_VERSION),
            shop_images.command(name, self.instances[name], self.balancer_url),
            name=name,
            detach=True,
            # By the mark the next start finds what a kill left.
            environment={MARK: str(self.places.data)},
            labels={LABEL: str(self.places.data), INSTANCE: name},
            network_mode="host",
            volumes=docker_engine.shared(),
            restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        )

    def _wait(self, client: docker.DockerClient) -> None:
        deadline = time.monotonic() + fleet.START_PATIENCE
        for name, port in self.instances.items():
            while not fleet.answers(port):
                if time.monotonic() > deadline:
                    said = client.containers.get(name).logs(tail=20).decode(errors="replace")
                    raise LocalError(f"The container {name} does not answer:\n{said}")
                time.sleep(POLL)

    @contextmanager
    def watching(self, version: str) -> Iterator[Callable[[], list[str]]]:
        """Yield what returns the instances that were given `version`, by the engine's own word."""
        started: set[str] = set()
        filters = {"type": "container", "event": "start", "label": f"{LABEL}={self.places.data}"}
        with _client(self.engine) as client:
            events = client.events(since=int(time.time()), decode=True, filters=filters)

            def listen() -> None:
                for event in events:
                    about = event["Actor"]["Attributes"]
                    if about["image"] == shop_images.reference(version):
                        started.add(about[INSTANCE])

            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            try:
                yield lambda: sorted(started)
            finally:
                events.close()
                thread.join()


@contextmanager
def _client(engine: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(engine, timeout=ANSWER)
    try:
        yield client
    finally:
        client.close()


def _remove(client: docker.DockerClient, places: Places) -> None:
    """Remove what is ours from an engine that is used for more."""
    ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={places.data}"}
    for container in client.containers.list(all=True, filters=ours):
        container.remove(v=True, force=True)
    for image in client.images.list(filters=ours):
        image.remove(force=True)
