"""What the web alone stores: tokens for the REST interface."""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import models
from django.db.models import Q
from django.utils import timezone

TOKEN_BYTES = 32
PREFIX = "lockgate_"
PREFIX_SHOWN = len(PREFIX) + 6
USE_NOTED_EVERY = timedelta(minutes=1)


def hashed(plaintext: str) -> str:
    """Return what is stored of a token.

    A plain hash is enough: 256 random bits can't be guessed, so nothing needs to be slow.
    """
    return hashlib.sha256(plaintext.encode("utf-8", "surrogateescape")).hexdigest()


class ApiToken(models.Model):
    """A key to the REST interface: it may do what its user may do, as long as that is so."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    name = models.CharField(max_length=100, help_text="What it is for.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(
        max_length=PREFIX_SHOWN, editable=False, help_text="Its first characters, to know it by."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Never, where empty.")
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked = models.BooleanField(default=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = "API token"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}...)"

    @classmethod
    def issue(
        cls, user: AbstractBaseUser, name: str, expires_at: datetime | None = None
    ) -> tuple["ApiToken", str]:
        """Return a new token and its plaintext, which is not stored and can't be shown again."""
        plaintext = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        token = cls.objects.create(
            user=user,
            name=name,
            digest=hashed(plaintext),
            prefix=plaintext[:PREFIX_SHOWN],
            expires_at=expires_at,
        )
        return token, plaintext

    @classmethod
    def accept(cls, plaintext: str) -> "ApiToken | None":
        """Return the token that may be used now, and note its use; None where it may not."""
        now = timezone.now()
        token = (
            cls.objects.select_related("user")
            .filter(Q(expires_at=None) | Q(expires_at__gt=now))
            .filter(digest=hashed(plaintext), revoked=False, user__is_active=True)
            .first()
        )
        if token is not None:
            token.note_use(now)
        return token

    def note_use(self, now: datetime) -> None:
        """Remember that it was used, at most once a minute: reading must stay cheap."""
        if self.last_used_at is None or now - self.last_used_at >= USE_NOTED_EVERY:
            type(self).objects.filter(pk=self.pk).update(last_used_at=now)
