"""What can't be deleted or deactivated in the admin, and the words for it."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.db import IntegrityError, models
from django.db.models import ProtectedError, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from rollouts.models import ACTIVE_VALUES, Instance, Target

SHOWN_REFUSALS = 5


def needed_by(instances: Iterable[Instance]) -> list[str]:
    """Return a sentence for each of `instances` that an active deployment needs."""
    needing = (
        Target.objects.filter(
            instance__in=[one.pk for one in instances], deployment__status__in=ACTIVE_VALUES
        )
        .order_by("deployment_id", "position")
        .values_list("deployment_id", "name")
    )
    return [
        f"{deployment} is running and needs {name}; wait for its end or stop it first."
        for deployment, name in needing
    ]


def tell_refusals(
    where: admin.ModelAdmin, request: HttpRequest, nothing_done: str, sentences: list[str]
) -> bool:
    """Show why nothing was done; return whether there was any reason."""
    if sentences:
        hidden = len(sentences) - SHOWN_REFUSALS
        more = f" And {hidden} more." if hidden > 0 else ""
        words = f"{nothing_done}: {' '.join(sentences[:SHOWN_REFUSALS])}{more}"
        where.message_user(request, words, messages.ERROR)
    return bool(sentences)


def log_changes(request: HttpRequest, rows: Sequence[models.Model], words: str) -> None:
    """Have the admin's own history of each of `rows` say who did what."""
    if rows and request.user.pk is not None:
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, words)


class KeptWhileNeeded(admin.ModelAdmin):
    """Says in words why something can't be deleted, before and after the question."""

    def refusals(self, objects: QuerySet) -> list[str]:
        """Return a sentence for each reason to keep one of `objects`."""
        raise NotImplementedError

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Ask and delete one object, or say why it stays."""
        obj = self.get_object(request, unquote(object_id))
        if obj is None or not self.has_delete_permission(request, obj):
            return super().delete_view(request, object_id, extra_context)
        one = self.get_queryset(request).filter(pk=obj.pk)
        if not self._refused(request, one):
            try:
                return super().delete_view(request, object_id, extra_context)
            except (ProtectedError, IntegrityError):
                # A deployment started between the question and the answer.
                self._refused(request, one)
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(name, args=[obj.pk]))

    @admin.action(permissions=["delete"], description="Delete selected %(verbose_name_plural)s")
    def delete_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Ask and delete the selected objects: all of them or none."""
        if self._refused(request, queryset):
            return None
        try:
            return delete_selected(self, request, queryset)
        except (ProtectedError, IntegrityError):
            self._refused(request, queryset)
            return None

    def _refused(self, request: HttpRequest, objects: QuerySet) -> bool:
        return tell_refusals(self, request, "Nothing was deleted", self.refusals(objects))
