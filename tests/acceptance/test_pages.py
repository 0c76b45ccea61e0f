"""The pages in headless Chromium, on the whole real system: what an engineer sees and presses."""

import json
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from rollouts.snapshots import apply
from tests.acceptance.browsing import (
    SECONDS,
    api_state,
    log_in,
    start,
    state_of,
    versions,
    wait_for_end,
    wait_for_serving,
)
from tests.acceptance.running import Demo, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Json = dict[str, Any]
SLOWLY = {"batch_pause": "2"}
# How old a target's change was, in milliseconds, when its tile showed it. Both clocks are one,
# and the change was stamped before its commit: so it took at most so long from the commit.
TIME_TILES = """() => {
  window.delays = [];
  for (const tile of document.querySelectorAll(".tile"))
    new MutationObserver(() => queueMicrotask(() => {
      const { targets } = window.lockgate.snapshot;
      const mine = targets.find((target) => target.instance === tile.dataset.instance);
      window.delays.push(Date.now() - Date.parse(mine.updated_at));
    })).observe(tile, { attributes: true, attributeFilter: ["data-state"] });
}"""


def test_a_tile_changes_within_100_ms_of_its_event(page: Page, demo: Demo) -> None:
    """In the median, from before the commit to the browser's page."""
    start(page, demo)
    expect(page.locator("#freshness")).to_contain_text("Live")
    page.evaluate(TIME_TILES)
    wait_for_end(page)
    delays = page.evaluate("window.delays")
    assert len(delays) >= 12
    assert median(delays) < 100, sorted(delays)


def test_stop_here_leaves_what_is_done(page: Page, demo: Demo) -> None:
    """The dialog tells what stays; focus starts on the harmless way; the event ends it."""
    deployment, version = start(page, demo, **SLOWLY)
    wait_for_serving(page, 2)
    page.get_by_role("link", name="Stop deployment…").click()
    expect(page.get_by_role("link", name="Keep deploying")).to_be_focused()
    expect(page.get_by_role("dialog")).to_contain_text(f"stay on {version}: a mixed fleet")
    page.get_by_role("button", name="Stop here").click()
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("cancelled")
    expect(page.get_by_role("link", name="Stop deployment…")).to_be_hidden()
    end = demo.get(deployment)
    assert end["status"] == "cancelled"
    new = [one["instance"] for one in end["targets"] if one["status"] == "healthy"]
    assert 2 <= len(new) < 6
    for target in end["targets"]:
        tile = page.locator(f'.tile[data-instance="{target["instance"]}"]')
        states = {"healthy": "serving", "pending": "untouched", "rolled_back": "restored"}
        expect(tile).to_have_attribute("data-state", states[target["status"]])
    assert demo.serving() == 6


def test_stop_and_roll_back_brings_all_back(page: Page, demo: Demo) -> None:
    """Every touched instance is restored to the version that it had, and says so."""
    deployment, version = start(page, demo, **SLOWLY)
    wait_for_serving(page, 2)
    page.get_by_role("link", name="Stop deployment…").click()
    page.get_by_role("button", name="Roll back to").click()
    expect(page.locator("#head")).to_contain_text("rolling back")
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("cancelled")
    touched = [one["instance"] for one in demo.get(deployment)["targets"] if one["touched"]]
    assert touched
    for name in touched:
        tile = page.locator(f'.tile[data-instance="{name}"]')
        expect(tile).to_have_attribute("data-state", "restored")
    assert version not in demo.versions()
    assert state_of(page) == api_state(page, deployment)


def test_a_bad_version_pins_its_first_failure(page: Page, demo: Demo) -> None:
    """In plain words, where nobody has to look for it."""
    version = f"p{next(versions)}-unhealthy"
    deployment = demo.start(version, health_check_interval=0.3)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    wait_for_end(page)
    expect(page.locator('[data-part="failure"]')).to_be_visible()
    expect(page.locator('[data-part="failure-words"]')).to_contain_text("answered 500")
    expect(page.locator("#head")).to_contain_text("rolled back")
    expect(page.locator('[data-part="failed-requests"]')).to_have_text("0")


def test_pause_and_resume_say_what_they_wait_for(page: Page, demo: Demo) -> None:
    """The click asks, the event sets the state."""
    start(page, demo, batch_pause="1")
    expect(page.locator("#head")).to_contain_text("deploying")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#head")).to_contain_text("paused", timeout=60 * SECONDS)
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#head")).to_contain_text("deploying", timeout=20 * SECONDS)
    wait_for_end(page)
    expect(page.locator("#head")).to_contain_text("completed")


def test_a_button_of_an_old_page_says_what_changed(page: Page, demo: Demo) -> None:
    """409, in words, and nothing is done."""
    page.route_web_socket("**/ws/**", lambda socket: socket.close(code=3000))
    deployment, _ = start(page, demo, batch_pause="6")
    assert demo.act(deployment, "cancel", mode="stop").status_code == 202
    demo.ended(deployment)
    page.evaluate("document.querySelector('[data-control=pause]').hidden = false")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#alert")).to_contain_text("has ended: cancelled")


def test_the_page_applies_events_as_the_server_does(page: Page, demo: Demo) -> None:
    """In order and each once, whatever order they come in; a gap is told and not jumped over."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    end = demo.ended(deployment)
    events = demo.events(deployment)
    bare = {**end, "seq": 0, "status": "pending", "reason": "", "progress": {}}
    bare["targets"] = [{"instance": one["instance"]} for one in end["targets"]]
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")

    def advance(held: Json, told: list[Json]) -> Json:
        script = """async ([held, events]) => {
          const { advance } = await import("/static/js/snapshot.js");
          const before = JSON.stringify(held);
          const { held: next, applied, gap } = advance(held, events);
          return { next, gap, count: applied.length, pure: JSON.stringify(held) === before };
        }"""
        return dict(page.evaluate(script, [held, told]))

    whole = advance(bare, events)
    assert whole == {
        "next": json.loads(json.dumps(apply(bare, events))),
        "gap": False,
        "count": len(events),
        "pure": True,
    }
    doubled = advance(bare, [*reversed(events), *events])
    assert doubled["next"] == whole["next"]
    assert doubled["count"] == len(events)
    holed = advance(bare, [*events[:3], *events[4:]])
    assert (holed["gap"], holed["count"], holed["next"]["seq"]) == (True, 3, 3)


def test_a_tile_opens_what_is_known_of_its_instance(page: Page, demo: Demo) -> None:
    """Checks, output and events; by keyboard, and the focus comes back to the tile."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    tile = page.locator('.tile[data-instance="web-02"] a')
    tile.focus()
    page.keyboard.press("Enter")
    panel = page.locator("#panel")
    expect(panel).to_be_visible()
    expect(panel).to_contain_text("web-02 was started")
    expect(panel.get_by_role("region", name="Health checks")).to_contain_text("✓ 200")
    assert page.url.endswith("?instance=web-02")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(tile).to_be_focused()


def test_the_log_is_filtered(page: Page, demo: Demo) -> None:
    """By instance and by kind."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    page.get_by_label("Instance", exact=True).select_option("web-03")
    rows = page.locator("#log-rows li:visible")
    expect(page.locator('#log-rows li:not([data-target="web-03"])')).to_have_count(0)
    expect(rows.first).to_be_visible()
    page.get_by_label("Kind", exact=True).select_option("output")
    expect(rows.first).to_contain_text("web-03 was started")


def test_no_page_scrolls_sideways_on_a_phone(page: Page, demo: Demo) -> None:
    """390 px are enough for every page."""
    deployment = demo.start(f"p{next(versions)}", batch_pause=0)
    demo.ended(deployment)
    page.set_viewport_size({"width": 390, "height": 844})
    for path in (
        "/",
        "/services/shop/",
        "/services/shop/deploy/?version=v99",
        f"/deployments/{deployment}/?instance=web-01",
    ):
        page.goto(demo.ready["url"] + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is {width} px wide"


def test_the_overview_and_the_service_follow_a_deployment(page: Page, demo: Demo) -> None:
    """A card comes, its figures move, and it goes; instances change their state. No reload."""
    service = page.context.new_page()
    service.goto(f"{demo.ready['url']}/services/shop/")
    for each in (page, service):
        expect(each.locator("#freshness")).to_contain_text("Live")
        each.evaluate("window.neverReloaded = true")
    version = f"p{next(versions)}"
    deployment = demo.start(version, batch_pause=0, min_healthy_time=3)
    card = page.locator(f'.run[data-key="{deployment}"]')
    expect(card).to_contain_text(version)
    expect(service.locator('tr[data-key="web-01"]')).to_contain_text("checking")
    for figure in ("2/6 updated", "4/6 updated", "6/6 updated"):
        expect(card).to_contain_text(figure, timeout=30 * SECONDS)
    demo.ended(deployment)
    expect(card).to_be_hidden()
    expect(page.locator('tr[data-key="shop"]')).to_contain_text("completed")
    expect(page.locator('tr[data-key="shop"]')).to_contain_text(f"{version} × 6")
    # A worker looks at the fleet as soon as it has ended.
    expect(page.locator('tr[data-key="shop"]')).to_contain_text("6 / 6", timeout=30 * SECONDS)
    expect(service.locator('tr[data-key="web-01"]')).to_contain_text("in rotation since")
    for each in (page, service):
        assert each.evaluate("window.neverReloaded")
    service.close()


def test_without_scripts_a_deployment_is_started_and_stopped(browser: Browser, demo: Demo) -> None:
    """Every page and button works as plain HTML."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        log_in(page, demo)
        page.goto(f"{demo.ready['url']}/services/shop/deploy/")
        version = f"p{next(versions)}"
        page.get_by_label("Version", exact=True).fill(version)
        page.get_by_label("batch_pause", exact=True).fill("5")
        page.get_by_role("button", name="Show the plan").click()
        expect(page.locator("#plan")).to_contain_text("4 of 6 at least")
        page.locator("#start").click()
        page.wait_for_url("**/deployments/deploy-*/")
        expect(page.locator(".tile")).to_have_count(6)
        deployment = page.url.rstrip("/").rsplit("/", 1)[1]
        # What was drawn while it was pending may not stop it once it runs: 409.
        until(lambda: demo.get(deployment)["status"] == "in_progress", 30, "it runs")
        page.reload()
        page.get_by_role("link", name="Stop deployment…").click()
        page.get_by_role("button", name="Roll back to").click()
        end = demo.ended(deployment)
        assert end["status"] == "cancelled"
        page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
        expect(page.locator("#head")).to_contain_text("cancelled")
