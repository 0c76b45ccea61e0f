"""Instances as other systems know them: an HAProxy backend, a Docker host, a CSV file.

Each is returned as an entry of an inventory file, with the keys that the source tells.
"""

import asyncio
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rollouts.adapters import KnownHosts, SettingsError
from rollouts.balancers.haproxy_api import Address, RuntimeApi
from rollouts.balancers.haproxy_replies import Row
from rollouts.drivers.docker_engine import Engine
from rollouts.drivers.docker_settings import Settings
from rollouts.ports import BalancerError, DriverError
from rollouts.ssh import Ssh

Json = dict[str, Any]

MOST = 5_000  # instances
TIMEOUT = 10.0  # seconds for a source to answer
BACKEND = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
HOST = re.compile(r"(?:tcp|ssh)://(?:[^@/]*@)?(?:\[([^\]/]+)\]|([^:/]+))")
CSV_KEYS = ("name", "host", "port", "server", "slot", "zone")
# These are in what the admin exports too.
CSV_OTHERS = ("service", "active", "version")
ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - what Docker says of a port published everywhere


class SourceError(ValueError):
    """A source can't be read, or says what no instance can be made of."""


def as_name(text: str) -> str:
    """Return `text` as an instance may be called: lower-case letters, digits and '-'."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def as_port(raw: Any, name: str) -> int:
    """Return the port that `raw` tells; raise SourceError, naming whose it is."""
    text = "" if raw is None or isinstance(raw, bool) else str(raw).strip()
    if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535:
        return int(text)
    if not text:
        raise SourceError(f"{name}: no port is known: give one with --port")
    raise SourceError(f"{name}: the port {text[:64]!r} is none: it is from 1 to 65535")


# --- HAProxy


async def from_haproxy(address: str, backend: str, port: int | None) -> list[Json]:
    """Return the servers of `backend`, as `show servers state` tells them; raise SourceError."""
    if not BACKEND.fullmatch(backend):
        raise SourceError("--backend must be the name of a backend, such as app")
    try:
        api = RuntimeApi(Address.parse(address), backend)
        async with asyncio.timeout(TIMEOUT):
            rows = await api.rows()
    except (ValueError, BalancerError) as error:
        raise SourceError(str(error)) from error
    except TimeoutError:
        raise SourceError(f"no answer from {address} within {TIMEOUT:g} s") from None
    return [_server(row, port) for row in rows.values()]


def _server(row: Row, port: int | None) -> Json:
    host = row.domain or row.host
    if not host or "/" in host:
        raise SourceError(f"{row.name}: HAProxy knows no address of it")
    return {
        "name": as_name(row.name),
        "host": host,
        "port": as_port(row.port or port, row.name),
        "server": row.name,
    }


# --- Docker


async def from_docker(
    address: str,
    labels: Sequence[str],
    port: int | None,
    driver: Mapping[str, Any],
    known_hosts: KnownHosts,
) -> list[Json]:
    """Return the running containers that have all `labels`; raise SourceError.

    How the engine is reached, by TLS or SSH, is as the service's `driver` says where that is of
    the kind docker. `port` is the container's, of which only those published count.
    """
    ours = {"kind": "docker", "image": "none:{version}"}
    raw = {**(driver if driver.get("kind") == "docker" else ours), "engine": address}
    if not address.startswith("ssh://"):
        raw.pop("ssh", None)
    try:
        settings = Settings.parse(raw)
    except SettingsError as error:
        raise SourceError(str(error)) from error
    ssh = Ssh(settings.ssh, known_hosts) if settings.ssh else None
    with ThreadPoolExecutor(1) as threads:
        engine = Engine(address, settings, ssh, threads)
        try:
            found = await engine.call(
                lambda client: client.containers(filters={"label": list(labels)})
            )
        except DriverError as error:
            raise SourceError(str(error)) from error
        finally:
            await engine.aclose()
            if ssh:
                await ssh.aclose()
    if not found:
        raise SourceError(f"no container runs at {address} with these labels")
    match = HOST.match(address)
    host = (match[1] or match[2]) if match else "127.0.0.1"
    return [_container(one, host, port) for one in found]


def _container(found: Mapping[str, Any], host: str, port: int | None) -> Json:
    name = str(found["Names"][0]).removeprefix("/")
    entry: Json = {"name": as_name(name), "host": host, "server": name}
    if found.get("HostConfig", {}).get("NetworkMode") == "host":
        return {**entry, "port": as_port(port, name)}
    published = {
        (one["PublicPort"], "" if one.get("IP", "") in ANYWHERE else one["IP"])
        for one in found.get("Ports", ())
        if one.get("PublicPort") and one.get("Type") == "tcp" and port in {None, one["PrivatePort"]}
    }
    if len(published) != 1:
        what = f"port {port}" if port else "port"
        many = "more than one" if published else "no"
        raise SourceError(f"{name} publishes {many} {what}: name the container's with --port")
    [(public, address)] = published
    return {**entry, "host": address or host, "port": public}


# --- CSV


def from_csv(text: str, service: str, port: int | None) -> list[Json]:
    """Return the rows of a file with a row of names; raise SourceError.

    `name` and `host` are needed, and `port` where none is given. Of a file with the column
    `service` those rows are read that are of this one; an empty field is one that is not told.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        names = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as error:
        raise SourceError(f"line {reader.line_num}: {error}") from error
    known = (*CSV_KEYS, *CSV_OTHERS)
    if unknown := [name for name in names if name not in known]:
        raise SourceError(f"unknown columns: {', '.join(unknown)[:200]}; there are: {known}")
    if lacking := [name for name in ("name", "host") if name not in names]:
        raise SourceError(f"the first row must name the columns; there is no {lacking[0]}")
    mine = [row for row in rows if row.get("service") in {None, "", service}]
    return list(_rows(mine, port))


def _rows(rows: Sequence[Mapping[str | Any, Any]], port: int | None) -> Iterator[Json]:
    for row in rows:
        name = row["name"] or ""
        if None in row or None in row.values():
            raise SourceError(f"the row of {name or 'nobody'} has not as many fields as the first")
        entry: Json = {key: row[key] for key in CSV_KEYS if row.get(key)}
        entry["port"] = as_port(row.get("port") or port, name)
        if active := row.get("active", "").lower():
            if active not in {"true", "false"}:
                raise SourceError(f"{name}: active must be true or false")
            entry["active"] = active == "true"
        yield entry
