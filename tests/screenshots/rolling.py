"""The demo of twenty instances: what is deployed batch by batch, or as a canary."""

from typing import Any

from playwright.sync_api import Page

from tests.acceptance.browsing import SECONDS
from tests.acceptance.people import PASSWORD, add_person, run_inside
from tests.acceptance.running import Demo, running_demo, until
from tests.screenshots.studio import Studio, another_tab

Policy = dict[str, Any]
QUICK: Policy = {
    "batch_size": 5,
    "max_unavailable": 5,
    "batch_pause": 0,
    "min_healthy_time": 0,
    "analysis": {"enabled": False},
}
# Each batch is seen at its checks, and between batches there is time for a picture.
SLOW: Policy = {
    "batch_size": 4,
    "max_unavailable": 4,
    "batch_pause": 20,
    "min_healthy_time": 12,
    "healthy_deadline": 30,
}
STEPS = [{"share": 5, "bake": 300}, {"approve": True}, {"share": 50, "bake": 60}, {"share": 100}]
CANARY: Policy = {"strategy": "canary", "canary_steps": STEPS, "analysis": {"min_requests": 50}}
STALE_WITHIN = 40 * SECONDS

PAST = """
from datetime import timedelta
from django.utils import timezone
from rollouts.models import Service
from tests.integration.past import plant
plant([Service.objects.get(name="shop")], 230, timezone.now(), timedelta(days=180))
"""


def take(studio: Studio) -> None:
    """Take all that one service without slots can show."""
    with running_demo("--instances", "20", "--rate", "60") as demo:
        ready = demo.ready
        admin = ready["admin_user"], ready["admin_password"]
        with studio.visitor(ready["url"], *admin) as page:
            for part in (_quiet, _form, _waiting, _running, _ended, _failing, _canary, _service):
                with studio.attempt(part.__name__.strip("_")):
                    part(studio, demo, page)
                with studio.attempt(f"after {part.__name__.strip('_')}"):
                    settle(demo)
            with studio.attempt("admin"):
                _admin(studio, page)
        with studio.attempt("viewer"):
            _viewer(studio, demo)
        with studio.attempt("errors"):
            _errors(studio, demo)


def settle(demo: Demo) -> None:
    """Return when nothing is deployed any more, whatever was."""
    active = demo.client.get("/api/v1/services/shop").raise_for_status().json()["active_deployment"]
    if not active:
        return
    key = active["id"] if isinstance(active, dict) else active
    demo.act(key, "cancel", mode="roll_back")
    demo.ended(key, 120)


def here(deployment: str) -> str:
    """Return the address of a deployment's page."""
    return f"/deployments/{deployment}/"


def tiles(page: Page, state: str, count: int) -> None:
    """Return when so many tiles are in a state at once."""
    page.wait_for_function(
        "([state, count]) => document.querySelectorAll(`.tile[data-state=${state}]`).length"
        " >= count",
        arg=[state, count],
        timeout=60 * SECONDS,
    )


def _quiet(studio: Studio, demo: Demo, page: Page) -> None:
    studio.show("overview-before-the-first", page, "/")
    run_inside(demo.places, PAST)
    demo.ended(demo.start("v2", **QUICK))
    studio.show("overview-quiet", page, "/")
    studio.show("service-quiet", page, "/services/shop/")
    studio.show("figures", page, "/figures/?days=90")


def _form(studio: Studio, demo: Demo, page: Page) -> None:
    studio.show("deploy-empty", page, "/services/shop/deploy/")
    typed = {
        "deploy-rolling": ("", {}),
        "deploy-canary": ("canary", {}),
        "deploy-blue-green-refused": ("blue_green", {}),
        "deploy-refused": ("rolling", {"batch_size": "50"}),
    }
    for name, (strategy, settings) in typed.items():
        with studio.attempt(name):
            page.goto("/services/shop/deploy/")
            type_into(page, "v3", strategy, **settings)
            studio.shoot(name, page)
        # What is kept of it would be in the next form.
        page.evaluate("() => sessionStorage.clear()")


def type_into(page: Page, version: str, strategy: str = "", **settings: str) -> None:
    """Fill the form, and return when the plan answers what was typed."""
    page.get_by_label("Version", exact=True).fill(version)
    if strategy:
        page.locator(f"input[name=strategy][value={strategy}]").check()
    for key, value in settings.items():
        page.get_by_label(key, exact=True).fill(value)
    page.wait_for_timeout(700)  # the plan is asked for once nothing is typed any more
    page.locator("#plan[aria-busy=false]").wait_for()


def _waiting(studio: Studio, demo: Demo, page: Page) -> None:
    with demo.without_workers():
        deployment = demo.start("v3", **SLOW)
        page.goto(here(deployment))
        page.locator('[data-part="waiting"]').wait_for(timeout=30 * SECONDS)
        studio.shoot("deployment-waiting", page)
        studio.show("overview-no-worker", page, "/")
    demo.act(deployment, "cancel", mode="stop")
    demo.ended(deployment)


def _running(studio: Studio, demo: Demo, page: Page) -> None:
    deployment = demo.start("v3", **SLOW)
    path = here(deployment)
    page.goto(path)
    tiles(page, "checking", 1)
    studio.shoot("deployment-running", page)
    studio.show("overview-running", page, "/")
    studio.show("service-running", page, "/services/shop/")
    studio.show("deploy-conflict", page, "/services/shop/deploy/?version=v4")
    page.goto(path)
    tiles(page, "serving", 4)
    studio.show("deployment-panel", page, f"{path}?instance=web-01#panel", whole=False)
    page.goto(path)
    page.get_by_role("link", name="Stop deployment…").click()
    page.locator("dialog[open]").wait_for()
    studio.shoot("dialog-stop", page)
    page.keyboard.press("Escape")
    _broken(studio, demo, path)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for(timeout=60 * SECONDS)
    page.locator("#deployment[data-status=paused]").wait_for(timeout=60 * SECONDS)
    studio.shoot("deployment-paused", page)
    studio.show("overview-paused", page, "/")
    demo.act(deployment, "cancel", mode="stop")
    demo.ended(deployment)
    studio.show("deployment-cancelled", page, path)
    studio.show("overview-attention", page, "/")
    studio.show("service-mixed", page, "/services/shop/")


def _broken(studio: Studio, demo: Demo, path: str) -> None:
    """Take what a page says that hears nothing any more, three ways at once."""
    ready = demo.ready
    mine = ready["url"], ready["admin_user"], ready["admin_password"]
    with studio.visitor(*mine) as stale, studio.visitor(*mine) as off, studio.visitor(*mine) as out:
        stale.route_web_socket("**/ws/**", lambda socket: socket.close(code=3000))
        stale.goto(path)
        stale.route("**/api/**", lambda route: route.abort())
        for page in (off, out):
            page.goto(path)
            page.locator("#freshness[data-state=live]").wait_for()
        off.context.set_offline(offline=True)
        tab = another_tab(out.context, "/")
        tab.get_by_role("button", name="Log out").click()
        out.locator("#freshness[data-state=signed-out]").wait_for(timeout=STALE_WITHIN)
        studio.shoot("deployment-signed-out", out)
        for name, page in (("stale", stale), ("offline", off)):
            with studio.attempt(f"deployment-{name}"):
                page.locator("html[data-stale]").wait_for(timeout=STALE_WITHIN)
                studio.shoot(f"deployment-{name}", page)


def _ended(studio: Studio, demo: Demo, page: Page) -> None:
    done = demo.ended(demo.start("v3", **QUICK))
    studio.show("deployment-completed", page, here(done["id"]))


def _failing(studio: Studio, demo: Demo, page: Page) -> None:
    deployment = demo.start("v4-unhealthy", **SLOW)
    page.goto(here(deployment))
    page.locator('[data-part="failure"]').wait_for(timeout=60 * SECONDS)
    page.locator("#deployment[data-status=rolling_back]").wait_for(timeout=30 * SECONDS)
    studio.shoot("deployment-failing", page)
    studio.show("overview-failing", page, "/")
    end = demo.ended(deployment)
    studio.show("deployment-rolled-back", page, here(end["id"]))
    studio.show("replay-start", page, f"{here(end['id'])}replay/", whole=False)
    with studio.attempt("replay-first-failure"):
        page.get_by_role("link", name="First failure").click()
        page.wait_for_url("**at=*")
        studio.shoot("replay-first-failure", page, whole=False)
    end = demo.ended(demo.start("v5-unhealthy", **{**QUICK, "auto_rollback": False}))
    studio.show("deployment-failed", page, here(end["id"]))
    studio.show("overview-failed", page, "/")
    studio.show("service-held-out", page, "/services/shop/")
    demo.ended(demo.start("v3.1", **QUICK))


def _canary(studio: Studio, demo: Demo, page: Page) -> None:
    until(lambda: demo.serving() == 20, 60, "all in rotation")
    deployment = demo.start("v6", **CANARY)
    path = here(deployment)
    page.goto(path)
    page.wait_for_function(
        "() => { const { steps, step } = window.lockgate.snapshot;"
        " return steps[step]?.kind === 'bake'; }",
        timeout=60 * SECONDS,
    )
    page.locator('[data-part="evidence"]').wait_for(timeout=30 * SECONDS)
    studio.shoot("deployment-canary-bake", page)
    studio.show("overview-canary", page, "/")
    page.goto(path)
    page.get_by_role("link", name="Promote…").click()
    page.locator("dialog[open]").wait_for()
    studio.shoot("dialog-promote", page)
    page.keyboard.press("Escape")
    demo.act(deployment, "promote")
    page.locator('[data-part="decision"]').wait_for(timeout=30 * SECONDS)
    studio.shoot("deployment-canary-approval", page)
    studio.show("overview-decision", page, "/")
    page.goto(path)
    page.get_by_role("link", name="Stop deployment…").click()
    page.locator("dialog[open]").wait_for()
    studio.shoot("dialog-stop-canary", page)
    demo.act(deployment, "cancel", mode="roll_back")
    demo.ended(deployment)
    studio.show("deployment-canary-aborted", page, path)


def _service(studio: Studio, demo: Demo, page: Page) -> None:
    page.goto("/services/shop/")
    page.get_by_role("link", name="Lock…").click()
    studio.shoot("dialog-lock", page)
    page.get_by_label("Why, for everybody to read").fill("the sale until Monday")
    page.get_by_role("button", name="Lock shop").click()
    page.get_by_role("button", name="Unlock").wait_for()
    studio.show("service-locked", page, "/services/shop/")
    studio.show("deploy-locked", page, "/services/shop/deploy/?version=v9")
    studio.show("overview-locked", page, "/")
    page.goto("/services/shop/")
    page.get_by_role("button", name="Unlock").click()
    page.get_by_role("link", name="Lock…").wait_for()
    page.goto("/services/shop/")
    page.get_by_role("button", name="Check fleet").first.click()
    page.locator(".ticks").first.wait_for(timeout=30 * SECONDS)
    studio.shoot("service-checked", page)


def _admin(studio: Studio, page: Page) -> None:
    pages = {
        "admin": "/admin/",
        "admin-services": "/admin/rollouts/service/",
        "admin-instances": "/admin/rollouts/instance/",
        "admin-import": "/admin/rollouts/instance/import/",
        "admin-deployments": "/admin/rollouts/deployment/",
    }
    for name, path in pages.items():
        studio.show(name, page, path)
    with studio.attempt("admin-service"):
        page.goto("/admin/rollouts/service/")
        page.locator("#result_list").get_by_role("link", name="shop").first.click()
        studio.shoot("admin-service", page)


def _viewer(studio: Studio, demo: Demo) -> None:
    """Take what somebody sees who may only look."""
    add_person(demo.places, "vera", "view_service", "view_deployment")
    add_person(demo.places, "nobody")
    [latest] = demo.client.get("/api/v1/deployments?limit=1").json()["items"]
    with studio.visitor(demo.ready["url"]) as page:
        sign_in(page, "vera")
        studio.show("viewer-overview", page, "/")
        studio.show("viewer-service", page, "/services/shop/")
        studio.show("viewer-deployment", page, here(latest["id"]))
    with studio.visitor(demo.ready["url"]) as page:
        sign_in(page, "nobody")
        studio.show("error-403", page, "/services/shop/")


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill the form of the login and press the button, whatever comes of it."""
    page.goto("/login/")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_load_state("load")


def _errors(studio: Studio, demo: Demo) -> None:
    """Take the pages of errors, each as it comes about; the database goes last."""
    with studio.visitor(demo.ready["url"]) as page:
        studio.show("login", page, "/login/")
        sign_in(page, "ada", "wrong")
        studio.shoot("login-failed", page)
        page.context.clear_cookies()
        sign_in(page, "ada", "wrong")
        studio.shoot("error-csrf", page)
        page.goto(f"{demo.ready['url']}/login/")
        for _ in range(10):
            sign_in(page, "ada", "wrong")
        studio.shoot("error-429", page)
    ready = demo.ready
    with studio.visitor(ready["url"], ready["admin_user"], ready["admin_password"]) as page:
        studio.show("error-404", page, "/services/nowhere/")
        demo.supervised("stopProcess", "postgres")
        try:
            page.goto("/")
            studio.shoot("error-500", page)
        finally:
            demo.supervised("startProcess", "postgres")
