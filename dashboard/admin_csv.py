"""Instances as CSV: what is exported can be imported again."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from dashboard.admin_keeping import needed_by
from rollouts.models import Instance, Service

# Column -> field; `service` and `name` say which instance, `version` is only exported.
FIELDS = {
    "host": "hostname",
    "port": "port",
    "server": "server",
    "slot": "slot",
    "zone": "zone",
    "active": "active",
}
EMPTIED = {"host", "port", "slot", "zone"}  # the others keep their value where a row has none
COLUMNS = ("service", "name", *FIELDS, "version")
REQUIRED = ("service", "name", "host", "port")
MAX_BYTES = 1024 * 1024
MAX_ROWS = 5_000


def write(target: Any, instances: QuerySet[Instance]) -> None:
    """Write `instances` to the file-like `target`, a row each after a row of names."""
    writer = csv.writer(target)
    writer.writerow(COLUMNS)
    for one in instances.select_related("service"):
        values = [str(getattr(one, name)) for name in FIELDS.values()]
        writer.writerow([one.service.name, one.name, *values, one.version])


class ImportForm(forms.Form):
    """A CSV file; its rows are in `rows` once it is valid."""

    file = forms.FileField(label="CSV file", help_text="At most 1 MiB and 5,000 rows.")
    rows: list[dict[str, Any]]

    def clean_file(self) -> Any:
        """Refuse what is no CSV with the columns that are needed."""
        file = self.cleaned_data["file"]
        if file.size > MAX_BYTES:
            raise ValidationError("is larger than 1 MiB: split it")
        try:
            text = file.read().decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text), strict=True)
            names = list(reader.fieldnames or [])
            self.rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValidationError(f"is no CSV in UTF-8: {error}") from error
        if unknown := [name for name in names if name not in COLUMNS]:
            raise ValidationError(f"has unknown columns: {', '.join(unknown)[:200]}")
        if missing := [name for name in REQUIRED if name not in names]:
            raise ValidationError(f"lacks columns: {', '.join(missing)}")
        if len(self.rows) > MAX_ROWS:
            raise ValidationError("has more than 5,000 rows: split it")
        return file


@dataclass
class Loaded:
    """What an import did: all of it, or nothing where there are `errors`."""

    added: list[Instance] = field(default_factory=list)
    changed: list[Instance] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def load(rows: list[dict[str, Any]]) -> Loaded:
    """Add and change instances to match `rows`; nothing where one of them is wrong."""
    loaded = Loaded()
    services = {service.name: service for service in Service.objects.all()}
    try:
        with transaction.atomic():
            # One after the other, so that each row is checked against those before it.
            for line, row in enumerate(rows, 2):
                _load_row(row, line, services, loaded)
            if loaded.errors:
                transaction.set_rollback(True)
    except IntegrityError as error:
        loaded.errors.append(f"Somebody changed the inventory meanwhile: {error}")
    return loaded


def _load_row(
    row: Mapping[str, Any], line: int, services: Mapping[str, Service], loaded: Loaded
) -> None:
    if None in row or None in row.values():
        loaded.errors.append(f"Line {line}: has not as many values as there are columns.")
        return
    service = services.get(row["service"].strip())
    if service is None:
        loaded.errors.append(f"Line {line}: service: there is no {row['service'][:64]!r}.")
        return
    name = row["name"].strip()
    found = None if "\0" in name else service.instances.filter(name=name).first()
    instance = found or Instance(service=service, name=name)
    was_active = instance.active
    for column, attribute in FIELDS.items():
        value = row.get(column, "").strip()
        if value or (column in row and column in EMPTIED):
            setattr(instance, attribute, value.capitalize() if column == "active" else value)
    try:
        instance.full_clean()
        if found and was_active and not instance.active and (needed := needed_by([instance])):
            raise ValidationError({"active": needed})
    except ValidationError as error:
        for key, words in error.message_dict.items():
            loaded.errors.append(f"Line {line}: {key}: {' '.join(words)}")
        return
    instance.save()
    (loaded.changed if found else loaded.added).append(instance)
