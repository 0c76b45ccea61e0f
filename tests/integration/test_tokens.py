"""Tokens of the REST interface: only a hash is kept, and the user's rights count."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from dashboard.models import ApiToken
from tests.integration.watching import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return make_user("ada")


def test_an_issued_token_is_accepted_as_its_user(user: User) -> None:
    """The plaintext is given once."""
    token, plaintext = ApiToken.issue(user, "ci")
    accepted = ApiToken.accept(plaintext)
    assert accepted == token
    assert accepted is not None
    assert accepted.user == user


def test_the_plaintext_is_stored_nowhere(user: User) -> None:
    """Whoever reads the database can't act with it."""
    _, plaintext = ApiToken.issue(user, "ci")
    [stored] = ApiToken.objects.values()
    assert plaintext not in str(stored)
    assert plaintext.startswith(stored["prefix"])
    assert len(stored["prefix"]) < len(plaintext) / 3
    assert plaintext not in str(ApiToken.objects.get())


def test_two_tokens_differ(user: User) -> None:
    """256 random bits each."""
    plaintexts = {ApiToken.issue(user, "ci")[1] for _ in range(20)}
    assert len(plaintexts) == 20
    assert min(map(len, plaintexts)) >= len("lockgate_") + 43


@pytest.mark.parametrize(
    "change",
    [
        {"revoked": True},
        {"expires_at": timezone.now() - timedelta(seconds=1)},
        {"digest": "0" * 64},
    ],
)
def test_a_token_that_was_ended_is_refused(user: User, change: dict[str, object]) -> None:
    """Revoked, expired, or simply another one."""
    _, plaintext = ApiToken.issue(user, "ci")
    ApiToken.objects.update(**change)
    assert ApiToken.accept(plaintext) is None


def test_a_token_of_an_inactive_user_is_refused(user: User) -> None:
    """Deactivating somebody ends the tokens too."""
    _, plaintext = ApiToken.issue(user, "ci")
    User.objects.update(is_active=False)
    assert ApiToken.accept(plaintext) is None


def test_a_token_with_time_left_is_accepted(user: User) -> None:
    """Until its time is over."""
    _, plaintext = ApiToken.issue(user, "ci", timezone.now() + timedelta(hours=1))
    assert ApiToken.accept(plaintext) is not None


@pytest.mark.parametrize("text", ["", "x", "\udcff", "\0", "x" * 100_000, "' OR 1=1 --"])
def test_nonsense_is_refused(user: User, text: str) -> None:
    """Whatever a header may hold."""
    ApiToken.issue(user, "ci")
    assert ApiToken.accept(text) is None


def test_use_is_noted_at_most_once_a_minute(user: User) -> None:
    """Reading stays cheap, and an unused token can be found."""
    token, plaintext = ApiToken.issue(user, "ci")
    ApiToken.accept(plaintext)
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    ApiToken.accept(plaintext)
    token.refresh_from_db()
    assert token.last_used_at == first
    ApiToken.objects.update(last_used_at=first - timedelta(seconds=61))
    ApiToken.accept(plaintext)
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert token.last_used_at >= first
