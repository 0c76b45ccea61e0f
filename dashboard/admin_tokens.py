"""API tokens in the admin: issued, shown once, revoked. What is stored is never shown."""

# Django's forms and admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import ForeignKey, QuerySet
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from dashboard.admin_keeping import Told, log_changes
from dashboard.models import ApiToken


class TokenForm(forms.ModelForm):
    """A token that is about to be issued, or may be revoked."""

    def clean_expires_at(self) -> Any:
        """Refuse a token that would be over already."""
        expires = self.cleaned_data["expires_at"]
        if expires and expires <= timezone.now():
            raise forms.ValidationError("must be in the future, or empty for never")
        return expires


@admin.register(ApiToken)
class ApiTokenAdmin(Told):
    """Tokens of everybody for superusers, their own for others: a token is a user's rights."""

    form = TokenForm
    list_display = ["name", "user", "prefix", "created_at", "expires_at", "last_used_at", "revoked"]
    list_filter = ["revoked", "expires_at", "last_used_at"]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    search_help_text = "A name, first characters or user"
    actions = ["revoke"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        """Return the tokens that the user may know of."""
        tokens = super().get_queryset(request)
        return tokens if request.user.is_superuser else tokens.filter(user=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> list[Any]:
        """Return what is asked for of a new token, or shown of another."""
        if obj is None:
            return ["user", "name", "expires_at"]
        return ["user", "name", "prefix", "created_at", "expires_at", "last_used_at", "revoked"]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> list[str]:
        """Return everything but `revoked` once it is issued, and that too once it is set."""
        if obj is None:
            return []
        fields = ["user", "name", "prefix", "created_at", "expires_at", "last_used_at"]
        return [*fields, "revoked"] if obj.revoked else fields

    def formfield_for_foreignkey(
        self, db_field: ForeignKey, request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField | None:
        """Offer everybody to superusers; others get tokens of their own alone."""
        if db_field.name == "user":
            users = db_field.related_model._default_manager.filter(is_active=True)
            if not request.user.is_superuser:
                users = users.filter(pk=request.user.pk)
            kwargs["queryset"] = users
            kwargs["initial"] = request.user.pk
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        """Store a change, or issue a token and keep its plaintext for this one answer."""
        if change:
            super().save_model(request, obj, form, change)
            return
        issued, plaintext = ApiToken.issue(obj.user, obj.name, obj.expires_at)
        obj.__dict__.update(issued.__dict__)
        request.issued_plaintext = plaintext  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the plaintext in the answer itself: a message would pass through a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "The token, shown this once",
            "token": obj,
            "plaintext": request.issued_plaintext,  # type: ignore[attr-defined]
        }
        answer = TemplateResponse(request, "admin/dashboard/apitoken/issued.html", context)
        answer["Cache-Control"] = "no-store"
        return answer

    @admin.action(permissions=["change"], description="Revoke the selected tokens")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        """End the use of the selected tokens at once and for good."""
        chosen = list(queryset.filter(revoked=False))
        ApiToken.objects.filter(pk__in=[one.pk for one in chosen]).update(revoked=True)
        log_changes(request, chosen, "Revoked.")
        self.message_user(request, f"Revoked: {len(chosen)}.", messages.SUCCESS)
