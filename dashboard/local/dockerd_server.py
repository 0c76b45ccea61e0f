"""The Docker engine of the demo, supervised: nothing of the machine's own is touched."""

import shutil
import sys

from dashboard.local import binaries, packages
from dashboard.local.docker_engine import DockerEngine
from dashboard.local.errors import LocalError
from dashboard.local.places import Places, is_root, make_private
from dashboard.local.stack import say
from dashboard.local.supervision import Program

NAME = "dockerd"
PATIENCE = 60.0  # seconds until it answers
STOP_SECONDS = 30  # its containers have to end before it


def check() -> None:
    """Have what an engine takes on this machine; raise LocalError where that is not possible."""
    if sys.platform != "linux" or not is_root():
        raise LocalError(
            "A Docker engine of its own can be started by root on Linux alone: run this as root, "
            "or set DOCKER_HOST to the socket of an engine of this machine."
        )
    packages.provide({"docker.io": binaries.dockerd}, say)


class Server(DockerEngine):
    """The engine of one data folder, which supervisord starts and stops."""

    def __init__(self, places: Places) -> None:
        super().__init__(places.docker)

    def prepare(self) -> None:
        """Make its folder; raise LocalError where that is not possible."""
        make_private(self._folder)
        self.make_folder()

    def program(self) -> Program:
        """Return how the server is run."""
        command = (str(binaries.dockerd()), *self._arguments())
        return Program(NAME, command, stop_seconds=STOP_SECONDS)

    def answers(self) -> bool:
        """Whether the engine answers."""
        return self._answers()

    def clear(self) -> None:
        """Take away what a stop leaves, or a kill: containers, mounts, all that it kept."""
        if self._folder.exists():
            self.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
