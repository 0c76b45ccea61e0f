"""Static files as they are sent: few, small, and kept by browsers as long as they are the same."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.management import call_command
from django.test import Client
from django.utils.functional import empty

from dashboard.static_files import STYLES, small
from tests.integration.factories import make_service

SCRIPT_LIMIT = 40_000  # bytes of all that one page loads, before compression
STYLE_LIMIT = 30_000
# What pages load: the modules that they link or come to import, and what these import.
LOADED = {
    "overview": ["overview"],
    "service": ["overview", "service", "fleet"],
    "deploy form": ["deploy_form", "fleet"],
    "rolling deployment": ["deployment"],
    "canary": ["deployment", "rail"],
    "large deployment": ["deployment", "table"],
    "replay": ["replay", "rail"],
    "other": ["page"],
}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "dashboard.static_files.HashedStaticFiles"},
}
IMPORTED = re.compile(r"""(?:from|import)\s*["']\./([^"']+)["']""")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static")


@pytest.fixture
def collected(settings: Any, folder: Path) -> Iterator[Path]:
    """The folder of what is sent, filled once."""
    settings.STATIC_ROOT = folder
    settings.STORAGES = STORAGES
    staticfiles_storage._wrapped = empty
    if not any(folder.iterdir()):
        call_command("collectstatic", interactive=False, verbosity=0)
    yield folder
    staticfiles_storage._wrapped = empty


def loaded(folder: Path, *entries: str) -> set[Path]:
    """Return the files that a browser loads for modules: they, and what they import."""
    found: set[Path] = set()
    waiting = [folder / staticfiles_storage.stored_name(f"js/{entry}.js") for entry in entries]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [file.parent / name for name in IMPORTED.findall(file.read_text())]
    return found


@pytest.mark.parametrize("page", LOADED)
def test_the_scripts_of_a_page_are_small(collected: Path, page: str) -> None:
    """At most 40 kB with all that is imported and the theme, before compression."""
    files = loaded(collected, "theme", *LOADED[page])
    assert sum(file.stat().st_size for file in files) <= SCRIPT_LIMIT


def test_modules_import_each_other_by_their_hashed_names(collected: Path) -> None:
    """Otherwise a browser would mix two versions."""
    files = loaded(collected, "deployment")
    assert len(files) > 5
    assert all(re.fullmatch(r"\w+\.[0-9a-f]{12}\.js", file.name) for file in files)


@pytest.mark.parametrize("name", STYLES)
def test_styles_are_one_small_file(collected: Path, name: str) -> None:
    """Nothing is imported from it, and it has at most 30 kB before compression."""
    styles = collected / staticfiles_storage.stored_name(name)
    text = styles.read_text()
    assert "@import" not in text
    assert not re.search(r"var\(--[st]\d", text), "a length that is always the same"
    assert "--active" in text, "the first of its parts"
    assert len(text.encode()) <= STYLE_LIMIT


def test_what_is_sent_is_compressed_too(collected: Path) -> None:
    """Beside each text lies what a browser that can unpack it gets."""
    styles = collected / staticfiles_storage.stored_name("css/lockgate.css")
    packed = gzip.decompress(styles.with_name(f"{styles.name}.gz").read_bytes())
    assert packed == styles.read_bytes()


def test_a_minified_script_does_the_same() -> None:
    """Names that others import stay, comments go."""
    made = small("// Why.\nexport function twice(number) {\n  return 2 * number;\n}\n")
    assert "Why" not in made
    assert "export function twice(" in made


@pytest.mark.django_db
@pytest.mark.usefixtures("collected", "redis_client")
@pytest.mark.parametrize("page", ["/", "/services/shop/", "/services/shop/deploy/"])
def test_a_page_links_one_stylesheet(page: str) -> None:
    """By its hashed name, which a browser need never ask for again."""
    make_service()
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    text = client.get(page).text
    links = re.findall(r'<link rel="stylesheet" href="([^"]+)"', text)
    assert len(links) == 1
    assert re.fullmatch(r"/static/css/lockgate\.[0-9a-f]{12}\.css", links[0])
    assert not re.search(r'src="/static/js/\w+\.js"', text), "a name without a hash"
