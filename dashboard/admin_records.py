"""Deployments and what happened in them, to be read and never to be changed."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django.contrib import admin
from django.db import models
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from rollouts.models import Deployment, Event, HealthCheck, Target

SHOWN_INLINE = 20  # rows under a deployment or target; the rest is in a list of its own


def link(record: models.Model | None, words: str = "") -> str:
    """Return a link to the admin's page of `record`."""
    if record is None:
        return ""
    meta = record._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[record.pk])
    return format_html('<a href="{}">{}</a>', url, words or str(record))


def link_to_list(model: type[models.Model], words: str, **filters: Any) -> str:
    """Return a link to the admin's list of `model` with `filters` applied."""
    meta = model._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", query=filters)
    return format_html('<a href="{}">{}</a>', url, words)


class Unchangeable:
    """Refuses to add, change and delete, whoever asks and in whatever way."""

    def has_add_permission(self, *args: Any, **kwargs: Any) -> bool:
        """Never."""
        return False

    def has_change_permission(self, *args: Any, **kwargs: Any) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, *args: Any, **kwargs: Any) -> bool:
        """Never."""
        return False


class Values(admin.AllValuesFieldListFilter):
    """Values as they are stored; the empty one has a name too."""

    def choices(self, changelist: Any) -> Any:
        """Yield the links of the filter."""
        for choice in super().choices(changelist):
            yield {**choice, "display": choice["display"] or "none"}


class ReadOnly(Unchangeable, admin.ModelAdmin):
    """Shows rows of which there may be millions."""

    actions = None
    list_per_page = 100
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER


class LatestFormSet(BaseInlineFormSet):
    """The newest rows only: a deployment may have 10,000 events."""

    def get_queryset(self) -> Any:
        """Return at most SHOWN_INLINE rows."""
        if not hasattr(self, "_latest"):
            self._latest = list(super().get_queryset().order_by("-pk")[:SHOWN_INLINE])
        return self._latest


class Latest(Unchangeable, admin.TabularInline):
    """The newest rows of a record, each with a link to its page."""

    formset = LatestFormSet
    max_num = 0
    show_change_link = True


class LatestEvents(Latest):
    """Under a deployment."""

    model = Event
    verbose_name_plural = f"last {SHOWN_INLINE} events"
    fields = readonly_fields = ("seq", "at", "kind", "target", "message")


class LatestChecks(Latest):
    """Under a target."""

    model = HealthCheck
    verbose_name_plural = f"last {SHOWN_INLINE} health checks"
    fields = readonly_fields = ("at", "ok", "status", "latency_ms", "error")


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly):
    """Every deployment, with links to its targets and events."""

    list_display = [
        "id",
        "service",
        "version",
        "previous_version",
        "strategy",
        "status",
        "started_by",
        "created_at",
        "completed_at",
    ]
    list_filter = ["status", "service", "strategy", "created_at"]
    list_select_related = ["service"]
    search_fields = ["id", "version", "service__name", "started_by", "note"]
    search_help_text = "An id, version, service, person or note"
    inlines = [LatestEvents]
    fieldsets = [
        (None, {"fields": ["id", "service_link", "version", "previous_version", "strategy"]}),
        ("State", {"fields": ["status", "reason", "targets", "events", "traffic"]}),
        ("Asked for", {"fields": ["started_by", "note", "wish", "wish_by"]}),
        ("Times", {"fields": ["created_at", "started_at", "waiting_until", "completed_at"]}),
        (
            "As it was frozen",
            {"classes": ["collapse"], "fields": ["policy", "adapters", "plan", "way_back"]},
        ),
    ]
    readonly_fields = ["service_link", "targets", "events"]

    def view_on_site(self, deployment: Deployment) -> str:
        """Return where it is followed live."""
        return reverse("deployment", args=[deployment.pk])

    @admin.display(description="service")
    def service_link(self, deployment: Deployment) -> str:
        """Return a link to the service."""
        return link(deployment.service)

    @admin.display(description="targets")
    def targets(self, deployment: Deployment) -> str:
        """Return how many targets are in which status, as a link to them."""
        counts = (
            Target.objects.filter(deployment=deployment)
            .order_by("status")
            .values_list("status")
            .annotate(models.Count("pk"))
        )
        words = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts)
        return link_to_list(Target, words or "none", deployment__id__exact=deployment.pk)

    @admin.display(description="events")
    def events(self, deployment: Deployment) -> str:
        """Return how many events there are, as a link to them."""
        return link_to_list(
            Event, f"all {deployment.seq}", deployment__id__exact=deployment.pk, o="1"
        )


@admin.register(Target)
class TargetAdmin(ReadOnly):
    """One instance's part in one deployment."""

    list_display = [
        "name",
        "deployment_link",
        "batch",
        "status",
        "old_version",
        "new_version",
        "error",
        "updated_at",
    ]
    list_filter = ["status", ("slot", Values), "deployment__service", "updated_at"]
    list_select_related = ["deployment__service"]
    search_fields = ["=deployment__id", "name", "=hostname", "new_version"]
    search_help_text = "A deployment's id, a name, host or version"
    inlines = [LatestChecks]
    exclude = ["deployment", "instance"]
    readonly_fields = ["deployment_link", "instance_link", "health_checks"]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow the lists of one deployment that its page links to."""
        return lookup == "deployment__id__exact" or super().lookup_allowed(lookup, value, request)

    def view_on_site(self, target: Target) -> str:
        """Return where its deployment is seen."""
        return reverse("deployment", args=[target.deployment_id])

    @admin.display(description="deployment", ordering="deployment")
    def deployment_link(self, target: Target) -> str:
        """Return a link to the deployment."""
        return link(target.deployment)

    @admin.display(description="instance")
    def instance_link(self, target: Target) -> str:
        """Return a link to the instance, where it still exists."""
        return link(target.instance) or "deleted since"

    @admin.display(description="health checks")
    def health_checks(self, target: Target) -> str:
        """Return a link to all of its health checks."""
        return link_to_list(HealthCheck, "all", target__id__exact=target.pk)


@admin.register(HealthCheck)
class HealthCheckAdmin(ReadOnly):
    """Answers of instances to probes."""

    list_display = ["at", "target_link", "deployment_link", "ok", "status", "latency_ms", "error"]
    list_filter = ["ok", "at", "target__deployment__service"]
    list_select_related = ["target__deployment__service"]
    search_fields = ["=target__deployment__id", "=target__name"]
    search_help_text = "A deployment's id or an instance's name, in full"
    ordering = ["-id"]
    exclude = ["target"]
    readonly_fields = ["target_link", "deployment_link"]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow the list of one target that its page links to."""
        return lookup == "target__id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.display(description="target")
    def target_link(self, check: HealthCheck) -> str:
        """Return a link to the target."""
        return link(check.target, check.target.name)

    @admin.display(description="deployment")
    def deployment_link(self, check: HealthCheck) -> str:
        """Return a link to the deployment."""
        return link(check.target.deployment)


@admin.register(Event)
class EventAdmin(ReadOnly):
    """What happened, in the order in which it was stored."""

    list_display = ["seq", "at", "deployment_link", "kind", "target", "short_message"]
    list_display_links = ["seq", "at"]
    list_filter = ["kind", "at", "deployment__service"]
    list_select_related = ["deployment__service"]
    search_fields = ["=deployment__id", "=target", "message"]
    search_help_text = "A deployment's id, an instance's name, or words of the message"
    ordering = ["-id"]
    exclude = ["deployment"]
    readonly_fields = ["deployment_link"]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow the list of one deployment that its page links to."""
        return lookup == "deployment__id__exact" or super().lookup_allowed(lookup, value, request)

    def view_on_site(self, event: Event) -> str:
        """Return its line in the log of its deployment."""
        return f"{reverse('deployment', args=[event.deployment_id])}#e-{event.seq}"

    @admin.display(description="deployment", ordering="deployment")
    def deployment_link(self, event: Event) -> str:
        """Return a link to the deployment."""
        return link(event.deployment)

    @admin.display(description="message")
    def short_message(self, event: Event) -> str:
        """Return the beginning of the message: a driver's output is long."""
        return event.message if len(event.message) <= 200 else event.message[:200] + "…"
