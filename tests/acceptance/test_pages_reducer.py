"""The page's reducer alone, in a browser: what it gives, what it keeps, how long it takes."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from rollouts.snapshots import apply
from tests.acceptance.running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

Json = dict[str, Any]
SITE = "http://modules.test/"
ADVANCE = """async ([held, batches]) => {
  const { advance } = await import("/snapshot.js");
  const before = JSON.stringify(held);
  let next, gap;
  for (const events of batches) ({ held: next, gap } = advance(next ?? held, events));
  return [next, gap, JSON.stringify(held) === before];
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a site that has nothing but our modules."""

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(SITE)
        if name:
            route.fulfill(path=ROOT / "static" / "js" / name)
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    with browser.new_context() as context:
        context.route(f"{SITE}**", answer)
        page = context.new_page()
        page.goto(SITE)
        yield page


def fleet(count: int) -> Json:
    """Return a snapshot with so many targets."""
    checks = [{"at": f"t{number}", "status": 200, "latency_ms": 1.5} for number in range(30)]
    return {
        "seq": 1,
        "status": "in_progress",
        "progress": {"updated": 0},
        "targets": [
            {"instance": f"web-{number:04}", "status": "pending", "health_checks": checks}
            for number in range(count)
        ],
    }


def changes(count: int, targets: int, chance: Random) -> list[Json]:
    """Return so many events from seq 2 on, each of which changes a target or the deployment."""
    events = []
    for seq in range(2, 2 + count):
        name = f"web-{chance.randrange(targets):04}"
        status = chance.choice(["draining", "updating", "health_checking", "healthy"])
        patch: Json = {"targets": [{"instance": name, "status": status}]}
        if chance.random() < 0.3:
            patch = {"progress": {"updated": seq}, "reason": f"after {seq}"}
        events.append({"seq": seq, "kind": "target", "message": "", "patch": patch})
    return events


def test_events_folded_at_once_or_one_by_one_give_what_the_server_has(page: Page) -> None:
    """In whatever order they come within a message; what was held before is not touched."""
    chance = Random(6)
    held, events = fleet(7), changes(200, 7, chance)
    expected = {**apply(held, events), "seq": 201}
    shuffled = chance.sample(events, len(events))
    for batches in ([shuffled], [[one] for one in events], [events[:50], events[20:120], events]):
        found, gap, untouched = page.evaluate(ADVANCE, [held, batches])
        assert json.loads(json.dumps(found)) == expected
        assert not gap
        assert untouched


def test_a_gap_is_told_and_nothing_after_it_applied(page: Page) -> None:
    """What came before it is kept."""
    held, events = fleet(3), changes(10, 3, Random(1))
    found, gap, _ = page.evaluate(ADVANCE, [held, [[*events[:4], *events[5:]]]])
    assert gap
    assert found["seq"] == 5


def test_only_what_is_news_is_told_and_targets_are_those_of_the_first_event(page: Page) -> None:
    """An event that was held already is not told again; a patch of none of them adds none."""
    script = """async ([whole, events]) => {
      const { advance } = await import("/snapshot.js");
      const [one, more] = [events.slice(0, 2), events];
      const given = JSON.stringify([whole, events]);
      const first = advance({ seq: 0 }, [{ seq: 1, patch: whole }, ...one]);
      const { held, applied } = advance(first.held, more);
      return {
        told: [first, { applied }].map((found) => found.applied.map(({ seq }) => seq)),
        names: held.targets.map(({ instance }) => instance),
        untouched: JSON.stringify([whole, events]) === given,
        again: advance(held, more).held === held,
      };
    }"""
    patches = [{"instance": name, "status": "healthy"} for name in ("web-0001", "web-9999")]
    events = [{"seq": seq, "patch": {"targets": patches}} for seq in (2, 3, 4)]
    assert page.evaluate(script, [fleet(3), events]) == {
        "told": [[1, 2, 3], [4]],
        "names": ["web-0000", "web-0001", "web-0002"],
        "untouched": True,
        "again": True,
    }


def test_a_snapshot_is_taken_unless_it_is_older(page: Page) -> None:
    """One of the same event is as good: it came later."""
    script = """async () => {
      const { newer } = await import("/snapshot.js");
      return [null, { seq: 4 }, { seq: 5 }, { seq: 6 }].map((held) => newer(held, { seq: 5 }));
    }"""
    assert page.evaluate(script) == [True, True, True, False]


def test_the_first_failure_is_of_a_target_alone(page: Page) -> None:
    """Neither what else happened to one, nor the end of the deployment, nor a later failure."""
    script = """async () => {
      const { firstFailure } = await import("/snapshot.js");
      const of = (...statuses) => ({ targets: statuses.map((status) => ({ status })) });
      const events = [
        { seq: 1, kind: "created", patch: of("failed") },
        { seq: 2, kind: "target", patch: of("healthy") },
        { seq: 3, kind: "target", patch: { reason: "failed" } },
        { seq: 4, kind: "target", patch: of("healthy", "failed") },
        { seq: 5, kind: "target", patch: of("failed") },
      ];
      return [events.slice(0, 3), events].map((some) => firstFailure(some)?.seq ?? null);
    }"""
    assert page.evaluate(script) == [None, 4]


def test_what_no_event_touched_keeps_its_identity(page: Page) -> None:
    """So that a view paints only what changed: fields by name, and targets."""
    script = """async (held) => {
      const { advance, changes } = await import("/snapshot.js");
      const patch = { reason: "more", targets: [{ instance: "web-0002", status: "updating" }] };
      const { held: next } = advance(held, [{ seq: 2, patch }]);
      const same = next.targets.filter((target, place) => target === held.targets[place]).length;
      const found = changes(held, next);
      const nothing = changes(next, advance(next, [{ seq: 2, patch }]).held);
      return {
        same, progress: next.progress === held.progress,
        checks: next.targets[2].health_checks === held.targets[2].health_checks,
        fields: [...found.fields].sort(), targets: found.targets.map((one) => one.instance),
        nothing: nothing.fields.size + nothing.targets.length,
        first: changes(null, next).targets.length,
      };
    }"""
    assert page.evaluate(script, fleet(5)) == {
        "same": 4,
        "progress": True,
        "checks": True,
        "nothing": 0,
        "first": 5,
        "fields": ["reason", "seq", "targets"],
        "targets": ["web-0002"],
    }


def test_a_thousand_events_on_a_thousand_targets_take_a_part_of_a_frame(page: Page) -> None:
    """The list of targets is copied once for all events of a message, and no target is but once."""
    script = """async ([held, events]) => {
      const { advance, changes } = await import("/snapshot.js");
      let best = Infinity;
      for (let round = 0; round < 20; round += 1) {
        const begun = performance.now();
        changes(held, advance(held, events).held);
        best = Math.min(best, performance.now() - begun);
      }
      return best;
    }"""
    took = page.evaluate(script, [fleet(1000), changes(1000, 1000, Random(2))])
    assert took < 10, took
