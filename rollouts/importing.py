"""Instances that were found elsewhere, made into inventory: nothing is deleted by it."""

from collections.abc import Sequence

import yaml

from rollouts.importing_sources import MOST, Json, SourceError
from rollouts.inventory import (
    INSTANCE_KEYS,
    REQUIRED,
    SERVICE_KEYS,
    Change,
    InventoryError,
    reconcile,
)
from rollouts.models import Instance, Service

UNTOLD = {"slot": "", "zone": "", "active": True}  # what a file need not say


def document(service_name: str, found: Sequence[Json]) -> Json:
    """Return an inventory of the service with what was `found`; raise SourceError.

    Whoever is stored keeps its name and what the source does not tell. The service is as it is
    stored, and without driver and balancer where it is not.
    """
    if not found:
        raise SourceError("no instance was found")
    if len(found) > MOST:
        raise SourceError(f"{len(found)} instances were found; {MOST} can be imported at once")
    service = Service.objects.filter(name=service_name).first()
    entry: Json = {}
    stored: list[Instance] = []
    if service:
        fields = {key: getattr(service, name) for key, name in SERVICE_KEYS.items()}
        entry = {key: value for key, value in fields.items() if value or key in REQUIRED}
        stored = list(service.instances.all())
    entry["instances"] = [_merged(one, _known(one, stored)) for one in found]
    return {"services": {service_name: entry}}


def _known(found: Json, stored: Sequence[Instance]) -> Instance | None:
    """Return who of the `stored` ones it is: by name, by server, by address."""
    address = (found.get("host"), found.get("port"))
    for same in (
        lambda one: one.name == found.get("name"),
        lambda one: one.server == found.get("server"),
        lambda one: (one.hostname, one.port) == address,
    ):
        if match := next((one for one in stored if same(one)), None):
            return match
    return None


def _merged(found: Json, known: Instance | None) -> Json:
    """Return an instance as a file has it, without what need not be said."""
    kept = (
        {key: getattr(known, name) for key, (name, _, _) in INSTANCE_KEYS.items()} if known else {}
    )
    merged = {**kept, **found, **({"name": known.name} if known else {})}
    told = {key: merged[key] for key in INSTANCE_KEYS if key in merged}
    return {key: value for key, value in told.items() if UNTOLD.get(key) != value}


def as_yaml(inventory: Json) -> str:
    """Return the text of an inventory file."""
    return yaml.safe_dump(inventory, sort_keys=False, allow_unicode=True)


def reconciled(service_name: str, text: str, *, apply: bool, by: str = "") -> list[Change]:
    """Return what differs, and with `apply` make it so; raise InventoryError with every error.

    A service that is not stored may lack driver and balancer until it is applied.
    """
    try:
        changes = reconcile(text, check=not apply, by=by)
    except InventoryError as error:
        stored = Service.objects.filter(name=service_name).exists()
        lacking = tuple(f"services.{service_name}.{key}" for key in REQUIRED)
        rest = {path: words for path, words in error.errors.items() if not path.startswith(lacking)}
        if apply or stored or rest:
            raise InventoryError(error.errors if apply or stored else rest) from error
        return []
    return [one for one in changes if one.name.partition("/")[0] == service_name]
