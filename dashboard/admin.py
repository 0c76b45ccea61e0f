"""Django's own admin: services and their locks here, the rest in modules of its own."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.postgres.aggregates import StringAgg
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

# Importing registers: the admin finds this module alone by itself.
from dashboard import admin_hosts, admin_records, admin_tokens, admin_trail
from dashboard.admin_instances import InstanceForm
from dashboard.admin_keeping import KeptWhileNeeded
from rollouts.models import ACTIVE_VALUES, Deployment, Instance, Service

__all__ = ["ServiceAdmin", "admin_hosts", "admin_records", "admin_tokens", "admin_trail"]

# A browser may send 1,000 fields; with more instances they are edited one by one.
INLINE_INSTANCES = 50


class InstanceInline(admin.TabularInline):
    """The instances of a service that has few; deleting them is done in their own list."""

    model = Instance
    form = InstanceForm
    fields = ["name", "hostname", "port", "server", "slot", "zone", "active", "version"]
    readonly_fields = ["version"]
    extra = 0
    can_delete = False
    show_change_link = True


class ServiceForm(forms.ModelForm):
    """A service; what may be left empty becomes an empty object."""

    def clean(self) -> dict[str, Any]:
        """Refuse JSON that PostgreSQL can't store, such as a NUL or NaN."""
        cleaned = super().clean() or self.cleaned_data
        for name in ("driver", "balancer", "version_source", "policy"):
            try:
                text = json.dumps(cleaned.get(name), ensure_ascii=False, allow_nan=False)
                storable = "\\u0000" not in text and bool(text.encode())
            except ValueError:
                storable = False
            if not storable:
                self.add_error(name, "holds a character or number that can't be stored")
        return cleaned

    def clean_version_source(self) -> Any:
        """Return the settings, an empty object where nothing was typed."""
        return self.cleaned_data["version_source"] or {}

    def clean_policy(self) -> Any:
        """Return the policy, an empty object where nothing was typed."""
        return self.cleaned_data["policy"] or {}

    def clean_locked_until(self) -> Any:
        """Refuse a new end of the lock that is over already."""
        until = self.cleaned_data["locked_until"]
        if until and "locked_until" in self.changed_data and until <= timezone.now():
            raise forms.ValidationError("must be in the future, or empty for no end")
        return until


class LockFilter(admin.SimpleListFilter):
    """Services by whether their lock holds now."""

    title = "lock"
    parameter_name = "lock"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("held", "Locked now"), ("free", "Free")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        holds = Q(locked=True) & (Q(locked_until__isnull=True) | Q(locked_until__gt=timezone.now()))
        if self.value() == "held":
            return queryset.filter(holds)
        return queryset.exclude(holds) if self.value() == "free" else queryset


class DeployingFilter(admin.SimpleListFilter):
    """Services by whether a deployment of them is active."""

    title = "deployment"
    parameter_name = "deploying"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Running"), ("no", "None running")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        deploying = Deployment.objects.filter(status__in=ACTIVE_VALUES).values("service")
        if self.value() == "yes":
            return queryset.filter(pk__in=deploying)
        return queryset.exclude(pk__in=deploying) if self.value() == "no" else queryset


@admin.register(Service)
class ServiceAdmin(KeptWhileNeeded):
    """Services with their adapters, default policy, lock and, where few, instances."""

    form = ServiceForm
    inlines = [InstanceInline]
    list_display = ["name", "versions", "instance_count", "lock", "last_deployment"]
    list_filter = [LockFilter, DeployingFilter]
    list_per_page = 50
    search_fields = ["name", "instances__name", "instances__hostname"]
    search_help_text = "A service, or the name or host of one of its instances"
    readonly_fields = ["locked_by", "created_at", "instance_link", "live_slot"]
    actions = ["delete_selected"]
    fieldsets = [
        (None, {"fields": ["name", "instance_link", "created_at"]}),
        ("How it is deployed", {"fields": ["driver", "balancer", "version_source", "policy"]}),
        ("Slots for blue/green", {"fields": ["live_slot", "preview_url"]}),
        ("Lock", {"fields": ["locked", "lock_reason", "locked_until", "locked_by"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return services with what the list shows of each, in one query."""
        versions = (
            Instance.objects.filter(service=OuterRef("pk"))
            .exclude(version="")
            .order_by()
            .values("service")
            .annotate(all=StringAgg("version", ", ", distinct=True))
        )
        count = (
            Instance.objects.filter(service=OuterRef("pk"))
            .order_by()
            .values("service")
            .annotate(all=Count("pk"))
        )
        last = Deployment.objects.filter(service=OuterRef("pk")).order_by("-created_at")
        services: QuerySet[Service] = super().get_queryset(request)
        return services.annotate(
            all_versions=Subquery(versions.values("all")),
            instances_in_all=Subquery(count.values("all")),
            last_id=Subquery(last.values("id")[:1]),
            last_status=Subquery(last.values("status")[:1]),
            last_version=Subquery(last.values("version")[:1]),
        )

    def get_inlines(self, request: HttpRequest, obj: Service | None) -> list[Any]:
        """Return the inline of the instances, unless there are more than a form may have.

        What was sent with them is taken with them, however many there are by now.
        """
        if request.method == "POST":
            return self.inlines if "instances-TOTAL_FORMS" in request.POST else []
        many = obj is not None and obj.instances.count() > INLINE_INSTANCES
        return [] if many else self.inlines

    def view_on_site(self, service: Service) -> str:
        """Return where it is deployed."""
        return reverse("service", args=[service.name])

    def save_model(self, request: HttpRequest, obj: Service, form: Any, change: bool) -> None:
        """Store it, and who set the lock."""
        if {"locked", "lock_reason", "locked_until"} & set(form.changed_data):
            obj.locked_by = request.user.get_username() if obj.locked else ""
        if not obj.locked:
            obj.lock_reason = ""
            obj.locked_until = None
        super().save_model(request, obj, form, change)

    def refusals(self, objects: QuerySet) -> list[str]:
        """Return why services can't be deleted: one that deploys, and one with a history."""
        history = (
            Deployment.objects.filter(service__in=objects.values("pk"))
            .order_by("service__name")
            .values("service__name")
            .annotate(
                total=Count("pk"),
                running=StringAgg("pk", ", ", filter=Q(status__in=ACTIVE_VALUES)),
            )
        )
        return [
            f"{row['running']} is running on {row['service__name']}; "
            "wait for its end or stop it first."
            if row["running"]
            else f"{row['service__name']} has a history of {row['total']} deployment(s), which "
            "is kept: deactivate its instances or lock it instead."
            for row in history
        ]

    @admin.display(description="versions", ordering="all_versions")
    def versions(self, service: Any) -> str:
        """Return the versions last verified on its instances."""
        return service.all_versions or ""

    @admin.display(description="instances", ordering="instances_in_all")
    def instance_count(self, service: Any) -> str:
        """Return how many instances it has, as a link to them."""
        return self._instances(service, str(service.instances_in_all or 0))

    @admin.display(description="instances")
    def instance_link(self, service: Any) -> str:
        """Return a link to the list of its instances."""
        if service.pk is None:
            return "Save the service first."
        return self._instances(service, f"All {service.instances.count()}, with actions and CSV")

    def _instances(self, service: Service, words: str) -> str:
        url = reverse("admin:rollouts_instance_changelist")
        return format_html('<a href="{}?service__id__exact={}">{}</a>', url, service.pk, words)

    @admin.display(description="lock", ordering="locked")
    def lock(self, service: Service) -> str:
        """Return who locked it and why, if the lock holds."""
        if not service.lock_holds:
            return ""
        by = f" by {service.locked_by}" if service.locked_by else ""
        return f"locked{by}" + (f": {service.lock_reason}" if service.lock_reason else "")

    @admin.display(description="last deployment", ordering="last_id")
    def last_deployment(self, service: Any) -> str:
        """Return a link to the last deployment and how it stands."""
        if not service.last_id:
            return ""
        url = reverse("admin:rollouts_deployment_change", args=[service.last_id])
        status = service.last_status.replace("_", " ")
        return format_html('<a href="{}">{}: {}</a>', url, service.last_version, status)
