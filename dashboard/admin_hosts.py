"""Host keys in the admin: compared with those of the hosts by a person, and confirmed."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import DELETION
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from dashboard.admin_keeping import log_changes
from rollouts import hostkeys
from rollouts.models import HostKey

FIELDS = ("host", "port", "fingerprint", "key", "met_at", "confirmed_at", "confirmed_by")


class ConfirmedFilter(admin.SimpleListFilter):
    """Keys by whether a person confirmed them."""

    title = "state"
    parameter_name = "confirmed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "Not confirmed"), ("yes", "Confirmed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() in {"yes", "no"}:
            return queryset.filter(confirmed_at__isnull=self.value() == "no")
        return queryset


@admin.register(HostKey)
class HostKeyAdmin(admin.ModelAdmin):
    """What hosts showed; to be confirmed or forgotten, and never to be edited."""

    list_display = ["address", "fingerprint", "kind", "state", "met_at"]
    list_filter = [ConfirmedFilter, "met_at"]
    list_per_page = 100
    search_fields = ["host", "fingerprint", "confirmed_by"]
    search_help_text = "A host, fingerprint, or who confirmed it"
    fields = FIELDS
    readonly_fields = FIELDS
    actions = ["confirm", "forget"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return keys with whether another one of the same host is confirmed."""
        others = HostKey.objects.filter(
            host=OuterRef("host"), port=OuterRef("port"), confirmed_at__isnull=False
        ).exclude(pk=OuterRef("pk"))
        keys: QuerySet[HostKey] = super().get_queryset(request)
        return keys.annotate(has_other=Exists(others))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return our own: `forget` is how keys are deleted."""
        return {
            name: action
            for name, action in super().get_actions(request).items()
            if name != "delete_selected"
        }

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: keys come from hosts."""
        return False

    @admin.display(description="host", ordering="host")
    def address(self, key: HostKey) -> str:
        """Return the host, and its port where that is not the usual one."""
        return key.host if key.port == 22 else f"{key.host}:{key.port}"

    @admin.display(description="type")
    def kind(self, key: HostKey) -> str:
        """Return the key's type."""
        return key.key.split()[0]

    @admin.display(description="state", ordering="confirmed_at")
    def state(self, key: Any) -> str:
        """Return who confirmed it, or what to do."""
        if key.confirmed_at is not None:
            return f"confirmed by {key.confirmed_by} at {key.confirmed_at:%Y-%m-%d %H:%M} UTC"
        if key.has_other:
            return "THE KEY HAS CHANGED: confirm it only if the host was set up anew"
        return "not confirmed: compare it with `ssh-keygen -lf` on the host"

    @admin.action(permissions=["change"], description="Confirm: the fingerprint is the host's own")
    def confirm(self, request: HttpRequest, queryset: QuerySet[HostKey]) -> None:
        """Trust the selected keys."""
        confirmed = hostkeys.confirm(queryset, request.user.get_username())
        log_changes(request, confirmed, "Confirmed.")
        names = ", ".join(map(str, confirmed)) or "none: all were so already"
        self.message_user(request, f"Confirmed: {names}.", messages.SUCCESS)

    @admin.action(permissions=["delete"], description="Forget: trust these keys no more")
    def forget(self, request: HttpRequest, queryset: QuerySet[HostKey]) -> None:
        """Delete the selected keys."""
        chosen = list(queryset)
        log_changes(request, chosen, "Forgotten.", DELETION)
        hostkeys.forget(chosen, request.user.get_username())
        names = ", ".join(map(str, chosen))
        self.message_user(request, f"Forgotten: {names}.", messages.SUCCESS)
