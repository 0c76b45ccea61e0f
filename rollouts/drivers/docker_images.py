"""The images of an engine: looked for, fetched, named by digest."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from docker.auth import resolve_repository_name
from docker.utils import parse_repository_tag

from rollouts.adapters import secret
from rollouts.drivers.docker_engine import Engine, Gone, Stopped
from rollouts.drivers.docker_settings import Settings
from rollouts.ports import DriverError

TELL_INTERVAL = 2.0  # seconds between two lines about a pull that goes on

Image = Mapping[str, Any]  # as the engine describes it


class Images:
    """What the engines have, and what they were made to fetch during this deployment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fetched: set[tuple[str, str]] = set()
        self._fetching: dict[tuple[str, str], asyncio.Lock] = {}

    async def find(self, engine: Engine, name: str) -> Image | None:
        """Return the image `name`, a reference or an ID, if the engine has it."""
        try:
            return await engine.call(lambda client: client.inspect_image(name))
        except Gone:
            return None

    async def fetch(
        self,
        engine: Engine,
        reference: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> Image:
        """Return the image after a look at its registry, as the setting `pull` wants it.

        One that the engine has is good enough where the registry does not give it. Of several
        that ask for the same at once, one asks the registry. Raises DriverError.
        """
        key = (engine.address, reference)
        async with self._fetching.setdefault(key, asyncio.Lock()):
            image = await self.find(engine, reference)
            if image is None or (self._settings.pull == "always" and key not in self._fetched):
                await self._pull(engine, reference, image is not None, output, left)
                self._fetched.add(key)
                image = await self.find(engine, reference)
        if image is None:
            raise DriverError(f"{reference} was pulled, and is not there all the same")
        output(f"{reference} is {digest(image, reference)}")
        return image

    async def _pull(
        self,
        engine: Engine,
        reference: str,
        there: bool,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        try:
            await engine.pull(reference, self.login(), Progress(reference, output), left)
        except Stopped:
            raise
        except DriverError as error:
            if not there:
                raise DriverError(f"{reference} can't be pulled: {error}") from error
            output(
                f"{reference} can't be pulled: {error}. The engine has an image of this name "
                "already, which is used."
            )

    def login(self) -> dict[str, str] | None:
        """Return how to log in at the registry, where the settings say; raise DriverError."""
        if not self._settings.registry:
            return None
        try:
            password = secret(self._settings.registry["password_env"])
        except LookupError as error:
            raise DriverError(f"the registry's password is not known: {error}") from error
        return {"username": self._settings.registry["username"], "password": password}


class Progress:
    """Tells of a pull in a line now and then, from the engine's many words about each layer."""

    def __init__(self, reference: str, output: Callable[[str], None]) -> None:
        self._reference = reference
        self._output = output
        self._layers: dict[str, bool] = {}
        self._bytes: dict[str, tuple[int, int]] = {}
        self._told_at = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take what the engine says."""
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        if status.startswith(("Digest:", "Status:")):
            self._output(status)
            return
        if not layer or status.startswith("Pulling from"):
            return
        self._layers[layer] = status in {"Pull complete", "Already exists"}
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (detail.get("current", 0), detail["total"])
        if time.monotonic() - self._told_at >= TELL_INTERVAL:
            self._told_at = time.monotonic()
            done = f"{sum(self._layers.values())} of {len(self._layers)} layers"
            got, of = (sum(each) / 1e6 for each in zip(*self._bytes.values(), (0, 0), strict=True))
            self._output(f"pulling {self._reference}: {done}, {got:.0f} of {of:.0f} MB")


def digest(image: Image, reference: str) -> str:
    """Return the registry's digest of `image`; its ID where no registry ever gave it one."""
    repository, _ = parse_repository_tag(reference)
    digests = dict(each.rsplit("@", 1) for each in image.get("RepoDigests") or ())
    return str(digests.get(repository) or next(iter(digests.values()), image["Id"]))


def registry_of(reference: str) -> str:
    """Return the registry that `reference` is pulled from."""
    repository, _ = parse_repository_tag(reference)
    return str(resolve_repository_name(repository)[0])
