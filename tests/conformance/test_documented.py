"""What the pages in docs/ show is right: the settings are taken, and the adapter is one."""

import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts import balancers, drivers
from rollouts.conformance.drivers import CLAIMS, Claim

DOCS = Path(__file__).parents[2] / "docs"
ENTRY_POINTS = "[lockgate.drivers]\nnotes = lockgate_notes:Notes.from_settings\n"


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def services() -> Iterator[Any]:
    """Every piece of inventory that a page shows."""
    for page in sorted(DOCS.glob("*.md")):
        for number, text in enumerate(blocks("yaml", page)):
            shown = yaml.safe_load(text)
            if isinstance(shown, dict):
                for one in shown.get("services", {"": shown}).values():
                    yield pytest.param(one, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("service", list(services()))
def test_settings_that_are_shown_are_taken(service: Mapping[str, Any]) -> None:
    """Whoever copies them is not refused."""
    if "driver" in service:
        drivers.check(service["driver"])
    if "balancer" in service:
        balancers.check(service["balancer"])


def test_every_page_is_in_the_list_and_every_link_leads_to_one() -> None:
    """No page is lost, and none is promised in vain."""
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([a-z-]+\.md)\)", (DOCS / "README.md").read_text()))
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\]\(([a-z-]+\.md)", page.read_text()):
            assert (DOCS / name).is_file(), f"{page.name} leads to {name}"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The documented package, installed; its own test's subject."""
    package, test = blocks("python", DOCS / "adapters.md")
    folder = tmp_path / "installed"
    info = folder / "lockgate_notes-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "lockgate_notes.py").write_text(package)
    (folder / "subject.py").write_text(test)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lockgate-notes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(folder)
    yield runpy.run_path(str(folder / "subject.py"))["Place"]
    sys.modules.pop("lockgate_notes", None)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
async def test_the_adapter_that_is_shown_is_one(
    claim: Claim, installed: Any, tmp_path: Path
) -> None:
    """Found by its entry point, and held to the claims that its place can be used for."""
    if claim.needs <= installed.troubles:
        place = tmp_path / "place"
        place.mkdir()
        await claim.check(installed(place))
