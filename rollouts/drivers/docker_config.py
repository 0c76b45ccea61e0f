"""Pure: what the new container is created with, in the words of the Engine's API.

It is what the old one was created with, less what the old one had from its image: that is for
the new image to say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from docker.types import HostConfig
from docker.utils.ports import build_port_bindings, split_port

from rollouts.drivers.docker_plan import LABELS, Container

SHORT = 12  # characters of an ID that serve as host name and alias where none was given
# Of the container's Config: copied where the old image does not say the same.
FROM_IMAGE = ("User", "WorkingDir", "StopSignal", "Healthcheck", "Shell")
COPIED = (
    *("Domainname", "Tty", "OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout"),
    *("AttachStderr", "NetworkDisabled", "StopTimeout", "MacAddress"),
)
UNNAMED_NETWORKS = ("host", "none", "container:")  # those that a container has no name in


class NotKept(ValueError):
    """The container can't be replaced so that there is a way back; the text says why."""


def like(old: Container, image: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Return the body that creates one like `old`, whose image is `image`, of `reference`.

    It is connected to the first of its networks only, which is all that older engines take.
    Raises NotKept.
    """
    config, host = old.raw["Config"], dict(old.raw["HostConfig"])
    if host.get("AutoRemove"):
        raise NotKept(
            "it was started with --rm, so that nothing of it could be kept for the way back: "
            "start it anew without --rm"
        )
    mode = str(host.get("NetworkMode") or "default")
    host.pop("ContainerIDFile", None)
    host["Links"] = [_link(each) for each in host.get("Links") or ()] or None
    host["Binds"] = [*(host.get("Binds") or ()), *_unnamed_volumes(old.raw)]
    body: dict[str, Any] = _own(config, image.get("Config") or {})
    if not mode.startswith("container:") and config.get("Hostname") != old.id[:SHORT]:
        body["Hostname"] = config.get("Hostname", "")
    body |= {"Image": reference, "HostConfig": host}
    if network := _first_network(old, mode):
        body["NetworkingConfig"] = {"EndpointsConfig": {network: endpoint(old, network)}}
    return body


def _own(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `config` was not the image's."""
    body: dict[str, Any] = {key: config[key] for key in COPIED if key in config}
    body |= {
        key: config[key] for key in FROM_IMAGE if config.get(key) and config[key] != image.get(key)
    }
    had = set(image.get("Env") or ())
    body["Env"] = [each for each in config.get("Env") or () if each not in had]
    for key in ("ExposedPorts", "Volumes"):
        had = set(image.get(key) or ())
        body[key] = {each: {} for each in config.get(key) or () if each not in had}
    labels = image.get("Labels") or {}
    body["Labels"] = {
        key: value
        for key, value in (config.get("Labels") or {}).items()
        if labels.get(key) != value and key not in LABELS
    }
    # With an entry point of its own a container gets no command from its image.
    own_entry = (config.get("Entrypoint") or []) != (image.get("Entrypoint") or [])
    if own_entry:
        body["Entrypoint"] = config.get("Entrypoint")
    if own_entry or (config.get("Cmd") or []) != (image.get("Cmd") or []):
        body["Cmd"] = config.get("Cmd")
    return body


def _unnamed_volumes(raw: Mapping[str, Any]) -> list[str]:
    """Return binds for the volumes that nobody named, so that their data goes along."""
    host = raw["HostConfig"]
    said = {bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind}
    said |= {mount["Target"] for mount in host.get("Mounts") or ()}
    return [
        f"{mount['Name']}:{mount['Destination']}" + ("" if mount.get("RW", True) else ":ro")
        for mount in raw.get("Mounts") or ()
        if mount.get("Type") == "volume" and mount["Destination"] not in said
    ]


def _link(text: str) -> str:
    # "/redis:/web/cache" is what the engine says of what it takes as "redis:cache".
    other, _, alias = text.partition(":")
    return f"{other.lstrip('/')}:{alias.rpartition('/')[2]}"


def _first_network(old: Container, mode: str) -> str | None:
    if mode.startswith(UNNAMED_NETWORKS):
        return None
    networks = old.raw["NetworkSettings"]["Networks"]
    wanted = "bridge" if mode == "default" else mode
    for name, settings in networks.items():
        if wanted in {name, settings.get("NetworkID")}:
            return None if name == "bridge" else str(name)
    return None


def endpoint(old: Container, network: str) -> dict[str, Any]:
    """Return how `old` was connected to `network`: aliases, addresses that were asked for."""
    settings = old.raw["NetworkSettings"]["Networks"][network]
    aliases = [each for each in settings.get("Aliases") or () if each != old.id[:SHORT]]
    return {
        "Aliases": aliases,
        "Links": settings.get("Links"),
        "IPAMConfig": settings.get("IPAMConfig"),
        "DriverOpts": settings.get("DriverOpts"),
    }


def connection(old: Container, network: str) -> dict[str, Any]:
    """Return the same as `endpoint` in the words of the library."""
    settings = endpoint(old, network)
    addresses = settings["IPAMConfig"] or {}
    return {
        "aliases": settings["Aliases"],
        "ipv4_address": addresses.get("IPv4Address"),
        "ipv6_address": addresses.get("IPv6Address"),
        "link_local_ips": addresses.get("LinkLocalIPs"),
        "driver_opt": settings["DriverOpts"],
    }


def first(create: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Return the body of an instance's first container, from the checked setting `create`."""
    ports: Sequence[str] = create.get("ports", ())
    policy, _, retries = str(create.get("restart_policy", "no")).partition(":")
    body: dict[str, Any] = {
        "Image": reference,
        "Env": [f"{name}={value}" for name, value in create.get("environment", {}).items()],
        "ExposedPorts": {port: {} for text in ports for port in _inner(text)},
        "Labels": {},
        "HostConfig": HostConfig(
            version=API,
            port_bindings=build_port_bindings(list(ports)),
            binds=list(create.get("volumes", ())),
            network_mode=create.get("network_mode", "default"),
            restart_policy={"Name": policy, "MaximumRetryCount": int(retries or 0)},
            init=create.get("init"),
        ),
    }
    if "command" in create:
        body["Cmd"] = list(create["command"])
    if "user" in create:
        body["User"] = create["user"]
    return body


def _inner(text: str) -> list[str]:
    inner, _ = split_port(text)
    return [port if "/" in port else f"{port}/tcp" for port in inner]


API = "1.41"  # of what is used of HostConfig, whatever engine it is for
