"""The pages in headless Chromium while what is behind them is killed: they say so, and catch up."""

import os
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance import victims
from tests.acceptance.browsing import (
    SECONDS,
    api_state,
    start,
    state_of,
    wait_for_end,
    wait_for_serving,
)
from tests.acceptance.running import Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Json = dict[str, Any]
SLOWLY = {"batch_pause": "2"}
# Every state that each tile was ever in, in order, as the page itself showed it.
WATCH_TILES = """() => {
  window.watched = {};
  for (const tile of document.querySelectorAll(".tile")) {
    const seen = (window.watched[tile.dataset.instance] = [tile.dataset.state]);
    new MutationObserver(() => {
      if (seen.at(-1) !== tile.dataset.state) seen.push(tile.dataset.state);
    }).observe(tile, { attributes: true, attributeFilter: ["data-state"] });
  }
}"""


def shown(page: Page) -> Json:
    """Return what a person reads on a deployment's page, without what passes with time."""
    return dict(
        page.evaluate(
            """() => ({
              title: document.title,
              head: document.getElementById("head").innerText,
              traffic: document.getElementById("traffic").innerText,
              tiles: [...document.querySelectorAll(".tile")].map((tile) => tile.innerText),
              lanes: [...document.querySelectorAll(".lane-head")].map((lane) => lane.innerText),
              log: document.getElementById("log-rows").innerText,
              sparks: [...document.querySelectorAll(".spark")].map((spark) =>
                [...spark.children].map((path) => ["d", "class"].map(
                  (name) => path.getAttribute(name)))),
            })"""
        )
    )


def test_a_deployment_is_watched_while_the_web_is_killed(page: Page, demo: Demo) -> None:
    """Tiles change without a reload; after kill -9 of the web the page catches up by itself.

    At the end it holds what REST says, and shows what a page loaded anew shows.
    """
    deployment, version = start(page, demo, **SLOWLY)
    page.evaluate("window.neverReloaded = true")
    page.evaluate(WATCH_TILES)
    expect(page.locator("#freshness")).to_contain_text("Live")
    wait_for_serving(page, 2)
    for pid in demo.ready["pids"]["web"]:
        os.kill(pid, signal.SIGKILL)
    expect(page.locator("#freshness")).to_contain_text("Reconnecting")
    expect(page.locator("#freshness")).to_contain_text("Live", timeout=60 * SECONDS)
    wait_for_end(page)
    assert page.evaluate("window.neverReloaded")
    expect(page.locator("#head")).to_contain_text("completed")
    expect(page.locator(".tile[data-state=serving]")).to_have_count(6)
    expect(page).to_have_title(f"✓ 6/6 shop {version}")
    watched = page.evaluate("window.watched")
    assert watched["web-01"][-1] == "serving"
    assert {"draining", "updating", "checking"} & {s for seen in watched.values() for s in seen}
    assert state_of(page) == api_state(page, deployment)
    numbers = page.eval_on_selector_all("#log-rows li", "rows => rows.map((row) => row.id)")
    told = [f"e-{event['seq']}" for event in demo.events(deployment) if event["message"]]
    assert numbers == told
    patched = shown(page)
    page.reload()
    expect(page.locator("#freshness")).to_contain_text("Live")
    assert shown(page) == patched


def test_a_lost_worker_and_its_successor_are_in_the_log(page: Page, demo: Demo) -> None:
    """While nobody is there to take over, the page says so; then who was lost, and when."""
    demo.whole()
    start(page, demo, **SLOWLY)
    wait_for_serving(page, 2)
    victims.worker_and_horse(demo)
    waiting = page.locator('[data-part="waiting"]')
    with demo.without_workers():
        expect(waiting).to_be_visible(timeout=30 * SECONDS)
        expect(waiting).to_contain_text("Waiting for a worker")
    expect(waiting).to_be_hidden(timeout=30 * SECONDS)
    taken = page.locator("#log-rows li", has_text="taken over at")
    expect(taken).to_contain_text(re.compile(r"Worker .* was lost at \d\d:\d\d:\d\d UTC"))
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("completed")


def test_a_click_while_redis_is_down_says_when_it_starts(page: Page, demo: Demo) -> None:
    """On the page that the click leads to, which goes on by itself once Redis is back."""
    demo.whole()
    demo.supervised("stopProcess", "redis")
    try:
        start(page, demo)
        waiting = page.locator('[data-part="waiting"]')
        expect(waiting).to_contain_text("Saved, starts when Redis is back")
    finally:
        demo.supervised("startProcess", "redis")
    expect(waiting).to_be_hidden(timeout=60 * SECONDS)
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("completed")


def test_a_page_without_its_socket_looks_stale_and_polls(page: Page, demo: Demo) -> None:
    """After 12 s it is hatched, reads the snapshot by REST, and its buttons work."""
    page.route_web_socket("**/ws/**", lambda socket: socket.close(code=3000))
    deployment, _ = start(page, demo, batch_pause="6")
    expect(page.locator("#freshness")).to_contain_text("Reconnecting")
    page.locator("html[data-stale]").wait_for(timeout=30 * SECONDS)
    expect(page.locator("#told")).to_contain_text("The connection is lost")
    page.get_by_role("link", name="Stop deployment…").click()
    page.get_by_role("button", name="Stop here").click()
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("cancelled")
    expect(page.locator("#freshness")).not_to_contain_text("Live")
    page.wait_for_function(
        "(seq) => document.getElementById(`e-${seq}`) !== null", arg=demo.get(deployment)["seq"]
    )
    assert state_of(page) == api_state(page, deployment)
