"""What several balancers say together, in a row or side by side, and who is told first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from rollouts.adapters import NOWHERE, SettingsError, Surroundings
from rollouts.balancers.chain import Chain
from rollouts.balancers.servers import Told, agreed
from rollouts.facts import BalancerReport, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

READY = Server("web-01", ServerState.READY, up=True, sessions=2, weight=100, answers=10, errors=1)
DRAINED = replace(READY, state=ServerState.DRAIN)


class Noted(Balancer):
    """A balancer that notes what it is told, and fails if it is told to."""

    def __init__(self, name: str, told: list[str], server: Server = READY) -> None:
        self.name = name
        self.told = told
        self.server = server
        self.fails: BalancerError | None = None
        self.weighs = True

    @property
    def takes_weights(self) -> bool:
        return self.weighs

    async def report(self) -> BalancerReport:
        if self.fails:
            raise self.fails
        other = replace(self.server, name=f"only-{self.name}")
        return BalancerReport({"web-01": self.server, other.name: other}, requests=7, failed=2)

    async def _hear(self, what: str) -> None:
        self.told.append(f"{self.name} {what}")
        if self.fails:
            raise self.fails

    async def drain(self, server: str) -> None:
        await self._hear(f"drain {server}")

    async def ready(self, server: str) -> None:
        await self._hear(f"ready {server}")

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        await self._hear(f"weigh {dict(weights)}")

    async def cut(self, server: str) -> None:
        await self._hear(f"cut {server}")

    async def aclose(self) -> None:
        await self._hear("closed")


class Row:
    """A chain of two, the edge and the inner one, and what they were told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.edge, self.inner = Noted("edge", self.told), Noted("inner", self.told)
        made = iter((self.edge, self.inner))

        def make(raw: Mapping[str, Any], surroundings: Surroundings) -> Balancer:
            return next(made)

        settings = {"kind": "chain", "balancers": [{"kind": "a"}, {"kind": "b"}]}
        self.chain = Chain.from_settings(settings, NOWHERE, make)


@pytest.fixture
def row() -> Row:
    return Row()


async def test_who_is_told_first(row: Row) -> None:
    """The edge sends nobody to a door that the inner one has closed already."""
    await row.chain.drain("web-01")
    await row.chain.ready("web-01")
    assert row.told == [
        "edge drain web-01",
        "inner drain web-01",
        "inner ready web-01",
        "edge ready web-01",
    ]


@pytest.mark.parametrize("kind", [BalancerError, BalancerUnreachable])
async def test_what_fails_keeps_those_behind_it_untouched(
    row: Row, kind: type[BalancerError]
) -> None:
    """It is told which one failed, and whether it is worth repeating."""
    row.edge.fails = kind("no")
    with pytest.raises(BalancerError, match=r"^balancers\[0\] \(a\): no$") as failed:
        await row.chain.drain("web-01")
    assert type(failed.value) is kind
    assert row.told == ["edge drain web-01"]
    row.edge.fails, row.inner.fails = None, kind("no")
    with pytest.raises(kind, match=r"^balancers\[1\] \(b\): no$"):
        await row.chain.ready("web-01")
    assert row.told[1:] == ["inner ready web-01"]


async def test_errors_of_both_are_told_together(row: Row) -> None:
    """A refusal among them is what counts."""
    row.edge.fails, row.inner.fails = BalancerUnreachable("away"), BalancerError("no")
    for call in (row.chain.report(), row.chain.set_weights({"web-01": 1}), row.chain.cut("web-01")):
        with pytest.raises(BalancerError, match=r"\(a\): away; balancers\[1\] \(b\): no") as failed:
            await call
        assert type(failed.value) is BalancerError


async def test_no_request_counts_twice(row: Row) -> None:
    """What clients got is the edge's, what a server answered the innermost's that counts it."""
    row.inner.server = replace(READY, sessions=1, answers=9, errors=3)
    report = await row.chain.report()
    server = report.servers["web-01"]
    assert (report.requests, report.failed) == (7, 2)
    assert (server.sessions, server.answers, server.errors) == (3, 9, 3)
    assert list(report.servers) == ["web-01"], "what only one of them knows is left out"
    row.inner.server = replace(READY, sessions=None, answers=None, errors=None)
    server = (await row.chain.report()).servers["web-01"]
    assert (server.sessions, server.answers, server.errors) == (None, 10, 1)


async def test_weights_go_to_those_that_take_them(row: Row) -> None:
    """And their word on weights is what counts; where nobody takes any, the refusal is told."""
    row.inner.weighs = False
    row.inner.server = replace(READY, weight=100)
    row.edge.server = replace(READY, weight=40, configured=50)
    await row.chain.set_weights({"web-01": 40})
    assert row.told == ["edge weigh {'web-01': 40}"]
    server = (await row.chain.report()).servers["web-01"]
    assert (server.weight, server.configured) == (40, 50)
    assert row.chain.takes_weights
    row.edge.weighs = False
    assert not row.chain.takes_weights
    row.edge.fails = row.inner.fails = BalancerError("no")
    with pytest.raises(BalancerError, match="no"):
        await row.chain.set_weights({"web-01": 40})


async def test_all_are_closed(row: Row) -> None:
    await row.chain.aclose()
    assert sorted(row.told) == ["edge closed", "inner closed"]


def test_a_row_names_what_is_wrong_in_it() -> None:
    def make(raw: Mapping[str, Any], surroundings: Surroundings) -> Balancer:
        raise SettingsError({"kind": "is wrong"})

    with pytest.raises(SettingsError) as refused:
        Chain.from_settings({"kind": "chain", "balancers": [{}, {}], "x": 1}, NOWHERE, make)
    assert set(refused.value.errors) == {"x"} or set(refused.value.errors) == {
        "x",
        "balancers[0].kind",
        "balancers[1].kind",
    }


@pytest.mark.parametrize(
    ("states", "told_ready", "seen"),
    [
        ((READY, READY), False, (ServerState.READY, True)),
        ((DRAINED, DRAINED), True, (ServerState.DRAIN, True)),
        ((READY, DRAINED), False, (ServerState.READY, False)),
        ((READY, DRAINED), True, (ServerState.DRAIN, True)),
        ((READY, replace(READY, up=False)), True, (ServerState.READY, False)),
    ],
)
def test_where_they_disagree_it_is_not_what_was_told(
    states: tuple[Server, ...], told_ready: bool, seen: tuple[ServerState, bool]
) -> None:
    """So whoever compares the two says it again; it counts as out meanwhile."""
    server = agreed(states, Told(ready={"web-01"} if told_ready else set()))
    assert (server.state, server.up) == seen


@pytest.mark.parametrize(
    ("weights", "told", "seen"),
    [
        ((40, 40), 40, 40),
        ((40, 100), 40, 100),
        ((40, 100), 100, 40),
        ((40, 100), None, 1),
        ((1, 2), None, 3),
        ((100, 50), None, 50),
    ],
)
def test_a_weight_that_not_all_have_is_not_the_one_told(
    weights: tuple[int, int], told: int | None, seen: int
) -> None:
    """Where each has what its own configuration says, that is no disagreement."""
    configured = (100, 50)
    views = [
        replace(READY, weight=weight, configured=full)
        for weight, full in zip(weights, configured, strict=True)
    ]
    told_weights = {} if told is None else {"web-01": told}
    assert agreed(views, Told(weights=told_weights)).weight == seen
