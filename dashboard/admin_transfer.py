"""Lists of the admin that go to CSV and come from it: previewed, then all of a file or nothing."""

# django-import-export ships no annotations.
# mypy: disallow_subclassing_any=False

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.core.signing import BadSignature
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from import_export.admin import ExportActionMixin, ImportMixin

from dashboard import admin_csv
from rollouts import trail


class Transfer(ImportMixin, ExportActionMixin):
    """To be mixed into the admin of instances."""

    resource_classes = [admin_csv.InstanceResource]
    formats = [admin_csv.CSV]
    import_form_class = admin_csv.CsvForm
    confirm_form_class = admin_csv.ConfirmForm
    tmp_storage_class = admin_csv.SignedText
    import_template_name = "admin/import_csv.html"
    import_export_change_list_template = "admin/import_export/change_list_import_export.html"
    change_form_template: Any = None
    skip_export_form = True
    skip_export_form_from_action = True
    show_change_form_export = False

    def has_import_permission(self, request: HttpRequest) -> bool:
        """Whether the user may both add and change."""
        return bool(self.has_add_permission(request) and self.has_change_permission(request))

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Whether the user may see the list."""
        return bool(self.has_view_permission(request))

    def get_export_filename(self, request: HttpRequest, queryset: Any, file_format: Any) -> str:
        """Return the same name each time: what is in it says the rest."""
        return "instances.csv"

    def get_import_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return what the page tells before a file is chosen."""
        return {"columns": admin_csv.COLUMNS, "required": admin_csv.REQUIRED}

    def get_import_data_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        """Have a file with one wrong row change nothing, when it is confirmed too."""
        return {**super().get_import_data_kwargs(**kwargs), "rollback_on_validation_errors": True}

    def process_import(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Import what was previewed, together with its entries in the audit trail."""
        try:
            with transaction.atomic():
                answer: HttpResponse = super().process_import(request, **kwargs)
            return answer
        except BadSignature:
            words = "Nothing was imported: the preview is older than a day. Choose the file again."
            messages.error(request, words)
            return HttpResponseRedirect(reverse("admin:rollouts_instance_import"))

    def process_result(self, result: Any, request: HttpRequest) -> HttpResponse:
        """Go back to the list, or say what became wrong since the preview."""
        if not (result.has_errors() or result.has_validation_errors()):
            answer: HttpResponse = super().process_result(result, request)
            return answer
        context = {
            **self.admin_site.each_context(request),
            **self.get_import_context_data(),
            "title": "Import",
            "opts": self.opts,
            "result": result,
            "form": self.import_form_class(self.get_import_formats(), self.resource_classes),
        }
        return TemplateResponse(request, [self.import_template_name], context)

    def generate_log_entries(self, result: Any, request: HttpRequest) -> None:
        """Write of each row what it changed, from what to what."""
        columns = admin_csv.InstanceResource().get_import_fields()
        told = [_told(row, columns) for row in result]
        trail.write(request.user.pk, told)  # type: ignore[arg-type]  # logged in

    def add_success_message(self, result: Any, request: HttpRequest) -> None:
        """Say how many rows did what."""
        totals = result.totals
        messages.success(
            request,
            f"Imported: {totals['new']} added, {totals['update']} changed, "
            f"{totals['skip']} as they were.",
        )


def _told(row: Any, columns: Sequence[Any]) -> trail.Entry:
    new = row.is_new()
    told = trail.differences(
        (
            field.column_name,
            trail.NEW if new else field.export(row.original),
            field.export(row.instance),
        )
        for field in columns
    )
    if new:
        return row.instance, "create", f"Added from CSV: {told}"
    return row.instance, "change", f"From CSV: {told}"
