"""A replay in headless Chromium: any moment of a deployment, by slider, keyboard and address."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from rollouts.snapshots import apply
from tests.acceptance.browsing import CANONICAL, SECONDS, log_in, opened, state_of, versions
from tests.acceptance.running import Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Json = dict[str, Any]
# 10,000 events of 1,000 targets: how long each seek takes, from the end to the beginning.
SEEK = """async ([whole, count]) => {
  const { Timeline } = await import("/static/js/timeline.js");
  const first = { ...whole, seq: 1, targets: Array.from({ length: 1000 }, (_, place) =>
    ({ ...whole.targets[0], instance: `web-${place}`, status: "pending" })) };
  const at = (seq) => new Date(1e12 + seq * 1000).toISOString();
  const events = [{ seq: 1, at: at(1), kind: "created", message: "created", patch: first }];
  for (let seq = 2; seq <= count; seq += 1) {
    const instance = `web-${(seq * 7) % 1000}`;
    const patch = { seq, targets: [{ instance, status: `s${seq}` }] };
    events.push({ seq, at: at(seq), kind: "target", target: instance, message: `m${seq}`, patch });
  }
  const timeline = new Timeline();
  timeline.add(events);
  timeline.at(count);
  const took = [];
  const wrong = [];
  for (let seq = count; seq > 1; seq -= 97) {
    const begun = performance.now();
    const held = timeline.at(seq);
    took.push(performance.now() - begun);
    const target = held.targets.find(({ instance }) => instance === `web-${(seq * 7) % 1000}`);
    if (held.seq !== seq || target.status !== `s${seq}`) wrong.push(seq);
  }
  const earlier = timeline.at(4000).targets;
  const changed = timeline.at(4001).targets.filter((one, place) => one !== earlier[place]).length;
  return { longest: Math.max(...took), wrong, changed };
}"""
# What a timeline of five events makes of time: three at once, an hour of silence, the end; and
# another one, in which there is less of it.
PLAYED = """async () => {
  const { Timeline } = await import("/static/js/timeline.js");
  const timeline = new Timeline();
  const at = (seconds) => new Date(1e12 + seconds * 1000).toISOString();
  const told = (seq, seconds, message, kind = "note") =>
    ({ seq, at: at(seconds), kind, target: "web-01", message, patch: { seq } });
  timeline.add([told(1, 0, "a"), told(2, 1, "b", "check"), told(3, 1, "")]);
  timeline.add([told(4, 3600, "c"), told(5, 3590, "d")]);
  const lively = new Timeline();
  lively.add([told(1, 0, "a"), told(2, 4, "b"), told(3, 24, "c"), told(4, 1000, "")]);
  const seconds = ({ time, skipped }) => [(time - 1e12) / 1000, skipped / 1000];
  const start = 1e12;
  return {
    seqs: [-9, 0, 1, 2, 3600, 9999].map((second) => timeline.seqAt(start + second * 1000)),
    told: [timeline.toldAt(2), timeline.toldAt(3), timeline.toldBefore(4), timeline.toldAfter(2)]
      .concat(timeline.toldAfter(5))
      .map((event) => event?.seq ?? null),
    lines: [
      { after: 1 },
      { before: 5 },
      { before: 9, "log-kind": "check" },
      { before: 9, "log-instance": "web-02" },
    ].map((wanted) => timeline.lines(wanted, 2).map(({ seq }) => seq)),
    goes: seconds(timeline.play(start, 500, 1)),
    stays: seconds(timeline.play(start + 1000, 900, 1)),
    skips: seconds(timeline.play(start + 2000, 100, 1)),
    fast: seconds(timeline.play(start + 2000, 100, 64)),
    nears: seconds(timeline.play(start + 3599e3, 100, 64)),
    ends: seconds(timeline.play(start + 3600e3, 100, 64)),
    plays: seconds(lively.play(start + 2000, 100, 1)),
    hurries: seconds(lively.play(start + 12e3, 100, 4)),
    leaves: seconds(lively.play(start + 30e3, 100, 1)),
  };
}"""


@pytest.fixture(scope="module")
def failed(demo: Demo) -> str:
    """A deployment that was rolled back."""
    deployment = demo.start(f"p{next(versions)}-unhealthy", health_check_interval=0.3)
    demo.ended(deployment)
    return deployment


@pytest.fixture
def replay(page: Page, demo: Demo, failed: str) -> Page:
    """Its replay, with all events loaded."""
    page.goto(f"{demo.ready['url']}/deployments/{failed}/")
    page.get_by_role("link", name="Replay").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    return page


def by_the_second(route: Route) -> None:
    """Answer with the events, one said each second, and an hour before the last one."""
    answer = route.fetch()
    body = answer.json()
    begun = datetime.fromisoformat(body["items"][0]["at"])
    for event in body["items"]:
        event["message"] = event["message"] or "Figures."
        event["at"] = (begun + timedelta(seconds=event["seq"])).isoformat()
    body["items"][-1]["at"] = (begun + timedelta(hours=1)).isoformat()
    route.fulfill(response=answer, json=body)


def drawn(page: Page) -> list[str]:
    """Return what the player and the head say of the moment."""
    return [
        page.locator(selector).inner_text()
        for selector in (
            *(f'#player [data-part="{name}"]' for name in ("clock", "since", "words", "seq")),
            '#head [data-part="elapsed"]',
        )
    ]


def seq_of(page: Page) -> int:
    return int(page.evaluate("window.lockgate.snapshot.seq"))


def server_state(page: Page, events: list[Json], seq: int) -> str:
    """Return the state after that event as the server folds it, as a text to compare."""
    return str(page.evaluate(f"(value) => ({CANONICAL})(value)", apply({}, events[:seq])))


def test_any_moment_is_the_state_of_that_moment(replay: Page, demo: Demo, failed: str) -> None:
    """Forward, backward and by a shared address; tiles, log and clock are of it."""
    page, events = replay, demo.events(failed)
    assert seq_of(page) == 1
    page.get_by_role("link", name="First failure").click()
    failure = next(
        event["seq"]
        for event in events
        if event["kind"] == "target" and event["patch"]["targets"][0]["status"] == "failed"
    )
    assert seq_of(page) == failure
    assert state_of(page) == server_state(page, events, failure)
    expect(page.locator(".tile[data-state=failed]")).to_have_count(1)
    expect(page.locator('[data-part="failure"]')).to_be_visible()
    expect(page.locator("#status")).to_contain_text("is held out")
    expect(page.locator("#log-rows li").last).to_have_id(f"e-{failure}")
    slider = page.get_by_role("slider", name="Moment")
    expect(slider).to_have_value(str(failure))
    said = re.compile(r"^\d\d:\d\d:\d\d, batch 1, event \d+ of \d+: web-0\d is held out")
    expect(slider).to_have_attribute("aria-valuetext", said)
    expect(page).to_have_url(re.compile(rf"\?at={failure}$"))
    shared, seen = page.url, drawn(page)
    slider.focus()
    page.keyboard.press("End")
    assert state_of(page) == server_state(page, events, len(events))
    expect(page.locator("#head")).to_contain_text("rolled back")
    page.keyboard.press("Home")
    assert state_of(page) == server_state(page, events, 1)
    expect(page.locator("#log-rows li")).to_have_count(1)
    expect(page.locator('[data-part="failure"]')).to_be_hidden()
    page.goto(shared)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    expect(page.locator(".tile[data-state=failed]")).to_have_count(1)
    assert drawn(page) == seen
    assert state_of(page) == server_state(page, events, failure)


def test_a_replay_is_played_by_keyboard(replay: Page) -> None:
    """Space plays and pauses, arrows step by event, and a line of the log is a moment, too."""
    page = replay
    page.get_by_role("slider", name="Moment").focus()
    page.keyboard.press("ArrowRight")
    assert seq_of(page) == 2
    page.get_by_role("radio", name="64×").check()
    page.get_by_role("slider", name="Moment").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator("#head")).to_contain_text("rolled back", timeout=30 * SECONDS)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("link", name="Previous event").click()
    before = seq_of(page)
    page.get_by_role("link", name="Next event").click()
    assert seq_of(page) > before
    page.locator("#log-rows [data-part=link]").nth(1).click()
    expect(page.locator("#log-rows li")).to_have_count(2)


def test_playing_goes_at_its_speed_until_one_does_something(
    page: Page, demo: Demo, failed: str
) -> None:
    """It skips silence and says so; from the end it begins again. Its clock is the test's."""
    page.clock.install()
    page.route(f"**/api/v1/deployments/{failed}/events?*", by_the_second)
    page.goto(f"{demo.ready['url']}/deployments/{failed}/replay/?at=2")
    play, pause = (page.get_by_role("button", name=name) for name in ("Play", "Pause"))
    slider, last = page.get_by_role("slider", name="Moment"), demo.get(failed)["seq"]
    expect(play).to_be_visible()
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    slider.press("ArrowRight")
    page.get_by_role("radio", name="4×", exact=True).check()
    play.click()
    page.clock.run_for(1100)
    assert seq_of(page) == 7
    for stops, seq in (
        (pause.click, 7),
        (lambda: slider.press("ArrowRight"), 8),
        (page.get_by_role("link", name="Next event").click, 9),
    ):
        if not pause.is_visible():
            play.click()
        stops()
        expect(play).to_be_visible()
        page.clock.run_for(1100)
        assert seq_of(page) == seq
    page.get_by_role("radio", name="1×", exact=True).press("Space")
    expect(page.get_by_role("radio", name="1×", exact=True)).to_be_checked()
    expect(play).to_be_visible()
    slider.press("End")
    slider.press("ArrowLeft")
    play.click()
    page.clock.run_for(1100)
    expect(page.locator('#player [data-part="note"]')).to_contain_text("in which nothing was said")
    page.clock.run_for(1100)
    assert seq_of(page) == last
    expect(page.locator('#player [data-part="note"]')).to_be_empty()
    play.click()
    page.clock.run_for(1100)
    assert seq_of(page) == 2


def test_the_panel_of_a_replay_is_of_its_moment(replay: Page) -> None:
    """And follows when one goes to another."""
    page = replay
    page.get_by_role("link", name="First failure").click()
    page.locator(".tile[data-state=failed] a").click()
    panel = page.locator("#panel")
    expect(panel).to_contain_text("✕ 500")
    page.get_by_role("slider", name="Moment").focus()
    page.keyboard.press("Home")
    expect(panel).to_contain_text("Not checked yet")
    page.keyboard.press("End")
    expect(panel).to_contain_text("restored")


def test_a_replay_fits_a_phone_and_works_without_scripts(
    browser: Browser, demo: Demo, failed: str
) -> None:
    """390 px are enough; links lead from event to event."""
    with opened(browser, demo) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{demo.ready['url']}/deployments/{failed}/replay/?at=20")
        expect(page.get_by_role("button", name="Play")).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        log_in(page, demo)
        page.goto(f"{demo.ready['url']}/deployments/{failed}/replay/")
        page.get_by_role("link", name="First failure").click()
        expect(page.locator(".tile[data-state=failed]")).to_have_count(1)
        page.get_by_role("link", name="Previous event").click()
        expect(page.locator(".tile[data-state=failed]")).to_have_count(0)


def test_seeking_is_fast_in_a_long_deployment(page: Page) -> None:
    """Below 50 ms each with 10,000 events of 1,000 targets; states share what did not change."""
    whole = {"id": "x", "status": "in_progress", "targets": [{"batch": 1, "health_checks": []}]}
    found = page.evaluate(SEEK, [whole, 10_000])
    assert found["wrong"] == []
    assert found["longest"] < 50
    assert found["changed"] == 1


def test_silence_is_skipped(page: Page) -> None:
    """But not what is said, nor what follows soon; time never goes back."""
    assert page.evaluate(PLAYED) == {
        "seqs": [1, 1, 3, 3, 5, 5],
        "told": [2, 2, 2, 4, None],
        "lines": [[2, 4], [2, 4], [2], []],
        "goes": [0.5, 0],
        "stays": [1.9, 0],
        "skips": [3599, 3596.9],
        "fast": [8.4, 0],
        "nears": [3600, 0],
        "ends": [3600, 0],
        "plays": [2.1, 0],
        "hurries": [12.4, 0],
        "leaves": [1000, 0],
    }
