"""Instances in the admin: in and out of use, in and out of rotation, to and from CSV."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

import re
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html

from dashboard.access import DEPLOY
from dashboard.admin_keeping import KeptWhileNeeded, log_changes, needed_by, tell_refusals
from dashboard.admin_records import Values
from dashboard.admin_transfer import Transfer
from dashboard.fleet_rows import STATES
from rollouts import steering
from rollouts.models import Instance, Service

STATE_FILTERS = {
    "in": Q(active=True, held_out="", seen__in_rotation=True),
    "out": Q(active=True, held_out="", seen__in_rotation=False),
    "held": Q(active=True) & ~Q(held_out=""),
    "unseen": Q(active=True, held_out="")
    & (Q(seen__in_rotation__isnull=True) | Q(seen__in_rotation=None)),
    "inactive": Q(active=False),
}


class InstanceForm(forms.ModelForm):
    """An instance; its service is fixed once it exists, because history refers to both."""

    class Meta:
        help_texts = {
            "name": "Lower-case letters, digits and '-', unique within the service, e.g. web-01.",
            "hostname": "A name or an IP address without a port, e.g. 10.0.0.11.",
            "port": "1 to 65535, where its health check and its traffic go, e.g. 8080.",
            "server": "Its name in the balancer; the same as the name where left empty.",
            "slot": "For blue/green alone: which half of the service it is in.",
            "zone": "Where it runs, e.g. eu-west-1a; a batch can be kept within one zone.",
            "active": "Deployments change active instances and leave others alone.",
        }

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


class RowForm(InstanceForm):
    """An instance as a row under its service, whose fields are named by the columns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = str(field.label or "")


class StateFilter(admin.SimpleListFilter):
    """Instances by how they stood at the last look."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, f"{STATES[key].glyph} {STATES[key].word}") for key in STATE_FILTERS]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(STATE_FILTERS.get(self.value() or "", Q()))


def lead_to_deploy(request: HttpRequest, service: Service) -> None:
    """Tell whoever may deploy where that is, as long as nobody ever did."""
    if request.user.has_perm(DEPLOY) and not service.deployments.exists():
        words = 'When all instances are there: <a href="{}">deploy {}</a>.'
        url = reverse("deploy", args=[service.name])
        messages.info(request, format_html(words, url, service.name))


def next_name(name: str) -> str:
    """Return the name that follows, web-08 after web-07; "" after one without a number."""
    found = re.fullmatch(r"(.*?)([0-9]{1,9})", name)
    return f"{found[1]}{int(found[2]) + 1:0{len(found[2])}}" if found else ""


@admin.register(Instance)
class InstanceAdmin(Transfer, KeptWhileNeeded):
    """Instances of all services."""

    form = InstanceForm
    list_display = ["name", "state", "service", "address", "slot", "zone", "version", "since"]
    list_filter = [
        "service",
        "slot",
        ("zone", Values),
        StateFilter,
        "active",
        ("version", Values),
    ]
    list_select_related = ["service"]
    list_per_page = 100
    search_fields = ["name", "hostname", "server", "zone", "service__name"]
    search_help_text = "A name, host, server, zone or service"
    fieldsets = [
        (None, {"fields": ["service", "name", ("hostname", "port"), "server", "active"]}),
        ("Where it is", {"fields": [("slot", "zone")]}),
        ("What was seen", {"fields": ["state", "version", "version_at"]}),
    ]
    readonly_fields = ["state", "version", "version_at"]
    actions = [
        "activate",
        "deactivate",
        "take_out_of_rotation",
        "put_back",
        "delete_selected",
    ]

    def get_fieldsets(self, request: HttpRequest, obj: Instance | None = None) -> Any:
        """Return all, but of a new one nothing that was never seen."""
        return self.fieldsets if obj else self.fieldsets[:2]

    @admin.display(description="address", ordering="hostname")
    def address(self, instance: Instance) -> str:
        """Return host and port, and the server's name where it is another."""
        other = f" as {instance.server}" if instance.server != instance.name else ""
        return f"{instance.hostname}:{instance.port}{other}"

    @admin.display(description="state", ordering="active")
    def state(self, instance: Instance) -> str:
        """Return how it stood at the last look: glyph and word, and when that was."""
        seen = instance.seen
        if not instance.active:
            look = STATES["inactive"]
        elif instance.held_out:
            look = STATES["held"]
        elif not seen or seen.get("in_rotation") is None:
            look = STATES["unseen"]
        else:
            look = STATES["in" if seen["in_rotation"] else "out"]
        at = parse_datetime(seen.get("at") or "")
        title = f"as of {at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
        return format_html('<span title="{}">{} {}</span>', title, look.glyph, look.word)

    @admin.display(description="since", ordering="version_at")
    def since(self, instance: Instance) -> str:
        """Return when its version was verified."""
        return f"{instance.version_at:%Y-%m-%d %H:%M} UTC" if instance.version_at else ""

    def view_on_site(self, instance: Instance) -> str:
        """Return where its service is seen."""
        return reverse("service", args=[instance.service.name])

    def response_add(
        self, request: HttpRequest, obj: Instance, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Say what comes next, or go on with the next instance."""
        answer = super().response_add(request, obj, post_url_continue)
        lead_to_deploy(request, obj.service)
        return self._next(request, obj, answer)

    def response_change(self, request: HttpRequest, obj: Instance) -> HttpResponse:
        """Go back to the list, or on with the next instance."""
        return self._next(request, obj, super().response_change(request, obj))

    def _next(self, request: HttpRequest, obj: Instance, answer: HttpResponse) -> HttpResponse:
        """Fill in of another instance what it shares with this one."""
        if "_addanother" not in request.POST:
            return answer
        shared = {"service": obj.service_id, "port": obj.port, "slot": obj.slot, "zone": obj.zone}
        query = {key: value for key, value in shared.items() if value}
        url = reverse("admin:rollouts_instance_add", query={**query, "name": next_name(obj.name)})
        return HttpResponseRedirect(url)

    def refusals(self, objects: QuerySet) -> list[str]:
        """Return which active deployment needs which of the instances."""
        return needed_by(objects)

    def has_deploy_permission(self, request: HttpRequest) -> bool:
        """Whether the user may steer traffic."""
        return request.user.has_perm(DEPLOY)

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
