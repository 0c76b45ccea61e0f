"""Instances to and from CSV in the admin: all of a file, or nothing and every error."""

import csv
import html
import io
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from rollouts.models import Instance, Service
from tests.integration.admin_pages import (
    act,
    admin,
    make_deployment,
    messages,
    shop,
    staff,
)
from tests.integration.factories import make_service

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db

HEAD = "service,name,host,port"


def show(client: Client, text: str | bytes) -> Any:
    """Upload `text` as a file and return the preview of what it would do."""
    data = text if isinstance(text, bytes) else text.encode()
    file = SimpleUploadedFile("instances.csv", data)
    form = {"import_file": file, "format": "0", "resource": "0"}
    return client.post(reverse("admin:rollouts_instance_import"), form)


def confirm(client: Client, preview: Any, **changed: str) -> Any:
    """Press the button of the preview."""
    values = {**preview.context["confirm_form"].initial, **changed}
    return client.post(reverse("admin:rollouts_instance_process_import"), values, follow=True)


def load(client: Client, text: str | bytes) -> Any:
    """Upload `text`, and confirm what was shown."""
    return confirm(client, show(client, text))


def told(page: Any) -> str:
    """Return the page as text without its tags and line breaks."""
    assert page.status_code == 200
    assert "confirm_form" not in page.context
    return " ".join(strip_tags(html.unescape(page.content.decode())).split())


def test_an_export_can_be_imported_again_and_changes_nothing(admin: Client, shop: Service) -> None:
    """With the columns by name; there is nothing to confirm."""
    Instance.objects.filter(name="web-02").update(slot="blue", zone="a", active=False)
    before = list(Instance.objects.values())
    answer = act(admin, "export_admin_action", list(shop.instances.all()))
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
        "active": "false",
        "version": "v1",
    }
    preview = show(admin, answer.content)
    assert "Nothing differs" in preview.content.decode()
    assert messages(confirm(admin, preview)) == ["Imported: 0 added, 0 changed, 4 as they were."]
    assert list(Instance.objects.values()) == before
    assert not LogEntry.objects.exists()


def test_the_list_is_exported_as_it_is_filtered_and_the_selection_as_it_is(
    admin: Client, shop: Service
) -> None:
    """Each at one click."""
    make_service(2, name="blog")
    url = reverse("admin:rollouts_instance_export")
    chosen = admin.get(url, {"service__id__exact": shop.pk, "q": "web-02"})
    picked = act(admin, "export_admin_action", list(shop.instances.filter(name="web-03")))
    for answer, name in ((chosen, "web-02"), (picked, "web-03")):
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert [(row["service"], row["name"]) for row in rows] == [("shop", name)]
    assert len(admin.get(url).content.splitlines()) == 7


def test_nothing_that_a_spreadsheet_would_run_is_exported(admin: Client, shop: Service) -> None:
    """Even where it came into the database around the forms."""
    Instance.objects.filter(name="web-01").update(zone="=1+1")
    answer = act(admin, "export_admin_action", list(shop.instances.all()))
    assert ",=" not in answer.content.decode()


def test_the_preview_shows_what_differs_and_changes_nothing(admin: Client, shop: Service) -> None:
    """Before and after of each value, new rows as such, and how many are as they were."""
    rows = "shop,web-01,127.0.0.1,8080\nshop,web-02,127.0.0.2,9\nshop,web-09,10.0.0.9,80\n"
    preview = show(admin, f"{HEAD}\n{rows}")
    content = preview.content.decode()
    assert "<del>9</del> → <ins>8080</ins>" in content
    assert "<ins>10.0.0.9</ins>" in content
    assert "web-02" not in content
    assert "1 to be added, 1 to be changed" in content
    assert " style=" not in content
    assert shop.instances.count() == 4
    assert shop.instances.get(name="web-01").port == 9
    assert messages(confirm(admin, preview)) == ["Imported: 1 added, 1 changed, 1 as they were."]
    assert shop.instances.get(name="web-01").port == 8080
    entries = dict(LogEntry.objects.values_list("object_repr", "change_message"))
    assert entries["shop/web-01"] == "From CSV: port: 9 → 8080."
    assert entries["shop/web-09"].startswith(
        "Added from CSV: service: shop; name: web-09; host: 10.0.0.9; port: 80; server: web-09"
    )
    assert len(entries) == 2


def test_what_became_wrong_since_the_preview_changes_nothing(admin: Client, shop: Service) -> None:
    """It is checked again as a whole when it is confirmed."""
    preview = show(admin, f"{HEAD}\nshop,web-01,10.0.0.1,80\nshop,web-09,10.0.0.9,80\n")
    shop.instances.filter(name="web-02").update(hostname="10.0.0.9", port=80)
    assert "Line 3 (shop/web-09): Instance with this" in told(confirm(admin, preview))
    assert shop.instances.get(name="web-01").port == 9
    assert shop.instances.count() == 4
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("name", ["passwd", "forged:text:here", "x" * 5_000, "../../etc/passwd"])
def test_only_what_was_previewed_can_be_confirmed(admin: Client, shop: Service, name: str) -> None:
    """No file of the server, and no text that another made up."""
    preview = show(admin, f"{HEAD}\nshop,web-09,10.0.0.9,80\n")
    page = confirm(admin, preview, import_file_name=name)
    assert "Nothing was imported" in messages(page)[0]
    assert shop.instances.count() == 4


def test_a_file_adds_and_changes_instances(admin: Client, shop: Service) -> None:
    """What has no column, or no value, keeps what it was."""
    Instance.objects.filter(name="web-01").update(zone="a")
    page = load(
        admin,
        f"\ufeff{HEAD},active\r\nshop,web-01,10.0.0.1,8080,\r\nshop,web-09,::1,8080,false\r\n",
    )
    assert messages(page) == ["Imported: 1 added, 1 changed, 0 as they were."]
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
        "shop,web-10,10.0.0.5,x",
        "shop,web-11,10.0.0.6,80",
        "shop,web-11,10.0.0.7,80",
        "shop,web-12,,",
    ]
    words = told(show(admin, "\n".join([HEAD, *lines])))
    for expected in (
        "Line 3 (nope/web-01): service: there is no service 'nope'",
        "Line 4 (shop/web;id): name:",
        "Line 5 (shop/web-06): host: must be a host name or an IP address",
        "Line 6 (shop/web-07): port:",
        "Line 7 (shop/web-08): Instance with this Service, Host and Port already exists.",
        "Line 8 (shop/web-10): port: “x” value must be an integer.",
        "Line 10 (shop/web-11): Instance with this Service and Name already exists.",
        "Line 11 (shop/web-12): host: This field cannot be blank.",
        "port: This field cannot be null.",
    ):
        assert expected in words
    assert shop.instances.count() == 4
    assert shop.instances.get(name="web-01").hostname == "127.0.0.1"


@pytest.mark.parametrize("word", ["yes", "maybe", "2"])
def test_active_is_true_or_false_and_nothing_else(admin: Client, shop: Service, word: str) -> None:
    """A word that is neither must not take an instance out of use."""
    page = show(admin, f"{HEAD},active\nshop,web-01,127.0.0.1,9,{word}\n")
    assert "Line 2 (shop/web-01): active:" in told(page)


def test_rows_that_are_as_they_were_cost_no_query_but_a_savepoint(
    admin: Client, shop: Service, django_assert_max_num_queries: Any
) -> None:
    """What is stored is read at once: thousands of rows are taken in seconds."""
    rows = [
        Instance(service=shop, name=f"x-{n}", hostname="10.0.0.1", port=n, server=f"x-{n}")
        for n in range(1, 201)
    ]
    Instance.objects.bulk_create(rows)
    text = "\n".join([HEAD, *(f"shop,x-{n},10.0.0.1,{n}" for n in range(1, 201))])
    with django_assert_max_num_queries(2 * 200 + 20):
        assert "Nothing differs" in show(admin, text).content.decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00", "is no CSV in UTF-8"),
        ("service,name\nshop,web-01\n", "lacks columns: host, port"),
        (f"{HEAD},colour\n", "has unknown columns: colour"),
        (f'{HEAD}\n"shop,web\n', "is no CSV"),
        (f"{HEAD},host\n", "has a column twice"),
        (f"{HEAD}\nshop,web-09\n\nshop,web-10,10.0.0.5,80,a\n\n", "Line 2 has 2 values, not 4"),
        (f"{HEAD}\nshop,web\0,10.0.0.6,80\n", "holds a NUL"),
        (HEAD + "\n" + "shop,web-01,10.0.0.1,80\n" * 5_001, "has more than 5,000 rows"),
        ("x" * (1024 * 1024 + 1), "is larger than 1 MiB"),
        ("", "empty"),
    ],
)
def test_what_is_no_list_of_instances_is_refused(
    admin: Client, shop: Service, text: str | bytes, words: str
) -> None:
    """In words, never with a server error."""
    assert words in told(show(admin, text))


def test_a_file_does_not_deactivate_what_a_deployment_needs(admin: Client, shop: Service) -> None:
    """As little as the form does."""
    deployment = make_deployment(shop)
    page = show(admin, f"{HEAD},active\nshop,web-01,127.0.0.1,9,false\n")
    assert f"{deployment.pk} is running and needs web-01" in told(page)
    assert shop.instances.get(name="web-01").active


def test_an_import_needs_the_rights_to_add_and_to_change(shop: Service) -> None:
    """One of them is not enough."""
    row = f"{HEAD}\nshop,web-09,10.0.0.9,80\n"
    assert show(staff("ann", "add_instance", "view_instance"), row).status_code == 403
    assert show(staff("bob", "change_instance", "view_instance"), row).status_code == 403
    both = staff("eve", "add_instance", "change_instance", "view_instance")
    assert messages(load(both, row)) == ["Imported: 1 added, 0 changed, 0 as they were."]
