"""Inventory as code: make services and instances match a file, or refuse all of it.

Reading is pure; `reconcile` compares with what is stored and changes it in one transaction.
Every error is named by its path, such as `services.shop.instances[2].port`.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import yaml
from django.core.exceptions import ValidationError
from django.db import transaction

from rollouts import trail
from rollouts.models import ACTIVE_VALUES, Instance, Service, Target
from rollouts.validators import NAME

Json = dict[str, Any]

FILE_LIMIT = 4 * 2**20  # characters
NODES_LIMIT = 200_000  # values, counted as often as anchors repeat them
PATH_LIMIT = 1_000  # characters of where a value is
SHOWN = 70  # characters of a value that changes
SERVICE_KEYS = {
    "driver": "driver",
    "balancer": "balancer",
    "version": "version_source",
    "policy": "policy",
    "preview": "preview_url",
}
REQUIRED = ("driver", "balancer")
# Key in the file: field of the model, type, what is right.
TEXT = "must be text (in quotes, where YAML would read something else)"
INSTANCE_KEYS: dict[str, tuple[str, type, str]] = {
    "name": ("name", str, TEXT),
    "host": ("hostname", str, TEXT),
    "port": ("port", int, "must be a whole number from 1 to 65535"),
    "server": ("server", str, TEXT),
    "slot": ("slot", str, TEXT),
    "zone": ("zone", str, TEXT),
    "active": ("active", bool, "must be true or false"),
}
FILE_KEYS = {name: key for key, name in SERVICE_KEYS.items()} | {
    name: key for key, (name, _, _) in INSTANCE_KEYS.items()
}
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A field's own complaints about a key within it, as `Service.clean` words them.
INNER = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63}): (.+)", re.S)


class InventoryError(ValueError):
    """The file was refused; `errors` maps each path to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("\n".join(f"{path}: {text}" for path, text in errors.items()))
        self.errors = dict(errors)


@dataclass(frozen=True)
class Entry:
    """A service as the file has it. Without `instances` they are left alone."""

    name: str
    fields: Json
    instances: tuple[Json, ...] | None

    @property
    def path(self) -> str:
        return f"services.{self.name}"


@dataclass(frozen=True)
class Change:
    """One thing that differs: `kind` is create, change, delete, or extra (not in the file)."""

    kind: str
    what: str
    name: str
    fields: tuple[tuple[str, Any, Any], ...] = ()

    def __str__(self) -> str:
        sign = {"create": "+", "change": "~", "delete": "-", "extra": "?"}[self.kind]
        line = f"{sign} {self.what} {self.name}"
        if self.kind == "extra":
            return f"{line}: is not in the file; --prune deletes it"
        told = [f"{key}: {_shown(old)} -> {_shown(new)}" for key, old, new in self.fields]
        return f"{line}: {'; '.join(told)}" if told else line


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, sort_keys=True)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


# --- reading


class _Loader(yaml.SafeLoader):
    """YAML whose keys are each given once: the last of two would win in silence."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            text = str(key.value)
            if text in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{text!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(text)
        return node


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """Return a JSON object whose keys are each given once; raise ValueError."""
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ValueError(f"{twice!r} is given twice")
    return dict(pairs)


def read(text: str, errors: dict[str, str]) -> list[Entry]:
    """Return the services of an inventory in YAML or JSON, and add to `errors` what is wrong.

    Raises InventoryError where nothing can be made of it.
    """
    document = _parsed(text)
    errors.update(_not_json(document))
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise InventoryError({"services": "must map each service's name to what it is"})
    for key in document:
        if key != "services":
            errors[str(key)] = "is not known here; there is: services"
    return [_entry(str(name), raw, errors) for name, raw in document["services"].items()]


def _parsed(text: str) -> Any:
    if len(text) > FILE_LIMIT:
        raise InventoryError({"file": f"must have at most {FILE_LIMIT} characters"})
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InventoryError({"file": f"{where}{error.problem or error}"}) from error
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise InventoryError({"file": f"is neither YAML nor JSON: {error}"}) from error


def _not_json(document: Any) -> Iterator[tuple[str, str]]:
    """Yield what can't be stored as JSON; raise InventoryError where it grows without end."""
    waiting = [("", document)]
    seen = 0
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > NODES_LIMIT or len(path) > PATH_LIMIT:
            raise InventoryError(
                {"file": "its anchors repeat too much, or it is nested too deeply"}
            )
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) or not key.isprintable():
                    yield f"{path}.{key}".lstrip("."), "must be text: put the key in quotes"
                waiting.append((f"{path}.{key}".lstrip("."), item))
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, "must be a finite number"
        elif isinstance(value, str) and UNSTORABLE.search(value):
            yield path, "must be text that can be stored: no NUL, no half of a character"
        elif not isinstance(value, str | int | float | None):
            yield path, f"is a {type(value).__name__} in YAML: put it in quotes"


def _entry(name: str, raw: Any, errors: dict[str, str]) -> Entry:
    path = f"services.{name}"
    if not isinstance(raw, dict):
        errors[path] = f"must map: {', '.join(SERVICE_KEYS)}, instances"
        return Entry(name, {}, None)
    _check_keys(raw, [*SERVICE_KEYS, "instances"], REQUIRED, path, errors)
    fields = {
        name: raw.get(key, "" if key == "preview" else {}) for key, name in SERVICE_KEYS.items()
    }
    if not isinstance(fields["preview_url"], str):
        errors[f"{path}.preview"] = TEXT
        fields["preview_url"] = ""
    instances = raw.get("instances")
    if instances is None and "instances" not in raw:
        return Entry(name, fields, None)
    if not isinstance(instances, list):
        errors[f"{path}.instances"] = "must be a list of instances"
        return Entry(name, fields, ())
    read = [_instance(one, f"{path}.instances[{n}]", errors) for n, one in enumerate(instances)]
    _check_twice(read, path, errors)
    return Entry(name, fields, tuple(read))


def _instance(raw: Any, path: str, errors: dict[str, str]) -> Json:
    """Return the model's fields of one instance, as far as they are well-typed."""
    if not isinstance(raw, dict):
        errors[path] = f"must map: {', '.join(INSTANCE_KEYS)}"
        return {}
    _check_keys(raw, INSTANCE_KEYS, ("name", "host", "port"), path, errors)
    fields: Json = {}
    for key, (name, kind, right) in INSTANCE_KEYS.items():
        value = raw.get(key)
        if key not in raw:
            continue
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            fields[name] = value
        else:
            errors[f"{path}.{key}"] = right
    fields["server"] = fields.get("server") or fields.get("name", "")
    return {**fields, "slot": fields.get("slot", ""), "zone": fields.get("zone", "")}


def _check_keys(
    raw: Json, known: Iterable[str], required: Iterable[str], path: str, errors: dict[str, str]
) -> None:
    for key in raw:
        if key not in known:
            errors[f"{path}.{key}"] = f"is not known here; there are: {', '.join(known)}"
    for key in required:
        if key not in raw:
            errors[f"{path}.{key}"] = "is missing"


def _check_twice(instances: Sequence[Json], path: str, errors: dict[str, str]) -> None:
    """Refuse two instances of one name, one server, or one address."""
    seen: dict[tuple[str, Any], int] = {}
    for number, one in enumerate(instances):
        for key, value in _identities(one):
            first = seen.setdefault((key, value), number)
            if first != number:
                errors.setdefault(
                    f"{path}.instances[{number}].{key}", f"is that of instances[{first}] already"
                )


def _identities(fields: Json) -> Iterator[tuple[str, Any]]:
    """Yield what must be unique within a service, by the file's key that is at fault."""
    if fields.get("name"):
        yield "name", fields["name"]
    if fields.get("server"):
        yield "server", fields["server"]
    if "hostname" in fields and "port" in fields:
        yield "port", (fields["hostname"], fields["port"])


# --- comparing


@dataclass
class _Work:
    """What is to be done, and what is wrong, collected while the file is compared."""

    prune: bool
    changes: list[Change] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    save: list[tuple[Service | Instance, list[str]]] = field(default_factory=list)
    delete: list[Service | Instance] = field(default_factory=list)

    def compare(self, row: Service | Instance, fields: Json, path: str, name: str) -> None:
        """Set `fields` on `row`, check it as a whole, and note what differs."""
        new = row.pk is None
        differing = {key: getattr(row, key) for key in fields if getattr(row, key) != fields[key]}
        told = [] if new else [(FILE_KEYS[k], old, fields[k]) for k, old in differing.items()]
        for key, value in fields.items():
            setattr(row, key, value)
        try:
            row.full_clean(exclude=["service"], validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            self.errors = _by_path(error, path) | self.errors
        if new or told:
            what = "service" if isinstance(row, Service) else "instance"
            self.changes.append(Change("create" if new else "change", what, name, tuple(told)))
            self.save.append((row, [] if new else list(differing)))

    def surplus(self, row: Service | Instance, name: str) -> None:
        """Note what is stored and not in the file."""
        what = "service" if isinstance(row, Service) else "instance"
        self.changes.append(Change("delete" if self.prune else "extra", what, name))
        if self.prune:
            self.delete.append(row)


def reconcile(text: str, *, prune: bool = False, check: bool = False, by: str = "") -> list[Change]:
    """Make what is stored match the file; return what differed. With `check` change nothing.

    What is done in the name of somebody is written into the audit trail.
    Raises InventoryError with every error: then nothing has changed.
    """
    work = _Work(prune)
    entries = read(text, work.errors)
    with transaction.atomic():
        stored = {one.name: one for one in Service.objects.select_for_update()}
        for entry in entries:
            _compare_service(work, entry, stored.get(entry.name))
        named = {entry.name for entry in entries}
        for name in sorted(stored.keys() - named):
            _compare_unnamed(work, stored[name])
        if work.errors:
            raise InventoryError(work.errors)
        if not check:
            told = _told(work, by) if by else []
            _write(work)
            trail.note(told)
    return work.changes


def _compare_service(work: _Work, entry: Entry, stored: Service | None) -> None:
    if not NAME.fullmatch(entry.name):
        text = "must be lower-case letters, digits and '-', such as shop (at most 63 characters)"
        work.errors[entry.path] = text
        return
    service = stored or Service(name=entry.name)
    work.compare(service, entry.fields, entry.path, entry.name)
    if entry.instances is None:
        return
    rows = {one.name: one for one in service.instances.all()} if stored else {}
    names = {one.get("name") for one in entry.instances}
    unnamed = [rows[name] for name in sorted(rows.keys() - names)]
    for number, fields in enumerate(entry.instances):
        path = f"{entry.path}.instances[{number}]"
        name = fields.get("name", "")
        row = rows.get(name) or Instance(service=service)
        work.compare(row, fields, path, f"{entry.name}/{name}")
        if not work.prune:
            _check_against(work, fields, unnamed, path)
    for row in unnamed:
        work.surplus(row, str(row))
    if work.prune:
        _check_unused(work, unnamed)


def _check_against(work: _Work, fields: Json, others: Iterable[Instance], path: str) -> None:
    """Refuse what an instance has that the file does not name and that stays."""
    for other in others:
        held = {"server": other.server, "port": (other.hostname, other.port)}
        for key, value in _identities(fields):
            if held.get(key) == value:
                work.errors.setdefault(
                    f"{path}.{key}",
                    f"is that of {other.name} already, which is not in the file; "
                    "name it there too, or let --prune delete it",
                )


def _check_unused(work: _Work, instances: Iterable[Instance]) -> None:
    """Refuse to delete what an active deployment needs."""
    needed = Target.objects.filter(
        instance__in=list(instances), deployment__status__in=ACTIVE_VALUES
    )
    for target in needed.select_related("instance__service"):
        work.errors[f"services.{str(target.instance).replace('/', '.instances.')}"] = (
            f"is needed by {target.deployment_id}; wait for its end or stop it first"
        )


def _compare_unnamed(work: _Work, service: Service) -> None:
    """A service that the file does not name: its history outlives it, its instances do not."""
    instances = list(service.instances.all())
    has_history = service.deployments.exists()
    if work.prune:
        _check_unused(work, instances)
        for instance in instances:
            work.surplus(instance, str(instance))
    if not (work.prune and has_history):
        work.surplus(service, service.name)


# --- writing


def _write(work: _Work) -> None:
    """Delete, then save; rows that take over each other's address are parked in between."""
    for row in work.delete:
        row.delete()
    for row, changed in work.save:
        if isinstance(row, Instance) and changed:
            Instance.objects.filter(pk=row.pk).update(
                server=f"_parked.{row.pk}", hostname=f"parked-{row.pk}.invalid"
            )
    for row, changed in work.save:
        if isinstance(row, Instance):
            row.service = row.service  # whose key is known only now, where it is new
            changed = changed and [*changed, "server", "hostname"]
        # Only what the file says: the engine may be writing the version at this moment.
        row.save(update_fields=changed or None)


def _told(work: _Work, by: str) -> list[tuple[Service | Instance, str, str]]:
    """Return what the audit trail says of each row. Both lists are in the order of the changes."""
    saved = iter([row for row, _ in work.save])
    deleted = iter(work.delete)
    told: list[tuple[Service | Instance, str, str]] = []
    for change in work.changes:
        if change.kind == "extra":
            continue
        # A copy keeps the number of a row that is about to go.
        row = copy(next(deleted)) if change.kind == "delete" else next(saved)
        words = f"By {by} from a file. {trail.differences(change.fields)}"
        told.append((row, change.kind, words.strip()))
    return told


def _by_path(error: ValidationError, path: str) -> dict[str, str]:
    """Return the complaints of a model by the file's path."""
    found: dict[str, str] = {}
    for name, messages in error.message_dict.items():
        key = f"{path}.{FILE_KEYS.get(name, name)}" if name != "__all__" else path
        for message in messages:
            inner = INNER.fullmatch(message) if name in SERVICE_KEYS.values() else None
            at, text = (f"{key}.{inner[1]}", inner[2]) if inner else (key, message)
            found[at] = f"{found[at]} {text}" if at in found else text
    return found
