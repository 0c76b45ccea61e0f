"""What the inventory refuses to store: by its forms, and around them by the database."""

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from rollouts.models import Deployment, Event, Instance, Service
from rollouts.validators import (
    validate_host,
    validate_label,
    validate_name,
    validate_server,
    validate_version,
)
from tests.integration.admin_pages import (
    add_url,
    admin,
    end,
    errors,
    make_deployment,
    send,
    shop,
)

__all__ = ["admin", "shop"]

HOSTILE = [
    "",
    "1;id",
    "$(id)",
    "`id`",
    "--flag",
    "../x",
    "a b",
    "a\n",
    "a\nb",
    "a\0",
    "{{7*7}}",
    "<script>",
    "'; DROP TABLE x; --",
    "x" * 10_000,
    "٣",  # a digit, but not of ours
    "v１",
    "ｗeb",
    "é",
]
VALIDATORS: dict[str, Callable[[str], None]] = {
    "name": validate_name,
    "server": validate_server,
    "label": validate_label,
    "version": validate_version,
    "host": validate_host,
}


@pytest.mark.parametrize("kind", VALIDATORS)
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_text_is_no_name_host_server_zone_or_version(kind: str, value: str) -> None:
    """A line break at the end included."""
    with pytest.raises(ValidationError):
        VALIDATORS[kind](value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("name", "web-01"),
        ("name", "a"),
        ("name", "a" * 63),
        ("server", "Web_01.a:80"),
        ("label", "eu-west-1a"),
        ("version", "1"),
        ("version", "v42"),
        ("version", "2026.11.3+build_5-rc"),
        ("version", "v" * 128),
        ("host", "10.0.0.11"),
        ("host", "::1"),
        ("host", "web-01.example.com"),
    ],
)
def test_proper_names_pass(kind: str, value: str) -> None:
    """Up to their full length."""
    VALIDATORS[kind](value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("name", "Web"),
        ("name", "-web"),
        ("name", "web-"),
        ("name", "a" * 64),
        ("version", "v" * 129),
        ("version", ".v"),
        ("host", "127.1"),
        ("host", "2130706433"),
        ("host", "0x7f.1"),
        ("host", "0x7f000001"),
        ("host", "http://a"),
        ("host", "a:80"),
        ("host", "a/b"),
        ("host", "user@a"),
        ("host", "[::1]"),
        ("host", "a..b"),
        ("host", "a" * 254),
    ],
)
def test_near_misses_do_not_pass(kind: str, value: str) -> None:
    """Other spellings of loopback included."""
    with pytest.raises(ValidationError):
        VALIDATORS[kind](value)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "web;id"),
        ("name", "web\nx"),
        ("name", "web\0"),
        ("server", "a;disable server"),
        ("server", "a b"),
        ("hostname", "169.254.169.254;x"),
        ("hostname", "2130706433"),
        ("port", "0"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "80a"),
        ("port", "9" * 40),
        ("slot", "red"),
        ("zone", "a;b"),
        ("zone", "x" * 10_000),
    ],
)
def test_the_form_of_an_instance_refuses_it_at_its_field(
    admin: Client, shop: Service, field: str, value: str
) -> None:
    """And stores nothing."""
    proper = {"service": shop.pk, "name": "new", "hostname": "10.0.0.9", "port": "80"}
    page = send(admin, add_url(Instance), **{**proper, field: value})
    assert page.status_code == 200
    assert field in errors(page)
    assert shop.instances.count() == 4


@pytest.mark.django_db
@pytest.mark.parametrize("port", ["٨٠", " 80 "])
def test_a_port_in_other_digits_is_the_same_number(admin: Client, shop: Service, port: str) -> None:
    """What is stored is a number."""
    send(admin, add_url(Instance), service=shop.pk, name="new", hostname="10.0.0.9", port=port)
    assert shop.instances.get(name="new").port == 80


def refused_by_the_database(constraint: str, write: Callable[[], object]) -> None:
    """Check that `write` breaks `constraint`."""
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        write()


@pytest.mark.django_db
def test_the_database_takes_one_active_deployment_of_a_service(shop: Service) -> None:
    """S5; another may follow once it has ended."""
    first = make_deployment(shop, "v2")
    refused_by_the_database(
        "deployment_one_active_per_service", lambda: make_deployment(shop, "v3", "pending")
    )
    end(first)
    make_deployment(shop, "v3")
    refused_by_the_database(
        "deployment_one_active_per_service",
        lambda: Deployment.objects.filter(pk=first.pk).update(status="paused", completed_at=None),
    )


@pytest.mark.django_db
def test_the_database_takes_known_statuses_only(shop: Service) -> None:
    """Of deployments and of targets; and an end exactly where one is due."""
    deployment = make_deployment(shop)
    row = Deployment.objects.filter(pk=deployment.pk)
    refused_by_the_database(
        "deployment_status_known",
        lambda: row.update(status="done", completed_at=timezone.now()),
    )
    refused_by_the_database("target_status_known", lambda: deployment.targets.update(status="ok"))
    matches = "deployment_completed_at_matches_status"
    refused_by_the_database(matches, lambda: row.update(status="completed"))
    refused_by_the_database(matches, lambda: row.update(completed_at=timezone.now()))


@pytest.mark.django_db
def test_the_database_numbers_events_once_from_one(shop: Service) -> None:
    """Within each deployment."""
    deployment = make_deployment(shop)

    def event(seq: int) -> Event:
        return Event.objects.create(deployment=deployment, seq=seq, at=timezone.now(), kind="note")

    refused_by_the_database("event_seq_once", lambda: event(1))
    refused_by_the_database("event_seq_from_one", lambda: event(0))
    event(2)


@pytest.mark.django_db
def test_the_database_refuses_a_broken_inventory(shop: Service) -> None:
    """Whoever writes it, and however."""
    first = Instance.objects.filter(name="web-01")
    refused_by_the_database("instance_port_valid", lambda: first.update(port=0))
    refused_by_the_database("instance_port_valid", lambda: first.update(port=65_536))
    refused_by_the_database("instance_slot_known", lambda: first.update(slot="red"))
    refused_by_the_database("instance_server_named", lambda: first.update(server=""))
    refused_by_the_database("instance_name_once", lambda: first.update(name="web-02"))
    refused_by_the_database("instance_server_once", lambda: first.update(server="web-02"))
    refused_by_the_database("instance_address_once", lambda: first.update(hostname="127.0.0.2"))


@pytest.mark.django_db
def test_a_key_against_double_clicks_is_taken_once_for_a_service(shop: Service) -> None:
    """And the empty one any number of times."""
    first = make_deployment(shop, "v2", idempotency_key="k")
    end(first)
    end(make_deployment(shop, "v2"))
    refused_by_the_database(
        "deployment_idempotency_key_once",
        lambda: make_deployment(shop, "v3", idempotency_key="k"),
    )
