"""The demo's canary and blue/green: slots in a real HAProxy, and what `--once` wants."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dashboard.local import app, fleet, haproxy_server, load, once
from dashboard.local.stack import LOOPBACK
from tests.servers import StartHAProxy, until


@contextmanager
def serving(*names: str, version: str = "v1") -> Iterator[dict[str, int]]:
    """Run the demo's application under each of the names; yield these with their ports."""
    servers = {name: app.Server(0, app.App(name, version)) for name in names}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {name: server.server_address[1] for name, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_blue_green_has_a_live_half_and_an_idle_one() -> None:
    """The others have no slots, and a configuration without anything for them."""
    names = fleet.names(4)
    slots = fleet.slots("blue_green", names)
    assert list(slots.items()) == list(zip(names, ["blue", "blue", "green", "green"], strict=True))
    assert fleet.slots("canary", names) == dict.fromkeys(names, "")
    servers, place = dict.fromkeys(names, 9), Path("/nowhere")
    plain = haproxy_server.render(place, place, 9, servers)
    assert plain == haproxy_server.render(place, place, 9, servers, fleet.slots("canary", names))
    assert "green" not in plain
    assert "weight 0" not in plain


def test_the_idle_slot_is_reached_by_its_name_alone(haproxy: StartHAProxy, tmp_path: Path) -> None:
    """It gets no traffic, whatever serves there; each slot can be tried, in any spelling."""
    with serving(*fleet.names(4)) as ports:
        slots = fleet.slots("blue_green", list(ports))
        balancer = haproxy(
            {},
            lambda admin, port: haproxy_server.render(admin, tmp_path / "no", port, ports, slots),
        )
        port = int(balancer.url.rpartition(":")[2])

        def answering(**headers: str) -> set[str]:
            url = f"http://{LOOPBACK}:{port}/"
            return {httpx.get(url, headers=headers).text.split()[0] for _ in range(8)}

        assert answering() == answering(Host=f"blue.localhost:{port}") == {"web-01", "web-02"}
        for host in (f"green.localhost:{port}", "GREEN.LocalHost", "green.shop.example"):
            assert answering(Host=host) == {"web-03", "web-04"}
        assert balancer.ask("get weight app/web-03").startswith("0 (initial 0)")
        # Idle is not out: no deployment is held up by it.
        assert not haproxy_server.out_of_rotation(balancer.socket)
        for name, slot in slots.items():
            balancer.ask(f"set weight app/{name} {100 if slot == 'green' else 0}")
        assert answering() == answering(Host="green.localhost") == {"web-03", "web-04"}


async def test_the_load_tells_who_answered_with_an_error(haproxy: StartHAProxy) -> None:
    """An error of the application counts as its own, one of the balancer as a failure alone."""
    with serving("web-01", version="v3-errors") as ports:
        balancer = haproxy(ports)
        until(lambda: haproxy_server.statuses(balancer.socket) == {"web-01": "UP"}, what="up")
        sender = load.Load(LOOPBACK, int(balancer.url.rpartition(":")[2]), "/")

        async def send(count: int) -> load.Counts:
            for _ in range(count):
                sender.send()
            await sender.finish()
            return replace(sender.counts)

        began = time.time()
        of_app = await send(20)
        assert (of_app.failed, of_app.app_errors) == (4, 4)
        assert began <= of_app.last_app_error_at <= time.time()
        balancer.ask("set server app/web-01 state maint")
        of_balancer = await send(3)
        await sender.close()
    assert of_balancer == replace(of_app, requests=23, failed=7, settled=of_balancer.settled)


GOOD = once.Result("deploy-0", "v2", "completed", 9, 900, 0, 0, 2, 20, "canary", 0, 1.0, None)
BAD = replace(
    GOOD, version="v3-errors", status="rolled_back", failed_requests=9, app_errors=9,
    touched=1, max_out=1, most_share=0.05, errors_ended=0.3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        *((GOOD, wrong) for wrong in ({"failed_requests": 1}, {"slow_requests": 1})),
        *((GOOD, wrong) for wrong in ({"touched": 19}, {"max_out": 3}, {"status": "failed"})),
        *((BAD, wrong) for wrong in ({"failed_requests": 10}, {"touched": 2}, {"touched": 0})),
        *((BAD, wrong) for wrong in ({"most_share": 0.07}, {"errors_ended": 2.1})),
    ],
)
def test_once_is_content_with_nothing_less(result: once.Result, wrong: dict[str, object]) -> None:
    """Errors of the bad canary are its own, few, and end with its traffic; else there are none."""
    script = once.Script("canary", 20)
    assert result.went_well(result.status, script)
    assert not replace(result, **wrong).went_well(result.status, script)


@pytest.mark.parametrize(
    ("strategy", "good", "bad"),
    [("rolling", [6], [1, 2]), ("canary", [6], [1]), ("blue_green", [3], [1, 2, 3])],
)
def test_once_knows_how_far_a_version_may_get(
    strategy: str, good: list[int], bad: list[int]
) -> None:
    """All for a good one, the idle slot at most for blue/green, a first step for a bad one."""
    script = once.Script(strategy, 6)
    assert [list(script.may_touch(expected)) for _, expected in script.acts] == [good, bad]
