"""nginx without its commercial parts, on one machine or several: by the file of an upstream.

nginx says nothing about its servers. What it was told is read from the file, and that it follows
is read from the kernel: each file has it listen on another address of the loopback network. It
listens there once it has loaded the file; and the address of an earlier file is free once no
worker that goes by that one takes requests any more. What workers had begun they finish.

Sessions of a server can't be counted, so a drain takes its time, and no session can be cut.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rollouts.adapters import Surroundings
from rollouts.balancers.nginx_file import Content, Entry, FileError, Shape, Wish, placed
from rollouts.balancers.nginx_host import Changed, Host, How, Run, Seen, run_here, run_there
from rollouts.balancers.nginx_settings import Settings
from rollouts.balancers.servers import (
    CALL_TIMEOUT,
    CONFIRM_TIMEOUT,
    Told,
    bounded,
    check_weights,
    known,
    merge,
    together,
)
from rollouts.facts import FULL_WEIGHT, BalancerReport, Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable
from rollouts.ssh import Ssh

READ_BACK_INTERVAL = 0.03  # seconds between two looks; nginx takes 0.1 s for a reload
ANOTHERS_PATIENCE = 0.4  # seconds for what another process had nginx load
LOCK_SPARE = 0.1  # seconds more for the turn, so that who has it can say first what is late


@dataclass(frozen=True)
class View:
    """What one machine was seen to have: the file, and the one `before`."""

    seen: Seen
    content: Content
    before: Content

    @property
    def alone(self) -> bool:
        """Whether nginx has loaded the file, and no worker goes by an earlier one any more."""
        generation = self.content.generation
        ours = _sharing_port(self.seen, generation) | {self.before.generation}
        return self.seen.listening & ours == {generation}

    def goes_by(self, content: Content) -> bool:
        """Whether some worker goes by `content`, as far as that can be seen."""
        return content.generation in self.seen.listening


def _sharing_port(seen: Seen, generation: str) -> set[str]:
    """Return who listens on the port of `generation` at any address."""
    port = generation.rpartition(":")[2]
    return {address for address in seen.listening if address.rpartition(":")[2] == port}


@dataclass
class Round:
    """What is written at once: the wishes of all calls that came while another was written."""

    wishes: dict[str, Wish] = field(default_factory=dict)
    done: bool = False
    error: BalancerError | None = None

    def add(self, wishes: Mapping[str, Wish]) -> None:
        """Wish more, on top of what is wished already."""
        for server, wish in wishes.items():
            self.wishes[server] = wish.on_top_of(self.wishes.get(server, Wish()))


class Nginx(Balancer):
    """The upstream of `shape` in the nginx of each of `hosts`, which all must confirm.

    `configured` are the weights of servers in normal service, where these are not 100. For one
    event loop.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        shape: Shape,
        port: int,
        instances: Sequence[Instance],
        configured: Mapping[str, int],
        ssh: Ssh | None = None,
    ) -> None:
        self._hosts = tuple(hosts)
        self._shape = shape
        self._port = port
        self._instances = {one.server: one for one in instances}
        self._configured = dict(configured)
        self._ssh = ssh
        self._told = Told()
        self._round = Round()
        self._writing = asyncio.Lock()

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "Nginx":
        """Return the balancer of `{kind, upstream, file, ...}`; raise SettingsError."""
        settings = Settings.parse(raw)
        ssh = Ssh(settings.ssh, surroundings.known_hosts) if settings.hosts else None
        runs: dict[str, Run] = {"this machine": run_here}
        if ssh is not None:
            runs = {name: partial(run_there, ssh, name) for name in settings.hosts}
        file, test, reload = settings.file, settings.test, settings.reload
        return cls(
            [Host(name, run, file, test, reload) for name, run in runs.items()],
            settings.shape,
            settings.port,
            surroundings.instances,
            settings.weights,
            ssh,
        )

    async def report(self) -> BalancerReport:
        """Return every instance as nginx treats it; nothing of it is counted."""

        async def report(host: Host) -> BalancerReport:
            entries = await bounded(lambda: self._followed(host), f"nginx on {host.name}")
            return BalancerReport({entry.name: self._server(entry) for entry in entries})

        return merge(await together(report(host) for host in self._hosts), self._told)

    async def drain(self, server: str) -> None:
        """Give no new request to `server`; one in maintenance stays there."""
        known(server, self._instances)
        self._told.ready.discard(server)
        await self._steer({server: Wish(state=ServerState.DRAIN)})

    async def ready(self, server: str) -> None:
        """Put `server` back, as much as its weight gives it."""
        known(server, self._instances)
        self._told.ready.add(server)
        await self._steer({server: Wish(state=ServerState.READY)})

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Give each server its weight, all by one reload; with 0 it gets no new request."""
        check_weights(weights, self._instances)
        self._told.weights.update(weights)
        if weights:
            await self._steer({server: Wish(weight=weight) for server, weight in weights.items()})

    async def cut(self, server: str) -> None:
        """Refuse: nginx ends no connection of one server alone."""
        raise BalancerError(
            f"nginx can't end the sessions of {server[:64]} alone; worker_shutdown_timeout in its "
            "configuration ends those that are older than the last reload"
        )

    async def aclose(self) -> None:
        """Close the connections to its machines."""
        if self._ssh is not None:
            await self._ssh.aclose()

    def _server(self, entry: Entry) -> Server:
        return Server(
            name=entry.name,
            state=entry.state,
            up=True,  # it looks at no server by itself
            sessions=None,
            weight=entry.weight,
            configured=self._configured.get(entry.name, FULL_WEIGHT),
        )

    async def _steer(self, wishes: Mapping[str, Wish]) -> None:
        """Have the wishes written, with those of all other calls of this moment by one reload."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CALL_TIMEOUT
        mine = self._round
        mine.add(wishes)
        await asyncio.sleep(0)  # calls that were made together are written together
        try:
            async with asyncio.timeout_at(until + LOCK_SPARE), self._writing:
                if not mine.done:
                    await self._write(mine, until - loop.time())
        except TimeoutError:
            raise BalancerUnreachable(
                f"what nginx was told before was not done within {CALL_TIMEOUT:g} s"
            ) from None
        if mine.error is not None:
            raise mine.error

    async def _write(self, mine: Round, seconds: float) -> None:
        if mine is self._round:
            self._round = Round()  # of those who come from now on

        async def on(host: Host) -> None:
            follow = partial(self._follow, host, mine.wishes)
            await bounded(follow, f"nginx on {host.name}", seconds)

        try:
            await together(on(host) for host in self._hosts)
        except BalancerError as error:
            mine.error = error
        mine.done = True

    async def _follow(self, host: Host, wishes: Mapping[str, Wish]) -> None:
        """Have the file of `host` say what is wished, and return once nginx goes by it alone."""
        while True:
            with suppress(Changed):
                view = await self._view(host)
                if view.content.generation and not view.alone:
                    view = await self._load(host, view)
                entries = self._placed(host, view.content)
                begun = bool(view.content.generation)
                # What goes by a file that a person began can't be told from what does not. So
                # that is first written down as it is: who goes by it is replaced before the rest.
                if begun:
                    entries = tuple(wishes.get(one.name, Wish()).done_to(one) for one in entries)
                    if entries == view.content.entries:
                        return
                generation = self._free_address(host, view)
                await host.write(view.seen, How.REPLACE, self._text(host, entries, generation))
                await self._alone(host, generation, CONFIRM_TIMEOUT)
                if begun:
                    return

    async def _load(self, host: Host, view: View) -> View:
        """Return the view of `host` once nginx goes by its file, which it did not yet.

        Whoever wrote it is waiting for that, or is gone; then it is loaded again.
        """
        generation = view.content.generation
        with suppress(BalancerUnreachable):
            return await self._alone(host, generation, ANOTHERS_PATIENCE)
        await host.write(view.seen, How.LOAD)
        return await self._alone(host, generation, CONFIRM_TIMEOUT)

    async def _alone(self, host: Host, generation: str, seconds: float) -> View:
        """Return the view once nginx goes by the file of `generation` alone.

        Raises Changed where another file came meanwhile, BalancerUnreachable after `seconds`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not (view := await self._view(host)).alone:
            if view.content.generation != generation:
                raise Changed
            if loop.time() >= until:
                state = (
                    "still answers by an earlier one"
                    if view.goes_by(view.content)
                    else ("did not load it")
                )
                raise BalancerUnreachable(
                    f"nginx on {host.name} was told to load {host.file}, and {state} after "
                    f"{seconds:g} s: its error log says why"
                )
            await asyncio.sleep(READ_BACK_INTERVAL)
        return view

    async def _followed(self, host: Host) -> tuple[Entry, ...]:
        """Return the servers as nginx on `host` treats them now; raise BalancerError."""
        while True:
            view = await self._view(host)
            before = view.goes_by(view.before)
            if view.alone or not (view.content.generation or before):
                return self._placed(host, view.content)
            if not view.goes_by(view.content):
                if before:
                    return self._placed(host, view.before)
                raise BalancerUnreachable(
                    f"nginx on {host.name} does not go by {host.file}: it does not run, or does "
                    "not include the file, or is just being started"
                )
            await asyncio.sleep(READ_BACK_INTERVAL)

    async def _view(self, host: Host) -> View:
        seen = await host.look()
        before = Content()
        with suppress(FileError):
            before = self._shape.read(seen.before)
        try:
            return View(seen, self._shape.read(seen.text), before)
        except FileError as error:
            raise _refusal(host, error) from error

    def _placed(self, host: Host, content: Content) -> tuple[Entry, ...]:
        try:
            return placed(content, tuple(self._instances.values()), self._configured)
        except FileError as error:
            raise _refusal(host, error) from error

    def _text(self, host: Host, entries: tuple[Entry, ...], generation: str) -> str:
        try:
            return self._shape.write(entries, generation)
        except FileError as error:
            raise _refusal(host, error) from error

    def _free_address(self, host: Host, view: View) -> str:
        """Return where nginx is to listen once it has loaded the next file."""
        used = view.content.generation
        while (address := f"127.{_three_numbers()}:{self._port}") == used:
            pass
        if taken := _sharing_port(view.seen, address) - {used}:
            raise BalancerError(
                f"on {host.name} somebody listens at {min(taken)}, but the port must be for this "
                "upstream alone: set another `port` in the service's balancer"
            )
        return address


def _three_numbers() -> str:
    return f"{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


def _refusal(host: Host, error: FileError) -> BalancerError:
    return BalancerError(f"nginx on {host.name}: {host.file} {error}")
