"""The inventory in the admin, on real PostgreSQL."""

import json
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from rollouts.models import Deployment, Instance, Service
from tests.integration.admin_pages import (
    act,
    add_url,
    admin,
    end,
    errors,
    list_url,
    make_deployment,
    messages,
    page_url,
    send,
    shop,
    staff,
)
from tests.integration.factories import DRIVER, NOBODY_THERE, make_service

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db

NEW_SERVICE = {
    "name": "blog",
    "driver": json.dumps(DRIVER),
    "balancer": json.dumps(NOBODY_THERE),
    "version_source": "",
    "policy": "",
}


def test_a_service_with_its_instances_is_made_in_one_form(admin: Client) -> None:
    """What was left empty is an empty object, and a server is named after its instance."""
    page = send(
        admin,
        add_url(Service),
        **NEW_SERVICE,
        **{
            "instances-TOTAL_FORMS": "2",
            "instances-0-name": "web-01",
            "instances-0-hostname": "10.0.0.1",
            "instances-0-port": "80",
            "instances-0-active": "on",
            "instances-1-name": "web-02",
            "instances-1-hostname": "10.0.0.2",
            "instances-1-port": "80",
            "instances-1-server": "second",
        },
    )
    assert page.redirect_chain
    service = Service.objects.get(name="blog")
    assert (service.version_source, service.policy) == ({}, {})
    rows = service.instances.values_list("name", "server", "active", "version")
    assert list(rows) == [("web-01", "web-01", True, ""), ("web-02", "second", False, "")]


def test_every_wrong_key_of_the_json_fields_is_named_at_its_field(admin: Client) -> None:
    """All at once."""
    page = send(
        admin,
        add_url(Service),
        name="blog",
        driver='{"kind": "command", "updaet": ["x"]}',
        balancer='{"kind": "haproxy", "addresses": ["nowhere"], "backend": "a;b"}',
        version_source='{"path": "http://169.254.169.254/"}',
        policy='{"batch_size": 0, "colour": "red"}',
    )
    found = {field: " ".join(words) for field, words in errors(page).items()}
    assert set(found) == {"driver", "balancer", "version_source", "policy"}
    assert "updaet: is no setting here" in found["driver"]
    assert "update: is missing" in found["driver"]
    assert "addresses:" in found["balancer"]
    assert "backend:" in found["balancer"]
    assert "path:" in found["version_source"]
    assert "batch_size: must be a whole number from 1" in found["policy"]
    assert "colour: is no key of a policy" in found["policy"]
    assert not Service.objects.exists()


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "{", '{"kind": ["command"]}', "null", "{}"])
def test_a_driver_that_is_no_object_of_a_known_kind_is_refused(admin: Client, text: str) -> None:
    """At its field, never with a server error."""
    page = send(admin, add_url(Service), **{**NEW_SERVICE, "driver": text})
    assert set(errors(page)) == {"driver"}


@pytest.mark.parametrize("field", ["driver", "balancer", "version_source", "policy"])
def test_a_nul_in_json_is_refused_and_not_a_server_error(admin: Client, field: str) -> None:
    """PostgreSQL can't store it."""
    texts = {
        "driver": '{"kind": "command", "update": ["true\\u0000", "{version}"]}',
        "balancer": '{"kind": "haproxy", "addresses": ["unix:/a\\u0000"], "backend": "app"}',
        "version_source": '{"path": "/version", "json": "a\\u0000"}',
        "policy": '{"health_check_path": "/\\u0000"}',
    }
    page = send(admin, add_url(Service), **{**NEW_SERVICE, field: texts[field]})
    assert page.status_code == 200
    assert set(errors(page)) == {field}


def test_the_lock_remembers_who_set_it_and_forgets_all_when_opened(
    admin: Client, shop: Service
) -> None:
    """`locked_by` is never typed."""
    send(admin, page_url(shop), locked="on", lock_reason="freeze", locked_by="mallory")
    shop.refresh_from_db()
    assert (shop.locked, shop.locked_by, shop.lock_reason) == (True, "root", "freeze")
    assert "locked by root: freeze" in admin.get(list_url(Service)).content.decode()
    send(admin, page_url(shop), locked=None)
    shop.refresh_from_db()
    assert (shop.locked, shop.locked_by, shop.lock_reason) == (False, "", "")


def test_who_only_renames_a_locked_service_does_not_become_its_locker(
    admin: Client, shop: Service
) -> None:
    """The lock is as it was."""
    Service.objects.update(locked=True, locked_by="ada", lock_reason="freeze")
    send(admin, page_url(shop), name="shop-2")
    shop.refresh_from_db()
    assert (shop.name, shop.locked_by, shop.lock_reason) == ("shop-2", "ada", "freeze")


def test_a_lock_that_ends_in_the_past_is_refused(admin: Client, shop: Service) -> None:
    """It would lock nothing."""
    past = timezone.now() - timedelta(hours=1)
    page = send(
        admin,
        page_url(shop),
        locked="on",
        locked_until_0=f"{past:%Y-%m-%d}",
        locked_until_1=f"{past:%H:%M:%S}",
    )
    assert "must be in the future" in errors(page)["locked_until"][0]


def test_the_list_of_services_shows_versions_instances_and_the_last_deployment(
    admin: Client, shop: Service
) -> None:
    """In one row."""
    Instance.objects.filter(name="web-01").update(version="v2")
    deployment = make_deployment(shop)
    content = admin.get(list_url(Service)).content.decode()
    assert "v1, v2" in content
    assert f"service__id__exact={shop.pk}" in content
    assert page_url(deployment) in content
    assert "v2: in progress" in content


def test_the_list_of_services_takes_as_many_queries_for_many_as_for_one(
    admin: Client, shop: Service, django_assert_max_num_queries
) -> None:
    """Numbers come with the rows."""
    for number in range(10):
        make_deployment(make_service(2, name=f"other-{number}"))
    with django_assert_max_num_queries(8):
        admin.get(list_url(Service))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "web-03"}, {"shop"}),
        ({"q": "blog"}, {"blog"}),
        ({"lock": "held"}, {"blog"}),
        ({"lock": "free"}, {"shop"}),
        ({"deploying": "yes"}, {"shop"}),
        ({"deploying": "no"}, {"blog"}),
    ],
)
def test_services_are_found_by_name_instance_lock_and_deployment(
    admin: Client, shop: Service, query: dict[str, str], found: set[str]
) -> None:
    """A lock that ran out does not count."""
    make_service(0, name="blog", locked=True)
    Service.objects.filter(pk=shop.pk).update(
        locked=True, locked_until=timezone.now() - timedelta(hours=1)
    )
    make_deployment(shop)
    page = admin.get(list_url(Service), query)
    assert {service.name for service in page.context["cl"].result_list} == found


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"q": "web-02"}, 2),
        ({"q": "127.0.0.1"}, 2),
        ({"slot": "blue"}, 1),
        ({"zone": "a"}, 1),
        ({"active__exact": "0"}, 1),
        ({"version": "v9"}, 1),
        ({"service__name": "blog"}, None),
    ],
)
def test_instances_are_found_by_service_slot_zone_state_and_version(
    admin: Client, shop: Service, query: dict[str, str], count: int | None
) -> None:
    """As filters or as words."""
    make_service(2, name="blog")
    Instance.objects.filter(service=shop, name="web-04").update(
        slot="blue", zone="a", active=False, version="v9"
    )
    if count is None:
        query = {"service__id__exact": str(Service.objects.get(name="blog").pk)}
        count = 2
    page = admin.get(list_url(Instance), query)
    assert page.context["cl"].result_count == count


def test_a_service_with_many_instances_can_still_be_edited(admin: Client) -> None:
    """Its form has no more fields than a browser may send, and leads to the list."""
    big = make_service(60)
    page = admin.get(page_url(big))
    assert "instances-TOTAL_FORMS" not in page.content.decode()
    assert f"service__id__exact={big.pk}" in page.content.decode()
    assert send(admin, page_url(big), lock_reason="", locked="on").redirect_chain
    big.refresh_from_db()
    assert big.locked
    assert big.instances.count() == 60


def test_an_instance_stays_in_its_service_and_unique_there(admin: Client, shop: Service) -> None:
    """A name, server or address that is taken is refused in words."""
    other = make_service(1, name="blog")
    first = shop.instances.get(name="web-01")
    page = send(admin, page_url(first), name="web-02", service=str(other.pk))
    assert "already exists" in str(errors(page))
    page = send(admin, page_url(first), server="web-02")
    assert "already exists" in str(errors(page))
    page = send(admin, page_url(first), hostname="127.0.0.2")
    assert "already exists" in str(errors(page))
    assert send(admin, page_url(first), zone="a", service=str(other.pk)).redirect_chain
    first.refresh_from_db()
    assert (first.service, first.zone) == (shop, "a")


def test_two_new_instances_of_one_form_may_not_share_a_name(admin: Client, shop: Service) -> None:
    """Nor, where left empty, falsely clash over the server."""
    rows = {
        "instances-TOTAL_FORMS": "6",
        **{f"instances-{n}-hostname": f"10.0.0.{n}" for n in (4, 5)},
        **{f"instances-{n}-port": "80" for n in (4, 5)},
        **{f"instances-{n}-active": "on" for n in (4, 5)},
    }
    page = send(admin, page_url(shop), **rows, **{f"instances-{n}-name": "same" for n in (4, 5)})
    assert not page.redirect_chain
    assert shop.instances.count() == 4
    page = send(
        admin, page_url(shop), **rows, **{f"instances-{n}-name": f"new-{n}" for n in (4, 5)}
    )
    assert page.redirect_chain
    assert shop.instances.count() == 6


def test_the_verified_version_can_not_be_typed(admin: Client, shop: Service) -> None:
    """It is what was seen on the instance."""
    first = shop.instances.get(name="web-01")
    send(admin, page_url(first), version="v9", version_at_0="2026-01-01", zone="b")
    first.refresh_from_db()
    assert (first.version, first.version_at, first.zone) == ("v1", None, "b")


def test_instances_are_deactivated_and_activated_and_the_log_says_who(
    admin: Client, shop: Service
) -> None:
    """Both as actions on the list."""
    chosen = list(shop.instances.filter(name__in=["web-01", "web-02"]))
    assert messages(act(admin, "deactivate", chosen)) == ["Deactivated: web-01, web-02."]
    assert shop.instances.filter(active=False).count() == 2
    assert messages(act(admin, "activate", chosen[:1])) == ["Activated: web-01."]
    assert shop.instances.filter(active=False).count() == 1
    assert LogEntry.objects.filter(user__username="root").count() == 3


def test_what_a_running_deployment_needs_is_not_deactivated(admin: Client, shop: Service) -> None:
    """Neither as an action nor in either form; what it does not need is."""
    deployment = make_deployment(shop)
    spare = Instance.objects.create(
        service=shop, name="spare", hostname="10.0.0.9", port=80, server="spare"
    )
    first = shop.instances.get(name="web-01")
    [told] = messages(act(admin, "deactivate", [first, spare]))
    assert f"Nothing was deactivated: {deployment.pk} is running and needs web-01" in told
    page = send(admin, page_url(first), active=None)
    assert "Must stay active" in errors(page)["active"][0]
    page = send(admin, page_url(shop), **{"instances-1-active": None})
    assert "Must stay active" in page.content.decode()
    assert not shop.instances.filter(active=False).exists()
    assert messages(act(admin, "deactivate", [spare])) == ["Deactivated: spare."]
    end(deployment)
    assert messages(act(admin, "deactivate", [first])) == ["Deactivated: web-01."]


def test_what_a_running_deployment_needs_is_not_deleted(admin: Client, shop: Service) -> None:
    """Neither alone nor with others, asked or confirmed, and the words name the deployment."""
    deployment = make_deployment(shop)
    first = shop.instances.get(name="web-01")
    words = f"Nothing was deleted: {deployment.pk} is running and needs web-01"
    spare = Instance.objects.create(
        service=shop, name="spare", hostname="10.0.0.9", port=80, server="spare"
    )
    for page in (
        admin.get(page_url(first, "delete"), follow=True),
        admin.post(page_url(first, "delete"), {"post": "yes"}, follow=True),
        act(admin, "delete_selected", [first, spare]),
        act(admin, "delete_selected", [first, spare], post="yes"),
    ):
        assert messages(page)[0].startswith(words)
    assert shop.instances.count() == 5
    page = act(admin, "delete_selected", list(shop.instances.all()), post="yes")
    assert messages(page)[0].endswith("stop it first.")
    assert shop.instances.count() == 5


def test_an_instance_goes_after_the_deployment_and_history_stays(
    admin: Client, shop: Service
) -> None:
    """The target keeps a copy of where it was."""
    deployment = make_deployment(shop)
    end(deployment)
    first = shop.instances.get(name="web-01")
    assert admin.get(page_url(first, "delete")).status_code == 200
    page = admin.post(page_url(first, "delete"), {"post": "yes"}, follow=True)
    assert "was deleted successfully" in messages(page)[0]
    target = deployment.targets.get(name="web-01")
    assert (target.instance, target.hostname) == (None, "127.0.0.1")
    assert admin.get(page_url(target)).status_code == 200
    page = act(admin, "delete_selected", list(shop.instances.all()), post="yes")
    assert "Successfully deleted 3" in messages(page)[0]


def test_a_deployment_that_starts_between_question_and_answer_is_respected(
    admin: Client, shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refuses what the page did not see, and the page says it in words."""
    first = shop.instances.get(name="web-01")
    original = Instance.delete

    def delete(self: Instance, *args: object, **kwargs: object) -> object:
        make_deployment(shop)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Instance, "delete", delete)
    page = admin.post(page_url(first, "delete"), {"post": "yes"}, follow=True)
    assert page.status_code == 200
    assert shop.instances.filter(pk=first.pk).exists()


def test_a_service_with_history_is_kept_and_the_words_say_what_to_do(
    admin: Client, shop: Service
) -> None:
    """While deploying: which deployment. After: that history is kept."""
    deployment = make_deployment(shop)
    [told] = messages(admin.post(page_url(shop, "delete"), {"post": "yes"}, follow=True))
    assert f"{deployment.pk} is running on shop; wait for its end or stop it first" in told
    end(deployment)
    [told] = messages(act(admin, "delete_selected", [shop], post="yes"))
    assert "shop has a history of 1 deployment(s), which is kept" in told
    assert Service.objects.exists()
    assert Deployment.objects.exists()


def test_a_service_that_was_never_deployed_goes_with_its_instances(
    admin: Client, shop: Service
) -> None:
    """After a page that names them."""
    question = admin.get(page_url(shop, "delete")).content.decode()
    assert "shop/web-01" in question
    admin.post(page_url(shop, "delete"), {"post": "yes"})
    assert not Service.objects.exists()
    assert not Instance.objects.exists()


def test_rights_of_staff_are_obeyed(shop: Service) -> None:
    """A viewer sees, and neither changes nor steers; whoever is no staff sees nothing."""
    viewer = staff("vera", "view_service", "view_instance")
    first = shop.instances.get(name="web-01")
    assert viewer.get(page_url(first)).status_code == 200
    assert viewer.post(page_url(first), {"name": "x"}).status_code == 403
    assert viewer.post(page_url(first, "delete"), {"post": "yes"}).status_code == 403
    offered = viewer.get(list_url(Instance)).content.decode()
    assert 'value="export_admin_action"' in offered
    for action in ("deactivate", "take_out_of_rotation", "put_back", "delete_selected"):
        assert f'value="{action}"' not in offered
        act(viewer, action, [first])
    first.refresh_from_db()
    assert first.active
    assert Client().get(list_url(Instance)).status_code == 302


def test_pages_of_the_admin_have_no_inline_code(admin: Client, shop: Service) -> None:
    """They run under `default-src 'self'`."""
    for url in (list_url(Service), add_url(Service), page_url(shop), list_url(Instance)):
        page = admin.get(url)
        content = page.content.decode()
        assert "default-src 'self'" in page["Content-Security-Policy"]
        assert "<style" not in content
        assert " style=" not in content
        assert " onclick=" not in content
        assert "<script>" not in content


def test_what_people_typed_is_escaped(admin: Client, shop: Service) -> None:
    """A reason with markup in it is text."""
    Service.objects.update(locked=True, locked_by="<b>x", lock_reason="<script>alert(1)</script>")
    content = admin.get(list_url(Service)).content.decode()
    assert "<script>alert" not in content
    assert "&lt;script&gt;alert(1)" in content
