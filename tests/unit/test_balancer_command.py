"""Scripts as a balancer: what they print, how they end, and how long they may take."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rollouts import balancers
from rollouts.adapters import Surroundings
from rollouts.balancers.command import read_status
from rollouts.facts import Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable

WEB = Instance("i-01", "10.0.0.11", 8080, "web-01")


class Scripts:
    """A balancer of shell scripts over a file that holds what `status` prints."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.log = folder / "log"
        self.log.touch()
        self.say({"web-01": {"state": "ready"}})

    def say(self, servers: dict[str, Any]) -> None:
        self.state.write_text(json.dumps({"servers": servers}))

    def balancer(self, **programs: str) -> Balancer:
        """Return the balancer; what is not given is as it should be."""
        become = f'sed -i s/"ready"/"drain"/ {self.state}'
        scripts = {
            "status": f"cat {self.state}",
            "drain": f'echo "$@" >> {self.log}; {become}',
            "ready": f"sed -i s/drain/ready/ {self.state}",
            **programs,
        }
        of_server = ["{server}", "{hostname}:{port}", "{name}"]
        arguments = {"weights": ["{weights}"], "status": []}
        settings: dict[str, Any] = {"kind": "command"}
        for key, text in scripts.items():
            literal = text.replace("{", "{{").replace("}", "}}")
            settings[key] = ["sh", "-c", literal, "sh", *arguments.get(key, of_server)]
        return balancers.make(settings, Surroundings(instances=(WEB,)))


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


async def test_placeholders_name_the_server_and_its_instance(scripts: Scripts) -> None:
    """And what is so already is not told again."""
    balancer = scripts.balancer()
    for _ in range(2):
        await balancer.drain("web-01")
    assert scripts.log.read_text() == "web-01 10.0.0.11:8080 i-01\n"
    assert (await balancer.report()).servers["web-01"].state is ServerState.DRAIN


async def test_a_script_that_did_nothing_is_not_believed(scripts: Scripts) -> None:
    """What `status` says then is told; one that is ready but not up yet is worth repeating."""
    with pytest.raises(BalancerError, match="status says that web-01 is ready and up") as refused:
        await scripts.balancer(drain="true").drain("web-01")
    assert not isinstance(refused.value, BalancerUnreachable)
    scripts.say({"web-01": {"state": "ready", "up": False}})
    with pytest.raises(BalancerUnreachable, match="web-01 is ready and not up"):
        await scripts.balancer().ready("web-01")


async def test_exit_status_and_last_words_are_told(scripts: Scripts) -> None:
    """75 is what sysexits.h calls a temporary failure: worth repeating."""
    with pytest.raises(
        BalancerError, match=r"^drain web-01, exit status 3: no such pool$"
    ) as error:
        await scripts.balancer(drain="echo no such pool >&2; exit 3").drain("web-01")
    assert not isinstance(error.value, BalancerUnreachable)
    with pytest.raises(BalancerUnreachable, match=r"^status: away$"):
        await scripts.balancer(status="echo away; exit 75").report()
    missing = {"kind": "command", "status": ["/no/such"], "drain": ["true"], "ready": ["true"]}
    with pytest.raises(BalancerError, match="/no/such is not on the worker's machine"):
        await balancers.make(missing).report()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_script_that_hangs_is_killed_with_its_children(
    scripts: Scripts, cancelled: bool
) -> None:
    """In time, whether the call is cancelled or ends by itself."""
    hang = f"trap '' TERM; sleep 60 & echo $! > {scripts.log}; wait; sleep 60"
    begun = time.monotonic()
    call = asyncio.create_task(scripts.balancer(drain=hang).drain("web-01"))
    while not scripts.log.read_text().strip():
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.01)
    if cancelled:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - begun < 1.5
    else:
        with pytest.raises(BalancerUnreachable, match="took longer than"):
            await call
        assert time.monotonic() - begun < 2.5
    child = int(scripts.log.read_text())
    while _runs(child):
        assert time.monotonic() - begun < 5, "a child of the script goes on"
        await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_what_a_script_leaves_running_does_not_delay_it(scripts: Scripts) -> None:
    """It may hold the output open for as long as it likes."""
    begun = time.monotonic()
    await scripts.balancer(
        status=f"sleep 3 & echo $! >> {scripts.log}; cat {scripts.state}"
    ).report()
    assert time.monotonic() - begun < 2
    for pid in scripts.log.read_text().split():
        os.kill(int(pid), 9)


async def test_weights_go_to_one_run_as_json(scripts: Scripts) -> None:
    """Read back, and not told where they are so already."""
    said = '{"servers": {"web-01": {"state": "ready", "weight": 7}}}'
    write = f"""echo "$1" >> {scripts.log}; echo '{said}' > {scripts.state}"""
    balancer = scripts.balancer(weights=write)
    for _ in range(2):
        await balancer.set_weights({"web-01": 7})
    assert scripts.log.read_text() == '{"web-01": 7}\n'
    with pytest.raises(BalancerError, match="web-01 has weight 7, not 9"):
        await balancer.set_weights({"web-01": 9})


async def test_without_a_script_for_it_a_thing_is_refused(scripts: Scripts) -> None:
    """In words that say what to do; weights that are so already are no matter."""
    balancer = scripts.balancer()
    await balancer.set_weights({"web-01": 100})
    with pytest.raises(BalancerError, match="no `weights` command: add one"):
        await balancer.set_weights({"web-01": 50})
    with pytest.raises(BalancerError, match="no `cut` command"):
        await balancer.cut("web-01")


async def test_our_secrets_are_not_in_a_scripts_environment(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "hush")
    monkeypatch.setenv("POOL", "blue")
    with pytest.raises(BalancerError, match=r": <> <blue>$"):
        await scripts.balancer(status='echo "<$SECRET_KEY> <$POOL>"; exit 1').report()


def test_what_is_not_said_is_not_known() -> None:
    """But for the usual: up, with weight 100 of 100."""
    report = read_status(b'{"servers": {"web-01": {"state": "maint"}}, "requests": 5}')
    assert report.servers == {
        "web-01": Server("web-01", ServerState.MAINT, up=True, sessions=None, weight=100)
    }
    assert (report.requests, report.failed) == (5, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "prints no JSON"),
        ("[" * 100_000, "prints no JSON"),
        ("[]", "must print an object"),
        ('{"servers": {"a b": {"state": "ready"}}}', "names a server 'a b'"),
        ('{"servers": {"a": "ready"}}', "of a is no object"),
        ('{"servers": {"a": {"state": "gone"}}}', "must have as state: ready, drain, maint"),
        ('{"servers": {"a": {"state": []}}}', "must have as state: ready, drain, maint"),
        ('{"servers": {"a": {"state": "ready", "conns": 1}}}', "has conns; there are: state, up"),
        ('{"servers": {"a": {"state": "ready", "up": 1}}}', "true or false as up"),
        ('{"servers": {"a": {"state": "ready", "sessions": -1}}}', "as sessions of a"),
        ('{"servers": {"a": {"state": "ready", "sessions": true}}}', "as sessions of a"),
        ('{"servers": {"a": {"state": "ready", "weight": 257}}}', "from 0 to 256 as weight"),
        ('{"servers": {"a": {"state": "ready", "response_ms": "5"}}}', "as response_ms"),
        ('{"servers": {}, "requests": "5"}', "as requests"),
    ],
)
def test_what_a_status_can_not_be(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_status(text.encode())
