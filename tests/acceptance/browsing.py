"""Headless Chromium on the pages of a demo, as a person uses them."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.acceptance.running import Demo
from tests.requirements import chromium

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1000.0
versions = iter(range(1, 1000))

# Keys sorted, so that two states can be compared as texts.
CANONICAL = """(value) => JSON.stringify(value, (_, inner) =>
  inner && typeof inner === "object" && !Array.isArray(inner)
    ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
    : inner)"""


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the browser until the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, demo: Demo, name: str = "", password: str = "") -> Iterator[Page]:
    """Open a page that is logged in, as the admin where nobody else is named.

    An error of its scripts fails the block.
    """
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(20 * SECONDS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.extend(_violations(message)))
        log_in(page, demo, name, password)
        yield page
        assert errors == []


def _violations(message: ConsoleMessage) -> list[str]:
    return [message.text] if "Content Security Policy" in message.text else []


def log_in(page: Page, demo: Demo, name: str = "", password: str = "") -> None:
    page.goto(f"{demo.ready['url']}/login/")
    page.get_by_label("Name", exact=True).fill(name or demo.ready["admin_user"])
    page.get_by_label("Password").fill(password or demo.ready["admin_password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{demo.ready['url']}/")


def start(
    page: Page,
    demo: Demo,
    strategy: str = "",
    where: str = "6 instances of shop",
    **settings: str,
) -> tuple[str, str]:
    """Start a fresh version in the page, as a person does; return the deployment and version."""
    version = f"p{next(versions)}"
    page.goto(demo.ready["url"])
    page.get_by_role("link", name="Deploy to shop").first.click()  # also of the first steps
    page.get_by_label("Version", exact=True).fill(version)
    if strategy:
        page.locator(f"input[name=strategy][value={strategy}]").check()
    for key, value in settings.items():
        field = page.get_by_label(key, exact=True)
        if not field.is_visible():
            page.get_by_text("All settings").click()
        if value == "on":
            field.check()
        else:
            field.fill(value)
    # The plan of what was typed last, and not the one before.
    page.wait_for_function("() => document.getElementById('id_previewed').value")
    expect(page.locator("#plan ol")).to_contain_text("web-0")
    page.get_by_role("button", name=f"Deploy {version} to {where}").click()
    page.wait_for_url("**/deployments/deploy-*/")
    return page.url.rstrip("/").rsplit("/", 1)[1], version


def state_of(page: Page) -> str:
    """Return the state that the page holds, as a text to compare."""
    return str(page.evaluate(f"({CANONICAL})(window.lockgate.snapshot)"))


def api_state(page: Page, deployment: str) -> str:
    """Return the state that REST gives, as a text to compare."""
    fetched = "(await (await fetch(`/api/v1/deployments/${id}`)).json())"
    return str(page.evaluate(f"async (id) => ({CANONICAL}){fetched}", deployment))


def wait_for_end(page: Page) -> None:
    page.wait_for_function("() => window.lockgate.snapshot.completed_at", timeout=120 * SECONDS)


def wait_for_serving(page: Page, count: int) -> None:
    page.wait_for_function(
        "(count) => document.querySelectorAll('.tile[data-state=serving]').length >= count",
        arg=count,
        timeout=60 * SECONDS,
    )
