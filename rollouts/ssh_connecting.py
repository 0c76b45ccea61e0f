"""How a host is reached over SSH: settings, keys, host keys. No password, no ~/.ssh, no prompt."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import asyncssh

from rollouts.adapters import KnownHosts, checked, wrong_keys
from rollouts.facts import Instance

CONNECT_TIMEOUT = 10.0  # seconds to a connection that can be used, its jump host's included
KEEPALIVE = 5  # seconds without a word from a host until it is asked for one
KEEPALIVE_COUNT = 2  # questions without an answer until the connection counts as dead

# By preference; no certificates, so that a host shows the key that a person can compare.
HOST_KEY_ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}

# What it says by itself is ten lines a connection, and every command in full.
asyncssh.set_log_level(logging.WARNING)


class SshError(Exception):
    """A host did not do what was asked; the message says why and what to do."""


class SshUnreachable(SshError):
    """A host does not answer: whether something took effect is unknown. Worth repeating."""


class HostKeyRefused(SshError):
    """A host showed a key that nobody confirmed."""


class LoginRefused(SshError):
    """A host does not let us in, or we have no key to try."""


_PLACE = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9]([A-Za-z0-9._-]{0,252})))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Place:
    """Where an sshd listens, and as whom to log in: "" for the worker's own user name."""

    host: str
    port: int = 22
    user: str = ""

    @classmethod
    def parse(cls, text: str, port: int = 22, user: str = "") -> Self:
        """Return what `[USER@]HOST[:PORT]` says, an IPv6 host with a port in brackets.

        What it does not say is `port` and `user`. Raises ValueError with what is right.
        """
        if _BARE_IPV6.fullmatch(text):
            return cls(text, port, user)
        match = _PLACE.fullmatch(text)
        if match is None or not 1 <= int(match["port"] or 1) <= 65535:
            raise ValueError("must be HOST, HOST:PORT or USER@HOST:PORT")
        host = match["bracketed"] or match["host"]
        return cls(host, int(match["port"] or port), match["user"] or user)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 22 else f"{host}:{self.port}"


@dataclass(frozen=True)
class SshSettings:
    """How hosts are reached. `key` is a path on the worker's machine; without one, an agent has it.

    `hosts` says where the sshd of an instance's name or host name is, where it is not at the
    host name itself.
    """

    user: str = ""
    port: int = 22
    key: str = ""
    agent: bool = True
    jump: Place | None = None
    hosts: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Any) -> Self:
        """Return the settings that the mapping `raw` describes, the defaults for None.

        Raises ValueError with what is right about every key that is wrong.
        """
        if raw is None:
            return cls()
        if not isinstance(raw, Mapping):
            raise ValueError('must be a mapping such as {"user": "deploy", "key": "/PATH"}')
        checks = {
            "user": _check_user,
            "port": _check_port,
            "key": _check_key,
            "agent": _check_agent,
            "jump": _check_place,
            "hosts": _check_hosts,
        }
        errors = wrong_keys(raw, required=(), optional=tuple(checks))
        checked(raw, checks, errors)
        if raw.get("agent") is False and "key" not in raw:
            errors["key"] = "is missing: without an agent there has to be one"
        if errors:
            raise ValueError("; ".join(f"{key} {text}" for key, text in errors.items()))
        user, port = raw.get("user", ""), raw.get("port", 22)
        return cls(
            user=user,
            port=port,
            key=raw.get("key", ""),
            agent=raw.get("agent", "key" not in raw),
            jump=Place.parse(raw["jump"], user=user) if "jump" in raw else None,
            hosts={
                name: Place.parse(text, port, user) for name, text in raw.get("hosts", {}).items()
            },
        )

    def host_of(self, instance: Instance) -> str:
        """Return what `place` has to be asked for to find the host of `instance`."""
        return instance.name if instance.name in self.hosts else instance.hostname

    def place(self, host: str) -> Place:
        """Return where the sshd of `host` is, which may say a port; raise ValueError."""
        return self.hosts.get(host) or Place.parse(host, self.port, self.user)


def _check_user(raw: Any) -> None:
    if not isinstance(raw, str) or not _USER.fullmatch(raw):
        raise ValueError("must be a user name such as deploy")


def _check_port(raw: Any) -> None:
    if type(raw) is not int or not 1 <= raw <= 65535:
        raise ValueError("must be an integer from 1 to 65535")


def _check_key(raw: Any) -> None:
    if not isinstance(raw, str) or not raw.startswith("/") or "\0" in raw:
        raise ValueError("must be the absolute path of a private key on the worker's machine")


def _check_agent(raw: Any) -> None:
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")


def _check_place(raw: Any) -> None:
    if not isinstance(raw, str):
        raise ValueError("must be HOST, HOST:PORT or USER@HOST:PORT")
    Place.parse(raw)


def _check_hosts(raw: Any) -> None:
    if not isinstance(raw, Mapping):
        raise ValueError('must map names to hosts, such as {"web-01": "10.0.0.11:2222"}')
    for name, text in raw.items():
        try:
            _check_place(text)
        except ValueError as error:
            raise ValueError(f"{str(name)[:64]} {error}") from None


# Nothing of ~/.ssh, no other way to log in than by a key, and deadlines.
_ALWAYS: dict[str, Any] = {
    "config": None,
    "x509_trusted_certs": None,
    "agent_path": None,
    "preferred_auth": ["publickey"],
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_host": None,
    "gss_kex": False,
    "gss_auth": False,
    "connect_timeout": None,
    "login_timeout": CONNECT_TIMEOUT,
    "keepalive_interval": KEEPALIVE,
    "keepalive_count_max": KEEPALIVE_COUNT,
}


class _Shown(asyncssh.SSHClient):
    """Refuses every host key that was not confirmed, and remembers it."""

    key = ""

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        # Without a comment, which only some formats of a key have.
        self.key = " ".join(key.export_public_key().decode().split()[:2])
        return False


async def connect(
    place: Place,
    settings: SshSettings,
    known_hosts: KnownHosts,
    tunnel: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    """Return a connection to `place`, through `tunnel` where there is one; raise SshError.

    It is the caller's to bound the time.
    """
    confirmed = await known_hosts.keys(place.host, place.port)
    shown = _Shown()
    lacking: list[LoginRefused] = []
    try:
        async with _client_keys(settings, lacking) as keys:
            return await asyncssh.connect(
                place.host,
                place.port,
                tunnel=tunnel or (),
                client_factory=lambda: shown,
                known_hosts=([asyncssh.import_public_key(key) for key in confirmed], [], []),
                server_host_key_algs=_algorithms(confirmed),
                username=place.user or (),
                client_keys=keys or None,  # an empty list would mean those in ~/.ssh
                **_ALWAYS,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        if shown.key:
            await known_hosts.met(place.host, place.port, shown.key)
        raise HostKeyRefused(_refusal(place, shown.key, bool(confirmed))) from error
    except asyncssh.PermissionDenied as error:
        raise (lacking or [LoginRefused(_no_login(place, settings))])[0] from error
    except (OSError, asyncssh.Error, ValueError) as error:
        raise _unreachable(place, tunnel, error) from error


def _algorithms(confirmed: Sequence[str]) -> list[str]:
    """Return all algorithms of host keys, those of the confirmed ones first.

    With those alone a host whose key was changed for one of another type would never show it.
    """
    types = {key.split()[0] for key in confirmed}
    ordered = sorted(HOST_KEY_ALGORITHMS, key=lambda each: each not in types)
    return [name for each in ordered for name in HOST_KEY_ALGORITHMS[each]]


@asynccontextmanager
async def _client_keys(
    settings: SshSettings, lacking: list[LoginRefused]
) -> AsyncIterator[Sequence[Any]]:
    """Yield what to log in with; add to `lacking` why there is less than there should be.

    That is not raised here: the host has to show its key first.
    """
    keys: list[Any] = []
    async with AsyncExitStack() as stack:
        try:
            if settings.key:
                keys.extend(_read_key(settings.key))
            if settings.agent:
                agent = await stack.enter_async_context(await _agent())
                keys.extend(await agent.get_keys())
        except LoginRefused as error:
            lacking.append(error)
        yield keys


async def _agent() -> asyncssh.SSHAgentClient:
    try:
        return await asyncssh.connect_agent()
    except (OSError, asyncssh.Error) as error:
        raise LoginRefused(
            f"the worker reaches no SSH agent ({error}): start it with SSH_AUTH_SOCK set, "
            "or set `key` to the path of a private key in the service's `ssh` settings"
        ) from error


def _read_key(path: str) -> Sequence[Any]:
    try:
        return asyncssh.load_keypairs(path)
    except OSError as error:
        raise LoginRefused(
            f"the key {path} can't be read by the worker ({error.strerror}): put it there, "
            "readable for the worker's user alone"
        ) from error
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        if "passphrase" in str(error).lower():
            raise LoginRefused(
                f"the key {path} is protected by a passphrase: add it to an SSH agent and set "
                "`agent` to true, or use a key without one"
            ) from error
        raise LoginRefused(f"{path} is no private key: {error}") from error


def _refusal(place: Place, key: str, confirmed: bool) -> str:
    if not key:
        return f"{place} showed a host key of an unknown kind: let its sshd offer ssh-ed25519"
    fingerprint = asyncssh.import_public_key(key).get_fingerprint()
    where = (
        f'on the admin page "Host keys" or with `manage.py hostkeys confirm {place} {fingerprint}`'
    )
    if confirmed:
        return (
            f"the host key of {place} HAS CHANGED: it showed {fingerprint}, which is none of the "
            "confirmed ones. Somebody may stand in between. If the host was set up anew, compare "
            f"the fingerprint on the host itself, then confirm it {where}, and forget the old one"
        )
    return (
        f"the host key of {place} is not confirmed: it showed {fingerprint}. Compare that with "
        f"`ssh-keygen -lf` of its key on the host itself, then confirm it {where}"
    )


def _no_login(place: Place, settings: SshSettings) -> str:
    what = f"the key {settings.key}" if settings.key else "any key of the agent"
    user = f"user {place.user}" if place.user else "the worker's own user name"
    return (
        f"{place} does not let {user} in with {what}: add its public key to the "
        "authorized_keys of that user there, or correct `user` and `key` in the `ssh` settings"
    )


def _unreachable(place: Place, tunnel: object, error: Exception) -> SshError:
    through = " from the jump host" if tunnel else ""
    if isinstance(error, socket.gaierror):
        return SshUnreachable(f"the host name {place.host} is unknown{through}: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return SshUnreachable(f"no sshd listens at {place}{through}: start it, or correct `port`")
    if isinstance(error, OSError | asyncssh.ConnectionLost | asyncssh.ChannelOpenError):
        return SshUnreachable(f"{place} can't be reached{through}: {error}")
    return SshError(f"no SSH connection to {place}: {error}")


async def close(connection: asyncssh.SSHClientConnection) -> None:
    """Close `connection`, cut off where the host does not answer within a second."""
    connection.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await connection.wait_closed()
            return
    connection.abort()
