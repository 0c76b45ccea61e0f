"""What all pages share: files that come once, nothing that moves by itself, a way back in."""

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from tests.acceptance.browsing import SECONDS, log_in, opened, versions, wait_for_end
from tests.acceptance.running import Demo

pytestmark = pytest.mark.browser

PAGES = ("/", "/services/shop/", "/services/shop/deploy/", "/figures/")
SHIFTS = """() => {
  window.moved = 0;
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) window.moved += one.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""
LITTLE = 0.01  # of the screen; a badge that changes its words moves that much at most


@pytest.fixture(scope="module")
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """One page for the whole module."""
    with opened(browser, demo) as page:
        yield page


@pytest.mark.parametrize("path", PAGES)
def test_nothing_moves_while_a_page_comes(page: Page, demo: Demo, path: str) -> None:
    """Neither by scripts that put times into the reader's zone nor by the snapshot."""
    page.goto(demo.ready["url"] + path, wait_until="networkidle")
    page.evaluate(SHIFTS)
    assert page.evaluate("() => new Promise(requestAnimationFrame).then(() => moved)") < LITTLE


def test_files_come_once_by_names_of_their_content(page: Page, demo: Demo) -> None:
    """One request for styles; each file compressed and kept for good."""
    answers: list[Response] = []

    def keep(answer: Response) -> None:
        answers.append(answer)

    page.on("response", keep)
    page.goto(f"{demo.ready['url']}/services/shop/", wait_until="networkidle")
    page.remove_listener("response", keep)
    files = [each for each in answers if "/static/" in each.url]
    assert len([each for each in files if each.url.endswith(".css")]) == 1
    assert all("immutable" in each.headers["cache-control"] for each in files)
    scripts = [each for each in files if each.url.endswith(".js")]
    assert scripts
    assert all(each.headers.get("content-encoding") == "gzip" for each in scripts)


def test_times_are_in_the_zone_of_the_reader(browser: Browser, demo: Demo) -> None:
    """What the server drew, and what came since; the zone is told on hover."""
    kolkata = ZoneInfo("Asia/Kolkata")
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    with browser.new_context(timezone_id=kolkata.key, locale="en-GB") as context:
        page = context.new_page()
        page.set_default_timeout(20 * SECONDS)
        log_in(page, demo)
        page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
        wait_for_end(page)
        for path in ("", f"/deployments/{deployment}/", "/services/shop/"):
            if path:
                page.goto(demo.ready["url"] + path)
            times = page.locator("time[datetime]:visible").evaluate_all(
                "(all) => all.map((one) => [one.dateTime, one.textContent, one.title])"
            )
            assert times
            for moment, words, hint in times:
                at = datetime.fromisoformat(moment).astimezone(kolkata)
                assert f"{at:%H:%M}" in words, (path, moment, words)
                assert hint.endswith("GMT+5:30"), (path, words, hint)


def test_the_head_has_two_rows_on_a_phone(page: Page, demo: Demo) -> None:
    """Where you are, and what can be done; nothing wraps further."""
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(demo.ready["url"] + "/services/shop/")
    expect(page.locator("#freshness")).to_contain_text("Live")
    box = page.locator("header.bar").bounding_box()
    assert box is not None
    assert box["height"] < 100
    page.set_viewport_size({"width": 1280, "height": 900})


def test_who_logs_in_elsewhere_comes_back_to_the_same_page(page: Page, demo: Demo) -> None:
    """The badge says that one is signed out, the page goes on by itself, its buttons work."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=60)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    badge = page.locator("#freshness")
    expect(badge).to_contain_text("Live")
    other = page.context.new_page()
    other.goto(demo.ready["url"])
    other.get_by_role("button", name="Log out").click()
    expect(badge).to_contain_text("Signed out", timeout=30 * SECONDS)
    link = badge.get_by_role("link", name="Log in")
    expect(link).to_have_attribute("href", f"/login/?next=%2Fdeployments%2F{deployment}%2F")
    log_in(other, demo)
    other.close()
    page.evaluate("() => dispatchEvent(new Event('focus'))")
    expect(badge).to_contain_text("Live")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=30 * SECONDS)
    demo.act(deployment, "cancel", mode="stop")
    demo.ended(deployment)
