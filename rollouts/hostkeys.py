"""The keys of hosts that are reached over SSH: trusted once a person has confirmed them."""

import base64
import hashlib
import logging
from collections.abc import Iterable, Sequence

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.utils import timezone

from rollouts.models import HostKey

log = logging.getLogger(__name__)

UNCONFIRMED_KEPT = 20  # keys of one host, the last that it showed


def fingerprint(key: str) -> str:
    """Return the fingerprint of `key` (`TYPE BASE64`) as `ssh-keygen -lf` shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def confirm(keys: QuerySet[HostKey], by: str) -> list[HostKey]:
    """Trust those of `keys` that are not confirmed, in the name of `by`; return them."""
    chosen = list(keys.filter(confirmed_at__isnull=True))
    for key in chosen:
        key.confirmed_at = timezone.now()
        key.confirmed_by = by
        key.save(update_fields=["confirmed_at", "confirmed_by"])
        log.warning("the host key %s was confirmed by %s", key, by)
    return chosen


def forget(keys: Iterable[HostKey], by: str) -> None:
    """Trust `keys` no more: a host that shows one of them is unknown again."""
    for key in keys:
        HostKey.objects.filter(pk=key.pk).delete()
        log.warning("the host key %s was forgotten by %s", key, by)


class ConfirmedHosts:
    """`adapters.KnownHosts` in PostgreSQL."""

    async def keys(self, host: str, port: int) -> Sequence[str]:
        rows = HostKey.objects.filter(host=host, port=port, confirmed_at__isnull=False)
        return [row.key async for row in rows]

    async def met(self, host: str, port: int, key: str) -> None:
        await sync_to_async(_met)(host, port, key)


def _met(host: str, port: int, key: str) -> None:
    """Keep `key`, and of what else the host showed, unconfirmed, no more than the last ones."""
    HostKey.objects.update_or_create(
        host=host,
        port=port,
        fingerprint=fingerprint(key),
        defaults={"key": key, "met_at": timezone.now()},
    )
    unconfirmed = HostKey.objects.filter(host=host, port=port, confirmed_at__isnull=True)
    kept = unconfirmed.order_by("-met_at").values_list("pk", flat=True)[:UNCONFIRMED_KEPT]
    unconfirmed.exclude(pk__in=list(kept)).delete()
