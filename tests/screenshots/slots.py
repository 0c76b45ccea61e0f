"""The demo of two slots: blue/green from the form to the way back."""

from playwright.sync_api import Page

from tests.acceptance.browsing import SECONDS
from tests.acceptance.running import Demo, running_demo
from tests.screenshots.rolling import here, settle, tiles, type_into
from tests.screenshots.studio import Studio

STEP = """(kind) => {
  const { steps, step, status } = window.lockgate.snapshot;
  return status === "in_progress" && steps[step]?.kind === kind;
}"""


def take(studio: Studio) -> None:
    """Take all that is told of slots."""
    with running_demo("--strategy", "blue_green", "--instances", "8", "--rate", "40") as demo:
        ready = demo.ready
        with studio.visitor(ready["url"], ready["admin_user"], ready["admin_password"]) as page:
            studio.show("overview-slots", page, "/")
            studio.show("service-slots", page, "/services/shop/")
            with studio.attempt("dialog-swap"):
                page.goto("/services/shop/")
                page.get_by_role("link", name="Swap slots…").click()
                page.locator("dialog[open]").wait_for()
                studio.shoot("dialog-swap", page)
            with studio.attempt("deploy-blue-green"):
                page.goto("/services/shop/deploy/")
                type_into(page, "v2")
                studio.shoot("deploy-blue-green", page)
            with studio.attempt("blue-green"):
                _deployment(studio, demo, page)
            settle(demo)


def _deployment(studio: Studio, demo: Demo, page: Page) -> None:
    deployment = demo.start("v2", approve=True, keep_old=300, min_healthy_time=6, batch_size=2)
    page.goto(here(deployment))
    tiles(page, "checking", 1)
    studio.shoot("deployment-slots-updating", page)
    page.wait_for_function(STEP, arg="approve", timeout=90 * SECONDS)
    studio.shoot("deployment-slots-approval", page)
    assert demo.act(deployment, "promote").status_code == 202
    page.wait_for_function(STEP, arg="bake", timeout=60 * SECONDS)
    studio.shoot("deployment-slots-warm", page)
    studio.show("service-slots-warm", page, "/services/shop/")
    page.goto(here(deployment))
    page.get_by_role("link", name="Shift back…").click()
    page.locator("dialog[open]").wait_for()
    studio.shoot("dialog-shift-back", page)
    demo.act(deployment, "rollback")
    demo.ended(deployment)
    studio.show("deployment-slots-shifted-back", page, here(deployment))
