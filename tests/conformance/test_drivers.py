"""Every claim about drivers, against every kind of them, each in a real place."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rollouts.conformance.drivers import CLAIMS, Claim, Subject
from tests import agent
from tests.conformance.driver_kinds import KINDS, Servers

CASES = [
    pytest.param(kind, claim, id=f"{kind}-{claim.name}")
    for kind, (_, troubles) in KINDS.items()
    for claim in CLAIMS
    if claim.needs <= troubles
]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
def subject(
    request: pytest.FixtureRequest,
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Subject]:
    monkeypatch.setenv("CONFORMANCE_SECRET", agent.SECRET)
    make, _ = KINDS[request.param]
    with make(servers, tmp_path) as subject:
        yield subject


@pytest.fixture(autouse=True)
async def reaped() -> AsyncIterator[None]:
    """Let asyncio hear of the end of all that was started, before its loop is closed."""
    yield
    deadline = time.monotonic() + 5
    while any(each.name.startswith("asyncio-waitpid-") for each in threading.enumerate()):
        assert time.monotonic() < deadline, "a process was not reaped"
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)


@pytest.mark.parametrize(("subject", "claim"), CASES, indirect=["subject"])
async def test_a_claim_about_drivers_holds(subject: Subject, claim: Claim) -> None:
    """The claim's own text says what."""
    await claim.check(subject)
