"""Pages that tell of an error: in the design of all others, each with what to do next."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.views import defaults
from django.views.csrf import csrf_failure

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def request(factory: RequestFactory) -> HttpRequest:
    return factory.get("/")


def in_the_design(answer: HttpResponse, status: int, words: str) -> None:
    """The page has the one stylesheet, a heading in words, and a way out."""
    text = answer.content.decode()
    assert answer.status_code == status
    assert re.search(r'<link rel="stylesheet" href="/static/css/lockgate[^"]*\.css">', text)
    assert len(re.findall(r"<h1[ >]", text)) == 1
    assert words in text
    assert re.search(r'<a href="/(login/)?"', text)


def test_a_missing_page_says_so(client: Client) -> None:
    """To whoever is logged in and to whoever is not."""
    in_the_design(client.get("/nowhere/"), 404, "There is no such page")
    client.force_login(User.objects.create_superuser("ann"))
    in_the_design(client.get("/services/nothing/"), 404, "There is no such page")


def test_a_missing_right_names_who_asked(client: Client) -> None:
    """And says which right it is, and who can give it."""
    client.force_login(User.objects.create_user("eve"))
    answer = client.get("/")
    in_the_design(answer, 403, "An administrator can give the right")
    assert "eve" in answer.text


def test_a_form_without_its_token_is_refused_in_words() -> None:
    """Nothing was done, and the page says how to go on."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ann"))
    in_the_design(client.post("/logout/"), 403, "nothing was done")


def test_what_can_be_drawn_without_anything_is(rf: RequestFactory) -> None:
    """Neither database nor session is needed where the server broke or refuses a token."""
    in_the_design(defaults.server_error(request(rf)), 500, "could not be made")
    in_the_design(csrf_failure(request(rf), reason=""), 403, "nothing was done")


def test_a_request_that_can_t_be_read_is_told(rf: RequestFactory) -> None:
    """With what may have caused it."""
    in_the_design(defaults.bad_request(request(rf), ValueError()), 400, "can't be read")


def test_programs_get_problems_instead(client: Client) -> None:
    """Below /api/ an error is JSON."""
    answer: Any = client.get("/api/v1/nowhere")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
