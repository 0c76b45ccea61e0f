"""The pages for everybody: axe finds nothing, and all is done by keyboard alone."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.browsing import (
    SECONDS,
    opened,
    versions,
    wait_for_end,
    wait_for_serving,
)
from tests.acceptance.running import Demo

pytestmark = pytest.mark.browser

QUICK = {"batch_pause": 0}
PAGES = {
    "overview": "/",
    "service": "/services/shop/",
    "deploy form": "/services/shop/deploy/?version=v9",
    "check": "/services/shop/check/",
    "figures": "/figures/",
    "missing page": "/nowhere/",
    "inventory": "/admin/",
    "instances": "/admin/rollouts/instance/",
}
# What a person sees of where the focus is.
OUTLINE = """() => {
  const focused = document.activeElement;
  if (focused === document.body) return true; // past the last one the browser's own come
  return [focused, focused.closest("label")].some((one) => {
    const style = one && getComputedStyle(one);
    return style && (style.outlineStyle !== "none" || style.boxShadow !== "none");
  });
}"""
TABS = 60  # presses that reach anything on a page


@pytest.fixture(scope="module")
def walker(browser: Browser, demo: Demo) -> Iterator[Page]:
    """One page for the whole module."""
    with opened(browser, demo) as page:
        yield page


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong with the page, in both themes."""
    found = []
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        page.wait_for_function("() => !document.getAnimations().length")  # colours on their way
        for one in Axe().run(page).response["violations"]:
            where = [node["target"] for node in one["nodes"][:3]]
            found.append(f"{theme}: {one['id']} {where} {one['nodes'][0]['failureSummary']}")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_on_a_page(walker: Page, demo: Demo, name: str) -> None:
    """In light and in dark."""
    walker.goto(demo.ready["url"] + PAGES[name])
    expect(walker.locator("h1").first).to_be_attached()
    assert violations(walker) == []


def test_axe_finds_nothing_on_a_login(browser: Browser, demo: Demo) -> None:
    """Before one is known."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{demo.ready['url']}/login/")
        assert violations(page) == []


def test_axe_finds_nothing_on_what_was_refused(walker: Page, demo: Demo) -> None:
    """A form with something to mend, a login with a wrong password, a form without its token."""
    walker.goto(f"{demo.ready['url']}/services/shop/deploy/?version=v9")
    walker.get_by_label("batch_size", exact=True).fill("99")
    walker.get_by_role("button", name="Deploy v9").click()
    expect(walker.locator("[aria-invalid=true]").first).to_be_visible()
    expect(walker.locator("#plan")).to_contain_text("can't be started yet")
    form = violations(walker)
    with walker.context.browser.new_context() as context:  # type: ignore[union-attr]
        stranger = context.new_page()
        stranger.goto(f"{demo.ready['url']}/login/")
        stranger.get_by_label("Name", exact=True).fill("nobody")
        stranger.get_by_label("Password").fill("wrong")
        stranger.get_by_role("button", name="Log in").click()
        expect(stranger.locator(".notice.fail, .errorlist").first).to_be_visible()
        login = violations(stranger)
        stranger.get_by_label("Password").fill("wrong")
        stranger.locator("[name=csrfmiddlewaretoken]").evaluate("(input) => input.remove()")
        stranger.get_by_role("button", name="Log in").click()
        expect(stranger.locator("h1")).to_have_text("Refused, and nothing was done")
        token = violations(stranger)
    assert (form, login, token) == ([], [], [])


def test_axe_finds_nothing_on_a_deployment(walker: Page, demo: Demo) -> None:
    """While it runs, with its dialog and the panel of an instance; and after its end."""
    deployment = demo.start(f"p{next(versions)}", **QUICK)
    walker.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    walker.locator(".tile a").first.click()
    expect(walker.locator("#panel")).to_be_visible()
    walker.get_by_role("link", name="Stop deployment").click()
    expect(walker.locator("dialog[open]")).to_be_visible()
    running = violations(walker)
    walker.keyboard.press("Escape")
    wait_for_end(walker)
    assert running == []
    assert violations(walker) == []


def test_axe_finds_nothing_on_what_went_wrong(walker: Page, demo: Demo) -> None:
    """The failure that is pinned, its replay, and the overview and service after it."""
    deployment = demo.start(f"p{next(versions)}-unhealthy", health_check_interval=0.3)
    demo.ended(deployment)
    found = {}
    for path in (
        f"/deployments/{deployment}/?instance=web-01",
        f"/deployments/{deployment}/replay/?at=9",
        "/services/shop/?lock=1",
        "/services/shop/deploy/?version=v9&batch_size=99",
    ):
        walker.goto(demo.ready["url"] + path)
        expect(walker.locator("h1").first).to_be_attached()
        found[path] = violations(walker)
    assert not any(found.values()), found


def tab_to(page: Page, words: str) -> None:
    """Press Tab until what has the focus says `words`; all on the way is seen to have it."""
    for _ in range(TABS):
        page.keyboard.press("Tab")
        assert page.evaluate(OUTLINE), page.evaluate("document.activeElement.outerHTML")
        said = page.evaluate(
            "() => { const one = document.activeElement;"
            " return one === document.body ? ''"
            " : `${one.getAttribute('aria-label') ?? ''} ${one.textContent}`; }"
        )
        if words in " ".join(said.split()):
            return
    pytest.fail(f"no Tab reaches {words!r}")


def tab_to_field(page: Page, key: str) -> None:
    """Press Tab until the field with this id has the focus."""
    for _ in range(TABS):
        page.keyboard.press("Tab")
        assert page.evaluate(OUTLINE), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("document.activeElement.id") == key:
            return
    pytest.fail(f"no Tab reaches {key}")


def test_a_deployment_is_walked_by_keyboard_alone(browser: Browser, demo: Demo) -> None:
    """From the login over the form, the running page and its dialog to the replay: no mouse."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(20 * SECONDS)
        deployment = _begin(page, demo)
        try:
            wait_for_serving(page, 2)
            _look_around(page)
            _press_buttons(page)
        finally:
            demo.act(deployment, "cancel", mode="roll_back")
        wait_for_end(page)
        expect(page.locator("#head")).to_contain_text("cancelled")
        expect(page.locator(".tile[data-state=restored]")).to_have_count(2)
        tab_to(page, "Replay")
        page.keyboard.press("Enter")
        page.wait_for_url("**/replay/**")
        tab_to_field(page, "seek")
        page.keyboard.press("End")
        expect(page.locator('#player [data-part="seq"]')).to_have_text(
            str(demo.get(deployment)["seq"])
        )


def _begin(page: Page, demo: Demo) -> str:
    """Log in, find the service, fill the form and start; return the deployment."""
    version = f"p{next(versions)}"
    page.goto(f"{demo.ready['url']}/login/")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type(demo.ready["admin_user"])
    tab_to_field(page, "id_password")
    page.keyboard.type(demo.ready["admin_password"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"{demo.ready['url']}/")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    tab_to(page, "Deploy to shop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/services/shop/deploy/")
    tab_to_field(page, "id_version")
    page.keyboard.type(version)
    tab_to_field(page, "id_batch_pause")
    page.keyboard.type("600")  # nothing happens in it but what is pressed
    expect(page.locator("#plan")).to_contain_text("4 of 6 at least")
    page.wait_for_function("() => document.getElementById('id_previewed').value")
    tab_to(page, f"Deploy {version} to 6 instances of shop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deployments/deploy-*/")
    return page.url.rstrip("/").rsplit("/", 1)[1]


def _look_around(page: Page) -> None:
    """Open a tile and close it, and filter the log."""
    tab_to(page, "web-0")
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('.tile') !== null"), "back on the tile"
    tab_to_field(page, "log-instance")
    page.keyboard.type("web-02")
    expect(page.locator("#log-rows li:visible").first).to_contain_text("web-02")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#log-rows li')].filter((row) =>"
        " row.checkVisibility()).every((row) => row.dataset.target === 'web-02')"
    )


def _press_buttons(page: Page) -> None:
    """Ask to stop and think better of it, pause, resume, and roll back."""
    tab_to(page, "Stop deployment")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Keep deploying")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("dialog[open]")).to_have_count(0)
    tab_to(page, "Pause")
    page.keyboard.press("Enter")
    expect(page.locator("#head")).to_contain_text("paused")
    tab_to(page, "Resume")
    page.keyboard.press("Enter")
    expect(page.locator("#head")).to_contain_text("deploying")
    tab_to(page, "Stop deployment")
    page.keyboard.press("Enter")
    tab_to(page, "Roll back to")
    page.keyboard.press("Enter")
    expect(page.locator("#head")).not_to_contain_text("deploying")


def test_the_focus_stays_where_it_is(walker: Page, demo: Demo) -> None:
    """News move no focus: what one reads by keyboard is not taken away."""
    deployment = demo.start(f"p{next(versions)}", **QUICK)
    walker.goto(f"{demo.ready['url']}/deployments/{deployment}/")
    walker.locator(".tile a").last.focus()
    walker.evaluate("() => { window.moved = 0; addEventListener('focusin', () => moved++); }")
    wait_for_end(walker)
    assert walker.evaluate("moved") == 0
    expect(walker.locator(".tile a").last).to_be_focused()


def test_nothing_moves_where_motion_is_not_wanted(browser: Browser, demo: Demo) -> None:
    """Neither transition nor animation runs while a deployment does."""
    with browser.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        page.set_default_timeout(20 * SECONDS)
        page.goto(f"{demo.ready['url']}/login/")
        page.get_by_label("Name", exact=True).fill(demo.ready["admin_user"])
        page.get_by_label("Password").fill(demo.ready["admin_password"])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{demo.ready['url']}/")
        deployment = demo.start(f"p{next(versions)}", **QUICK)
        page.goto(f"{demo.ready['url']}/deployments/{deployment}/")
        page.evaluate(
            "() => { window.most = 0; const look = () => {"
            " most = Math.max(most, document.getAnimations().length);"
            " requestAnimationFrame(look); }; look(); }"
        )
        wait_for_end(page)
        assert page.evaluate("most") == 0
