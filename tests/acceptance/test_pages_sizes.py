"""Deployments of 20, 200 and 1,000 instances by the real engine, each in the form that fits."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.acceptance import measuring
from tests.acceptance.browsing import SECONDS, api_state, opened, state_of, wait_for_end
from tests.acceptance.wide import Wide, running_wide

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# On a machine of 2 cores that the engine, the database and the whole fleet share with the browser.


@pytest.fixture(scope="module")
def wide() -> Iterator[Wide]:
    with running_wide(20, 200, 1000) as wide:
        yield wide


@pytest.fixture
def page(browser: Browser, wide: Wide) -> Iterator[Page]:
    with opened(browser, wide) as page:
        measuring.watch(page)
        yield page


def follow(page: Page, wide: Wide, deployment: str) -> None:
    page.goto(f"{wide.ready['url']}/deployments/{deployment}/")
    expect(page.locator("#freshness")).to_contain_text("Live")


def tile(page: Page, name: str) -> Locator:
    return page.locator(f'.tile[data-instance="{name}"]')


def wait_for_updated(page: Page, count: int) -> None:
    page.wait_for_function(
        "(count) => window.lockgate.snapshot.progress.updated >= count",
        arg=count,
        timeout=60 * SECONDS,
    )


def test_twenty_are_full_tiles_that_never_move(page: Page, wide: Wide) -> None:
    """Each says its word and version, and nothing shifts from the first view to the end."""
    deployment = wide.deploy("fleet-20", "v2", batch_size=10, max_unavailable=10)
    follow(page, wide, deployment)
    expect(page.locator("#lanes")).to_have_attribute("data-size", "full")
    wait_for_end(page)
    expect(page.locator('.tile[data-state="serving"]')).to_have_count(20)
    expect(tile(page, "web-0020").locator('[data-part="word"]')).to_have_text("serving")
    expect(tile(page, "web-0020").locator('[data-part="runs"]')).to_have_text("v2")
    assert measuring.shift(page) < 0.02
    assert state_of(page) == api_state(page, deployment)


def test_two_hundred_are_glyphs_and_names_and_keep_the_focus(page: Page, wide: Wide) -> None:
    """A tile that changes its state is the same element before and after, for who sits on it."""
    deployment = wide.deploy("fleet-200", "v2", batch_size=100, max_unavailable=100)
    follow(page, wide, deployment)
    expect(page.locator("#lanes")).to_have_attribute("data-size", "small")
    expect(page.locator(".tile")).to_have_count(200)
    link = tile(page, "web-0001").locator("a")
    link.focus()
    expect(tile(page, "web-0001")).to_have_attribute("data-state", "serving", timeout=60 * SECONDS)
    expect(link).to_be_focused()
    expect(link).to_contain_text("serving")  # for those who hear it
    assert wide.act(deployment, "cancel", mode="stop").status_code == 202
    wait_for_end(page)
    assert state_of(page) == api_state(page, deployment)


def test_a_thousand_are_bars_and_tiles_of_those_under_way(page: Page, wide: Wide) -> None:
    """A hundred change at once, and the end is the same; tests/bench/page.py measures how fast."""
    deployment = wide.deploy("fleet-1000", "v2-bad", batch_size=100, max_unavailable=200)
    follow(page, wide, deployment)
    expect(page.locator(".lane")).to_have_count(10)
    expect(page.locator("#instances tbody tr")).to_have_count(50)
    wait_for_updated(page, 20)
    # All of a batch that is under way, each in its place until all of it is done.
    expect(page.locator("#now .tile")).to_have_count(100)
    assert measuring.shift(page) < 0.05
    page.wait_for_function("() => window.lockgate.snapshot.progress.failed > 0")
    link = page.locator('#now .tile[data-state="failed"] a').first
    link.focus()
    focused = page.evaluate_handle("document.activeElement")
    assert wide.act(deployment, "cancel", mode="stop").status_code == 202
    wait_for_end(page)
    assert page.evaluate("(link) => link === document.activeElement", focused)
    bar = page.get_by_role("img", name=re.compile(r"^Batch 1: \d+ serving"))
    expect(bar).to_be_visible()
    assert state_of(page) == api_state(page, deployment)


def test_the_table_of_a_thousand_is_filtered_in_the_address(page: Page, wide: Wide) -> None:
    """What was asked for is there again after a reload, drawn by the server; a row opens more."""
    [deployment] = _deployments(wide)
    follow(page, wide, deployment)
    rows = page.locator("#instances tbody tr")
    page.get_by_role("link", name="Next").click()
    expect(rows.first).to_contain_text("web-0051")
    expect(page.locator('[data-part="page-words"]')).to_have_text("Page 2 of 20, 1000 instances")
    page.locator("#instances input[name=q]").fill("web-09")
    page.locator("#instances select[name=state]").select_option("untouched")
    expect(page.locator('[data-part="page-words"]')).to_have_text("Page 1 of 2, 100 instances")
    assert "q=web-09" in page.url
    assert "state=untouched" in page.url
    page.reload()
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("web-0900")
    rows.first.get_by_role("link").click()
    expect(page.locator("#panel")).to_be_focused()
    expect(page.locator("#panel")).to_contain_text("web-0900")
    assert "q=web-09" in page.url
    page.keyboard.press("Escape")
    expect(rows.first.get_by_role("link")).to_be_focused()


def _deployments(wide: Wide) -> list[str]:
    found = wide.client.get("/api/v1/deployments", params={"service": "fleet-1000"})
    return [one["id"] for one in found.raise_for_status().json()["items"]]
