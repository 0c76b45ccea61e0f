"""Takes the pictures: each screen at desktop and phone, light and dark, and a sheet of them all."""

import html
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.acceptance.browsing import SECONDS

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SIZES = {"desktop": DESKTOP, "phone": PHONE}
SCHEMES = ("light", "dark")
TALLEST = 4000  # pixels of a picture: of a page with a thousand rows the beginning is enough
WORDS = 200  # of why a picture is missing
PATIENCE = 20 * SECONDS

SHEET = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Lockgate: every screen</title><style>
body { font: 14px system-ui, sans-serif; margin: 24px; background: #e8e9eb; color: #16181d }
section { margin: 0 0 32px } h2 { font-size: 16px; margin: 0 0 8px }
div { display: flex; gap: 12px; align-items: flex-start; overflow-x: auto }
img { display: block; max-height: 520px; max-width: none; border: 1px solid #9aa0a8 }
.missing { color: #6c0818 }
</style></head><body><h1>Lockgate: every screen</h1>
"""


@dataclass
class Studio:
    """Where pictures are taken, and what became of each."""

    browser: Browser
    folder: Path
    taken: dict[str, list[str]] = field(default_factory=dict)  # files, by screen and state
    missing: dict[str, str] = field(default_factory=dict)  # why there is no picture
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def visitor(self, url: str, user: str = "", password: str = "") -> Iterator[Page]:
        """Open a browser of somebody's own, logged in where a name is given."""
        with self.browser.new_context(base_url=url, viewport=DESKTOP) as context:
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            if user:
                page.goto("/login/")
                page.get_by_label("Name", exact=True).fill(user)
                page.get_by_label("Password").fill(password)
                page.get_by_role("button", name="Log in").click()
                page.wait_for_url(f"{url}/")
            yield page

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Let the rest go on where a state does not come about: what is missing is told."""
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            self._miss(name, error)

    def show(self, name: str, page: Page, path: str, *, whole: bool = True) -> None:
        """Go to a page and take it."""
        with self.attempt(name):
            page.goto(path)
            page.wait_for_load_state("load")
            if page.locator("#freshness[data-state]:not([data-state=still])").count():
                page.locator("#freshness[data-state=live]").wait_for()
            self.shoot(name, page, whole=whole)

    def shoot(self, name: str, page: Page, *, whole: bool = True) -> None:
        """Take the page as it is now, at both sizes and in both themes.

        The whole of it, or only what the window shows: where something sticks to its lower edge,
        and where a dialog is open.
        """
        files = []
        try:
            for size, viewport in SIZES.items():
                page.set_viewport_size(viewport)
                for scheme in SCHEMES:
                    page.emulate_media(color_scheme=scheme)
                    files.append(f"{name}-{size}-{scheme}.png")
                    _picture(page, self.folder / files[-1], whole)
            self.taken[name] = files
            self._say(f"{name}: {len(files)} pictures")
        except Exception as error:
            self._miss(name, error)
        finally:
            page.set_viewport_size(DESKTOP)

    def sheet(self) -> Path:
        """Write a page that shows all of them, and return where it is."""
        parts = [SHEET]
        for name, why in self.missing.items():
            parts.append(f'<p class="missing">✕ {html.escape(name)}: {html.escape(why)}</p>')
        for name, files in self.taken.items():
            images = "".join(
                f'<a href="{file}"><img src="{file}" alt="{file}" loading="lazy"></a>'
                for file in files
            )
            parts.append(f'<section id="{name}"><h2>{name}</h2><div>{images}</div></section>')
        index = self.folder / "index.html"
        index.write_text("\n".join([*parts, "</body></html>\n"]))
        return index

    def _miss(self, name: str, error: BaseException) -> None:
        [why, *_] = str(error).strip().splitlines() or [type(error).__name__]
        self.missing[name] = why = why[:WORDS]
        self._say(f"{name}: not made, {why}")

    def _say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began:5.0f} s  {words}", flush=True)


def another_tab(context: BrowserContext, path: str) -> Page:
    """Open one more page of the same visitor."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(path)
    return page


def _picture(page: Page, path: Path, whole: bool) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    whole = whole and not page.locator("dialog[open]").count()
    height = page.evaluate("document.documentElement.scrollHeight")
    width = page.evaluate("window.innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": TALLEST}
    shown = {"clip": clip} if whole and height > TALLEST else {}
    page.screenshot(path=path, full_page=whole, animations="disabled", **shown)
