"""Instances to and from CSV in the admin: all of a file, or nothing and every error."""

import csv
import io
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from rollouts.models import Instance, Service
from tests.integration.admin_pages import (
    act,
    admin,
    make_deployment,
    messages,
    shop,
    staff,
)

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db

HEAD = "service,name,host,port"


def load(client: Client, text: str | bytes) -> Any:
    """Upload `text` as a file to be imported."""
    data = text if isinstance(text, bytes) else text.encode()
    file = SimpleUploadedFile("instances.csv", data)
    return client.post(reverse("admin:rollouts_instance_import"), {"file": file}, follow=True)


def told(page: Any) -> str:
    """Return the errors on the page of the import."""
    return " | ".join([*page.context["errors"], *page.context["form"].errors.get("file", [])])


def test_an_export_can_be_imported_again_and_changes_nothing(admin: Client, shop: Service) -> None:
    """With the columns by name."""
    Instance.objects.filter(name="web-02").update(slot="blue", zone="a", active=False)
    before = list(Instance.objects.values())
    answer = act(admin, "export_csv", list(shop.instances.all()))
    assert answer["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert rows[1] == {
        "service": "shop",
        "name": "web-02",
        "host": "127.0.0.2",
        "port": "9",
        "server": "web-02",
        "slot": "blue",
        "zone": "a",
        "active": "False",
        "version": "v1",
    }
    assert messages(load(admin, answer.content)) == ["Imported: 0 added, 4 changed."]
    assert list(Instance.objects.values()) == before


def test_a_file_adds_and_changes_instances(admin: Client, shop: Service) -> None:
    """What has no column, or no value, keeps what it was."""
    Instance.objects.filter(name="web-01").update(zone="a")
    page = load(
        admin,
        f"\ufeff{HEAD},active\r\nshop,web-01,10.0.0.1,8080,\r\nshop,web-09,::1,8080,false\r\n",
    )
    assert messages(page) == ["Imported: 1 added, 1 changed."]
    first, new = (shop.instances.get(name=name) for name in ("web-01", "web-09"))
    assert (first.hostname, first.port, first.zone, first.active) == ("10.0.0.1", 8080, "a", True)
    assert (new.hostname, new.server, new.active, new.version) == ("::1", "web-09", False, "")


def test_a_file_with_errors_changes_nothing_and_names_them_all(
    admin: Client, shop: Service
) -> None:
    """By line and field."""
    lines = [
        "shop,web-01,10.0.0.1,80",
        "nope,web-01,10.0.0.2,80",
        "shop,web;id,10.0.0.3,80",
        "shop,web-06,2130706433,80",
        "shop,web-07,10.0.0.4,70000",
        "shop,web-08,10.0.0.1,80",
        "shop,web-09",
        "shop,web-10,10.0.0.5,x",
        "shop,web\0,10.0.0.6,80",
    ]
    words = told(load(admin, "\n".join([HEAD, *lines])))
    for expected in (
        "Line 3: service: there is no 'nope'",
        "Line 4: name:",
        "Line 5: hostname: must be a host name or an IP address",
        "Line 6: port:",
        "Line 7: __all__:",
        "Line 8: has not as many values",
        "Line 9: port:",
        "Line 10: name:",
    ):
        assert expected in words
    assert shop.instances.count() == 4
    assert shop.instances.get(name="web-01").hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00", "is no CSV in UTF-8"),
        ("service,name\nshop,web-01\n", "lacks columns: host, port"),
        (f"{HEAD},colour\n", "has unknown columns: colour"),
        (f'{HEAD}\n"shop,web\n', "is no CSV"),
        (HEAD + "\n" + "shop,web-01,10.0.0.1,80\n" * 5_001, "has more than 5,000 rows"),
        ("x" * (1024 * 1024 + 1), "is larger than 1 MiB"),
        ("", "empty"),
    ],
)
def test_what_is_no_list_of_instances_is_refused(
    admin: Client, shop: Service, text: str | bytes, words: str
) -> None:
    """In words, never with a server error."""
    page = load(admin, text)
    assert page.status_code == 200
    assert words in told(page)


def test_a_file_does_not_deactivate_what_a_deployment_needs(admin: Client, shop: Service) -> None:
    """As little as the form does."""
    deployment = make_deployment(shop)
    page = load(admin, f"{HEAD},active\nshop,web-01,127.0.0.1,9,false\n")
    assert f"{deployment.pk} is running and needs web-01" in told(page)
    assert shop.instances.get(name="web-01").active


def test_an_import_needs_the_rights_to_add_and_to_change(shop: Service) -> None:
    """One of them is not enough."""
    row = f"{HEAD}\nshop,web-09,10.0.0.9,80\n"
    assert load(staff("ann", "add_instance", "view_instance"), row).status_code == 403
    assert load(staff("bob", "change_instance", "view_instance"), row).status_code == 403
    both = staff("eve", "add_instance", "change_instance", "view_instance")
    assert messages(load(both, row)) == ["Imported: 1 added, 0 changed."]
