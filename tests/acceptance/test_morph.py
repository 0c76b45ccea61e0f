"""How a page is made like a newer one: what is the same stays, and so does what a person does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser

SCRIPTS = Path(__file__).resolve().parents[2] / "static" / "js"
PLACE = "http://lockgate.test/"
MORPH = """async ([before, after]) => {
  const { morph } = await import("/morph.js");
  const root = document.querySelector("main");
  const parse = (html) =>
    new DOMParser().parseFromString(`<main>${html}</main>`, "text/html").querySelector("main");
  morph(root, parse(before));
  window.nodes = [...root.querySelectorAll("*")];
  window.fresh = parse(after);
  window.apply = () => morph(root, window.fresh);
}"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page of nothing but the script; no server is asked."""

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(PLACE)
        if name:
            route.fulfill(path=SCRIPTS / name, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><main></main>", content_type="text/html")

    with browser.new_page() as opened:
        opened.route(f"{PLACE}**", serve)
        opened.goto(PLACE)
        yield opened


def morphed(page: Page, before: str, after: str, meanwhile: str = "") -> str:
    """Return what becomes of `before`, something being done between."""
    page.evaluate(MORPH, [before, after])
    if meanwhile:
        page.evaluate(meanwhile)
    page.evaluate("apply()")
    return page.locator("main").inner_html()


def listing(*keys: str) -> str:
    items = "".join(f'<li data-key="{key}"><a href="#{key}">{key}</a></li>' for key in keys)
    return f'<ul data-list="">{items}</ul>'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>one</p>", "<p>two</p>"),
        ("<p>one</p>", "<p>one</p>two"),
        ("<p>one</p><b>two</b>", "<p>one</p>"),
        ('<p class="a" title="x">one</p>', '<p class="b">one</p>'),
        ("<p>one</p>", "<h2>one</h2>"),
        ("", listing("a", "b")),
        (listing("a", "b", "c"), listing("c", "a", "d")),
        (listing("a", "b", "c"), listing("c", "b", "a")),
        (listing("a", "b"), listing("a", "b").replace(">b<", ">better<")),
        (listing("a"), "<p>none</p>"),
        (listing("a", "b"), '<ul data-list=""></ul>'),
    ],
)
def test_the_page_becomes_what_the_server_drew(page: Page, before: str, after: str) -> None:
    """Texts, attributes, children and lists, whatever they were."""
    assert morphed(page, before, after) == after


def test_what_stays_is_the_same_node_and_keeps_the_focus(page: Page) -> None:
    """Where others come before it, go or change."""
    focus = "document.querySelector('[href=\"#b\"]').focus()"
    morphed(page, listing("a", "b"), listing("x", "b", "c"), focus)
    assert page.evaluate("document.activeElement.textContent") == "b"
    assert page.evaluate("nodes.includes(document.activeElement)")


def test_what_moves_is_the_same_node(page: Page) -> None:
    """Whatever the order becomes; where something else has come, nothing of it is left."""
    morphed(page, listing("a", "b", "c"), listing("c", "b", "a"))
    assert page.evaluate(
        "[...document.querySelectorAll('li, a')].every((one) => nodes.includes(one))"
    )
    form = '<form data-key="{}"><input></form>'
    typed = "document.querySelector('input').value = 'typed'"
    morphed(page, form.format("a"), form.format("b"), typed)
    assert page.locator("input").input_value() == ""


def test_what_was_typed_and_opened_stays(page: Page) -> None:
    """The server knows of neither."""
    before = '<details><summary>more</summary><input value=""></details><p>one</p>'
    after = before.replace("one", "two")
    done = """() => {
      document.querySelector("details").open = true;
      document.querySelector("input").value = "typed";
    }"""
    morphed(page, before, after, done)
    found: Any = page.evaluate(
        "[document.querySelector('details').open, document.querySelector('input').value]"
    )
    assert found == [True, "typed"]
    assert page.locator("main p").inner_text() == "two"


def test_a_card_that_events_patch_is_left_alone(page: Page) -> None:
    """They may be ahead of what the server had drawn."""
    card = '<ul data-list=""><li class="run" data-key="a">{}</li></ul>'
    assert morphed(page, card.format("8/20"), card.format("6/20")) == card.format("8/20")
