"""How fast a page is, as its browser measures it: the first view, frames, shifts of the layout."""

from dataclasses import dataclass
from statistics import median

from playwright.sync_api import Page

SLOW = 1000 / 30  # milliseconds: a frame that takes longer is not one of 30 a second

# From before the first byte on.
WATCH = """() => {
  window.measured = { paint: 0, live: 0, shift: 0, frames: [] };
  const watch = (type, take) => new PerformanceObserver((list) => list.getEntries().forEach(take))
    .observe({ type, buffered: true });
  watch("largest-contentful-paint", (entry) => { measured.paint = entry.startTime; });
  // A log that follows its end moves as it should.
  const logged = ({ node }) => (node?.closest ? node : node?.parentElement)?.closest("#log-rows");
  watch("layout-shift", (entry) => {
    const read = entry.sources.length && entry.sources.every(logged);
    if (!entry.hadRecentInput && !read) measured.shift += entry.value;
  });
  const look = setInterval(() => {
    if (window.lockgate?.state !== "live") return;
    measured.live = performance.now();
    clearInterval(look);
  }, 2);
}"""
FRAMES = """(seconds) => new Promise((done) => {
  const times = [];
  const end = performance.now() + 1000 * seconds;
  const seq = window.lockgate.snapshot.seq;
  const next = (now) => {
    times.push(now);
    if (now < end) requestAnimationFrame(next);
    else done([times.slice(1).map((time, place) => time - times[place]),
               window.lockgate.snapshot.seq - seq]);
  };
  requestAnimationFrame(next);
})"""


@dataclass(frozen=True)
class FirstView:
    """Milliseconds from the start of the navigation."""

    paint: float  # to the largest paint
    live: float  # to events being followed


@dataclass(frozen=True)
class Frames:
    """The intervals between two frames, in milliseconds, and how many events came meanwhile."""

    intervals: list[float]
    events: int

    @property
    def median(self) -> float:
        return median(self.intervals)

    @property
    def slow(self) -> float:
        """The share of frames that took longer than one of 30 a second."""
        return sum(one > SLOW + 1 for one in self.intervals) / len(self.intervals)


def watch(page: Page) -> None:
    """Measure every page that is opened from now on."""
    page.add_init_script(f"({WATCH})()")


def first_view(page: Page) -> FirstView:
    """Return how long the page that was opened took, once it is live."""
    page.wait_for_function("() => window.measured.live && window.measured.paint")
    found = page.evaluate("window.measured")
    return FirstView(found["paint"], found["live"])


def frames(page: Page, seconds: float) -> Frames:
    """Return how the page is drawn for so long."""
    return Frames(*page.evaluate(FRAMES, seconds))


def shift(page: Page) -> float:
    """Return how much the layout has shifted by itself so far."""
    return float(page.evaluate("window.measured.shift"))
