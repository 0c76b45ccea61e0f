"""Django's admin as a person uses it: pages fetched, forms sent as they were drawn."""

from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from rollouts import journal
from rollouts.models import Deployment, Service, Target
from tests.integration.factories import make_service


class _Fields(HTMLParser):
    """Collects what a browser would send of the admin's own form."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._area = self._select = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "input" and name and given.get("type") not in {"submit", "file"}:
            if given.get("type") != "checkbox":
                self.values[name] = value
            elif "checked" in given:
                self.values[name] = value or "on"
        elif tag == "textarea":
            self._area = name
            self.values[name] = ""
        elif tag == "select" and "disabled" not in given:
            self._select = name
        elif tag == "option" and self._select and "selected" in given:
            self.values[self._select] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            # A browser drops the line break that a textarea begins with.
            text = self.values[self._area].removeprefix("\r").removeprefix("\n")
            self.values[self._area] = text
            self._area = ""
        elif tag == "select":
            self._select = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area] += data


def fields_of(page: Any) -> dict[str, str]:
    """Return the form on `page` as a browser would send it untouched."""
    parser = _Fields()
    parser.feed(page.content.decode())
    return parser.values


def send(client: Client, url: str, **changes: Any) -> Any:
    """Fetch the form at `url` and send it with `changes`; a change to None leaves a field out."""
    values = {**fields_of(client.get(url)), **changes}
    values = {key: value for key, value in values.items() if value is not None}
    return client.post(url, values, follow=True)


def act(client: Client, action: str, objects: list[Any], **more: str) -> Any:
    """Do `action` on `objects` in their list."""
    data = {"action": action, "_selected_action": [one.pk for one in objects], **more}
    return client.post(list_url(type(objects[0])), data, follow=True)


def list_url(model: type[Model]) -> str:
    """Return where the list of `model` is."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def add_url(model: type[Model]) -> str:
    """Return where a `model` is added."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add")


def page_url(record: Model, page: str = "change") -> str:
    """Return where `record` is changed or deleted."""
    meta = record._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{page}", args=[record.pk])


def messages(page: Any) -> list[str]:
    """Return what the page tells at its top."""
    return [str(message) for message in page.context["messages"]]


def errors(page: Any) -> dict[str, list[str]]:
    """Return the errors of the form on `page`, by field."""
    return dict(page.context["adminform"].errors)


def make_deployment(
    service: Service, version: str = "v2", status: str = "in_progress", **fields: Any
) -> Deployment:
    """Return a stored deployment of all instances, without any plan to follow."""
    deployment = Deployment(
        service=service, version=version, policy={}, plan=[], started_by="ada", **fields
    )
    instances = list(service.instances.all())
    targets = [
        Target(
            deployment=deployment,
            instance=one,
            name=one.name,
            hostname=one.hostname,
            port=one.port,
            server=one.server,
            batch=1,
            position=position,
            old_version=one.version,
            new_version=version,
        )
        for position, one in enumerate(instances)
    ]
    journal.create(deployment, targets, f"ada asked for {version}.")
    if status != "pending":
        Deployment.objects.filter(pk=deployment.pk).update(status=status)
        deployment.refresh_from_db()
    return deployment


def end(deployment: Deployment) -> None:
    """Have it completed."""
    journal.move_now(deployment.pk, journal.DeploymentStatus.COMPLETED, "All went well.")


def staff(username: str, *rights: str) -> Client:
    """Return a client logged in as staff with just these rights, such as view_service."""
    user = User.objects.create_user(username, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def admin() -> Client:
    """A client logged in as the superuser `root`."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def shop() -> Service:
    """A service with four instances."""
    return make_service()
