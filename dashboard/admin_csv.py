"""Instances as CSV: what is exported can be imported again."""

# django-import-export ships no annotations.
# mypy: disallow_subclassing_any=False

import csv
import io
from functools import cached_property
from typing import Any

from django import forms
from django.core import signing
from django.core.exceptions import ValidationError
from django.utils.html import format_html
from import_export import fields, widgets
from import_export.formats import base_formats
from import_export.forms import ConfirmImportForm, ImportForm
from import_export.instance_loaders import BaseInstanceLoader
from import_export.resources import Diff, ModelResource
from import_export.tmp_storages import BaseStorage

from dashboard.admin_keeping import needed_by
from rollouts.models import Instance, Service
from rollouts.trail import shown

COLUMNS = ("service", "name", "host", "port", "server", "slot", "zone", "active", "version")
REQUIRED = ("service", "name", "host", "port")
MAX_BYTES = 1024 * 1024
MAX_ROWS = 5_000
CONFIRMED_WITHIN = 24 * 3600  # seconds after the preview
SALT = "dashboard.admin_csv"


class CSV(base_formats.CSV):
    """The one format that is offered."""

    CONTENT_TYPE = "text/csv; charset=utf-8"


class SignedText(BaseStorage):
    """Keeps what was previewed in the page that asks for the confirmation, compressed and signed.

    So nothing is left behind on a disk, any web process can take the answer, and what is imported
    is what was shown.
    """

    def save(self, data: bytes) -> None:
        """Make a name that says it all."""
        text = data.decode(self.encoding)
        self.name = signing.dumps(text, salt=SALT, compress=True)

    def read(self) -> str:
        """Return the text; raise BadSignature where it is not one that we gave out."""
        return str(signing.loads(self.name, salt=SALT, max_age=CONFIRMED_WITHIN))

    def remove(self) -> None:
        """Nothing was kept."""


class CsvForm(ImportForm):
    """A file whose shape is right; whether its rows are is for the resource to say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["format"].widget = forms.HiddenInput()
        file = self.fields["import_file"]
        file.label = "CSV file"
        file.help_text = "In UTF-8, at most 1 MiB and 5,000 rows."
        file.widget.attrs["accept"] = ".csv,text/csv"

    def clean_import_file(self) -> Any:
        """Refuse what is no CSV with the columns that are needed, and as many values a row."""
        file = self.cleaned_data["import_file"]
        if file.size > MAX_BYTES:
            raise ValidationError("is larger than 1 MiB: split it")
        try:
            text = file.read().decode("utf-8-sig")
            rows = list(csv.reader(io.StringIO(text), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValidationError(f"is no CSV in UTF-8: {error}") from error
        file.seek(0)
        if wrong := _wrong_shape(text, rows):
            raise ValidationError(wrong)
        return file


def _wrong_shape(text: str, rows: list[list[str]]) -> list[str]:
    """Return what is wrong about a table before anybody looks at its values."""
    names = rows[0] if rows else []
    while rows and not rows[-1]:
        rows.pop()
    if unknown := [name for name in names if name not in COLUMNS]:
        return [f"has unknown columns: {', '.join(unknown)[:200]}; known: {', '.join(COLUMNS)}"]
    if missing := [name for name in REQUIRED if name not in names]:
        return [f"lacks columns: {', '.join(missing)}"]
    if len(set(names)) < len(names):
        return ["has a column twice"]
    if len(rows) > MAX_ROWS + 1:
        return ["has more than 5,000 rows: split it"]
    if "\0" in text:
        return ["holds a NUL, which can't be stored"]
    return [
        f"Line {line} has {len(row)} values, not {len(names)}"
        for line, row in enumerate(rows, 1)
        if len(row) != len(names)
    ][:20]


class ConfirmForm(ConfirmImportForm):
    """Takes the preview back; nothing else can be chosen."""

    format = forms.ChoiceField(choices=[("0", "CSV")], widget=forms.HiddenInput)
    resource = forms.ChoiceField(
        choices=[("0", "Instances")], required=False, widget=forms.HiddenInput
    )


class Value(widgets.Widget):
    """Text as the model's own field reads it, so that forms and files take the same."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.field: Any = Instance._meta.get_field(name)

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> Any:
        """Return the value, None for no text where the field is not text; raise ValueError."""
        text = str(value).strip()
        if not text:
            return "" if self.field.empty_strings_allowed else None
        try:
            return self.field.to_python(text.capitalize() if self.field.name == "active" else text)
        except ValidationError as error:
            raise ValueError(" ".join(error.messages)) from error

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the value as it can be read again."""
        if isinstance(value, bool):
            return "true" if value else "false"
        return "" if value is None else str(value)


class ServiceName(widgets.Widget):
    """A service by its name; all are read once for a file."""

    @cached_property
    def services(self) -> dict[str, Service]:
        """All services."""
        return {service.name: service for service in Service.objects.all()}

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> Service:
        """Return the service, or say that there is none."""
        found = self.services.get(str(value).strip())
        if found is None:
            raise ValidationError({"service": f"there is no service {str(value)[:64]!r}"})
        return found

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return its name."""
        return str(value or "")


class Loader(BaseInstanceLoader):
    """Finds the instances of a file by service and name, having read them all at once."""

    def __init__(self, resource: Any, dataset: Any = None) -> None:
        super().__init__(resource, dataset)
        stored = Instance.objects.select_related("service")
        self.stored = {(one.service_id, one.name): one for one in stored}

    def get_instance(self, row: Any) -> Instance | None:
        """Return the instance of a row, None for a new one."""
        columns = self.resource.fields
        service = columns["service"].clean(row)
        return self.stored.get((service.pk, columns["name"].clean(row)))


class Changes(Diff):
    """What a row changes, in words and marks: the library's own needs inline styles."""

    def as_html(self) -> list[str]:
        """Return each value, with what it was before where that differs."""
        pairs = zip(self.left, self.right, strict=True)
        return [self._cell(old, new) for old, new in pairs]

    def _cell(self, old: str, new: str) -> str:
        if self.new:
            return format_html("<ins>{}</ins>", new) if new else ""
        if old == new:
            return format_html("{}", new)
        return format_html("<del>{}</del> → <ins>{}</ins>", shown(old), shown(new))


class InstanceResource(ModelResource):
    """A row each; which one it is say `service` and `name`, and `version` is only exported."""

    service = fields.Field("service", "service", ServiceName())
    name = fields.Field("name", "name", Value("name"))
    host = fields.Field("hostname", "host", Value("hostname"))
    port = fields.Field("port", "port", Value("port"))
    server = fields.Field("server", "server", Value("server"))
    slot = fields.Field("slot", "slot", Value("slot"))
    zone = fields.Field("zone", "zone", Value("zone"))
    active = fields.Field("active", "active", Value("active"), saves_null_values=False)
    version = fields.Field("version", "version", readonly=True)

    class Meta:
        model = Instance
        name = "Instances"
        fields = COLUMNS
        import_order = COLUMNS[:-1]
        export_order = COLUMNS
        import_id_fields = ("service", "name")
        instance_loader_class = Loader
        clean_model_instances = True
        skip_unchanged = True
        report_skipped = False
        use_transactions = True

    @classmethod
    def get_diff_class(cls) -> type[Diff]:
        """Return ours."""
        return Changes

    def get_import_fields(self) -> list[Any]:
        """Return what a file may change."""
        return [self.fields[name] for name in COLUMNS[:-1]]

    def before_import_row(self, row: Any, **kwargs: Any) -> None:
        """Keep the server's name where a row has none: it is never empty."""
        if not row.get("server", "").strip():
            row.pop("server", None)

    def validate_instance(
        self, instance: Any, import_validation_errors: Any = None, validate_unique: bool = True
    ) -> None:
        """Check a row as the forms do, each error by the column that is at fault."""
        errors: dict[str, Any] = {}
        try:
            super().validate_instance(instance, import_validation_errors, validate_unique)
        except ValidationError as error:
            errors = error.update_error_dict({})
        if instance.pk and not instance.active and "active" not in errors:
            was_active = Instance.objects.filter(pk=instance.pk, active=True).exists()
            if was_active and (needed := needed_by([instance])):
                errors["active"] = [ValidationError(needed)]
        if "hostname" in errors:
            errors["host"] = errors.pop("hostname")
        if errors:
            raise ValidationError(errors)
