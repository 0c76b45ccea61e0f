"""Users and groups in the admin: as Django has them, with rights as boxes for the keyboard."""

# Django's admin classes are generic for mypy alone and take no arguments at runtime.
# mypy: disable-error-code="type-arg"

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import ManyToManyField
from django.forms import CheckboxSelectMultiple

admin.site.unregister(User)
admin.site.unregister(Group)


class Boxes(admin.ModelAdmin):
    """Django's two lists with arrows between them have parts that screen readers can't name."""

    def formfield_for_manytomany(
        self, db_field: ManyToManyField, request: Any = None, **kwargs: Any
    ) -> Any:
        """Return a box for each right or group."""
        kwargs["widget"] = CheckboxSelectMultiple
        return super().formfield_for_manytomany(db_field, request, **kwargs)


@admin.register(User)
class LockgateUserAdmin(Boxes, UserAdmin):
    """Who may log in, and do what."""

    filter_horizontal = ()
    readonly_fields = ["last_login", "date_joined"]


@admin.register(Group)
class LockgateGroupAdmin(Boxes, GroupAdmin):
    """Rights that several users have."""

    filter_horizontal = ()
