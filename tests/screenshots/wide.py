"""Large fleets: 200 and 1,000 instances."""

from playwright.sync_api import Page

from tests.acceptance.wide import Wide, running_wide
from tests.screenshots.rolling import here
from tests.screenshots.studio import Studio

SIZES = (200, 1000)


def take(studio: Studio) -> None:
    """Take each fleet while it is deployed to, and with failures among many."""
    with running_wide(*SIZES) as demo:
        ready = demo.ready
        with studio.visitor(ready["url"], ready["admin_user"], ready["admin_password"]) as page:
            studio.show("overview-wide", page, "/")
            for size in SIZES:
                with studio.attempt(f"wide-{size}"):
                    _fleet(studio, demo, page, size)


def _fleet(studio: Studio, demo: Wide, page: Page, size: int) -> None:
    service = f"fleet-{size}"
    studio.show(f"service-{size}", page, f"/services/{service}/")
    studio.show(f"deploy-{size}", page, f"/services/{service}/deploy/?version=v2")
    many = {"batch_size": "10%", "max_unavailable": "20%", "min_healthy_time": 4}
    deployment = demo.deploy(service, "v2-bad", **many)
    demo.reached(deployment, size * 15 // 100, 180)
    studio.show(f"deployment-{size}-running", page, here(deployment))
    demo.act(deployment, "cancel", mode="stop")
    demo.ended(deployment, 120)
    studio.show(f"deployment-{size}-stopped", page, here(deployment))
