"""What must hold on an engine before a deployment."""

from collections.abc import Awaitable, Callable

from docker.auth import INDEX_NAME

from rollouts.drivers.docker_engine import Engine, NoAnswer
from rollouts.drivers.docker_images import Images
from rollouts.drivers.docker_plan import Container, Found
from rollouts.drivers.docker_settings import Settings
from rollouts.facts import Tick
from rollouts.ports import DriverError


async def look_around(
    engine: Engine,
    images: Images,
    settings: Settings,
    look: Callable[[], Awaitable[Found]],
    name: str,
    reference: str,
    registry: str,
) -> list[Tick]:
    """Return the ticks for the container `name`; `reference` is the old version's image or ""."""
    what = "Docker Engine reachable"
    try:
        version = await engine.call(lambda client: client.version()["Version"])
        current = (await look()).current
        ticks = [
            Tick(what, True, f"{version} at {engine.address}"),
            _container(settings, name, current),
            await _image(engine, images, current, reference),
        ]
    except DriverError as error:
        return [Tick(what, False, str(error))]
    if settings.registry:
        ticks.append(await _login(engine, images, registry))
    return ticks


def _container(settings: Settings, name: str, current: Container | None) -> Tick:
    what = "container there"
    if current is None:
        if settings.create is not None:
            return Tick(what, True, f"{name} will be created, as `create` says")
        return Tick(
            what,
            False,
            f"there is no {name}: create the first one by hand (docker run --name {name} ...), "
            "or give the driver `create`",
        )
    if current.raw["HostConfig"].get("AutoRemove"):
        return Tick(what, False, f"{name} was started with --rm: start it anew without")
    return Tick(what, True, f"{name} {'runs' if current.running else 'is stopped'}")


async def _image(engine: Engine, images: Images, current: Container | None, reference: str) -> Tick:
    what = "old version's image there"
    wanted = current.image if current else reference
    if not wanted:
        return Tick(what, None, "there is no old version")
    if await images.find(engine, wanted):
        return Tick(what, True, "the way back needs no registry")
    return Tick(
        what,
        False if current else None,
        f"the engine has no image {wanted}: pull it, or the way back needs a registry",
    )


async def _login(engine: Engine, images: Images, registry: str) -> Tick:
    what = "registry login"
    try:
        login = images.login() or {}
        address = None if registry == INDEX_NAME else registry
        await engine.call(lambda client: client.login(registry=address, reauth=True, **login))
    except NoAnswer as error:
        return Tick(what, None, str(error))
    except DriverError as error:
        refused = any(word in str(error).lower() for word in ("unauthorized", "denied", "password"))
        return Tick(what, False if refused else None, f"{registry}: {error}")
    return Tick(what, True, registry)
