"""The Docker Engine of each instance's host: an update has the container made of another image.

The new container is like the old one but for what the old one had from its image. The old one
is kept, stopped, until the deployment ends: the way back needs no registry. How this is done
step by step, and why two that do it at the same time do no harm, says docker_plan.

A container that this deployment made for the wanted version is not made again, so that a
successor restarts nothing that is done; that of another deployment of the same version is.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from docker import APIClient

from rollouts.adapters import Surroundings
from rollouts.drivers import docker_plan
from rollouts.drivers.docker_engine import THREADS, Busy, Engine, Gone, NoAnswer
from rollouts.drivers.docker_images import Image, Images, digest, registry_of
from rollouts.drivers.docker_plan import Container, Found, InTheWay, Place, Start, Step, Wanted
from rollouts.drivers.docker_preflight import look_around
from rollouts.drivers.docker_settings import Settings
from rollouts.drivers.docker_steps import Steps
from rollouts.facts import Instance, Running, Tick
from rollouts.ports import Driver, DriverError
from rollouts.ssh import Ssh

TROUBLE_PATIENCE = 20.0  # seconds that the engine may be busy or silent until that is an error
LOOK_AGAIN = 0.1  # seconds after it was
MOST_STEPS = 40  # to have a container replaced; it takes some ten


class NothingKept(Exception):
    """What ran before is not there any more."""


class Docker(Driver):
    """One container for each instance, on the engine that the settings say. For one event loop."""

    def __init__(self, settings: Settings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._deployment = surroundings.deployment
        self._ssh = Ssh(settings.ssh, surroundings.known_hosts) if settings.ssh else None
        self._threads = ThreadPoolExecutor(THREADS, "docker")
        self._engines: dict[str, Engine] = {}
        self._images = Images(settings)

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Docker":
        """Return the driver of the settings `raw`; see Settings. Raises SettingsError."""
        return cls(Settings.parse(raw), surroundings)

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Have the engine fetch the image; raise DriverError."""
        await self._fetch(instance, version, output, left)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Replace the container by one of the version's image; raise DriverError."""
        engine, reference = self._engine(instance), self._reference(instance, version)
        image = await self._images.find(engine, reference)
        if image is None:
            image = await self._fetch(instance, version, output, left)
        wanted = Wanted(instance.name, version, self._deployment, image["Id"])
        decide = partial(docker_plan.forward, wanted=wanted)
        await self._reach(instance, wanted, decide, output, left)

    async def roll_back(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Have the container that was kept run again; without one it is an update."""
        wanted = Wanted(instance.name, version, self._deployment)

        def decide(found: Found) -> Step | None:
            kept, step = docker_plan.back(found, wanted)
            if not kept:
                raise NothingKept
            return step

        try:
            await self._reach(instance, wanted, decide, output, left)
        except NothingKept:
            output(f"The container that ran {version} is not kept: making one of its image.")
            await self.update(instance, version, output, left)

    async def finish(
        self, instance: Instance, output: Callable[[str], None], left: Callable[[], float]
    ) -> None:
        """Remove the container that was kept for the way back; raise DriverError."""
        wanted = Wanted(instance.name, "", self._deployment)
        decide = partial(docker_plan.letting_go, wanted=wanted)
        await self._reach(instance, wanted, decide, output, left)

    @property
    def reports_version(self) -> bool:
        """True: a container says what it was made of."""
        return True

    async def running(self, instance: Instance) -> Running:
        """Return the version and the image's digest of the running container.

        Raises DriverError where none runs.
        """
        engine, name = self._engine(instance), self._name(instance)
        current = (await self._look(engine, instance)).current
        if current is None:
            raise DriverError(f"there is no container {name} on {engine.address}")
        if not current.running:
            state = current.raw["State"]
            raise DriverError(
                f"the container {name} does not run: {state.get('Status')}, "
                f"exit status {state.get('ExitCode')}"
            )
        image = await self._images.find(engine, current.image)
        reference = str(current.raw["Config"]["Image"])
        return Running(current.version, digest(image, reference) if image else current.image)

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        """Return whether engine, container, the old version's image and the registry are there."""
        engine = self._engine(instance)
        look = partial(self._look, engine, instance)
        reference = ""
        with suppress(DriverError):
            reference = self._reference(instance, old_version) if old_version else ""
        registry = registry_of(self._settings.filled(self._settings.image, instance, "any"))
        return await look_around(
            engine, self._images, self._settings, look, self._name(instance), reference, registry
        )

    async def aclose(self) -> None:
        """Close the connections to the engines."""
        for engine in self._engines.values():
            await engine.aclose()
        if self._ssh is not None:
            await self._ssh.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _engine(self, instance: Instance) -> Engine:
        address = self._settings.filled(self._settings.engine, instance)
        if address not in self._engines:
            self._engines[address] = Engine(address, self._settings, self._ssh, self._threads)
        return self._engines[address]

    def _name(self, instance: Instance) -> str:
        return self._settings.filled(self._settings.container, instance)

    def _reference(self, instance: Instance, version: str) -> str:
        if "+" in version:
            raise DriverError(f"{version} can't be an image's tag, which can't hold a +")
        return self._settings.filled(self._settings.image, instance, version)

    async def _fetch(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> Image:
        reference = self._reference(instance, version)
        return await self._images.fetch(self._engine(instance), reference, output, left)

    async def _look(self, engine: Engine, instance: Instance) -> Found:
        """Return the containers that there are, all at the same moment; raise DriverError.

        Raises Busy where one got another name meanwhile.
        """
        name = self._name(instance)
        pattern = f"^/?{re.escape(name)}({'|'.join(filter(None, Place))})?$"

        def look(client: APIClient) -> Found:
            found: dict[str, Container] = {}
            for listed in client.containers(all=True, filters={"name": [pattern]}):
                raw = client.inspect_container(listed["Id"])
                if raw["Name"] not in listed["Names"]:
                    raise Busy(f"{raw['Name']} is just being renamed")
                if raw["State"].get("Status") == "removing":
                    raise Busy(f"{raw['Name']} is just being removed")
                tag = self._settings.version_of(str(raw["Config"]["Image"]), instance)
                place = Place(raw["Name"].removeprefix(f"/{name}"))
                found[place.name.lower()] = Container.read(raw, tag)
            return Found(**found)

        return await engine.call(look)

    async def _reach(
        self,
        instance: Instance,
        wanted: Wanted,
        decide: Callable[[Found], Step | None],
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Look, decide and do, until there is nothing more to do; raise DriverError."""
        engine, name = self._engine(instance), self._name(instance)
        steps = Steps(engine, self._settings, instance, wanted, name, output, left)
        clock = asyncio.get_running_loop().time
        well_at, done = clock(), 0
        while done < MOST_STEPS:
            try:
                found = await self._look(engine, instance)
                step = docker_plan.clearing(found) or decide(found)
                if step is None:
                    return
                await steps.do(step)
            except InTheWay as error:
                raise DriverError(
                    f"a container that Lockgate did not make has the name {name}{error.place}, "
                    "which is needed: rename or remove it"
                ) from error
            except (Busy, Gone, NoAnswer):
                # Somebody else does the same, or the engine is slow: the next look tells.
                if clock() - well_at > TROUBLE_PATIENCE:
                    raise
                await asyncio.sleep(LOOK_AGAIN)
            else:
                # What starts and ends at once has been started all the same.
                if isinstance(step, Start):
                    return
                well_at, done = clock(), done + 1
        raise DriverError(
            f"{name} is not as wanted after {MOST_STEPS} steps: somebody else changes it"
        )
