"""Pages that stay open: more than one tab, more than one person, no network, a small window."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.acceptance.browsing import (
    api_state,
    opened,
    state_of,
    versions,
    wait_for_serving,
)
from tests.acceptance.people import PASSWORD, add_person
from tests.acceptance.running import Demo, until

pytestmark = pytest.mark.browser

# What a browser does to a tab that is behind another one: it says so, and paints no frame.
HIDE = """() => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" });
  window.requestAnimationFrame = () => 0;
  document.dispatchEvent(new Event("visibilitychange"));
}"""
# Everything with a border that shows what it is, where colours are not the page's own.
BORDERS = """() => [...document.querySelectorAll(".tile, #controls .button, #controls button")]
  .filter((node) => node.checkVisibility())
  .map((node) => [node.className || node.textContent, getComputedStyle(node)])
  .filter(([, style]) => style.borderTopStyle === "none" || style.borderTopWidth === "0px")
  .map(([name]) => name)"""


@pytest.fixture(scope="module")
def running(demo: Demo) -> Iterator[str]:
    """A deployment in the pause after its first batch: nothing happens but what a test does."""
    demo.whole()
    deployment = demo.start(f"p{next(versions)}", batch_pause=600)
    until(lambda: demo.get(deployment)["progress"]["healthy"] == 2, 60, "its first batch is done")
    yield deployment
    demo.act(deployment, "cancel", mode="roll_back")
    demo.ended(deployment)


@pytest.fixture
def watched(page: Page, demo: Demo, running: str) -> Iterator[Page]:
    """The page of that deployment, live; it is left as the test found it."""
    page.goto(f"{demo.ready['url']}/deployments/{running}/")
    expect(page.locator("#freshness")).to_contain_text("Live")
    page.evaluate("window.neverReloaded = true")
    yield page
    if demo.get(running)["status"] == "paused":
        demo.act(running, "resume")
    until(lambda: demo.get(running)["status"] == "in_progress", 20, "it goes on")


def pause(demo: Demo, deployment: str) -> None:
    """Have something happen, by somebody else."""
    assert demo.act(deployment, "pause").status_code == 202
    until(lambda: demo.get(deployment)["status"] == "paused", 20, "it is paused")


def same(deployment: str, *tabs: Page) -> None:
    """Wait until all tabs hold what REST says: of the traffic there is news every few seconds."""

    def held() -> bool:
        states = {state_of(tab) for tab in tabs} | {api_state(tabs[0], deployment)}
        return len(states) == 1

    until(held, 20, "all hold the same")


def test_two_tabs_say_the_same(watched: Page, demo: Demo, running: str) -> None:
    """Who joins late holds what the first one holds; what one asks for is told in the other."""
    late = watched.context.new_page()
    late.goto(watched.url)
    expect(late.locator("#freshness")).to_contain_text("Live")
    same(running, watched, late)
    watched.get_by_role("button", name="Pause").click()
    for tab in (watched, late):
        expect(tab.locator('[data-part="word"]').first).to_have_text("paused")
        expect(tab.get_by_role("button", name="Pause")).to_be_hidden()
    late.get_by_role("button", name="Resume").click()
    for tab in (watched, late):
        expect(tab.get_by_role("button", name="Pause")).to_be_visible()
    same(running, watched, late)


def test_a_button_that_was_pressed_says_so_and_asks_once(
    watched: Page, demo: Demo, running: str
) -> None:
    """It sets no state of its own: that comes with the answer."""
    asked: list[Route] = []
    watched.route("**/pause/", lambda route: asked.append(route))
    button = watched.locator("[data-control=pause] button")
    button.click()
    expect(button).to_have_text("Pausing…")
    button.click(force=True)
    until(lambda: asked, 20, "it asks")
    expect(button).to_have_attribute("aria-disabled", "true")
    expect(watched.locator("#head")).to_contain_text("deploying")
    assert len(asked) == 1
    asked[0].continue_()
    expect(button).to_be_hidden()
    watched.get_by_role("button", name="Resume").click()
    expect(button).to_have_text("Pause")


def test_a_page_without_network_says_so_and_catches_up(
    watched: Page, demo: Demo, running: str
) -> None:
    """It never looks live meanwhile, and needs no reload after."""
    watched.context.set_offline(True)
    expect(watched.locator("#freshness")).to_contain_text("Offline, as of")
    pause(demo, running)
    watched.context.set_offline(False)
    expect(watched.locator("#freshness")).to_contain_text("Live")
    expect(watched.locator("#head")).to_contain_text("paused")
    same(running, watched)
    assert watched.evaluate("window.neverReloaded")


def test_a_tab_behind_another_goes_on(watched: Page, demo: Demo, running: str) -> None:
    """Its socket stays open and its title tells: no frame has to be painted for that."""
    expect(watched).to_have_title(re.compile("^▶ 2/6 shop "))
    watched.evaluate(HIDE)
    pause(demo, running)
    expect(watched).to_have_title(re.compile("^‖ 2/6 shop "))
    same(running, watched)
    expect(watched.locator("#freshness")).to_contain_text("Live")


def test_a_tab_that_was_frozen_catches_up(watched: Page, demo: Demo, running: str) -> None:
    """As a browser freezes what nobody looks at for long: no script runs until it is back."""
    browser = watched.context.new_cdp_session(watched)
    browser.send("Page.setWebLifecycleState", {"state": "frozen"})
    pause(demo, running)
    browser.send("Page.setWebLifecycleState", {"state": "active"})
    expect(watched.locator("#head")).to_contain_text("paused")
    same(running, watched)


def test_who_may_only_look_has_no_buttons(browser: Browser, demo: Demo, running: str) -> None:
    """But sees all that happens, as it happens."""
    add_person(demo.places, "vera", "view_service", "view_deployment")
    with opened(browser, demo, "vera", PASSWORD) as page:
        expect(page.get_by_role("link", name="Deploy to shop")).to_have_count(0)
        page.goto(f"{demo.ready['url']}/services/shop/")
        expect(page.get_by_role("link", name="Deploy…")).to_have_count(0)
        expect(page.get_by_role("link", name="Lock…")).to_have_count(0)
        page.goto(f"{demo.ready['url']}/deployments/{running}/?stop=1")
        expect(page.locator("dialog")).to_have_count(0)
        expect(page.get_by_role("link", name="Stop deployment…")).to_have_count(0)
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        wait_for_serving(page, 2)
        pause(demo, running)
        expect(page.locator("#head")).to_contain_text("paused")
        demo.act(running, "resume")
        expect(page.locator("#head")).to_contain_text("deploying")


def test_who_is_late_with_the_form_is_told_who_was_first(
    watched: Page, demo: Demo, running: str
) -> None:
    """By the plan beside it already, and by the button too: with a link, and nothing started."""
    watched.goto(f"{demo.ready['url']}/services/shop/deploy/?version=v999")
    expect(watched.locator("#plan")).to_contain_text("Somebody else is deploying")
    watched.locator("#start").click()
    told = watched.locator("#alert")
    expect(told).to_contain_text("Not started.")
    expect(told.get_by_role("link")).to_have_attribute("href", f"/deployments/{running}/")
    watched.evaluate("() => sessionStorage.clear()")


def test_a_dialog_gives_the_focus_back(watched: Page, demo: Demo, running: str) -> None:
    """By keyboard and by mouse; what changes while it is read is said in it."""
    opener = watched.get_by_role("link", name="Stop deployment…")
    dialog = watched.locator("dialog[open]")
    for open_it in (lambda: opener.press("Enter"), opener.click):
        open_it()
        expect(watched.get_by_role("link", name="Keep deploying")).to_be_focused()
        watched.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(opener).to_be_focused()
    opener.press("Enter")
    expect(dialog).to_contain_text("a mixed fleet")
    pause(demo, running)
    expect(dialog).to_contain_text("It changed while you were looking: paused.")
    watched.get_by_role("link", name="Keep deploying").press("Enter")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("width", [390, 320])
def test_no_page_is_wider_than_the_smallest_windows(
    watched: Page, demo: Demo, running: str, width: int
) -> None:
    """Neither on a phone nor where text is enlarged four times; dialogs and panels included."""
    watched.set_viewport_size({"width": width, "height": 844})
    wide = []
    for path in (
        "/",
        "/figures/",
        "/services/shop/?lock=1",
        "/services/shop/check/",
        "/services/shop/deploy/?version=v99",
        f"/deployments/{running}/?instance=web-01",
        f"/deployments/{running}/?stop=1",
        f"/deployments/{running}/replay/",
        "/nowhere/",
    ):
        watched.goto(demo.ready["url"] + path)
        if (found := watched.evaluate("document.documentElement.scrollWidth")) > width:
            wide.append(f"{path} is {found} px wide")
    assert wide == []


def test_borders_stay_where_colours_are_the_readers_own(
    watched: Page, demo: Demo, running: str
) -> None:
    """Tiles and buttons are told apart without any colour of ours."""
    watched.emulate_media(forced_colors="active")
    wait_for_serving(watched, 2)
    assert watched.evaluate("matchMedia('(forced-colors: active)').matches")
    assert watched.evaluate(BORDERS) == []
