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
  const fresh = document.getElementById("log-new");
  const inView = (row) => {
    const [{ top, bottom }, frame] = [row, box].map((one) => one.getBoundingClientRect());
    return top >= frame.top && bottom <= frame.bottom;
  };
  const most = [];
  for (let seq = 1; seq <= 50000; seq += 100) {
    log.add(Array.from({ length: 100 }, (_, place) => line(seq + place)));
    most.push(shown().length);
  }
  const followed = shown().at(-1);
  box.scrollTop = 0;
  await new Promise(requestAnimationFrame);
  log.add([line(50001), line(50002)]);
  log.add([line(50002), line(50003), { ...line(50004), message: "" }]);
  const note = fresh.textContent;
  const first = shown()[0];
  log.add(Array.from({ length: 600 }, (_, place) => line(50005 + place)));
  const kept = shown()[0] === first;
  await log.reach(777);
  await log.reach(778);
  const linked = [...document.querySelectorAll("#log-rows [aria-current]")]
    .map((row) => [row.id, inView(row), shown().length]);
  await log.toEnd();
  const end = shown().at(-1);
  box.scrollTop = 0;
  await new Promise(requestAnimationFrame);
  log.add([line(50605)]);
  const seen = [fresh.hidden];
  box.scrollTop = box.scrollHeight;
  await new Promise(requestAnimationFrame);
  seen.push(fresh.hidden);
  return { most: Math.max(...most), followed, note, kept, asked, linked, end, seen };
}"""
# What is read on: past a snapshot, further up, and by what is chosen.
READ = """async () => {
  const { Log } = await import("/static/js/log.js");
  const line = (seq) =>
    ({ seq, at: "2026-01-02T12:00:00Z", kind: "note", target: "web-01", message: `line ${seq}` });
  const ask = async ({ after, before }) => {
    const first = after === undefined ? Math.max(1, before - 200) : after + 1;
    const count = Math.min(200, (before ?? 451) - first);
    return Array.from({ length: count }, (_, place) => line(first + place));
  };
  const box = document.getElementById("log");
  const list = document.getElementById("log-rows");
  const shown = () => [...list.children].map((row) => Number(row.id.slice(2)));
  const [kind, instance] = ["log-kind", "log-instance"].map((id) => document.getElementById(id));
  list.replaceChildren();
  const log = new Log(ask, 0);
  const filling = log.fill(450);
  log.add([line(451)]);
  const read = (await filling).length;
  await new Promise(requestAnimationFrame);
  const filled = shown();
  const counts = [];
  for (const [chosen, words] of [[kind, "output"], [instance, "web-02"]]) {
    chosen.value = words;
    log.add([line(filled.length + counts.length + 1)]);
    counts.push(shown().length);
    chosen.value = "";
  }
  kind.value = "output";
  await log.reach(9000);
  const all = kind.value === "";
  await log.reach(150);
  const earlier = [document.getElementById("log-earlier").hidden];
  box.scrollTop = 0;
  const [row] = list.children;
  const top = row.getBoundingClientRect().top;
  await log.before();
  earlier.push(document.getElementById("log-earlier").hidden);
  const moved = Math.abs(row.getBoundingClientRect().top - top);
  return { read, filled, counts, all, upward: shown(), earlier, moved };
}"""
# What a browser would show, kept for the test to read.
RECORDED = """() => {
  window.shown = [];
  window.Notification = class {
    static permission = localStorage.allowed ?? "default";
    static async requestPermission() {
      window.asked = (window.asked ?? 0) + 1;
      return (localStorage.allowed = this.permission = "granted");
    }
    constructor(title, { body }) {
      window.shown.push(`${title} ${body}`);
    }
  };
}"""
# What is shown for states that come one after another, to who has it so: what was chosen, what the
# browser allows, and whether the page is hidden.
WATCHED = """async ([cases]) => {
  const { learn } = await import("/static/js/states.js");
  const data = JSON.parse(document.getElementById("page").textContent);
  learn(data.vocabulary);
  document.body.insertAdjacentHTML("beforeend", '<button id="notify"></button>');
  const { snapshot } = data;
  const running = { ...snapshot, status: "in_progress", wish: "", approvals: [] };
  const asking = { ...running, approvals: [snapshot.step] };
  const states = { running, asking, ended: snapshot };
  let hidden = false;
  Object.defineProperty(document, "hidden", { get: () => hidden });
  const found = [];
  for (const [place, [chosen, allowed, away, ...come]] of cases.entries()) {
    localStorage.notify = chosen;
    Notification.permission = allowed;
    hidden = away;
    window.shown = [];
    const { watch } = await import(`/static/js/notify.js?${place}`);
    for (const name of come) watch({ ...states[name] });
    found.push(shown.length);
  }
  const { toggle } = await import("/static/js/notify.js?0");
  const button = () => document.getElementById("notify").getAttribute("aria-pressed");
  localStorage.notify = "off";
  const pressed = [];
  for (const _ of [1, 2]) {
    await toggle();
    pressed.push([button(), localStorage.notify]);
  }
  return { found, pressed };
}"""


@pytest.fixture(scope="module")
def over(demo: Demo) -> str:
    """A deployment that is complete."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    return deployment


def test_a_long_log_stays_small(page: Page, demo: Demo, over: str) -> None:
    """Of 50,000 lines a bounded part is in the page, and any other is reached by its link.

    What comes while one reads further up is counted, and takes nothing away from there.
    """
    page.goto(f"{demo.ready['url']}/deployments/{over}/")
    found = page.evaluate(LONG)
    assert found["most"] <= 1000
    assert found["followed"] == 50_000
    assert found["note"] == "3 new ↓"
    assert found["kept"]
    assert found["asked"] == [877, 50_605]
    assert found["linked"] == [["e-778", True, 200]]
    assert found["end"] == 50_604
    assert found["seen"] == [False, True]


def test_no_line_is_left_out_or_comes_twice(page: Page, demo: Demo, over: str) -> None:
    """Neither where a snapshot came instead of events, nor further up; none is of what was not
    chosen, and one that is linked is reached whatever was.
    """
    page.goto(f"{demo.ready['url']}/deployments/{over}/")
    found = page.evaluate(READ)
    assert found["read"] == 450
    assert found["filled"] == list(range(1, 452))
    assert found["counts"] == [451, 451]
    assert found["all"]
    assert found["upward"] == list(range(1, 250))
    assert found["earlier"] == [False, True]
    assert found["moved"] < 1


def test_a_line_is_linked_and_filters_stand_in_the_address(
    page: Page, demo: Demo, over: str
) -> None:
    """Whoever opens the address sees the same lines, the linked one marked."""
    page.goto(f"{demo.ready['url']}/deployments/{over}/")
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
    none = page.get_by_text("Nothing of that was said")
    page.get_by_label("Kind", exact=True).select_option("wish")
    expect(none).to_be_visible()
    page.get_by_label("Kind", exact=True).select_option("")
    expect(none).to_be_hidden()
    expect(page).not_to_have_url(re.compile("log-kind"))


def test_a_notification_is_of_news_for_who_wants_it_and_does_not_look(
    page: Page, demo: Demo, over: str
) -> None:
    """Of the end and of what has to be decided, each once; what was so before is no news."""
    page.goto(f"{demo.ready['url']}/deployments/{over}/")
    page.evaluate(f"({RECORDED})()")
    wanted = ["on", "granted", True]
    cases = {
        "the end": ([*wanted, "running", "running", "ended", "ended"], 1),
        "a decision": ([*wanted, "running", "asking", "asking", "running"], 1),
        "both": ([*wanted, "running", "asking", "ended"], 2),
        "a page that is seen": (["on", "granted", False, "running", "ended"], 0),
        "not chosen": (["off", "granted", True, "running", "ended"], 0),
        "not allowed any more": (["on", "denied", True, "running", "ended"], 0),
        "as it was before": ([*wanted, "asking", "asking"], 0),
    }
    found = page.evaluate(WATCHED, [[case for case, _ in cases.values()]])
    assert dict(zip(cases, found["found"], strict=True)) == {
        name: count for name, (_, count) in cases.items()
    }
    assert found["pressed"] == [["true", "on"], ["false", "off"]]
    assert page.evaluate("window.asked") == 1
    page.evaluate("localStorage.clear()")


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
    page.reload()
    expect(page.get_by_role("button", name="Notifying")).to_be_visible()
    assert page.evaluate("window.asked") is None
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    wait_for_end(page)
    page.wait_for_function("() => window.shown.length")
    [shown] = page.evaluate("window.shown")
    assert "completed" in shown
    assert "All 6 instances run" in shown
    expect(page.get_by_role("button", name="Notifying")).to_be_hidden()
