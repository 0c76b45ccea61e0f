"""Instances in the admin: in and out of use, in and out of rotation, to and from CSV."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from dashboard.admin_keeping import KeptWhileNeeded, log_changes, needed_by, tell_refusals
from dashboard.admin_transfer import Transfer
from rollouts import steering
from rollouts.models import Instance


class InstanceForm(forms.ModelForm):
    """An instance; its service is fixed once it exists, because history refers to both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "service" in self.fields:
            # Disabled rather than left out, so that uniqueness within the service is checked.
            self.fields["service"].disabled = True

    def clean_server(self) -> str:
        """Return the name in the balancer, which is the instance's own where left empty."""
        return str(self.cleaned_data["server"] or self.cleaned_data.get("name", ""))

    def clean_active(self) -> bool:
        """Refuse to deactivate what an active deployment needs."""
        active = bool(self.cleaned_data["active"])
        leaves = self.instance.pk and not active and "active" in self.changed_data
        if leaves and (needed := needed_by([self.instance])):
            raise forms.ValidationError(f"Must stay active: {needed[0]}")
        return active


@admin.register(Instance)
class InstanceAdmin(Transfer, KeptWhileNeeded):
    """Instances of all services."""

    form = InstanceForm
    list_display = [
        "name",
        "service",
        "hostname",
        "port",
        "server",
        "slot",
        "zone",
        "active",
        "version",
        "version_at",
    ]
    list_filter = ["service", "slot", "zone", "active", "version"]
    list_select_related = ["service"]
    search_fields = ["name", "hostname", "server", "zone", "service__name"]
    search_help_text = "A name, host, server, zone or service"
    fields = [
        "service",
        "name",
        "hostname",
        "port",
        "server",
        "slot",
        "zone",
        "active",
        "version",
        "version_at",
    ]
    readonly_fields = ["version", "version_at"]
    actions = [
        "activate",
        "deactivate",
        "take_out_of_rotation",
        "put_back",
        "delete_selected",
    ]

    def refusals(self, objects: QuerySet) -> list[str]:
        """Return which active deployment needs which of the instances."""
        return needed_by(objects)

    def has_deploy_permission(self, request: HttpRequest) -> bool:
        """Whether the user may steer traffic."""
        return request.user.has_perm("rollouts.deploy_service")

    @admin.action(permissions=["change"], description="Activate: deployments change them")
    def activate(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        """Make the selected instances part of the next deployments."""
        self._set_active(request, queryset.filter(active=False), active=True)

    @admin.action(permissions=["change"], description="Deactivate: deployments leave them alone")
    def deactivate(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        """Keep the selected instances out of the next deployments."""
        chosen = queryset.filter(active=True)
        needed = needed_by(chosen)
        if not tell_refusals(self, request, "Nothing was deactivated", needed):
            self._set_active(request, chosen, active=False)

    def _set_active(
        self, request: HttpRequest, queryset: QuerySet[Instance], *, active: bool
    ) -> None:
        chosen = list(queryset.select_related("service"))
        word = "Activated" if active else "Deactivated"
        Instance.objects.filter(pk__in=[one.pk for one in chosen]).update(active=active)
        log_changes(request, chosen, f"{word}.")
        names = ", ".join(one.name for one in chosen) or "none: all were so already"
        self.message_user(request, f"{word}: {names}.", messages.SUCCESS)

    @admin.action(permissions=["deploy"], description="Take out of rotation (drain)")
    def take_out_of_rotation(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        """Have the balancer give no new session to the selected instances."""
        self._steer(request, queryset, out=True)

    @admin.action(permissions=["deploy"], description="Put back into rotation")
    def put_back(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        """Have the balancer send traffic to those of the selected instances that are well."""
        self._steer(request, queryset, out=False)

    def _steer(self, request: HttpRequest, queryset: QuerySet[Instance], *, out: bool) -> None:
        outcome = steering.steer(queryset, out=out, by=request.user.get_username())
        words = "Out of rotation" if out else "Back in rotation"
        if outcome.done:
            names = ", ".join(one.name for one in outcome.done)
            log_changes(request, outcome.done, f"{words}.")
            self.message_user(request, f"{words}: {names}.", messages.SUCCESS)
        for sentence in outcome.errors:
            self.message_user(request, sentence, messages.ERROR)
