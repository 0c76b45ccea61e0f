"""Connections to a real sshd: whom they trust, how they are shared, short commands, sockets."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dashboard.local.stack import free_ports
from rollouts import ssh as rooms
from rollouts.ssh import HostKeyRefused, LoginRefused, Ssh, SshError, SshUnreachable
from tests.sshd import HOST, PORTS, Known, Sshds, gone, make_key, opened, sshds

__all__ = ["sshds"]

NASTY = [
    "$(id);",
    "`id`",
    "it's",
    'say "so"',
    "",
    "a  b",
    "new\nline",
    "*",
    "--flag",
    "ä\t\\n",
    "!!",
]


@pytest.fixture
async def ssh(sshds: Sshds) -> AsyncIterator[Ssh]:
    """Connections to hosts whose keys are all confirmed."""
    async with opened(sshds.ssh()) as one:
        yield one


async def test_arguments_arrive_as_they_are(ssh: Ssh, sshds: Sshds) -> None:
    """No shell takes any part of them for more than a text."""
    answer = await ssh.run(sshds.hosts[0].address, ["printf", "%s\\0", *NASTY])
    assert answer.stdout.decode().split("\0")[:-1] == NASTY


async def test_input_output_errors_and_status_of_a_command(ssh: Ssh, sshds: Sshds) -> None:
    """All four are told apart; a signal is told as one."""
    host = sshds.hosts[0].address
    answer = await ssh.run(host, ["sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"in")
    assert (answer.status, answer.stdout, answer.stderr) == (3, b"in", b"no\n")
    assert (await ssh.run(host, ["sh", "-c", "kill -9 $$"])).status == -9
    assert (await ssh.run(host, ["no-such-program"])).status == 127


async def test_one_connection_serves_all_at_once(ssh: Ssh, sshds: Sshds) -> None:
    """More commands than a connection takes sessions wait for their turn."""
    host = sshds.hosts[0]
    echo = "sleep 0.05; echo $0"
    answers = await asyncio.gather(
        *(ssh.run(host.address, ["sh", "-c", echo, str(number)]) for number in range(25))
    )
    assert [int(answer.stdout) for answer in answers] == list(range(25))
    unread = [ssh.run(host.address, ["true"], stdin=b"unread") for _ in range(40)]
    assert {answer.status for answer in await asyncio.gather(*unread)} == {0}
    assert len(host.connections()) == 1


async def test_a_connection_that_died_is_made_anew(ssh: Ssh, sshds: Sshds) -> None:
    """Without a word to whoever asks next, be the end known here already or not."""
    host = sshds.hosts[0]
    for _ in range(2):
        await ssh.run(host.address, ["true"])
        host.cut()
        assert (await ssh.run(host.address, ["echo", "again"])).stdout == b"again\n"


async def test_an_unknown_host_key_is_refused_and_kept(sshds: Sshds) -> None:
    """The words say what to do; once a person has confirmed it, the host is reached."""
    host, known = sshds.hosts[0], Known()
    async with opened(sshds.ssh(known)) as ssh:
        with pytest.raises(HostKeyRefused, match="is not confirmed") as refused:
            await ssh.run(host.address, ["true"])
        assert "manage.py hostkeys confirm" in str(refused.value)
        assert known.shown == [(HOST, host.port, host.host_key)]
        known.confirmed[HOST, host.port] = [known.shown[0][2]]
        assert (await ssh.run(host.address, ["true"])).status == 0


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
async def test_a_changed_host_key_is_refused(sshds: Sshds, tmp_path: Path, kind: str) -> None:
    """Though another is confirmed, be it of the same type or of one that is gone."""
    host, known = sshds.hosts[0], Known()
    known.confirmed[HOST, host.port] = [make_key(tmp_path / "other", kind)]
    async with opened(sshds.ssh(known)) as ssh:
        with pytest.raises(HostKeyRefused, match="HAS CHANGED"):
            await ssh.run(host.address, ["true"])
    assert known.shown == [(HOST, host.port, host.host_key)]


async def test_hosts_are_reached_through_a_jump_host(sshds: Sshds) -> None:
    """Its key is checked in the same way, and its connection is shared."""
    target, jump = sshds.hosts
    known = Known({(HOST, target.port): [target.host_key]})
    async with opened(sshds.ssh(known, jump=jump.address)) as ssh:
        with pytest.raises(HostKeyRefused, match=jump.address):
            await ssh.run(target.address, ["true"])
        assert known.shown == [(HOST, jump.port, jump.host_key)]
        known.confirmed[HOST, jump.port] = [jump.host_key]
        answer = await ssh.run(target.address, ["sh", "-c", "echo $SSH_CONNECTION"])
        assert answer.stdout.split()[3] == str(target.port).encode()
        assert len(jump.connections()) == 1


async def test_a_command_that_takes_too_long_is_ended_there(
    ssh: Ssh, sshds: Sshds, tmp_path: Path
) -> None:
    """Some time after that nothing of it runs on the host any more."""
    program = ["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"]
    with pytest.raises(SshUnreachable, match=r"no answer from sh .* within 0.5 s"):
        await ssh.run(sshds.hosts[0].address, program, timeout=0.5)
    await gone(int((tmp_path / "pid").read_text()))


async def test_endless_output_is_cut_off(ssh: Ssh, sshds: Sshds) -> None:
    """It would fill the memory of the worker."""
    with pytest.raises(SshError, match="more than 1024 KiB"):
        await ssh.run(sshds.hosts[0].address, ["cat", "/dev/zero"])
    assert (await ssh.run(sshds.hosts[0].address, ["true"])).status == 0


async def test_a_host_that_does_not_answer_is_told_in_time(
    sshds: Sshds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens; somebody listens and says nothing; the name is nobody's."""
    monkeypatch.setattr(rooms, "CONNECT_TIMEOUT", 0.3)
    [free] = free_ports(1, PORTS)
    async with opened(sshds.ssh()) as ssh:
        with (
            socket.create_server((HOST, free)),  # which accepts nobody
            pytest.raises(SshUnreachable, match="did not answer within"),
        ):
            await ssh.run(f"{HOST}:{free}", ["true"])
        with pytest.raises(SshUnreachable, match="no sshd listens"):
            await ssh.run(f"{HOST}:{free}", ["true"])
        with pytest.raises(SshUnreachable, match=r"can't be reached|unknown|did not answer"):
            await ssh.run("nobody.invalid", ["true"])
        with pytest.raises(SshError, match="is no host"):
            await ssh.run("-x", ["true"])


@pytest.fixture
def agent(tmp_path: Path, sshds: Sshds) -> Iterator[str]:
    """The socket of an agent that has the client's key."""
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not Path(path).exists():
            assert process.poll() is None
        adding = ["ssh-add", "-q", str(sshds.key)]
        subprocess.run(adding, check=True, env={"SSH_AUTH_SOCK": path})
        yield path
    finally:
        process.terminate()
        process.wait(10)


async def test_an_agent_may_have_the_key(
    sshds: Sshds, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the settings name none; without an agent the words say what to do."""
    settings = rooms.SshSettings.parse({"user": sshds.user})
    host = sshds.hosts[0].address
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    async with opened(Ssh(settings, Known.of(sshds))) as ssh:
        assert (await ssh.run(host, ["true"])).status == 0
    monkeypatch.delenv("SSH_AUTH_SOCK")
    async with opened(Ssh(settings, Known.of(sshds))) as ssh:
        with pytest.raises(LoginRefused, match="reaches no SSH agent"):
            await ssh.run(host, ["true"])


async def test_a_login_that_fails_says_what_to_do(sshds: Sshds, tmp_path: Path) -> None:
    """A key that the host does not know, that is not there, that is locked, that is none."""
    make_key(tmp_path / "stranger")
    make_key(tmp_path / "locked", passphrase="a long one")
    (tmp_path / "none").write_text("nothing")
    for name, words in {
        "stranger": "does not let user",
        "missing": "can't be read",
        "locked": "protected by a passphrase",
        "none": "is no private key",
    }.items():
        async with opened(sshds.ssh(key=str(tmp_path / name))) as ssh:
            with pytest.raises(LoginRefused, match=words):
                await ssh.run(sshds.hosts[0].address, ["true"])


async def test_without_a_key_of_ours_the_host_key_is_looked_at_all_the_same(sshds: Sshds) -> None:
    """So that a person can confirm it meanwhile."""
    known = Known()
    async with opened(sshds.ssh(known, key="/nowhere/key")) as ssh:
        with pytest.raises(HostKeyRefused):
            await ssh.reach(sshds.hosts[0].address)
    assert known.shown


async def test_a_remote_unix_socket_is_reached_by_a_local_one(
    ssh: Ssh, sshds: Sshds, tmp_path: Path
) -> None:
    """As many connections as are opened, until the context ends."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    far = str(tmp_path / "far")
    async with await asyncio.start_unix_server(shout, far):
        async with ssh.socket(sshds.hosts[0].address, far) as near:
            for word in (b"one\n", b"two\n"):
                reader, writer = await asyncio.open_unix_connection(near)
                writer.write(word)
                assert await asyncio.wait_for(reader.read(), 10) == word.upper()
                writer.close()
        with pytest.raises(OSError, match="No such file"):
            await asyncio.open_unix_connection(near)
