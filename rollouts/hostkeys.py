"""The keys of hosts that are reached over SSH: trusted once a person has confirmed them."""

import base64
import hashlib
from collections.abc import Sequence

from rollouts.models import HostKey

UNCONFIRMED_KEPT = 20  # keys of one host


def fingerprint(key: str) -> str:
    """Return the fingerprint of `key` (`TYPE BASE64`) as `ssh-keygen -lf` shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class ConfirmedHosts:
    """`adapters.KnownHosts` in PostgreSQL."""

    async def keys(self, host: str, port: int) -> Sequence[str]:
        rows = HostKey.objects.filter(host=host, port=port, confirmed_at__isnull=False)
        return [row.key async for row in rows]

    async def met(self, host: str, port: int, key: str) -> None:
        rows = HostKey.objects.filter(host=host, port=port)
        if await rows.filter(confirmed_at__isnull=True).acount() < UNCONFIRMED_KEPT:
            await rows.aget_or_create(
                host=host, port=port, fingerprint=fingerprint(key), defaults={"key": key}
            )
