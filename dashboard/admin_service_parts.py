"""What the list and the form of services are made of: settings as JSON, and filters."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from rollouts.models import ACTIVE_VALUES, Deployment


class Settings(forms.JSONField):
    """An object of settings, indented to be read."""

    widget = forms.Textarea(attrs={"rows": 8, "spellcheck": "false"})

    def to_python(self, value: Any) -> Any:
        """Take blanks alone as nothing, and say where it is no JSON."""
        if isinstance(value, str) and not value.strip():
            return None
        try:
            return super().to_python(value)
        except forms.ValidationError as error:
            try:
                json.loads(value)
            except json.JSONDecodeError as why:
                words = f"is no JSON: {why.msg} (line {why.lineno}, column {why.colno})"
                raise forms.ValidationError(words) from why
            raise error

    def prepare_value(self, value: Any) -> Any:
        """Return it as people write it; what was typed stays as it was typed."""
        if isinstance(value, dict):
            return json.dumps(value, indent=2, ensure_ascii=False) if value else ""
        return super().prepare_value(value)


class ServiceForm(forms.ModelForm):
    """A service; what may be left empty becomes an empty object."""

    class Meta:
        help_texts = {
            "name": "Lower-case letters, digits and '-', e.g. shop.",
            "driver": "How an instance gets a version: an object with a kind.",
            "balancer": "How traffic is steered: an object with a kind.",
            "version_source": 'Where an instance says what it runs, e.g. {"path": "/version"}; '
            "empty where the driver knows.",
            "policy": 'Only the keys that differ from the defaults, e.g. {"batch_size": 2}; '
            "a deployment may choose others.",
            "lock_reason": "Shown to whoever would deploy.",
            "locked_until": "In UTC; empty for until it is unlocked.",
        }

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
