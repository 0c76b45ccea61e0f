"""The audit trail: every change of the inventory, by whichever way, from what to what."""

import json
from pathlib import Path

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse

from rollouts import trail
from rollouts.models import HostKey, Instance, Service
from tests.integration.admin_pages import (
    act,
    add_url,
    admin,
    list_url,
    page_url,
    send,
    shop,
    staff,
)
from tests.integration.factories import DRIVER, NOBODY_THERE, make_service

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2dZqNnOLwyYVAbBYfbXpyFkPxkCcLpSUdJUUWkVYnt"


def entries() -> list[tuple[str, int, str]]:
    """Return what the trail has, oldest first."""
    rows = LogEntry.objects.order_by("pk")
    return list(rows.values_list("object_repr", "action_flag", "change_message"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (80, 8080, "x: 80 → 8080."),
        ("", "a", "x: none → a."),
        (True, False, "x: yes → no."),
        ({"a": 1, "b": [1]}, {"a": 1, "b": [2]}, "x.b: [1] → [2]."),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": "ü"}}, "x.a.c: none → ü."),
        ({}, {"a": 1}, 'x: none → {"a": 1}.'),
        (None, "", ""),
        (trail.NEW, "v", "x: v."),
        ("y" * 300, "z", f"x: {'y' * 200}… → z."),
    ],
)
def test_a_change_is_told_from_what_to_what(old: object, new: object, words: str) -> None:
    """Of settings the keys that differ, and nothing where nothing does."""
    assert trail.differences([("x", old, new)]) == words


def test_the_form_of_an_instance_says_what_it_changed(admin: Client, shop: Service) -> None:
    """And writes nothing when it is sent as it was."""
    first = shop.instances.get(name="web-01")
    send(admin, page_url(first))
    assert entries() == []
    send(admin, page_url(first), port="8080", zone="a")
    assert entries() == [("shop/web-01", CHANGE, "port: 9 → 8080; zone: none → a.")]


def test_the_form_of_a_service_says_which_setting_and_which_instance(
    admin: Client, shop: Service
) -> None:
    """Each of its rows has an entry of its own."""
    driver = {**DRIVER, "update": ["true", "{version}"]}
    send(admin, page_url(shop), driver=json.dumps(driver), **{"instances-1-zone": "b"})
    assert sorted(entries()) == [
        ("shop", CHANGE, 'driver.update: ["true", "{name}", "{version}"] → ["true", "{version}"].'),
        ("shop/web-02", CHANGE, "zone: none → b."),
    ]


def test_what_is_added_and_deleted_is_told(admin: Client, shop: Service) -> None:
    """With what it was made of."""
    fields = {"service": shop.pk, "name": "new", "hostname": "10.0.0.9", "port": "80"}
    send(admin, add_url(Instance), **fields)
    added = "Added: service: shop; name: new; host: 10.0.0.9; port: 80."
    assert entries() == [("shop/new", ADDITION, added)]
    act(admin, "delete_selected", [shop.instances.get(name="new")], post="yes")
    assert entries()[-1][:2] == ("shop/new", DELETION)


def test_an_inventory_file_is_in_the_trail(shop: Service, tmp_path: Path) -> None:
    """What it created, changed and deleted, and nothing of what it only looked at."""
    file = tmp_path / "inventory.yaml"
    first = {"name": "web-01", "host": "127.0.0.1", "port": 8080}
    new = {"name": "web-05", "host": "127.0.0.5", "port": 9}
    made = {"driver": DRIVER, "balancer": NOBODY_THERE, "policy": shop.policy}
    file.write_text(json.dumps({"services": {"shop": {**made, "instances": [first, new]}}}))
    call_command("inventory", str(file), check=True, prune=True)
    assert entries() == []
    call_command("inventory", str(file), prune=True)
    told = {name: (kind, words) for name, kind, words in entries()}
    assert told.keys() == {f"shop/web-0{number}" for number in range(1, 6)}
    kind, words = told["shop/web-01"]
    assert kind == CHANGE
    assert words.startswith("By ")
    assert words.endswith("from a file. port: 9 → 8080.")
    assert told["shop/web-05"][0] == ADDITION
    assert told["shop/web-03"][0] == DELETION


def test_host_keys_confirmed_and_forgotten_by_command_are_in_the_trail() -> None:
    """By who sat at the terminal."""
    key = HostKey.objects.create(host="10.0.0.1", key=KEY, fingerprint="SHA256:x")
    call_command("hostkeys", "confirm", "10.0.0.1", "SHA256:x")
    call_command("hostkeys", "forget", "10.0.0.1")
    assert [(kind, words.split()[0]) for _, kind, words in entries()] == [
        (CHANGE, "Confirmed"),
        (DELETION, "Forgotten"),
    ]
    assert set(LogEntry.objects.values_list("object_id", flat=True)) == {str(key.pk)}


def test_nobody_can_log_in_as_the_command_line(shop: Service) -> None:
    """It stands for whoever sits there, and has no password and no right."""
    trail.note([(shop, "change", "x")])
    user = User.objects.get(username=trail.COMMANDS)
    assert not user.is_active
    assert not user.has_usable_password()
    assert authenticate(HttpRequest(), username=trail.COMMANDS, password="!") is None
    trail.note([(shop, "change", "y")])
    assert User.objects.count() == 1


def test_the_trail_is_a_list_that_is_searched_filtered_and_never_changed(
    admin: Client, shop: Service
) -> None:
    """With a link to what was changed, where that is still there."""
    first = shop.instances.get(name="web-01")
    send(admin, page_url(first), zone="a")
    admin.post(page_url(first, "delete"), {"post": "yes"})
    act(admin, "deactivate", [shop.instances.get(name="web-02")])
    content = admin.get(list_url(LogEntry)).content.decode()
    assert "<h1>Audit trail</h1>" in content
    assert "zone: none → a." in content
    assert page_url(shop.instances.get(name="web-02")) in content

    def found(**query: object) -> int:
        return int(admin.get(list_url(LogEntry), query).context["cl"].result_count)

    assert found(q="web-01") == 2
    assert found(q="Deactivated") == 1
    assert found(action_flag__exact=DELETION) == 1
    assert found(user__id__exact=User.objects.get(username="root").pk) == 3
    entry = LogEntry.objects.latest("pk")
    assert admin.get(page_url(entry)).status_code == 200
    assert admin.post(page_url(entry), {"change_message": "x"}).status_code == 403
    assert admin.post(page_url(entry, "delete"), {"post": "yes"}).status_code == 403
    assert admin.get(add_url(LogEntry)).status_code == 403


def test_the_trail_is_for_those_who_may_view_it(shop: Service) -> None:
    """A right like any other."""
    assert staff("vera", "view_instance").get(list_url(LogEntry)).status_code == 403
    assert staff("otto", "view_logentry").get(list_url(LogEntry)).status_code == 200


def test_500_instances_take_as_many_queries_as_five(
    admin: Client, django_assert_max_num_queries
) -> None:
    """The list, its filters and the trail."""
    many = make_service(0)
    Instance.objects.bulk_create(
        Instance(service=many, name=f"w-{n}", hostname="10.0.0.1", port=n, server=f"w-{n}")
        for n in range(1, 501)
    )
    admin.get(reverse("admin:index"))
    chosen = list(Instance.objects.all()[:100])
    act(admin, "deactivate", chosen)
    for model in (Instance, LogEntry, Service):
        with django_assert_max_num_queries(16):
            assert admin.get(list_url(model)).status_code == 200
