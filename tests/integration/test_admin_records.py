"""Deployments, targets, checks and events in the admin: to be read, never to be changed."""

from collections.abc import Callable

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from rollouts.models import Deployment, Event, HealthCheck, Service, Target
from tests.integration.admin_pages import (
    add_url,
    admin,
    list_url,
    make_deployment,
    page_url,
    shop,
    staff,
)

__all__ = ["admin", "shop"]
pytestmark = pytest.mark.django_db

RECORDS: list[type[Model]] = [Deployment, Target, HealthCheck, Event]


@pytest.fixture
def deployment(shop: Service) -> Deployment:
    """One with 300 events, more than a page, and 50 checks of its first target."""
    deployment = make_deployment(shop)
    now = timezone.now()
    Event.objects.bulk_create(
        Event(deployment=deployment, seq=seq, at=now, kind="note", message=f"note {seq}.")
        for seq in range(2, 301)
    )
    Deployment.objects.filter(pk=deployment.pk).update(seq=300)
    target = deployment.targets.get(name="web-01")
    HealthCheck.objects.bulk_create(
        HealthCheck(target=target, at=now, ok=True, status=200, latency_ms=number)
        for number in range(50)
    )
    deployment.refresh_from_db()
    return deployment


@pytest.mark.parametrize("model", RECORDS)
def test_a_record_is_not_added_changed_or_deleted_even_by_a_superuser(
    admin: Client, deployment: Deployment, model: type[Model]
) -> None:
    """Neither by page, by POST nor by an action on the list."""
    record = model._default_manager.first()
    assert record is not None
    before = model._default_manager.count(), model._default_manager.values().get(pk=record.pk)
    assert admin.get(page_url(record)).status_code == 200
    attempts: list[Callable[[], object]] = [
        lambda: admin.get(add_url(model)).status_code,
        lambda: admin.post(add_url(model), {"version": "v3"}).status_code,
        lambda: admin.post(page_url(record), {"status": "completed", "version": "x"}).status_code,
        lambda: admin.get(page_url(record, "delete")).status_code,
        lambda: admin.post(page_url(record, "delete"), {"post": "yes"}).status_code,
    ]
    assert [attempt() for attempt in attempts] == [403] * 5
    bulk = {"action": "delete_selected", "_selected_action": [record.pk], "post": "yes"}
    admin.post(list_url(model), bulk)
    after = model._default_manager.count(), model._default_manager.values().get(pk=record.pk)
    assert after == before


@pytest.mark.parametrize("model", RECORDS)
def test_lists_of_records_answer_in_few_queries(
    admin: Client, deployment: Deployment, model: type[Model], django_assert_max_num_queries
) -> None:
    """However many rows and links they show."""
    with django_assert_max_num_queries(12):
        assert admin.get(list_url(model)).status_code == 200


def test_a_deployment_shows_its_last_events_only_and_links_to_all(
    admin: Client, deployment: Deployment
) -> None:
    """A big one has 10,000."""
    page = admin.get(page_url(deployment))
    content = page.content.decode()
    assert len(content) < 100_000
    [formset] = [one.formset for one in page.context["inline_admin_formsets"]]
    assert [form.instance.seq for form in formset.forms] == list(range(300, 280, -1))
    assert f"?deployment__id__exact={deployment.pk}" in content
    assert "4 pending" in content


def test_a_deployment_leads_to_where_it_is_followed_live(
    admin: Client, deployment: Deployment
) -> None:
    """The admin's own page is a record."""
    assert (
        f'href="/deployments/{deployment.pk}/"' in admin.get(page_url(deployment)).content.decode()
    )


def test_a_target_shows_its_last_checks_only(admin: Client, deployment: Deployment) -> None:
    """And leads to its deployment and instance."""
    target = deployment.targets.get(name="web-01")
    page = admin.get(page_url(target))
    [formset] = [one.formset for one in page.context["inline_admin_formsets"]]
    assert len(formset.forms) == 20
    assert page_url(deployment) in page.content.decode()
    assert page_url(target.instance) in page.content.decode()


@pytest.mark.parametrize(
    ("model", "query", "count"),
    [
        (Deployment, {"q": "shop"}, 1),
        (Deployment, {"q": "v9"}, 0),
        (Deployment, {"status__exact": "in_progress"}, 1),
        (Deployment, {"status__exact": "failed"}, 0),
        (Target, {"q": "web-02"}, 1),
        (Target, {"status__exact": "pending"}, 4),
        (HealthCheck, {"q": "web-01"}, 50),
        (HealthCheck, {"ok__exact": "0"}, 0),
        (Event, {"q": "note 299."}, 1),
        (Event, {"kind": "created"}, 1),
    ],
)
def test_records_are_searched_and_filtered(
    admin: Client, deployment: Deployment, model: type[Model], query: dict[str, str], count: int
) -> None:
    """By what people remember of them."""
    assert admin.get(list_url(model), query).context["cl"].result_count == count


def test_the_links_to_lists_of_one_deployment_and_target_work(
    admin: Client, deployment: Deployment
) -> None:
    """They filter by a relation that no filter offers."""
    one = {"deployment__id__exact": deployment.pk}
    assert admin.get(list_url(Target), one).context["cl"].result_count == 4
    events = admin.get(list_url(Event), {**one, "o": "1"})
    assert events.context["cl"].result_count == 300
    target = deployment.targets.get(name="web-01")
    checks = admin.get(list_url(HealthCheck), {"target__id__exact": target.pk})
    assert checks.context["cl"].result_count == 50


def test_a_message_with_markup_is_text(admin: Client, deployment: Deployment) -> None:
    """In the list and on its page, and cut in the list."""
    event = deployment.events.get(seq=1)
    Event.objects.filter(pk=event.pk).update(message="<script>alert(1)</script>" + "x" * 5_000)
    listed = admin.get(list_url(Event), {"kind": "created"}).content.decode()
    assert "&lt;script&gt;" in listed
    assert "x" * 300 not in listed
    for content in (listed, admin.get(page_url(event)).content.decode()):
        assert "<script>alert" not in content


def test_records_need_the_right_to_view_them(deployment: Deployment) -> None:
    """Each its own."""
    viewer = staff("vera", "view_deployment")
    assert viewer.get(page_url(deployment)).status_code == 200
    assert viewer.get(list_url(Event)).status_code == 403
