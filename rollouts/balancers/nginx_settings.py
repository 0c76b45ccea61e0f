"""The settings of nginx as a balancer."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from zlib import crc32

from rollouts.adapters import SettingsError, checked, wrong_keys
from rollouts.balancers.nginx_file import Shape
from rollouts.balancers.servers import NAME, check_configured
from rollouts.ssh import SshSettings

FIRST_PORT, PORTS = 20_000, 10_000  # where the port is chosen from that shows what is live
DEFAULT_TEST = ("nginx", "-t")
DEFAULT_RELOAD = ("nginx", "-s", "reload")

OPTION = re.compile(r"[a-z_]+( [A-Za-z0-9_.:=$/~-]+)*")
SERVER_OPTIONS = re.compile(r"[a-z_]+(=[A-Za-z0-9_.]+)?( [a-z_]+(=[A-Za-z0-9_.]+)?)*")
OURS = frozenset({"server", "weight", "down", "backup"})  # what Lockgate alone may say


@dataclass(frozen=True)
class Settings:
    """Where the file is and what is in it, and how nginx is told; `hosts` empty: here."""

    shape: Shape
    file: str
    port: int
    test: tuple[str, ...] = DEFAULT_TEST
    reload: tuple[str, ...] = DEFAULT_RELOAD
    hosts: tuple[str, ...] = ()
    ssh: SshSettings = field(default_factory=SshSettings)
    weights: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Return what `raw` says; raise SettingsError with every bad key."""
        checks: dict[str, Callable[[Any], Any]] = {
            "upstream": _check_upstream,
            "file": _check_file,
            "test": _check_program,
            "reload": _check_program,
            "hosts": _check_hosts,
            "ssh": SshSettings.parse,
            "port": _check_port,
            "options": _check_options,
            "server_options": _check_server_options,
            "weights": check_configured,
        }
        required = ("kind", "upstream", "file")
        errors = wrong_keys(raw, required, [key for key in checks if key not in required])
        checked(raw, checks, errors)
        if "ssh" in raw and "hosts" not in raw:
            errors["hosts"] = "is missing: ssh needs to know which machines nginx runs on"
        if "hosts" in raw and not {"hosts", "ssh"} & set(errors):
            errors |= _wrong_hosts(raw)
        if errors:
            raise SettingsError(errors)
        upstream = raw["upstream"]
        return cls(
            shape=Shape(upstream, tuple(raw.get("options", ())), raw.get("server_options", "")),
            file=raw["file"],
            port=raw.get("port", FIRST_PORT + crc32(upstream.encode()) % PORTS),
            test=tuple(raw.get("test", DEFAULT_TEST)),
            reload=tuple(raw.get("reload", DEFAULT_RELOAD)),
            hosts=tuple(raw.get("hosts", ())),
            ssh=SshSettings.parse(raw.get("ssh")),
            weights=raw.get("weights", {}),
        )


def _wrong_hosts(raw: Mapping[str, Any]) -> dict[str, str]:
    settings = SshSettings.parse(raw.get("ssh"))
    for host in raw["hosts"]:
        try:
            settings.place(host)
        except ValueError as error:
            return {"hosts": f"{host[:64]!r} {error}"}
    return {}


def _check_upstream(raw: Any) -> None:
    if not (isinstance(raw, str) and NAME.fullmatch(raw)):
        raise ValueError("must be a name of letters, digits, '_', '.', ':' and '-'")


def _check_file(raw: Any) -> None:
    if not (isinstance(raw, str) and re.fullmatch(r"/.*[^/]", raw) and raw.isprintable()):
        raise ValueError(
            "must be the absolute path of a file that nginx includes in `http`, such as "
            "/etc/nginx/lockgate/shop.conf"
        )


def _check_program(raw: Any) -> None:
    if not (
        isinstance(raw, list)
        and raw
        and all(isinstance(one, str) and one and "\0" not in one for one in raw)
    ):
        raise ValueError(
            'must be a list of texts, the program first, such as ["sudo", "nginx", "-t"]'
        )


def _check_hosts(raw: Any) -> None:
    if not (isinstance(raw, list) and raw and all(isinstance(one, str) for one in raw)):
        raise ValueError('must be a list of machines, such as ["lb1", "lb2"]')
    if len(set(raw)) < len(raw):
        raise ValueError("must name each machine once")


def _check_port(raw: Any) -> None:
    if type(raw) is not int or not 1 <= raw <= 65535:
        raise ValueError("must be a port from 1 to 65535 that nothing else on the machine uses")


def _check_options(raw: Any) -> None:
    if not isinstance(raw, list):
        raise ValueError('must be a list of directives, such as ["least_conn", "keepalive 32"]')
    for one in raw:
        if not (isinstance(one, str) and OPTION.fullmatch(one)) or one.split()[0] in OURS:
            raise ValueError(
                f"can't have {str(one)[:64]!r}: each is one directive for `upstream` other than "
                "`server`, without ';'"
            )


def _check_server_options(raw: Any) -> None:
    if not (isinstance(raw, str) and SERVER_OPTIONS.fullmatch(raw)) or OURS & {
        one.partition("=")[0] for one in raw.split()
    }:
        raise ValueError(
            "must be parameters of `server` other than weight, down and backup, such as "
            '"max_fails=3 fail_timeout=10s"'
        )
