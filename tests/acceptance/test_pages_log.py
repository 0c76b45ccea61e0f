"""The log and notifications of a deployment's page, in headless Chromium."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.browsing import versions, wait_for_end
from tests.acceptance.running import Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Json = dict[str, Any]
# A log of 50,000 lines in the page's own module: what comes at once, and what was asked for.
LONG = """async () => {
  const { Log } = await import("/static/js/log.js");
  const about = { at: "2026-01-02T12:00:00Z", kind: "note", target: "web-01" };
  const line = (seq) => ({ ...about, seq, message: `line ${seq}` });
  const asked = [];
  const ask = async ({ before }) => {
    asked.push(before);
    return Array.from({ length: 200 }, (_, place) => line(before - 200 + place));
  };
  const box = document.getElementById("log");
  document.getElementById("log-rows").replaceChildren();
  const log = new Log(ask, 0);
  const rows = document.getElementById("log-rows").children;
  const shown = () => [...rows].map((row) => Number(row.id.slice(2)));
  const most = [];
  for (let seq = 1; seq <= 50000; seq += 100) {
    log.add(Array.from({ length: 100 }, (_, place) => line(seq + place)));
    most.push(shown().length);
  }
  const followed = shown().at(-1);
  box.scrollTop = 0;
  await new Promise(requestAnimationFrame);
  log.add([line(50001), line(50002)]);
  const note = document.getElementById("log-new").textContent;
  await log.reach(777);
  const linked = [document.querySelector("#log-rows [aria-current]").id, shown().length];
  await log.toEnd();
  return { most: Math.max(...most), followed, note, asked, linked, end: shown().at(-1) };
}"""
# What a browser would show, kept for the test to read.
RECORDED = """() => {
  window.shown = [];
  window.Notification = class {
    static permission = "default";
    static async requestPermission() {
      window.asked = (window.asked ?? 0) + 1;
      return (this.permission = "granted");
    }
    constructor(title, { body }) {
      window.shown.push(`${title} ${body}`);
    }
  };
}"""


def test_a_long_log_stays_small(page: Page, demo: Demo) -> None:
    """Of 50,000 lines a bounded part is in the page, and any other is reached by its link."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    found = page.evaluate(LONG)
    assert found["most"] <= 1000
    assert found["followed"] == 50_000
    assert found["note"] == "2 new ↓"
    assert found["asked"] == [877, 50_003]
    assert found["linked"] == ["e-777", 200]
    assert found["end"] == 50_002


def test_a_line_is_linked_and_filters_stand_in_the_address(page: Page, demo: Demo) -> None:
    """Whoever opens the address sees the same lines, the linked one marked."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    page.get_by_label("Kind", exact=True).select_option("output")
    expect(page).to_have_url(re.compile(r"\?log-kind=output$"))
    rows = page.locator("#log-rows li")
    expect(rows).to_have_count(6)
    line = rows.nth(2)
    line.locator("[data-part=link]").click()
    expect(line).to_have_attribute("aria-current", "true")
    page.reload()
    expect(rows).to_have_count(6)
    expect(line).to_have_attribute("aria-current", "true")


def test_a_notification_comes_by_opt_in_at_the_end(page: Page, demo: Demo) -> None:
    """Asked for by a click alone, remembered, and only while nobody sees the page."""
    page.add_init_script(f"({RECORDED})()")
    deployment = demo.start(f"p{next(versions)}", batch_pause=2)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    button = page.get_by_role("button", name="Notify me")
    expect(button).to_be_visible()
    assert page.evaluate("window.asked") is None
    button.click()
    expect(page.get_by_role("button", name="Notifying")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("localStorage.notify") == "on"
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    wait_for_end(page)
    page.wait_for_function("() => window.shown.length")
    [shown] = page.evaluate("window.shown")
    assert "completed" in shown
    assert "All 6 instances run" in shown
    expect(page.get_by_role("button", name="Notifying")).to_be_hidden()
