"""Real nginx as a balancer, here and over a real sshd; see also the claims about all balancers."""

import asyncio
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from dashboard.local.places import is_root
from rollouts import balancers
from rollouts.adapters import KnownHosts, Surroundings
from rollouts.balancers.nginx import Nginx
from rollouts.balancers.nginx_file import Shape
from rollouts.balancers.nginx_host import Host, run_here
from rollouts.facts import Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable
from rollouts.ssh import Completed
from tests.conformance.balancer_kinds import Program, Web, get, instances, nginx_program
from tests.servers import until
from tests.sshd import Known, Sshds, sshds

__all__ = ["sshds"]


class Running:
    """An nginx in front of instances, with the file that a person began."""

    def __init__(self, folder: Path, webs: Sequence[Web], stack: ExitStack) -> None:
        self.folder = folder
        self.webs = webs
        self.servers = {one.name: f"127.0.0.1:{one.port}" for one in webs}
        self.program, self.settings = nginx_program(folder, self.servers)
        self.file = folder / "shop.conf"
        self.instances = tuple(Instance(one.name, "127.0.0.1", one.port, one.name) for one in webs)
        stack.callback(self.program.stop)
        self.program.start()

    def balancer(self, known: KnownHosts | None = None, **more: Any) -> Balancer:
        around = Surroundings(instances=self.instances)
        if known is not None:
            around = Surroundings(instances=self.instances, known_hosts=known)
        return balancers.make({"kind": "nginx", **self.settings, **more}, around)

    async def get(self, path: str = "/") -> tuple[int, str]:
        return await get(str(self.folder / "nginx.web"), path)

    async def served(self, requests: int = 12) -> Counter[str]:
        answers = [await self.get() for _ in range(requests)]
        return Counter(body if status == 200 else "" for status, body in answers)

    def port(self) -> int:
        """Return the port at which it shows what is live."""
        return int(re.findall(r"listen 127\.[0-9.]+:(\d+);", self.file.read_text())[0])

    def reloads(self) -> int:
        return (self.folder / "error.log").read_text().count(" reconfiguring")

    def workers(self) -> list[str]:
        master = psutil.Process(int((self.folder / "nginx.pid").read_text()))
        return [" ".join(one.cmdline()) for one in master.children()]


@pytest.fixture(scope="module")
def webs() -> Iterator[tuple[Web, ...]]:
    with instances() as started:
        yield started


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lg-") as path:
        if is_root():
            Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture
def nginx(folder: Path, webs: tuple[Web, ...]) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(folder, webs, stack)


async def look(balancer: Balancer, name: str = "web-01") -> Server:
    return (await balancer.report()).servers[name]


# --- the file


async def test_the_file_that_a_person_began_is_taken_over(nginx: Running) -> None:
    """Who is in it is in rotation; an instance that is not gets no requests until it is added."""
    new = Instance("web-04", "127.0.0.1", 1, "web-04")
    nginx.instances = (*nginx.instances[:2], new)
    nginx.file.write_text(
        "# Lockgate writes this file.\n# More of it.\nupstream shop {\n"
        f"    server {nginx.servers['web-01']};\n    server {nginx.servers['web-02']} down;\n}}\n"
    )
    balancer = nginx.balancer(weights={"web-02": 0})
    servers = (await balancer.report()).servers
    assert {one.name: one.state for one in servers.values()} == {
        "web-01": ServerState.READY,
        "web-02": ServerState.DRAIN,
        "web-04": ServerState.DRAIN,
    }
    assert {one.name: (one.weight, one.configured) for one in servers.values()} == {
        "web-01": (100, 100),
        "web-02": (0, 0),
        "web-04": (100, 100),
    }
    nginx.instances = (*nginx.instances[:2], Instance("web-04", "127.0.0.1", 2, "web-04"))
    await nginx.balancer().ready("web-04")
    assert "server 127.0.0.1:2 weight=100;" in nginx.file.read_text(), "with its address of now"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("upstream shop {\n    server ADDRESS;\n}\n", "put it there if Lockgate may write"),
        ("", "put it there if Lockgate may write"),
        ("CONSENT\nupstream other {\n    server ADDRESS;\n}\n", 'must hold "upstream shop {"'),
        ("CONSENT\nupstream shop {\n    least_conn;\n    server ADDRESS;\n}\n", "least_conn"),
        ("CONSENT\nupstream shop {\n    server ADDRESS weight=5;\n}\n", "weight=5 in line 3"),
        ("CONSENT\nupstream shop {\n    server 10.9.9.9:80;\n}\n", "10.9.9.9:80, which is no act"),
    ],
)
async def test_what_a_person_wrote_is_not_lost(nginx: Running, text: str, words: str) -> None:
    """Without the first line that allows it, or with more in it than is kept: nothing is done."""
    text = text.replace("CONSENT", "# Lockgate writes this file.")
    text = text.replace("ADDRESS", nginx.servers["web-01"])
    nginx.file.write_text(text)
    for call in (nginx.balancer().report(), nginx.balancer().drain("web-01")):
        with pytest.raises(BalancerError, match=words) as refused:
            await call
        assert not isinstance(refused.value, BalancerUnreachable)
    assert nginx.file.read_text() == text


async def test_options_of_the_upstream_and_of_servers_are_written(nginx: Running) -> None:
    """They are nginx's own words, and nginx takes them."""
    balancer = nginx.balancer(
        options=["least_conn", "keepalive 8"], server_options="max_fails=3 fail_timeout=10s"
    )
    await balancer.drain("web-01")
    text = nginx.file.read_text()
    assert "    least_conn;\n    keepalive 8;\n    server " in text
    assert f"server {nginx.servers['web-02']} weight=100 max_fails=3 fail_timeout=10s;" in text
    assert set(await nginx.served()) == {"web-02", "web-03"}


async def test_a_persons_hand_is_seen(nginx: Running) -> None:
    """What nginx does counts, not what the comment beside it says."""
    await nginx.balancer().drain("web-01")
    text = nginx.file.read_text()
    text = text.replace(f"{nginx.servers['web-02']} weight=100", f"{nginx.servers['web-02']} down")
    text = text.replace(
        f"{nginx.servers['web-03']} weight=100", f"{nginx.servers['web-03']} weight=7"
    )
    nginx.file.write_text(text.replace('"state": "drain"', '"state": "maint"'))
    report = await nginx.balancer().report()
    assert [(one.state.value, one.weight) for one in report.servers.values()] == [
        ("maint", 100),
        ("drain", 100),
        ("ready", 7),
    ]
    await nginx.balancer().drain("web-01")
    assert (await look(nginx.balancer())).state is ServerState.MAINT, "which is stricter"


async def test_mode_owner_and_links_stay_as_they_are(nginx: Running) -> None:
    """The file is replaced at once, where it is; nothing is left of it but the one before."""
    real = nginx.folder / "real"
    real.mkdir()
    nginx.file.rename(real / "upstream.conf")
    nginx.file.symlink_to(real / "upstream.conf")
    (real / "upstream.conf").chmod(0o640)
    if is_root():
        os.chown(real / "upstream.conf", 12, 34)
    await nginx.balancer().drain("web-01")
    assert nginx.file.is_symlink()
    found = (real / "upstream.conf").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    if is_root():
        assert (found.st_uid, found.st_gid) == (12, 34)
    assert sorted(one.name for one in real.iterdir()) == [".upstream.conf.before", "upstream.conf"]


# --- what nginx does with it


async def test_a_file_that_nginx_refuses_is_taken_back(nginx: Running) -> None:
    """With nginx's own words; and it goes on serving as before."""
    await nginx.balancer().drain("web-01")
    text = nginx.file.read_text()
    good = nginx.instances
    nginx.instances = (*good[:2], Instance("web-03", "nowhere.invalid", 80, "web-03"))
    with pytest.raises(BalancerError, match="host not found in upstream") as refused:
        await nginx.balancer().ready("web-01")
    assert "nowhere.invalid" in str(refused.value)
    assert nginx.file.read_text() == text
    nginx.instances = good
    assert (await look(nginx.balancer())).state is ServerState.DRAIN
    await nginx.balancer().ready("web-01")
    assert set(await nginx.served()) == {"web-01", "web-02", "web-03"}


async def test_a_reload_that_does_nothing_is_not_believed(nginx: Running) -> None:
    """Told is what nginx does until it follows; the next who steers finds what was left."""
    await nginx.balancer().drain("web-02")
    idle = nginx.balancer(reload=["true"])
    with pytest.raises(BalancerUnreachable, match="did not load it after"):
        await idle.drain("web-01")
    assert (await look(nginx.balancer())).state is ServerState.READY
    assert set(await nginx.served()) == {"web-01", "web-03"}
    await nginx.balancer().drain("web-03")
    assert set(await nginx.served()) == {""}
    await nginx.balancer().ready("web-02")
    assert set(await nginx.served()) == {"web-02"}


async def test_an_nginx_that_does_not_run_is_told(nginx: Running) -> None:
    """It is worth asking again; started, it goes by what was written last."""
    await nginx.balancer().drain("web-01")
    nginx.program.stop()
    with pytest.raises(BalancerUnreachable, match="does not go by"):
        await nginx.balancer().report()
    with pytest.raises(BalancerUnreachable, match=r"could not be reloaded: .*nginx\.pid"):
        await nginx.balancer().ready("web-01")
    nginx.program.start()
    assert (await look(nginx.balancer())).state is ServerState.DRAIN


async def test_begun_requests_are_finished_by_the_old_workers(nginx: Running) -> None:
    """A drain is confirmed while they are; no new one comes, and the begun one is answered."""
    [first, *_] = nginx.webs
    first.held.clear()
    first.release.clear()
    for name in ("web-02", "web-03"):
        await nginx.balancer().drain(name)
    request = asyncio.create_task(nginx.get("/hold"))
    await asyncio.to_thread(first.held.wait, 5)
    await asyncio.gather(nginx.balancer().drain("web-01"), nginx.balancer().ready("web-02"))
    assert any("shutting down" in worker for worker in nginx.workers())
    assert set(await nginx.served()) == {"web-02"}
    assert (await look(nginx.balancer())).sessions is None
    first.release.set()
    assert await request == (200, "web-01")


async def test_calls_of_one_moment_are_one_reload(nginx: Running) -> None:
    """A batch of three with their weights; and what is so already is none."""
    balancer = nginx.balancer()
    await balancer.drain("web-01")
    before = nginx.reloads()
    await asyncio.gather(
        *(balancer.drain(name) for name in ("web-02", "web-01", "web-03")),
        balancer.set_weights({"web-01": 7, "web-02": 8}),
        balancer.set_weights({"web-02": 9}),
    )
    servers = (await balancer.report()).servers
    assert [one.weight for one in servers.values()] == [7, 9, 100]
    assert all(one.state is ServerState.DRAIN for one in servers.values())
    # Each reload is told twice: that it was heard, and that it is done.
    assert nginx.reloads() == before + 2
    await asyncio.gather(*(balancer.drain(name) for name in servers))
    assert nginx.reloads() == before + 2


async def test_what_another_wrote_meanwhile_is_not_lost(nginx: Running) -> None:
    """Between the look and the write of one, another one writes all of it."""
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(arguments: Sequence[str], data: bytes) -> Completed:
        if data:
            looked.set()
            await go_on.wait()
        return await run_here(arguments, data)

    await nginx.balancer().ready("web-01")
    test, reload = nginx.settings["test"], nginx.settings["reload"]
    host = Host("here", slow, str(nginx.file), test, reload)
    first = Nginx([host], Shape("shop"), nginx.port(), nginx.instances, {})
    drain = asyncio.create_task(first.drain("web-01"))
    await looked.wait()
    await nginx.balancer().drain("web-02")
    go_on.set()
    await drain
    servers = (await nginx.balancer().report()).servers
    assert [one.state.value for one in servers.values()] == ["drain", "drain", "ready"]


async def test_no_request_fails_while_servers_come_and_go(nginx: Running) -> None:
    """With a connection for each, while every reload starts new workers."""
    balancer = nginx.balancer()
    answers: list[tuple[int, str]] = []
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            answers.append(await nginx.get())

    clients = [asyncio.create_task(client()) for _ in range(2)]
    for name in ("web-01", "web-02", "web-03"):
        await balancer.drain(name)
        await balancer.ready(name)
    over.set()
    await asyncio.gather(*clients)
    assert len(answers) > 50
    assert {status for status, _ in answers} == {200}


async def test_a_port_that_somebody_else_has_is_refused(nginx: Running) -> None:
    """Before anything is written, for nginx would not start again with it."""
    text = nginx.file.read_text()
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BalancerError, match=rf"listens at 0\.0\.0\.0:{port}.*another `port`"):
            await nginx.balancer(port=port).drain("web-01")
    assert nginx.file.read_text() == text
    assert nginx.reloads() == 0


async def test_a_missing_file_and_a_missing_program_are_told(nginx: Running) -> None:
    """With the path, in nobody else's words."""
    with pytest.raises(BalancerError, match=r"can't read /nowhere/shop\.conf"):
        await nginx.balancer(file="/nowhere/shop.conf").report()
    with pytest.raises(BalancerError, match="no-such-program"):
        await nginx.balancer(test=["/no-such-program", "-t"]).drain("web-01")
    assert (await look(nginx.balancer())).state is ServerState.READY


# --- other machines


async def test_nginx_over_ssh(nginx: Running, sshds: Sshds) -> None:
    """The same on a machine that is reached by a real sshd."""
    host = sshds.hosts[0].address
    strange = nginx.balancer(Known(), hosts=[host], ssh=sshds.settings())
    with pytest.raises(BalancerError, match=r"nginx on .*is not confirmed"):
        await strange.report()
    await strange.aclose()
    balancer = nginx.balancer(Known.of(sshds), hosts=[host], ssh=sshds.settings())
    await balancer.drain("web-01")
    assert (await look(balancer)).state is ServerState.DRAIN
    assert set(await nginx.served()) == {"web-02", "web-03"}
    await asyncio.gather(balancer.ready("web-01"), balancer.drain("web-02"))
    assert set(await nginx.served()) == {"web-01", "web-03"}
    await balancer.aclose()
    wrong = ["sh", "-c", "echo $0; exit 1", "n o"]
    strict = nginx.balancer(Known.of(sshds), hosts=[host], ssh=sshds.settings(), test=wrong)
    with pytest.raises(BalancerError, match=rf"nginx on {host} refuses the file .*: n o"):
        await strict.ready("web-02")
    await strict.aclose()


class Apart:
    """A machine of its own as far as the network goes, with an nginx."""

    def __init__(self, folder: Path, name: str, servers: Mapping[str, str]) -> None:
        folder.mkdir()
        if is_root():
            folder.chmod(0o711)
        self.program, settings = nginx_program(folder, servers)
        self.file = folder / "shop.conf"
        self._room = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && exec sleep 600"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._enter = ["nsenter", "-n", "-t", str(self._room.pid)]
        until(self._is_up, 5, "a network of its own")
        self.program = Program([*self._enter, *self.program.arguments], self.program.socket)
        run = partial(self._run)
        self.host = Host(name, run, str(self.file), settings["test"], settings["reload"])

    def _is_up(self) -> bool:
        looked = subprocess.run(
            [*self._enter, "cat", "/proc/net/route", "/sys/class/net/lo/operstate"],
            capture_output=True,
            check=False,
        )
        rooms = {Path(f"/proc/{one}/ns/net").readlink() for one in (self._room.pid, "self")}
        return looked.returncode == 0 and len(rooms) == 2

    async def _run(self, arguments: Sequence[str], data: bytes) -> Completed:
        return await run_here([*self._enter, *arguments], data)

    def close(self) -> None:
        self.program.stop()
        self._room.kill()
        self._room.wait(5)


@pytest.fixture
async def pair(folder: Path, webs: tuple[Web, ...]) -> AsyncIterator[tuple[Apart, Apart]]:
    if not (is_root() and shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("optional: networks of their own need root, unshare and ip")
    servers = {one.name: f"127.0.0.1:{one.port}" for one in webs}
    with ExitStack() as stack:
        both = []
        for name in ("lb1", "lb2"):
            one = Apart(folder / name, name, servers)
            stack.callback(one.close)
            one.program.start()
            both.append(one)
        yield both[0], both[1]


async def test_of_two_machines_both_must_confirm(
    pair: tuple[Apart, Apart], webs: tuple[Web, ...]
) -> None:
    """One that is away is named; what it missed is seen, and it follows when told again."""
    around = tuple(Instance(one.name, "127.0.0.1", one.port, one.name) for one in webs)

    def made() -> Nginx:
        return Nginx([one.host for one in pair], Shape("shop"), 20_001, around, {})

    balancer = made()
    await balancer.drain("web-01")
    assert all('"state": "drain"' in one.file.read_text() for one in pair)
    pair[1].program.stop()
    for call in (balancer.drain("web-02"), balancer.report()):
        with pytest.raises(BalancerUnreachable, match="nginx on lb2") as refused:
            await call
        assert "lb1" not in str(refused.value)
    assert pair[0].file.read_text().count('"state": "drain"') == 2
    pair[1].program.start()
    server = await look(made(), "web-02")
    assert (server.state, server.up) == (ServerState.READY, False), "out, but not everywhere"
    begun = time.monotonic()
    await balancer.drain("web-02")
    assert time.monotonic() - begun < 2
    assert (await look(made(), "web-02")).state is ServerState.DRAIN
    assert all(one.file.read_text().count('"state": "drain"') == 2 for one in pair)
