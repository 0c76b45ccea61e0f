"""The audit trail in the admin: who changed what, when, and from what to what."""

# Django's admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch
from django.utils.html import format_html

from dashboard.admin_records import ReadOnly

KINDS = {ADDITION: "+ added", CHANGE: "~ changed", DELETION: "✕ deleted"}


@admin.register(LogEntry)
class TrailAdmin(ReadOnly):
    """Every change of the inventory; for superusers and whoever may view log entries."""

    list_display = ["action_time", "user", "kind", "what", "told"]
    list_display_links = ["action_time"]
    list_filter = [
        "action_time",
        ("user", admin.RelatedOnlyFieldListFilter),
        "action_flag",
        ("content_type", admin.RelatedOnlyFieldListFilter),
    ]
    list_select_related = ["user", "content_type"]
    date_hierarchy = "action_time"
    search_fields = ["object_repr", "change_message", "user__username"]
    search_help_text = "A service, an instance, words of the change, or who made it"
    fields = ["action_time", "user", "kind", "what", "told"]
    readonly_fields = ["kind", "what", "told"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list by its own name."""
        return super().changelist_view(request, {**(extra_context or {}), "heading": "Audit trail"})

    @admin.display(description="kind", ordering="action_flag")
    def kind(self, entry: LogEntry) -> str:
        """Return what was done."""
        return KINDS.get(entry.action_flag, "?")

    @admin.display(description="what", ordering="object_repr")
    def what(self, entry: LogEntry) -> str:
        """Return what was changed, as a link to it where it still can be."""
        kind = entry.content_type.name if entry.content_type else ""
        try:
            url = entry.get_admin_url()
        except NoReverseMatch:
            url = None
        if not url or entry.is_deletion():
            return f"{kind} {entry.object_repr}"
        return format_html('{} <a href="{}">{}</a>', kind, url, entry.object_repr)

    @admin.display(description="change", ordering="change_message")
    def told(self, entry: LogEntry) -> str:
        """Return the change in words."""
        return entry.get_change_message()
