"""The admin as an operator meets it: what comes next, what can be copied, what stands where."""

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from dashboard.admin_examples import BALANCERS, DRIVERS
from dashboard.admin_instances import next_name
from rollouts import balancers, drivers
from rollouts.models import Deployment, Event, Instance, Service, Target
from rollouts.policy import KNOBS
from tests.integration.admin_pages import (
    add_url,
    admin,
    errors,
    fields_of,
    list_url,
    make_deployment,
    messages,
    page_url,
    send,
    shop,
    staff,
)
from tests.integration.factories import make_service
from tests.integration.test_admin import NEW_SERVICE

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db


def link_in(words: str) -> str:
    """Return where the only link in `words` goes."""
    [found] = re.findall(r'href="([^"]*)"', words)
    return unescape(found)


def test_from_an_empty_database_each_step_leads_to_the_next(admin: Client) -> None:
    """A service, its instances, the first deployment, without reading anything else."""
    _, told = messages(send(admin, add_url(Service), **NEW_SERVICE))
    assert "blog has no instance yet" in told
    form = link_in(told)
    service = Service.objects.get(name="blog")
    assert fields_of(admin.get(form))["service"] == str(service.pk)
    _, told = messages(send(admin, form, name="web-01", hostname="10.0.0.1", port="80"))
    assert "deploy blog" in told
    assert link_in(told) == reverse("deploy", args=["blog"])
    assert admin.get(link_in(told)).status_code == 200


def test_who_deployed_already_or_may_not_is_led_nowhere(admin: Client, shop: Service) -> None:
    """It would be noise, or a closed door."""
    fields = {"service": shop.pk, "hostname": "10.0.0.1"}
    editor = staff("eddy", "add_instance", "change_instance", "view_instance", "view_service")
    assert len(messages(send(editor, add_url(Instance), **fields, name="a", port="80"))) == 1
    make_deployment(shop)
    assert len(messages(send(admin, add_url(Instance), **fields, name="b", port="81"))) == 1


def test_the_next_instance_is_filled_in_from_the_last(admin: Client, shop: Service) -> None:
    """After a new one and after a changed one: all but the host."""
    given = {"service": shop.pk, "name": "web-09", "hostname": "10.0.0.9", "port": "8080"}
    page = send(admin, add_url(Instance), **given, zone="a", slot="blue", _addanother="1")
    expected = {"service": str(shop.pk), "name": "web-10", "port": "8080", "zone": "a"}
    assert expected.items() <= fields_of(page).items()
    assert fields_of(page)["slot"] == "blue"
    assert fields_of(page)["hostname"] == ""
    page = send(admin, page_url(shop.instances.get(name="web-02")), _addanother="1")
    assert fields_of(page)["name"] == "web-03"


@pytest.mark.parametrize(
    ("name", "following"),
    [("web-07", "web-08"), ("web-99", "web-100"), ("a1b9", "a1b10"), ("web", ""), ("7", "8")],
)
def test_names_are_counted_on(name: str, following: str) -> None:
    """By the number at their end, as wide as it was."""
    assert next_name(name) == following


@pytest.mark.parametrize(
    ("examples", "kinds", "check"),
    [(DRIVERS, drivers.KINDS, drivers.check), (BALANCERS, balancers.KINDS, balancers.check)],
    ids=["drivers", "balancers"],
)
def test_there_is_an_example_of_every_kind_and_each_is_right(
    examples: Any, kinds: Any, check: Any
) -> None:
    """As it is copied."""
    assert examples.keys() == kinds.keys()
    for kind, example in examples.items():
        assert example["kind"] == kind
        check(example)


def test_examples_and_keys_stand_at_their_fields(admin: Client) -> None:
    """With units, in the form of a new service."""
    content = unescape(admin.get(add_url(Service)).content.decode())
    assert '"kind": "webhook"' in content
    assert '"kind": "nginx"' in content
    for knob in KNOBS:
        assert f"<code>{knob.key}</code>" in content


def test_a_wrong_setting_is_shown_again_as_it_was_typed(admin: Client) -> None:
    """With what would be right beside it."""
    typed = '{"kind": "comand",\n "x": 1'
    page = send(admin, add_url(Service), **{**NEW_SERVICE, "driver": typed})
    assert errors(page)["driver"][0].startswith("is no JSON: Expecting ',' delimiter (line 2")
    assert fields_of(page)["driver"] == typed
    page = send(admin, add_url(Service), **{**NEW_SERVICE, "driver": '{"kind": "comand"}'})
    assert errors(page)["driver"] == ["kind: must be one of: command, docker, ssh, webhook"]


@pytest.mark.parametrize(
    ("fields", "key", "shown"),
    [
        ({"seen": {"in_rotation": True}}, "in", "✓ in rotation"),
        ({"seen": {"in_rotation": False}}, "out", "○ out of rotation"),
        ({"seen": {"in_rotation": None}}, "unseen", "? not looked at"),
        ({"seen": {}}, "unseen", "? not looked at"),
        ({"seen": {"in_rotation": True}, "held_out": "sick"}, "held", "– held out"),
        ({"seen": {"in_rotation": True}, "active": False}, "inactive", "· not active"),
    ],
)
def test_the_state_of_an_instance_is_a_glyph_a_word_and_a_filter(
    admin: Client, fields: dict[str, Any], key: str, shown: str
) -> None:
    """One of them each, and the filter finds just those that show it."""
    service = make_service(1)
    Instance.objects.update(**fields)
    for state in ("in", "out", "held", "unseen", "inactive"):
        page = admin.get(list_url(Instance), {"state": state})
        assert page.context["cl"].result_count == (state == key)
    assert f"{shown}</span>" in admin.get(list_url(Instance)).content.decode()
    assert f"{shown}</span>" in admin.get(page_url(service.instances.get())).content.decode()


def test_the_index_goes_by_what_operators_look_for(admin: Client) -> None:
    """Inventory first, then access, what happened, machinery; and a way back."""
    page = admin.get(reverse("admin:index"))
    groups = {
        app["name"]: [one["name"] for one in app["models"]] for app in page.context["app_list"]
    }
    assert list(groups) == ["Inventory", "Access", "What happened", "Machinery"]
    assert groups["Inventory"] == ["Services", "Instances"]
    assert groups["What happened"][0] == "Audit trail"
    content = page.content.decode()
    assert "Lockgate inventory" in content
    assert f'href="{reverse("overview")}">Back to the dashboard' in content


def test_the_index_shows_nothing_that_one_may_not_see() -> None:
    """Nor a group that would be empty."""
    page = staff("vera", "view_instance").get(reverse("admin:index"))
    [group] = page.context["app_list"]
    assert [model["name"] for model in group["models"]] == ["Instances"]


def test_a_service_leads_to_its_page_its_instances_and_its_last_deployments(
    admin: Client, shop: Service
) -> None:
    """On the dashboard, where they are followed."""
    deployment = make_deployment(shop)
    content = admin.get(page_url(shop)).content.decode()
    for url in (
        reverse("service", args=["shop"]),
        reverse("deploy", args=["shop"]),
        reverse("deployment", args=[deployment.pk]),
        f"{list_url(Instance)}?service__id__exact={shop.pk}",
    ):
        assert f'href="{url}"' in content


@pytest.mark.parametrize("model", [Deployment, Target, Event])
def test_records_lead_to_the_dashboard(admin: Client, shop: Service, model: type[Model]) -> None:
    """An event to its own line in the log."""
    deployment = make_deployment(shop)
    content = admin.get(page_url(model._default_manager.all()[0])).content.decode()
    anchor = "#e-1" if model is Event else ""
    assert f'href="/deployments/{deployment.pk}/{anchor}"' in content


def test_rights_are_boxes_and_are_kept(admin: Client) -> None:
    """Of users and of groups."""
    group = Group.objects.create(name="operators")
    user = User.objects.create_user("ada")
    for record in (group, user):
        content = admin.get(page_url(record)).content.decode()
        assert "selectfilter" not in content
        assert 'type="checkbox" name="' in content
    send(admin, page_url(user), groups=str(group.pk), is_staff="on")
    assert list(user.groups.all()) == [group]
