"""Every claim about balancers, against every kind of them, each a real one."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dashboard.local.places import is_root
from rollouts.conformance.balancers import CLAIMS, Claim
from tests.conformance.balancer_kinds import KINDS

CASES = [
    pytest.param(kind, claim, id=f"{kind}-{claim.name}")
    for kind, (_, abilities) in KINDS.items()
    for claim in CLAIMS
    if claim.needs <= abilities
]


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    """Return the subject of a kind, started when it is asked for first."""
    subjects: dict[str, Any] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Any:
            if kind not in subjects:
                # Short, because sockets lie in it.
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-")))
                if is_root():
                    folder.chmod(0o711)
                make, _ = KINDS[kind]
                subjects[kind] = stack.enter_context(make(folder))
            return subjects[kind]

        yield start


@pytest.mark.parametrize(("kind", "claim"), CASES)
async def test_a_claim_about_balancers_holds(started: Any, kind: str, claim: Claim) -> None:
    """The claim's own text says what."""
    subject = started(kind)
    await subject.begin()
    await claim.check(subject)
