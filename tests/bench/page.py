"""How fast the page of a deployment of 1,000 instances is: `python -m tests.bench.page`.

The real engine changes 100 of them at once. On one machine with the engine, the database, the
balancer and all instances, headless Chromium opens the page several times, then follows it.
"""

import argparse
import sys
from statistics import median

from playwright.sync_api import Page

from tests.acceptance import measuring
from tests.acceptance.browsing import log_in, running_browser
from tests.acceptance.wide import Wide, running_wide

INSTANCES, AT_ONCE = 1000, 100
FIRST_VIEW = 1000.0  # milliseconds
# As many last checks of each instance as a snapshot has.
CHECKS = """
from django.db import connection
connection.cursor().execute(
    "INSERT INTO rollouts_healthcheck (target_id, at, ok, status, latency_ms, error) "
    "SELECT target.id, now(), true, 200, 3.25, '' FROM rollouts_target target, "
    "generate_series(1, 30)"
)
"""


def main() -> None:
    """Measure, print, and end with status 1 where a measure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="to follow it")
    parser.add_argument("--views", type=int, default=5, help="of the page while it runs")
    chosen = parser.parse_args()
    with running_wide(INSTANCES) as wide, running_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        log_in(page, wide)
        measuring.watch(page)
        sys.exit(not measure(page, wide, chosen.seconds, chosen.views))


def measure(page: Page, wide: Wide, seconds: float, views: int) -> bool:
    """Print the figures; return whether all is as fast as it has to be."""
    deployment = wide.deploy(
        f"fleet-{INSTANCES}", "v2", batch_size=AT_ONCE, max_unavailable=AT_ONCE
    )
    wide.reached(deployment, AT_ONCE)
    wide.run(CHECKS)
    address = f"{wide.ready['url']}/deployments/{deployment}/"
    seen = []
    for _ in range(views):
        page.goto(address)
        seen.append(measuring.first_view(page))
    paint, live = (median(getattr(one, key) for one in seen) for key in ("paint", "live"))
    print(f"first view of {INSTANCES} instances, {views} times, in the median:")
    print(f"  largest paint after {paint:.0f} ms, live after {live:.0f} ms")
    drawn = measuring.frames(page, seconds)
    print(f"{AT_ONCE} at once, followed for {seconds:g} s: {drawn.events} events")
    print(
        f"  a frame in {drawn.median:.1f} ms in the median ({1000 / drawn.median:.0f} a second), "
        f"{100 * drawn.slow:.1f} % slower than 1/30 s, the slowest {max(drawn.intervals):.0f} ms"
    )
    print(f"  the layout has shifted by {measuring.shift(page):.4f}")
    return max(paint, live) < FIRST_VIEW and drawn.median < measuring.SLOW


if __name__ == "__main__":
    main()
