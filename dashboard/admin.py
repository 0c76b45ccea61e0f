"""Django's own admin: services and their locks here, the rest in modules of its own."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django.contrib import admin, messages
from django.contrib.postgres.aggregates import StringAgg
from django.db.models import Count, JSONField, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join

# Importing registers: the admin finds this module alone by itself.
from dashboard import admin_hosts, admin_records, admin_tokens, admin_trail, admin_users
from dashboard.admin_examples import BALANCERS, DRIVERS, folded, policy_keys
from dashboard.admin_instances import RowForm, lead_to_deploy
from dashboard.admin_keeping import KeptWhileNeeded
from dashboard.admin_service_parts import DeployingFilter, LockFilter, ServiceForm, Settings
from rollouts.models import ACTIVE_VALUES, Deployment, Instance, Service

__all__ = [
    "ServiceAdmin",
    "admin_hosts",
    "admin_records",
    "admin_tokens",
    "admin_trail",
    "admin_users",
]

# A browser may send 1,000 fields; with more instances they are edited one by one.
INLINE_INSTANCES = 50
LAST = 5  # deployments on the page of a service


class InstanceInline(admin.TabularInline):
    """The instances of a service that has few; deleting them is done in their own list."""

    model = Instance
    form = RowForm
    fields = ["name", "hostname", "port", "server", "slot", "zone", "active", "version"]
    readonly_fields = ["version"]
    extra = 0
    can_delete = False
    show_change_link = True


@admin.register(Service)
class ServiceAdmin(KeptWhileNeeded):
    """Services with their adapters, default policy, lock and, where few, instances."""

    form = ServiceForm
    formfield_overrides = {
        **KeptWhileNeeded.formfield_overrides,
        JSONField: {"form_class": Settings},
    }
    inlines = [InstanceInline]
    list_display = ["name", "versions", "instance_count", "lock", "last_deployment"]
    list_filter = [LockFilter, DeployingFilter]
    list_per_page = 50
    search_fields = ["name", "instances__name", "instances__hostname"]
    search_help_text = "A service, or the name or host of one of its instances"
    readonly_fields = [
        "locked_by",
        "created_at",
        "dashboard_link",
        "instance_link",
        "last_deployments",
        "live_slot",
    ]
    actions = ["delete_selected"]
    fieldsets = [
        (None, {"fields": ["name", "dashboard_link", "instance_link", "last_deployments"]}),
        ("How an instance gets a version", {"fields": ["driver", "version_source"]}),
        ("How traffic is steered", {"fields": ["balancer"]}),
        ("How it is deployed", {"fields": ["policy"]}),
        ("Slots for blue/green", {"fields": ["live_slot", "preview_url"]}),
        ("Lock", {"fields": ["locked", "lock_reason", "locked_until", "locked_by"]}),
        ("History", {"fields": ["created_at"]}),
    ]

    def get_fieldsets(self, request: HttpRequest, obj: Service | None = None) -> Any:
        """Return the fields in groups, with what can be copied into those of settings."""
        copied = {
            "driver": lambda: folded("Examples of drivers, to copy", DRIVERS),
            "balancer": lambda: folded("Examples of balancers, to copy", BALANCERS),
            "policy": policy_keys,
        }
        groups = []
        for title, options in self.fieldsets or []:
            told = next((copied[name]() for name in options["fields"] if name in copied), "")
            groups.append((title, {**options, "description": told}))
        if obj is None:
            groups[0] = (None, {"fields": ["name"]})
            groups.pop()
        return groups

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

    def response_add(
        self, request: HttpRequest, obj: Service, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Say what comes next: its instances, or the first deployment."""
        answer = super().response_add(request, obj, post_url_continue)
        if obj.instances.exists():
            lead_to_deploy(request, obj)
        else:
            url = reverse("admin:rollouts_instance_add", query={"service": obj.pk})
            words = '{} has no instance yet: <a href="{}">add its first instance</a>.'
            messages.info(request, format_html(words, obj.name, url))
        return answer

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

    @admin.display(description="on the dashboard")
    def dashboard_link(self, service: Any) -> str:
        """Return links to where it is seen and where it is deployed."""
        return format_html(
            '<a href="{}">{}</a> · <a href="{}">Deploy</a>',
            reverse("service", args=[service.name]),
            service.name,
            reverse("deploy", args=[service.name]),
        )

    @admin.display(description="last deployments")
    def last_deployments(self, service: Any) -> str:
        """Return links to the last five, as they are seen on the dashboard."""
        rows = (
            (
                reverse("deployment", args=[one.pk]),
                one.version,
                one.status.replace("_", " "),
                f"{one.created_at:%Y-%m-%d %H:%M} UTC",
                one.started_by,
            )
            for one in service.deployments.order_by("-created_at", "-id")[:LAST]
        )
        items = format_html_join("", '<li><a href="{}">{}</a>: {}, {}, by {}</li>', rows)
        return format_html("<ul>{}</ul>", items) if items else "none yet"

    @admin.display(description="instances")
    def instance_link(self, service: Any) -> str:
        """Return a link to the list of its instances."""
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
