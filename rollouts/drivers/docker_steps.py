"""Does the steps of docker_plan on an engine, each of them only while the lease outlives it."""

import asyncio
from collections.abc import Callable
from typing import Any

from docker import APIClient

from rollouts.drivers import docker_config
from rollouts.drivers.docker_config import NotKept
from rollouts.drivers.docker_engine import BOUND, Busy, Engine, Gone, NoAnswer, Stopped
from rollouts.drivers.docker_plan import (
    DEPLOYMENT,
    IMAGE,
    INSTANCE,
    REPLACES,
    VERSION,
    Connect,
    Container,
    Create,
    Place,
    Remove,
    Rename,
    SetRestart,
    Start,
    Step,
    Stop,
    Wanted,
)
from rollouts.drivers.docker_settings import Settings
from rollouts.facts import Instance
from rollouts.ports import DriverError

LEASE_INTERVAL = 0.1  # seconds between two looks whether the lease was extended
STOP_INTERVAL = 0.05  # seconds between two looks whether a container has stopped
KILL_PATIENCE = 10.0  # seconds that the engine may take to be done with a killed one
NO_PORT = ("port is already allocated", "address already in use")


class Steps:
    """The steps to have what is `wanted` in the container `name`."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        instance: Instance,
        wanted: Wanted,
        name: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._instance = instance
        self._wanted = wanted
        self._name = name
        self._output = output
        self._left = left

    async def do(self, step: Step) -> None:
        """Do `step`; raise DriverError, and Busy, Gone or NoAnswer where a look may tell more."""
        match step:
            case Create():
                await self._create(step)
            case Connect(one, network, source):
                settings = docker_config.connection(source, network)
                await self._tell(
                    lambda client: client.connect_container_to_network(one, network, **settings)
                )
            case SetRestart(one, policy):
                # The library's types know of two policies only.
                words: Any = {"Name": policy.name, "MaximumRetryCount": policy.retries}
                await self._tell(lambda client: client.update_container(one, restart_policy=words))
            case Stop(container):
                await self._stop(container)
            case Remove(one, place):
                self._output(f"removing the container {self._name}{place}")
                await self._tell(lambda client: client.remove_container(one, force=True))
            case Rename(one, place):
                await self._tell(lambda client: client.rename(one, self._name + place))
            case Start(one):
                await self._start(one)

    async def _tell(self, ask: Callable[[APIClient], Any]) -> None:
        """Have the engine change something, once the lease is sure to outlive that."""
        while self._left() < BOUND:
            if self._left() <= 0:
                raise Stopped
            await asyncio.sleep(LEASE_INTERVAL)
        await self._engine.call(ask)

    async def _create(self, step: Create) -> None:
        wanted = self._wanted
        reference = self._settings.filled(self._settings.image, self._instance, wanted.version)
        body = await self._body(step.source, reference)
        body["Labels"] |= {
            INSTANCE: wanted.instance,
            VERSION: wanted.version,
            IMAGE: wanted.image,
            DEPLOYMENT: wanted.deployment,
            REPLACES: step.replaces,
        }
        name = self._name + Place.NEXT
        self._output(f"creating the container of {reference}")
        try:
            await self._tell(lambda client: client.create_container_from_config(body, name))
        except (Busy, NoAnswer, Stopped):
            raise
        except DriverError as error:
            raise DriverError(f"a container of {reference} can't be created: {error}") from error

    async def _body(self, source: Container | None, reference: str) -> dict[str, Any]:
        if source is None:
            if self._settings.create is None:
                raise DriverError(
                    f"there is no container {self._name} on {self._engine.address}: create the "
                    "first one by hand (docker run --name ...), or give the driver `create`"
                )
            version = self._wanted.version
            return docker_config.first(self._settings.first(self._instance, version), reference)
        try:
            image = await self._engine.call(lambda client: client.inspect_image(source.image))
            return docker_config.like(source, image, reference)
        except Gone as error:
            raise DriverError(
                f"the image that {self._name} was created from is gone from the engine: what was "
                "set for the container can't be told from what it has from its image; pull that "
                "image again"
            ) from error
        except NotKept as error:
            raise DriverError(f"{self._name} can't be replaced: {error}") from error

    async def _start(self, one: str) -> None:
        self._output(f"starting the container {self._name}")
        try:
            await self._tell(lambda client: client.start(one))
        except (Busy, Gone, NoAnswer, Stopped):
            raise
        except DriverError as error:
            hint = ""
            if any(words in str(error) for words in NO_PORT):
                hint = " (another container or program of the host has a port that it publishes)"
            raise DriverError(f"{self._name} can't be started: {error}{hint}") from error

    async def _stop(self, container: Container) -> None:
        """Stop a container as `docker stop` does, but in steps that are short each."""
        signal = container.raw["Config"].get("StopSignal") or "SIGTERM"
        self._output(f"stopping the container {self._name}")
        await self._kill(container, signal)
        if await self._stopped(container, self._settings.stop_timeout):
            return
        self._output(
            f"{self._name} did not stop within {self._settings.stop_timeout:g} s of {signal}, "
            "which its process 1 may not handle: killing it"
        )
        await self._kill(container, "SIGKILL")
        if not await self._stopped(container, KILL_PATIENCE):
            raise DriverError(f"{self._name} runs on {KILL_PATIENCE:g} s after it was killed")

    async def _kill(self, container: Container, signal: str) -> None:
        try:
            await self._tell(lambda client: client.kill(container.id, signal))
        except Busy:  # it does not run any more
            return

    async def _stopped(self, container: Container, within: float) -> bool:
        clock = asyncio.get_running_loop().time
        deadline = clock() + within
        while await self._engine.call(
            lambda client: client.inspect_container(container.id)["State"]["Running"]
        ):
            if self._left() <= 0:
                raise Stopped
            if clock() >= deadline:
                return False
            await asyncio.sleep(STOP_INTERVAL)
        return True
