"""One demo for all acceptance tests of a run: real servers, worker, fleet, load."""

from collections.abc import Iterator

import pytest

from tests.acceptance.running import Demo, running_demo


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A demo of six instances. A test leaves it with no deployment active and all in rotation."""
    with running_demo("--instances", "6", "--rate", "40") as demo:
        yield demo
