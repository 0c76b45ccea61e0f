"""No balancer: what instances say of themselves, and what can't be known or done without one."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.facts import Instance, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable
from tests import agent
from tests.conformance.balancer_kinds import Web, around, instances

DRAINING = {
    "ready_path": "/ready",
    "drain": {"path": "/drain"},
    "undrain": {"path": "/undrain"},
}


@pytest.fixture(scope="module")
def webs() -> Iterator[tuple[Web, ...]]:
    with instances(("web-01", "web-02")) as started:
        yield started


@pytest.fixture(autouse=True)
def ready(webs: tuple[Web, ...]) -> None:
    for web in webs:
        web.takes_requests = True


def made(surroundings: Surroundings, **settings: Any) -> Balancer:
    return balancers.make({"kind": "none", "ready_path": "/ready", **settings}, surroundings)


async def test_an_instance_that_can_not_be_asked_is_out_by_our_own_word(
    webs: tuple[Web, ...],
) -> None:
    """Nothing else keeps requests from it, and another object says so."""
    balancer, another = made(around(webs)), made(around(webs))
    await balancer.drain("web-01")
    server = (await balancer.report()).servers["web-01"]
    assert (server.state, server.up, server.sessions) == (ServerState.DRAIN, True, None)
    assert (await another.report()).servers["web-01"].ready
    await balancer.ready("web-01")
    assert (await balancer.report()).servers["web-01"].ready
    webs[0].takes_requests = False
    with pytest.raises(BalancerUnreachable, match=r"should be ready, says that it is not ready \("):
        await balancer.ready("web-01")
    for each in (balancer, another):
        await each.aclose()


async def test_who_is_away_or_hangs_gets_no_requests() -> None:
    """So it is drained already, and an update can cure it; the others are told in time."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        here = (
            Instance("i-1", "127.0.0.1", port, "hangs"),
            Instance("i-2", "127.0.0.1", 1, "away"),
        )
        balancer = made(Surroundings(instances=here), **DRAINING)
        begun = time.monotonic()
        for one in (await balancer.report()).servers.values():
            assert (one.state, one.up) == (ServerState.DRAIN, False)
        await asyncio.gather(balancer.drain("hangs"), balancer.drain("away"))
        for name in ("hangs", "away"):
            with pytest.raises(BalancerUnreachable):
                await balancer.ready(name)
        assert time.monotonic() - begun < 7
        await balancer.aclose()


async def test_weights_other_than_full_are_refused(webs: tuple[Web, ...]) -> None:
    """With what to do instead."""
    balancer = made(around(webs))
    await balancer.set_weights({"web-01": 100})
    with pytest.raises(BalancerError, match="rolling strategy and without slow_start"):
        await balancer.set_weights({"web-01": 100, "web-02": 50})
    with pytest.raises(BalancerError, match="can't be cut"):
        await balancer.cut("web-01")
    await balancer.aclose()


async def test_a_token_goes_with_what_an_instance_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, and not with what it is only asked; a refusal is told."""
    heard: list[tuple[str, str, str | None]] = []
    ready = True

    def answer(request: agent.Request) -> agent.Answer:
        nonlocal ready
        heard.append((request.method, request.target, request.headers.get("Authorization")))
        if request.method == "GET":
            return agent.Answer(200 if ready else 503)
        if request.headers.get("Authorization") != "Bearer hush":
            return agent.Answer(403)
        ready = request.method == "DELETE"
        return agent.Answer(204)

    with agent.serving(answer) as address:
        port = int(address.rpartition(":")[2])
        here = Surroundings(instances=(Instance("i-1", "127.0.0.1", port, "web-01"),))
        drain = {"path": "/drain"}
        settings = {"drain": drain, "undrain": {**drain, "method": "DELETE"}}
        balancer = made(here, **settings, token_env="SHOP_TOKEN")
        monkeypatch.delenv("SHOP_TOKEN", raising=False)
        with pytest.raises(BalancerError, match="SHOP_TOKEN is not set"):
            await balancer.drain("web-01")
        monkeypatch.setenv("SHOP_TOKEN", "wrong")
        with pytest.raises(BalancerError, match="POST /drain answered 403") as refused:
            await balancer.drain("web-01")
        assert not isinstance(refused.value, BalancerUnreachable)
        monkeypatch.setenv("SHOP_TOKEN", "hush")
        await balancer.drain("web-01")
        await balancer.ready("web-01")
        await balancer.aclose()
    assert {one for one in heard if one[0] == "GET"} == {("GET", "/ready", None)}
    assert heard[-3:-1] == [("GET", "/ready", None), ("DELETE", "/drain", "Bearer hush")]
