"""Canary and blue/green in headless Chromium: what an engineer sees and presses."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard import asking, stages, traffic
from dashboard.views import live_page
from rollouts.snapshots import apply
from tests.acceptance.browsing import (
    SECONDS,
    api_state,
    opened,
    start,
    state_of,
    versions,
    wait_for_end,
)
from tests.acceptance.running import Demo, running_demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Json = dict[str, Any]
# A share that one of six carries, a bake that nobody waits for, and a person.
STEPS = "10 % for 5 min\napprove\n100 %"
FEW = {"analysis.min_requests": "1"}

# What a person reads, as the scripts have patched it and as the server draws it just now: two
# things to compare. Left out is what passes with time.
BOTH = """async () => {
  const plain = (words) => words.replace(/\\s+/g, " ").trim();
  const text = (node) => plain(node.textContent.replace(/[^ ]* (s|min) left/, ""));
  const all = (root, which) => [...root.querySelectorAll(which)].map(text);
  const read = (root) => ({
    title: root.title,
    state: text(root.querySelector("[data-part=state]")),
    counts: text(root.querySelector("[data-part=counts]")),
    strategy: text(root.querySelector("[data-part=strategy]")),
    decision: text(root.querySelector("[data-part=decision]:not([hidden])") ?? new Text()),
    hidden: [...root.querySelectorAll("#head [data-control]:not(#notify), .notices > .notice")]
      .map((node) => node.hidden),
    rail: all(root, "#rail h2, #rail li"),
    looks: [...root.querySelectorAll("#rail li")].map((node) =>
      [node.className, node.dataset.state, node.getAttribute("aria-current")]),
    tiles: [...root.querySelectorAll(".tile")].map((node) =>
      [node.dataset.state, ...["glyph", "word", "runs", "detail"].map((name) =>
        text(node.querySelector(`[data-part=${name}]`)))]),
    traffic: all(root, "#traffic [data-part]"),
    bars: [...root.querySelectorAll(".shares rect")].map((node) =>
      [node.getAttribute("class"), Math.round(Number.parseFloat(node.getAttribute("width")))]),
    asked: ["promote", "stop", "back"].map((name) =>
      text(root.querySelector(`[data-control=${name}]:not([hidden])`) ?? new Text())),
  });
  const answer = await fetch(location.pathname);
  const drawn = new DOMParser().parseFromString(await answer.text(), "text/html");
  return [read(document), read(drawn)];
}"""

# All that the scripts make of snapshots, at a moment.
SAID = """async ([snapshots, stops, at, vocabulary]) => {
  const states = await import("/static/js/states.js");
  const stages = await import("/static/js/stages.js");
  const rail = await import("/static/js/rail.js");
  const traffic = await import("/static/js/traffic.js");
  states.learn(vocabulary);
  rail.follow(stops);
  return snapshots.map((held) => ({
    rail: rail.rail(held, at),
    decision: stages.decision(held, at),
    promoting: stages.promoting(held),
    back: stages.maySendBack(held),
    strategy: stages.strategyWords(held),
    serves: stages.takesTraffic(held),
    pause: stages.mayPause(held),
    split: traffic.splitWords(held),
    sides: traffic.sides(held),
    evidence: traffic.evidence(held),
  }));
}"""


@pytest.fixture(scope="module")
def slots() -> Iterator[Demo]:
    """A demo of two slots, of two instances each."""
    with running_demo("--strategy", "blue_green", "--instances", "4", "--rate", "40") as demo:
        yield demo


@pytest.fixture
def slotted(browser: Browser, slots: Demo) -> Iterator[Page]:
    """A page of the demo with slots."""
    with opened(browser, slots) as page:
        yield page


def wait_for_step(page: Page, kind: str) -> None:
    """Return once a step of that kind is under way, as far as the page knows."""
    page.wait_for_function(
        """(kind) => {
          const { steps, step, status } = window.lockgate.snapshot;
          return status === "in_progress" && steps[step]?.kind === kind;
        }""",
        arg=kind,
        timeout=60 * SECONDS,
    )


def compare_pages(page: Page) -> None:
    """Check that what was patched and what is drawn anew say the same, of one state."""
    for _ in range(20):
        seq = page.evaluate("window.lockgate.snapshot.seq")
        patched, drawn = page.evaluate(BOTH)
        if page.evaluate("window.lockgate.snapshot.seq") == seq:
            break
    assert patched == drawn


def words_of(held: Json, at: datetime) -> Json:
    """Return what the server says of a snapshot, as SAID says it."""
    return {
        "rail": stages.rail(held, at),
        "decision": stages.decision(held, at),
        "promoting": (asking.promotion(held) or {"open": ""})["open"],
        "back": bool(asking.shift_back(held)),
        "strategy": stages.strategy_words(held),
        "serves": stages.takes_traffic(held),
        "pause": asking.may_pause(held),
        "split": traffic.split_words(held),
        "sides": traffic.sides(held),
        "evidence": traffic.evidence(held),
    }


def compare_words(page: Page, events: list[Json]) -> None:
    """Check that server and scripts say the same of a deployment after each of its events."""
    held: list[Json] = []
    state: Json = {}
    for event in events:
        state = apply(state, [event])
        held += [state, {**state, "wish": "promote_all"}]
    asked = json.loads(json.dumps(held[-1]["policy"]["analysis"])) | {"too_little": "ask"}
    held += [{**one, "policy": {**one["policy"], "analysis": asked}} for one in held[::5]]
    at = datetime.fromisoformat(events[-1]["at"]) - timedelta(seconds=1.5)
    course, vocabulary = stages.course(held[0]), live_page()["vocabulary"]
    said = page.evaluate(SAID, [held, course, at.timestamp() * 1000, vocabulary])
    for one, words in zip(held, said, strict=True):
        # Numbers come back from the browser without telling 5 from 5.0.
        assert words == json.loads(json.dumps(words_of(one, at))), one["seq"]


def test_a_canary_is_promoted(page: Page, demo: Demo) -> None:
    """Each press says what it moves; who is asked is told aloud; what is shown is what is true."""
    deployment, version = start(page, demo, "canary", canary_steps=STEPS, **FEW)
    expect(page.locator("#freshness")).to_contain_text("Live")
    wait_for_step(page, "bake")
    current = page.locator('#rail [aria-current="step"]')
    expect(current).to_contain_text("bake 5 min")
    expect(current).to_contain_text("left")
    expect(page.locator("#head")).to_contain_text("canary at 10 %")
    page.get_by_role("link", name="Promote…").click()
    expect(page.get_by_role("link", name="Not yet")).to_be_focused()
    page.get_by_role("button", name="End the bake").click()
    expect(page.locator('[data-part="decision"]')).to_contain_text("Approval is needed")
    expect(page.locator("#told")).to_contain_text(f"{version} has 10 % of the traffic")
    expect(page).to_have_title(f"! 1/6 shop {version}")
    expect(current).to_contain_text("waiting for approval")
    expect(page.locator("#traffic")).to_contain_text("observed")
    expect(page.locator("#traffic")).to_contain_text(f"of 100 against {version}")
    compare_pages(page)
    dialog = page.get_by_role("dialog")
    page.get_by_role("link", name="Promote…").click()
    expect(dialog).to_contain_text(f"From 10 % to 100 %: 5 more instances get {version}.")
    expect(dialog).to_contain_text("with errors")
    page.get_by_role("button", name="Promote to 100 %").click()
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("completed")
    expect(page.locator("#rail li[data-state=done]")).to_have_count(6)
    assert state_of(page) == api_state(page, deployment)
    compare_pages(page)
    compare_words(page, demo.events(deployment))
    assert demo.versions() == {version}


def test_a_canary_is_aborted(page: Page, demo: Demo) -> None:
    """Its share goes first; the way back is told step by step, and all are back."""
    before = demo.versions()
    deployment, version = start(page, demo, "canary", canary_steps=STEPS, **FEW)
    wait_for_step(page, "bake")
    page.get_by_role("link", name="Stop deployment…").click()
    dialog = page.get_by_role("dialog")
    expect(page.get_by_role("link", name="Keep deploying")).to_be_focused()
    expect(dialog).to_contain_text("Its share goes to 0 first")
    expect(dialog).to_contain_text(f"1 of 6 stay on {version}, with 10 % of the traffic")
    page.get_by_role("button", name="Abort canary").click()
    expect(page.locator("#rail-title")).to_have_text("The way back")
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("cancelled")
    expect(page.locator("#rail")).to_contain_text("bring back 1 instance")
    compare_pages(page)
    expect(page.locator("#rail li[data-state=done]")).to_have_count(3)
    assert state_of(page) == api_state(page, deployment)
    compare_words(page, demo.events(deployment))
    assert demo.versions() == before


def test_a_dialog_that_is_read_is_not_changed_under_the_eyes(page: Page, demo: Demo) -> None:
    """What went on meanwhile is said in it, and pressing it promotes nothing that nobody saw."""
    deployment, _ = start(page, demo, "canary", canary_steps=STEPS, **FEW)
    wait_for_step(page, "bake")
    page.get_by_role("link", name="Promote…").click()
    assert demo.act(deployment, "promote").status_code == 202
    wait_for_step(page, "approve")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("It went on to the next step")
    page.get_by_role("button", name="End the bake").click()
    expect(page.locator("#alert")).to_contain_text("has gone on since you looked")
    assert demo.get(deployment)["wish"] == ""
    assert demo.act(deployment, "rollback").status_code == 202
    demo.ended(deployment)


def test_traffic_is_shifted_and_shifted_back(slotted: Page, slots: Demo) -> None:
    """The idle slot is verified before it serves; one press brings the traffic back at once."""
    page = slotted
    where = "green of shop (2 instances)"
    deployment, _ = start(page, slots, where=where, approve="on", keep_old="300")
    expect(page.locator("#freshness")).to_contain_text("Live")
    wait_for_step(page, "approve")
    expect(page.locator(".tile[data-state=verified]")).to_have_count(2)
    expect(page.locator(".tile").first).to_contain_text("no traffic")
    expect(page.get_by_role("link", name="Try green")).to_be_visible()
    expect(page.get_by_role("link", name="Shift back…")).to_be_hidden()
    page.get_by_role("link", name="Promote…").click()
    page.get_by_role("button", name="Promote to 100 %").click()
    expect(page.locator(".tile[data-state=serving]")).to_have_count(2)
    expect(page.locator('#rail [aria-current="step"]')).to_contain_text("keep blue 5 min")
    expect(page.get_by_role("link", name="Let blue go…")).to_be_visible()
    page.get_by_role("link", name="Shift back…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("All traffic goes back to v1 on blue at once")
    expect(page.get_by_role("link", name="Keep the traffic where it is")).to_be_focused()
    page.get_by_role("button", name="Shift back to v1").click()
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("rolled back")
    assert state_of(page) == api_state(page, deployment)
    compare_pages(page)
    compare_words(page, slots.events(deployment))
    assert slots.client.get("/api/v1/services/shop").json()["live_slot"] == "blue"
    assert slots.versions() == {"v1"}


def test_slots_are_swapped_by_a_button(slotted: Page, slots: Demo) -> None:
    """Which is told as what it is; the service and the overview show which is live then."""
    page = slotted
    version = f"p{next(versions)}"
    slots.ended(slots.start(version, keep_old=0))
    page.goto(f"{slots.ready['url']}/services/shop/")
    expect(page.locator(".slot.live")).to_contain_text("green")
    page.get_by_role("link", name="Swap slots…").click()
    expect(page.get_by_role("link", name="Leave them as they are")).to_be_focused()
    expect(page.get_by_role("dialog")).to_contain_text("All traffic goes to blue (v1) at once")
    page.get_by_role("button", name="Swap to blue").click()
    page.wait_for_url("**/deployments/deploy-*/")
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("2/2 verified")
    expect(page.locator("#rail")).to_contain_text("100 % to blue")
    page.goto(slots.ready["url"])
    expect(page.locator('tr[data-key="shop"]')).to_contain_text("blue, live: v1 × 2")
    expect(page.locator('tr[data-key="shop"]')).to_contain_text(f"green: {version} × 2")
    assert not page.locator(".notice").count()


def test_no_page_of_a_strategy_scrolls_sideways_on_a_phone(slotted: Page, slots: Demo) -> None:
    """390 px are enough for the rail, the slots and the form."""
    page = slotted
    [latest] = slots.client.get("/api/v1/deployments?limit=1").json()["items"]
    page.set_viewport_size({"width": 390, "height": 844})
    for path in (
        f"/deployments/{latest['id']}/",
        "/services/shop/?swap=1",
        "/services/shop/deploy/?version=v99",
    ):
        page.goto(slots.ready["url"] + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is {width} px wide"
