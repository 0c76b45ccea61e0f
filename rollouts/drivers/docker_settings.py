"""What `{kind: docker, ...}` may say, checked."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from docker.utils.ports import split_port

from rollouts.adapters import VARIABLE, SettingsError, check_secret, checked, wrong_keys
from rollouts.drivers.templates import check_template, fill, values
from rollouts.facts import Instance
from rollouts.ssh import SshSettings

ENGINE = "unix:///var/run/docker.sock"
STOP_TIMEOUT = 10.0  # seconds
LONGEST_STOP = 3600.0
OPTIONAL = ("container", "engine", "tls", "ssh", "stop_timeout", "pull", "registry", "create")
SCHEMES = ("unix:///", "tcp://", "ssh://")
PULLS = ("always", "missing")
TLS = ("ca", "cert", "key")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}")
VOLUME = re.compile(r"[^:]+:/[^:]*(:[a-zA-Z,]+)?")
RESTART = re.compile(r"no|always|unless-stopped|on-failure(:[1-9][0-9]{0,5})?")
SAMPLE = Instance("web-01", "10.0.0.11", 8080, server="web-01")


@dataclass(frozen=True)
class Settings:
    """The checked settings; texts are templates, filled for each instance."""

    image: str
    container: str = "{name}"
    engine: str = ENGINE
    tls: Mapping[str, str] | None = None
    ssh: SshSettings | None = None
    stop_timeout: float = STOP_TIMEOUT
    pull: str = "always"
    registry: Mapping[str, str] | None = None
    create: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Settings":
        """Return the settings that `raw` describes; raise SettingsError with all that is wrong."""
        errors = wrong_keys(raw, required=("kind", "image"), optional=OPTIONAL)
        checks: dict[str, Callable[[Any], None]] = {
            "image": _check_image,
            "container": _check_container,
            "engine": _check_engine,
            "tls": _check_tls,
            "ssh": _check_ssh,
            "stop_timeout": _check_stop_timeout,
            "pull": _check_pull,
            "registry": _check_registry,
            "create": _check_create,
        }
        checked(raw, checks, errors)
        engine = raw.get("engine", ENGINE)
        if "engine" not in errors and "tls" not in errors:
            _check_way(str(engine), raw, errors)
        if errors:
            raise SettingsError(errors)
        given = {key: raw[key] for key in OPTIONAL if key in raw}
        if str(engine).startswith("ssh://"):
            given["ssh"] = SshSettings.parse(raw.get("ssh"))
        return cls(image=raw["image"], **given)

    def filled(self, text: str, instance: Instance, version: str = "") -> str:
        """Return the template `text` for an instance."""
        return fill([text], values(instance, version))[0]

    def version_of(self, reference: str, instance: Instance) -> str | None:
        """Return the version that the image `reference` stands for; None where it is another's."""
        mark = "\0"
        pattern = re.escape(self.filled(self.image, instance, mark)).replace(
            re.escape(mark), "(.+)", 1
        )
        match = re.fullmatch(pattern.replace(re.escape(mark), r"\1"), reference)
        return match[1] if match else None

    def first(self, instance: Instance, version: str) -> dict[str, Any]:
        """Return the setting `create` for an instance."""

        def each(value: Any) -> Any:
            if isinstance(value, str):
                return self.filled(value, instance, version)
            if isinstance(value, list):
                return [each(one) for one in value]
            return (
                {key: each(one) for key, one in value.items()} if isinstance(value, dict) else value
            )

        return {key: each(value) for key, value in (self.create or {}).items()}


def _check_text(raw: Any) -> None:
    if not isinstance(raw, str) or not raw:
        raise ValueError("must be a text")
    check_template(raw)


def _check_image(raw: Any) -> None:
    _check_text(raw)
    if "{version}" not in raw:
        raise ValueError('must hold {version}, such as "registry.example.com/shop:{version}"')


def _check_container(raw: Any) -> None:
    _check_text(raw)
    if "{version}" in raw:
        raise ValueError("must be the same for every version")
    if not NAME.fullmatch(fill([raw], values(SAMPLE, ""))[0]):
        raise ValueError("must be a name of letters, digits, '_', '.' and '-', such as {name}")


def _check_engine(raw: Any) -> None:
    _check_text(raw)
    if not raw.startswith(SCHEMES):
        raise ValueError(
            'must be "unix:///var/run/docker.sock", "tcp://{hostname}:2376" or "ssh://{hostname}"'
        )
    if "{version}" in raw:
        raise ValueError("must be the same for every version")


def _check_tls(raw: Any) -> None:
    if not isinstance(raw, dict) or set(raw) != set(TLS):
        raise ValueError(f"must map {', '.join(TLS)} to a file's path on the worker's machine each")
    for key, path in raw.items():
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise ValueError(f"must give {key} an absolute path on the worker's machine")


def _check_ssh(raw: Any) -> None:
    SshSettings.parse(raw)


def _check_way(engine: str, raw: Mapping[str, Any], errors: dict[str, str]) -> None:
    """Add to `errors` what does not go with the way to the engine."""
    if engine.startswith("tcp://") and "tls" not in raw:
        errors["tls"] = (
            "is missing: without it whoever reaches the port of an engine is root on its host"
        )
    if not engine.startswith("tcp://") and "tls" in raw:
        errors["tls"] = "goes with an engine of tcp://HOST:PORT alone"
    if not engine.startswith("ssh://") and "ssh" in raw:
        errors["ssh"] = "goes with an engine of ssh://HOST alone"


def _check_stop_timeout(raw: Any) -> None:
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if not number or not 0 <= raw <= LONGEST_STOP:
        raise ValueError(f"must be seconds, from 0 to {LONGEST_STOP:g}")


def _check_pull(raw: Any) -> None:
    if raw not in PULLS:
        raise ValueError(f"must be one of: {', '.join(PULLS)}")


def _check_registry(raw: Any) -> None:
    if not isinstance(raw, dict) or set(raw) != {"username", "password_env"}:
        raise ValueError("must have username and password_env, and nothing else")
    if not isinstance(raw["username"], str) or not raw["username"]:
        raise ValueError("must have a text as its username")
    try:
        check_secret(raw["password_env"])
    except ValueError as error:
        raise ValueError(f"password_env {error}") from error


def _check_create(raw: Any) -> None:
    if not isinstance(raw, dict):
        raise ValueError(f"must be a mapping of {', '.join(CREATE)}")
    for key, value in raw.items():
        if key not in CREATE:
            raise ValueError(f"has no {str(key)[:64]}; there are: {', '.join(CREATE)}")
        try:
            CREATE[key](value)
        except ValueError as error:
            raise ValueError(f"{key} {error}") from error


def _check_texts(raw: Any) -> None:
    if not isinstance(raw, list) or not raw:
        raise ValueError("must be a list of texts")
    for each in raw:
        _check_text(each)


def _check_ports(raw: Any) -> None:
    _check_texts(raw)
    for text in raw:
        try:
            inner, outer = split_port(fill([text], values(SAMPLE, ""))[0])
        except ValueError as error:
            raise ValueError(f'must be texts such as "8080:80": {error}') from error
        if not outer or not all(outer):
            raise ValueError(f'must say a port of the host for each, such as "8080:{inner[0]}"')


def _check_volumes(raw: Any) -> None:
    _check_texts(raw)
    if not all(VOLUME.fullmatch(text) for text in raw):
        raise ValueError('must be texts such as "data:/var/lib/shop" or "/etc/shop:/etc/shop:ro"')


def _check_environment(raw: Any) -> None:
    if not isinstance(raw, dict):
        raise ValueError('must map names to texts, such as {"REGION": "eu"}')
    for name, value in raw.items():
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise ValueError(f"has the name {str(name)[:64]!r}; letters, digits and '_' are right")
        if not isinstance(value, str):
            raise ValueError(f"must give {name} a text")
        check_template(value)


def _check_restart(raw: Any) -> None:
    if not isinstance(raw, str) or not RESTART.fullmatch(raw):
        raise ValueError("must be no, always, unless-stopped, on-failure or on-failure:TIMES")


def _check_init(raw: Any) -> None:
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")


CREATE: Mapping[str, Callable[[Any], None]] = {
    "ports": _check_ports,
    "environment": _check_environment,
    "volumes": _check_volumes,
    "network_mode": _check_text,
    "restart_policy": _check_restart,
    "command": _check_texts,
    "user": _check_text,
    "init": _check_init,
}
