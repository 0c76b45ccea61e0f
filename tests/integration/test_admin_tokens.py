"""API tokens in the admin: shown once, for oneself, and never by what is stored."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from dashboard.models import ApiToken
from tests.integration.admin_pages import (
    act,
    add_url,
    admin,
    errors,
    list_url,
    messages,
    page_url,
    send,
    staff,
)

__all__ = ["admin"]
pytestmark = pytest.mark.django_db

RIGHTS = ["add_apitoken", "view_apitoken", "change_apitoken"]


def test_a_new_token_is_shown_once_and_works(admin: Client) -> None:
    """In the answer to the form itself, which nobody may keep; then never again."""
    page = send(admin, add_url(ApiToken), name="ci")
    plaintext = page.context["plaintext"]
    token = ApiToken.objects.get()
    assert plaintext in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert "messages" not in page.cookies
    assert ApiToken.accept(plaintext) == token
    for url in (list_url(ApiToken), page_url(token), page_url(token, "history")):
        content = admin.get(url).content.decode()
        assert plaintext not in content
        assert token.digest not in content
        assert "ci" in content


def test_what_is_stored_of_a_token_can_not_be_changed(admin: Client) -> None:
    """Only revoked, which is for good."""
    send(admin, add_url(ApiToken), name="ci")
    token = ApiToken.objects.get()
    before = (token.user, token.name, token.digest, token.prefix)
    other = User.objects.create_user("other")
    send(admin, page_url(token), name="x", digest="0" * 64, prefix="x", user=other.pk)
    send(admin, page_url(token), revoked="on")
    token.refresh_from_db()
    assert (token.user, token.name, token.digest, token.prefix) == before
    assert token.revoked
    send(admin, page_url(token), revoked=None)
    token.refresh_from_db()
    assert token.revoked


def test_selected_tokens_are_revoked_at_once(admin: Client) -> None:
    """They open nothing any more."""
    token, plaintext = ApiToken.issue(User.objects.get(username="root"), "ci")
    assert messages(act(admin, "revoke", [token])) == ["Revoked: 1."]
    assert ApiToken.accept(plaintext) is None


def test_a_token_that_would_be_over_already_is_refused(admin: Client) -> None:
    """Its end lies in the future or nowhere."""
    past = timezone.now() - timedelta(days=1)
    page = send(
        admin,
        add_url(ApiToken),
        name="ci",
        expires_at_0=f"{past:%Y-%m-%d}",
        expires_at_1="00:00:00",
    )
    assert "must be in the future" in errors(page)["expires_at"][0]
    assert not ApiToken.objects.exists()


def test_staff_get_tokens_of_their_own_alone() -> None:
    """A token is all the rights of its user, so nobody makes or sees one of a superuser."""
    root = User.objects.create_superuser("root")
    foreign, _ = ApiToken.issue(root, "of root")
    client = staff("sam", *RIGHTS)
    page = send(client, add_url(ApiToken), name="mine", user=root.pk)
    assert "user" in errors(page)
    send(client, add_url(ApiToken), name="mine")
    assert ApiToken.objects.get(name="mine").user.username == "sam"
    assert "of root" not in client.get(list_url(ApiToken)).content.decode()
    assert client.get(page_url(foreign)).status_code == 302
    act(client, "revoke", [foreign])
    foreign.refresh_from_db()
    assert not foreign.revoked
