"""Inventory as code on real PostgreSQL: all of a file or nothing, and the same again is nothing."""

import copy
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import call_command

from rollouts import actions, inventory
from rollouts.inventory import InventoryError, reconcile
from rollouts.models import Deployment, Instance, Service

pytestmark = pytest.mark.django_db(transaction=True)

FILE: dict[str, Any] = {
    "services": {
        "shop": {
            "driver": {"kind": "command", "update": ["true", "{name}", "{version}"]},
            "balancer": {
                "kind": "haproxy",
                "addresses": ["unix:/nonexistent/admin.sock"],
                "backend": "app",
            },
            "version": {"path": "/version"},
            "policy": {"batch_size": 2, "batch_pause": 10},
            "instances": [
                {"name": "web-01", "host": "127.0.0.1", "port": 9, "slot": "blue", "zone": "a"},
                {"name": "web-02", "host": "127.0.0.2", "port": 9},
                {"name": "web-03", "host": "127.0.0.3", "port": 9, "server": "third"},
            ],
        }
    }
}
CONTRACT = """\
services:
  shop:
    driver: {kind: command, update: ["/opt/shop/deploy", "{name}", "{version}"]}
    balancer: {kind: haproxy, addresses: ["unix:/run/haproxy/admin.sock"], backend: app}
    version: {path: /version}          # where an instance says what it runs
    policy: {batch_size: 2, batch_pause: 10, health_check_path: /health}
    instances:
      - {name: web-01, host: 10.0.0.11, port: 8080, server: web-01, slot: blue, zone: a}
"""


class File:
    """An inventory that can be changed and applied."""

    def __init__(self) -> None:
        self.document = copy.deepcopy(FILE)
        self.shop: dict[str, Any] = self.document["services"]["shop"]
        self.instances: list[dict[str, Any]] = self.shop["instances"]

    def apply(self, **options: bool) -> list[str]:
        """Reconcile; return what differed, a line each."""
        return [str(change) for change in reconcile(json.dumps(self.document), **options)]

    def errors(self, **options: bool) -> dict[str, str]:
        """Return why the file is refused, and check that nothing changed."""
        before = stored()
        with pytest.raises(InventoryError) as caught:
            self.apply(**options)
        assert stored() == before
        return caught.value.errors


def stored() -> list[dict[str, Any]]:
    return [*Service.objects.values(), *Instance.objects.order_by("pk").values()]


@pytest.fixture
def file() -> File:
    return File()


def test_the_file_of_the_contract_is_taken() -> None:
    """Word for word."""
    assert [str(change) for change in reconcile(CONTRACT)] == [
        "+ service shop",
        "+ instance shop/web-01",
    ]
    instance = Instance.objects.get()
    assert (instance.hostname, instance.port, instance.server) == ("10.0.0.11", 8080, "web-01")
    assert (instance.slot, instance.zone, instance.active) == ("blue", "a", True)
    assert Service.objects.get().version_source == {"path": "/version"}


def test_a_preview_address_is_taken_and_a_wrong_one_refused(file: File) -> None:
    """By its key in the file; left out it is none."""
    file.shop["preview"] = "https://{slot}.shop.example.com/"
    file.apply()
    assert Service.objects.get().preview_url == "https://{slot}.shop.example.com/"
    for wrong in ("https://shop.example.com/", 7, None):
        file.shop["preview"] = wrong
        assert set(file.errors()) == {"services.shop.preview"}
    del file.shop["preview"]
    file.apply()
    assert Service.objects.get().preview_url == ""


def test_the_same_file_again_changes_nothing(file: File) -> None:
    """Idempotent."""
    assert len(file.apply()) == 4
    before = stored()
    assert file.apply() == []
    assert stored() == before


def test_what_changes_is_told_and_done(file: File) -> None:
    """The rest is left alone, what the engine wrote included."""
    file.apply()
    Instance.objects.update(version="v7")
    file.shop["policy"] = {"batch_size": 1}
    file.instances[1] |= {"port": 10, "zone": "b"}
    assert file.apply() == [
        '~ service shop: policy: {"batch_pause": 10, "batch_size": 2} -> {"batch_size": 1}',
        '~ instance shop/web-02: port: 9 -> 10; zone: "" -> b',
    ]
    assert Service.objects.get().policy == {"batch_size": 1}
    changed = Instance.objects.get(name="web-02")
    assert (changed.port, changed.zone, changed.server, changed.version) == (
        10,
        "b",
        "web-02",
        "v7",
    )


def test_a_version_that_the_engine_verifies_meanwhile_is_kept(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the file says is written, not the row as it was when it was read."""
    file.apply()
    write = inventory._write

    def later(work: Any) -> None:
        Instance.objects.update(version="v9")
        write(work)

    monkeypatch.setattr(inventory, "_write", later)
    file.instances[0]["port"] = 99
    file.apply()
    changed = Instance.objects.get(name="web-01")
    assert (changed.port, changed.version) == (99, "v9")


def test_check_tells_the_same_and_does_nothing(file: File) -> None:
    """For a review before the merge."""
    assert len(file.apply(check=True)) == 4
    assert stored() == []
    file.apply()
    before = stored()
    file.instances[0]["port"] = 99
    assert file.apply(check=True) == ["~ instance shop/web-01: port: 9 -> 99"]
    assert stored() == before


def test_two_instances_may_swap_their_addresses_and_servers(file: File) -> None:
    """Though at no moment two rows may have the same."""
    file.apply()
    first, second = file.instances[:2]
    first["host"], second["host"] = second["host"], first["host"]
    first["server"], second["server"] = "web-02", "web-01"
    assert len(file.apply()) == 2
    assert list(Instance.objects.order_by("name").values_list("hostname", "server"))[:2] == [
        ("127.0.0.2", "web-02"),
        ("127.0.0.1", "web-01"),
    ]


def test_active_is_left_alone_unless_the_file_says_so(file: File) -> None:
    """Who took an instance out by hand does not find it back by accident."""
    file.apply()
    Instance.objects.filter(name="web-01").update(active=False)
    assert file.apply() == []
    file.instances[0]["active"] = True
    assert file.apply() == ["~ instance shop/web-01: active: false -> true"]


def test_nothing_is_deleted_without_prune(file: File) -> None:
    """It is told what is left over."""
    file.apply()
    del file.instances[0]
    assert file.apply() == ["? instance shop/web-01: is not in the file; --prune deletes it"]
    assert Instance.objects.count() == 3
    assert file.apply(prune=True, check=True) == ["- instance shop/web-01"]
    assert Instance.objects.count() == 3
    assert file.apply(prune=True) == ["- instance shop/web-01"]
    assert Instance.objects.count() == 2
    assert file.apply(prune=True) == []


def test_a_service_that_the_file_does_not_name_is_pruned_whole(file: File) -> None:
    """With its instances."""
    file.apply()
    file.document["services"] = {"api": {**file.shop, "instances": []}}
    assert file.apply() == [
        "+ service api",
        "? service shop: is not in the file; --prune deletes it",
    ]
    assert len(file.apply(prune=True)) == 4
    assert list(Service.objects.values_list("name", flat=True)) == ["api"]


def test_a_pruned_service_keeps_its_history(file: File, redis_client: redis.Redis) -> None:
    """Its instances go, its deployments stay to be looked at."""
    file.apply()
    begun = actions.start(Service.objects.get(), "v2", by="ada")
    actions.cancel(begun.id, "stop", by="ada")
    file.document["services"] = {}
    assert len(file.apply(prune=True)) == 3
    assert Deployment.objects.get().service.name == "shop"
    assert not Instance.objects.exists()
    assert file.apply(prune=True) == []


def test_what_a_running_deployment_needs_can_not_be_pruned(
    file: File, redis_client: redis.Redis
) -> None:
    """The refusal names the deployment; afterwards it is possible."""
    file.apply()
    begun = actions.start(Service.objects.get(), "v2", by="ada")
    del file.instances[2]
    errors = file.errors(prune=True)
    assert list(errors) == ["services.shop.instances.web-03"]
    assert f"is needed by {begun.id}" in errors["services.shop.instances.web-03"]
    file.document["services"] = {}
    assert len(file.errors(prune=True)) == 3
    actions.cancel(begun.id, "stop", by="ada")
    file.apply(prune=True)


def test_what_a_running_deployment_uses_may_change_for_the_next_one(
    file: File, redis_client: redis.Redis
) -> None:
    """Its own plan is stored."""
    file.apply()
    begun = actions.start(Service.objects.get(), "v2", by="ada")
    file.instances[0]["port"] = 99
    file.apply()
    assert begun.targets.get(name="web-01").port == 9


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("driver", {"kind": "telepathy"}, "driver.kind"),
        ("driver", {"kind": "command"}, "driver.update"),
        ("driver", {}, "driver"),
        ("driver", [], "driver"),
        (
            "balancer",
            {**FILE["services"]["shop"]["balancer"], "backend": "a;b"},
            "balancer.backend",
        ),
        ("version", {"path": "version"}, "version.path"),
        ("policy", {"batch_size": 0}, "policy.batch_size"),
        ("policy", {"batchsize": 1}, "policy.batchsize"),
        ("policy", "fast", "policy"),
    ],
)
def test_what_the_models_refuse_is_named_by_path(
    file: File, key: str, value: Any, path: str
) -> None:
    """The same checks as in the admin."""
    file.shop[key] = value
    assert f"services.shop.{path}" in file.errors()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Web 1"),
        ("name", "web-01\n"),
        ("host", "127.1"),
        ("host", "http://x"),
        ("port", 0),
        ("port", 65_536),
        ("server", "a;b"),
        ("slot", "red"),
        ("zone", "a b"),
    ],
)
def test_what_the_models_refuse_of_an_instance_is_named_by_path(
    file: File, key: str, value: Any
) -> None:
    """By its place in the file."""
    file.instances[2][key] = value
    assert f"services.shop.instances[2].{key}" in file.errors()


def test_a_bad_name_of_a_service_is_refused(file: File) -> None:
    """At the name's place."""
    file.document["services"]["Shop 2"] = file.document["services"].pop("shop")
    assert list(file.errors()) == ["services.Shop 2"]


def test_one_error_refuses_all_of_the_file_and_all_errors_are_named(file: File) -> None:
    """Those of the form and those of the models together."""
    file.shop["policy"] = {"batch_size": 0}
    file.shop["extra"] = 1
    file.instances[0]["port"] = "9"
    file.instances[1]["host"] = "127.1"
    del file.instances[2]["host"]
    assert set(file.errors()) >= {
        "services.shop.policy.batch_size",
        "services.shop.extra",
        "services.shop.instances[0].port",
        "services.shop.instances[1].host",
        "services.shop.instances[2].host",
    }
    assert "is missing" in file.errors()["services.shop.instances[2].host"]


def test_an_address_of_an_instance_that_stays_is_refused(file: File) -> None:
    """It is not in the file, so nobody sees the clash there."""
    file.apply()
    file.instances[0] |= {"name": "web-09"}
    errors = file.errors()
    assert "is that of web-01 already" in errors["services.shop.instances[0].port"]
    assert set(file.apply(prune=True)) == {"+ instance shop/web-09", "- instance shop/web-01"}


def run(path: Path | str, *options: str) -> tuple[int, list[str], list[str]]:
    """Return exit status, output and errors of the command."""
    out, err, status = StringIO(), StringIO(), 0
    try:
        call_command("inventory", str(path), *options, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue().splitlines(), err.getvalue().splitlines()


def test_the_command_prints_what_it_does(tmp_path: Path) -> None:
    """And a sum at the end."""
    path = tmp_path / "fleet.yaml"
    path.write_text(CONTRACT)
    assert run(path, "--check") == (
        0,
        ["+ service shop", "+ instance shop/web-01", "Would be: 2 created."],
        [],
    )
    assert run(path)[1][-1] == "Done: 2 created."
    assert run(path) == (0, ["Nothing to change."], [])


def test_the_command_names_every_error_on_stderr(tmp_path: Path) -> None:
    """With exit status 2, and nothing on stdout."""
    path = tmp_path / "fleet.yaml"
    path.write_text(CONTRACT.replace("port: 8080", "port: x").replace("batch_size: 2", "b: 2"))
    status, out, err = run(path)
    assert (status, out) == (2, [])
    assert err[-1] == "Refused: nothing was changed."
    assert {line.split(": ")[0] for line in err[:-1]} == {
        "services.shop.instances[0].port",
        "services.shop.policy.b",
    }
    assert not Service.objects.exists()


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, or no text."""
    assert run(tmp_path / "nope.yaml")[0] == 2
    assert run(tmp_path)[0] == 2
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    status, _, err = run(path)
    assert (status, err[0]) == (2, f"{path}: must be text in UTF-8")
