"""One demo for all acceptance tests of a process: real servers, worker, fleet, load."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.browsing import opened, running_browser
from tests.acceptance.running import Demo, running_demo

# The longest modules come first, so that no process is left with one at the end.
LONG = ("test_pages_sizes", "test_pages_strategies", "test_pages_deaths")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest modules first, the others in their order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


# Of the package, not of the session: it takes its part of the machine as long as it runs.
@pytest.fixture(scope="package")
def demo() -> Iterator[Demo]:
    """A demo of six instances. A test leaves it with no deployment active and all in rotation."""
    with running_demo("--instances", "6", "--rate", "40") as demo:
        yield demo


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """A page that is logged in; the test fails for an error of its scripts."""
    with opened(browser, demo) as page:
        yield page
