"""What all adapters share: kinds from installed packages, settings, secrets."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rollouts import balancers, drivers
from rollouts.adapters import SettingsError, Surroundings, check_secret, secret
from rollouts.facts import Instance

WEB = Instance("web-01", "10.0.0.11", 8080, server="srv-1")
PACKAGE = '''
"""Adapters as a third party would write them."""

from rollouts.adapters import SettingsError, wrong_keys
from rollouts.ports import Balancer, Driver


class Note(Driver):
    """Writes down what runs."""

    def __init__(self, path, surroundings):
        self.path = path
        self.surroundings = surroundings

    @classmethod
    def from_settings(cls, raw, surroundings):
        if errors := wrong_keys(raw, ("kind", "path")):
            raise SettingsError(errors)
        return cls(raw["path"], surroundings)

    async def prepare(self, instance, version, output, left):
        output("nothing to fetch")

    async def update(self, instance, version, output, left):
        with open(self.path, "a") as notes:
            notes.write(f"{instance.name} {version}\\n")


class Sign(Balancer):
    @classmethod
    def from_settings(cls, raw, surroundings):
        if errors := wrong_keys(raw, ("kind",), ("road",)):
            raise SettingsError(errors)
        return cls()


def careless(raw, surroundings):
    return raw["token"]
'''
ENTRY_POINTS = """
[lockgate.drivers]
note = lockgate_notes:Note.from_settings
gone = lockgate_notes:Gone.from_settings
lost = lockgate_lost:Driver
careless = lockgate_notes:careless
command = lockgate_notes:careless

[lockgate.balancers]
sign = lockgate_notes:Sign.from_settings
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution as an installer leaves it: a module, and what it declares."""
    (tmp_path / "lockgate_notes.py").write_text(PACKAGE)
    info = tmp_path / "lockgate_notes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lockgate-notes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("lockgate_notes", None)


async def test_a_driver_of_an_installed_package_is_found_and_used(tmp_path: Path) -> None:
    """By its entry point's name; it gets its settings and what surrounds them."""
    notes = tmp_path / "notes"
    around = Surroundings(instances=(WEB,), deployment="deploy-1")
    driver = drivers.make({"kind": "note", "path": str(notes)}, around)
    lines: list[str] = []
    await driver.prepare(WEB, "v2", lines.append, lambda: 10.0)
    await driver.update(WEB, "v2", lines.append, lambda: 10.0)
    assert lines == ["nothing to fetch"]
    await driver.roll_back(WEB, "v1", lines.append, lambda: 10.0)
    assert notes.read_text() == "web-01 v2\nweb-01 v1\n"
    assert driver.surroundings is around  # type: ignore[attr-defined]
    assert not driver.reports_version
    assert await driver.preflight(WEB, "v1") == ()
    await driver.finish(WEB, lines.append, lambda: 10.0)
    await driver.aclose()


def test_its_settings_are_checked_as_those_of_others() -> None:
    """All bad keys at once, for a driver and for a balancer."""
    with pytest.raises(SettingsError) as refusal:
        drivers.check({"kind": "note", "paht": "/x"})
    assert set(refusal.value.errors) == {"path", "paht"}
    balancers.check({"kind": "sign", "road": "east"})
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "sign", "river": "east"})
    assert set(refusal.value.errors) == {"river"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", "lockgate_notes:Gone.from_settings can't be loaded: .*has no attribute 'Gone'"),
        ("lost", "lockgate_lost:Driver can't be loaded: No module named 'lockgate_lost'"),
        ("careless", "lockgate_notes:careless broke, .*KeyError"),
    ],
)
def test_a_package_that_is_broken_is_named(kind: str, words: str) -> None:
    """Its own error is told as one of the settings, rather than breaking the page."""
    with pytest.raises(SettingsError, match=words) as refusal:
        drivers.check({"kind": kind})
    assert set(refusal.value.errors) == {"kind"}


@pytest.mark.parametrize(("check", "kind"), [(drivers.check, "note"), (balancers.check, "sign")])
def test_installed_kinds_are_among_those_to_choose_from(
    check: Callable[[Mapping[str, Any]], None], kind: str
) -> None:
    """Who mistypes a kind is told all there are."""
    with pytest.raises(SettingsError, match=kind):
        check({"kind": "nope"})


def test_no_package_takes_the_place_of_a_kind_of_ours() -> None:
    """An installed `command` changes nothing."""
    drivers.check({"kind": "command", "update": ["true"]})


def test_a_secret_is_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is the variable's name, which may be none of Lockgate's own secrets."""
    check_secret("SHOP_DEPLOY_SECRET")
    for wrong in ("s3cr3t!", "", None, "SECRET_KEY", "DATABASE_URL"):
        with pytest.raises(ValueError, match="must be"):
            check_secret(wrong)
    monkeypatch.setenv("SHOP_DEPLOY_SECRET", "s3cr3t")
    assert secret("SHOP_DEPLOY_SECRET") == "s3cr3t"
    monkeypatch.setenv("SHOP_DEPLOY_SECRET", "")
    with pytest.raises(LookupError, match="SHOP_DEPLOY_SECRET is not set for this process"):
        secret("SHOP_DEPLOY_SECRET")
