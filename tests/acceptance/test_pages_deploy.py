"""The deploy form in a browser: the plan follows what is typed, and nothing typed is lost."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.browsing import SECONDS, versions
from tests.acceptance.running import Demo

pytestmark = pytest.mark.browser
SEEN = "() => document.getElementById('id_previewed').value"


@pytest.fixture
def form(page: Page, demo: Demo) -> Iterator[Page]:
    """The form of the demo's service, as it is opened."""
    page.goto(f"{demo.ready['url']}/services/shop/deploy/")
    yield page
    page.evaluate("() => sessionStorage.clear()")


def deployments(demo: Demo) -> list[str]:
    """Return the deployments of the demo, newest first."""
    items = demo.client.get("/api/v1/deployments?limit=50").raise_for_status().json()["items"]
    return [one["id"] for one in items]


def test_the_plan_follows_what_is_typed(form: Page) -> None:
    """Without a jump: the old plan stays, dimmed, until the new one is there; what is refused is
    said at its field, and gone once it is mended.
    """
    form.get_by_label("Version", exact=True).fill("v900")
    expect(form.locator(".batches li")).to_have_count(3)
    expect(form.get_by_role("img", name="3 batches")).to_be_visible()
    form.evaluate(
        """() => {
          window.shifts = [];
          new PerformanceObserver((list) => window.shifts.push(
            ...list.getEntries().filter((one) => !one.hadRecentInput).map((one) => one.value)
          )).observe({ type: "layout-shift" });
          const plan = document.getElementById("plan");
          window.least = plan.offsetHeight;
          new MutationObserver(() => {
            window.least = Math.min(window.least, plan.querySelectorAll("li").length);
          }).observe(plan, { childList: true, subtree: true });
        }"""
    )
    size = form.get_by_label("batch_size", exact=True)
    size.press_sequentially("1", delay=20)
    expect(form.locator("#plan")).to_have_attribute("aria-busy", "true")
    expect(form.locator(".batches li")).to_have_count(6)
    assert form.evaluate("() => window.least") >= 3  # never an empty plan on the way
    assert sum(form.evaluate("() => window.shifts")) < 0.1
    size.fill("99")
    expect(form.locator("#id_batch_size_refused")).to_contain_text("larger than max_unavailable")
    expect(size).to_have_accessible_description(re.compile("larger than max_unavailable"))
    size.fill("2")
    expect(form.locator(".batches li")).to_have_count(3)
    expect(form.locator("#id_batch_size_refused")).to_have_count(0)


def test_what_was_typed_survives_a_lost_session(form: Page, demo: Demo) -> None:
    """It is told where one presses, nothing is started, and the login leads back to all of it."""
    before = deployments(demo)
    form.get_by_label("Version", exact=True).fill("v901")
    form.locator("input[name=strategy][value=canary]").check()
    form.get_by_label("Note").fill("kept")
    form.wait_for_function(SEEN)
    preflight = form.locator("[data-preflight][aria-busy=false]")
    expect(preflight).to_be_visible(timeout=30 * SECONDS)
    cookies = form.context.cookies()
    form.context.clear_cookies()
    preflight.get_by_role("button").click()
    expect(preflight.get_by_role("link", name="Log in")).to_be_visible()
    form.locator("#start").click()
    told = form.locator("#unsent")
    expect(told).to_contain_text("Nothing was started: you are signed out.")
    told.get_by_role("link", name="Log in").click()
    form.get_by_label("Name", exact=True).fill(demo.ready["admin_user"])
    form.get_by_label("Password").fill(demo.ready["admin_password"])
    form.get_by_role("button", name="Log in").click()
    form.wait_for_url("**/services/shop/deploy/")
    expect(form.get_by_label("Version", exact=True)).to_have_value("v901")
    expect(form.locator("input[value=canary]")).to_be_checked()
    expect(form.get_by_label("Note")).to_have_value("kept")
    expect(form.locator("#plan .course")).to_be_visible()
    form.get_by_role("button", name="Start afresh").click()
    expect(form.get_by_label("Version", exact=True)).to_have_value("")
    expect(form.locator("#restored")).to_be_hidden()
    assert deployments(demo) == before
    assert cookies != form.context.cookies()


def test_a_double_click_starts_one_and_what_was_typed_is_done_with(form: Page, demo: Demo) -> None:
    """And the next form is an empty one."""
    before = len(deployments(demo))
    version = f"p{next(versions)}"
    form.get_by_label("Version", exact=True).fill(version)
    form.get_by_label("batch_pause", exact=True).fill("0")
    form.wait_for_function(SEEN)
    form.locator("#start").dblclick()
    form.wait_for_url("**/deployments/deploy-*/")
    assert len(deployments(demo)) == before + 1
    demo.ended(form.url.rstrip("/").rsplit("/", 1)[1])
    form.goto(f"{demo.ready['url']}/services/shop/deploy/")
    expect(form.get_by_label("Version", exact=True)).to_have_value("")
    expect(form.get_by_role("link", name=version)).to_be_visible()


def test_a_deployment_is_started_by_keyboard_alone(form: Page, demo: Demo) -> None:
    """From the version to the button: each step can be reached, seen and used."""
    version = f"p{next(versions)}"
    form.get_by_label("Version", exact=True).focus()
    form.keyboard.type(version)
    reached: list[str] = []
    for _ in range(40):
        form.keyboard.press("Tab")
        name = form.evaluate("() => document.activeElement.id || document.activeElement.className")
        reached.append(name)
        if name == "id_strategy_rolling":
            form.keyboard.press("ArrowDown")
            expect(form.locator("input[value=canary]")).to_be_checked()
            form.keyboard.press("ArrowUp")
        if name == "id_batch_pause":
            form.keyboard.type("0")
        if name == "start":
            break
    assert {"id_strategy_rolling", "id_batch_size", "id_batch_pause", "id_note"} <= set(reached)
    assert reached[-1] == "start"
    form.wait_for_function(SEEN)
    form.keyboard.press("Enter")
    form.wait_for_url("**/deployments/deploy-*/", timeout=20 * SECONDS)
    end = demo.ended(form.url.rstrip("/").rsplit("/", 1)[1])
    assert (end["version"], end["strategy"], end["status"]) == (version, "rolling", "completed")


def test_a_service_is_locked_and_unlocked_where_it_is_shown(page: Page, demo: Demo) -> None:
    """The dialog begins with the reason; the page says who, why, and lets it be taken back."""
    page.goto(f"{demo.ready['url']}/services/shop/")
    page.get_by_role("link", name="Lock…").click()
    expect(page.get_by_label("Why, for everybody to read")).to_be_focused()
    page.keyboard.type("moving house")
    page.get_by_label("For how long").select_option(label="for 1 h")
    page.get_by_role("button", name="Lock shop").click()
    expect(page.locator("[data-sync=lock]")).to_contain_text("moving house")
    page.goto(f"{demo.ready['url']}/services/shop/deploy/")
    expect(page.locator("#plan")).to_contain_text("Locked by")
    page.goto(f"{demo.ready['url']}/services/shop/")
    page.get_by_role("button", name="Unlock").click()
    expect(page.get_by_text("shop is unlocked")).to_be_visible()
    expect(page.locator("[data-sync=lock]")).to_be_empty()
