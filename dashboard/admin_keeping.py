"""What can't be deleted or deactivated in the admin, and what its history says of each change."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db import IntegrityError, models
from django.db.models import ProtectedError, QuerySet
from django.forms import SplitDateTimeField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from rollouts.models import ACTIVE_VALUES, Instance, Target
from rollouts.trail import NEW, differences

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


def log_changes(
    request: HttpRequest, rows: Sequence[models.Model], words: str, kind: int = CHANGE
) -> None:
    """Have the audit trail say of each of `rows` who did what."""
    if rows and request.user.pk is not None:
        LogEntry.objects.log_actions(request.user.pk, rows, kind, words)


def changes_of(form: Any, *, new: bool) -> str:
    """Return what a valid form changed, from what to what, or what a new row is."""
    told = differences(_values(form, new=new))
    return f"Added: {told}" if new and told else told


def _values(form: Any, *, new: bool) -> Iterator[tuple[str, Any, Any]]:
    for name in form.changed_data:
        field = form.fields[name]
        old = NEW if new else form.get_initial_for_field(field, name)
        yield str(field.label or name).lower(), old, form.cleaned_data.get(name)


class Moment(AdminSplitDateTime):
    """A date and a time, each with a name of its own."""

    def __init__(self, attrs: Any = None) -> None:
        super().__init__(attrs)
        for widget, name in zip(self.widgets, ("Date", "Time"), strict=True):
            widget.attrs["aria-label"] = name


class Told(admin.ModelAdmin):
    """Its history says what each change was, from what to what."""

    formfield_overrides = {
        models.DateTimeField: {"form_class": SplitDateTimeField, "widget": Moment}
    }

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        """Return the words for the history of what was saved; "" where nothing changed."""
        return changes_of(form, new=add)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Write it down, unless a form was sent as it was."""
        return super().log_change(request, obj, message) if message else None

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Store rows below the object, each with an entry of its own."""
        rows = [(one, one.instance._state.adding) for one in formset.forms if one.has_changed()]
        super().save_formset(request, form, formset, change)
        for one, new in rows:
            if words := changes_of(one, new=new):
                log_changes(request, [one.instance], words, ADDITION if new else CHANGE)


class KeptWhileNeeded(Told):
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
