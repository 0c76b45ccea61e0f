"""A fleet behind its balancer: what each machine runs, and what its clients get."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rollouts.facts import FULL_WEIGHT, BalancerReport, Server, ServerState
from rollouts.strategies import SLOTS
from tests.simulation.loop import START

SAVED_EVERY = 1.0  # seconds between two times that a balancer's state is written down
RATE = 50.0  # requests a second


class Saved(NamedTuple):
    """What is written down of a server, for when its balancer comes back."""

    state: ServerState
    weight: int


@dataclass
class Machine:
    """An instance of the world: what it runs, whether it is drained, who uses it.

    `answers` and `errors` are what the balancer counted since it was started.
    """

    name: str
    runs: str = "v1"
    slot: str = ""
    zone: str = ""
    state: ServerState = ServerState.READY
    sessions: int = 0
    up: bool = True  # as the balancer's own check finds it
    sick: bool = False  # cured by an update
    broken: bool = False  # an update was ended half way
    configured: int = 100
    weight: int = 100
    answers: float = 0.0
    errors: float = 0.0
    updates: list[str] = field(default_factory=list)
    updated_at: float = 0.0
    forgotten_at: float | None = None  # what the balancer was told of it, and was not told again
    last_forgotten: float = 0.0
    recalled: bool = False  # drained by a balancer that came back with an older state
    lost_weight: int | None = None  # which the balancer lost, and was not told again
    lost_at: float = 0.0
    cut: bool = False

    def end_sessions(self) -> None:
        self.sessions = 0

    @property
    def out(self) -> bool:
        return self.state is not ServerState.READY

    @property
    def serving(self) -> bool:
        return self.state is ServerState.READY and self.weight > 0

    @property
    def meant_to_serve(self) -> bool:
        """Whether requests reach it, and that is no mistake of its balancer."""
        weight = self.weight if self.lost_weight is None else self.lost_weight
        return self.state is ServerState.READY and weight > 0

    @property
    def full(self) -> int:
        """Its weight in normal service."""
        return self.configured or FULL_WEIGHT


class Fleet:
    """Machines behind a balancer that counts, parts requests by weight, and may forget.

    With `slots` the first half is blue and has the traffic, the other is green and idle. The
    instances are in `zones` in turn.
    `weights` are the configured ones, 100 where not given. `bad` are versions that are
    unhealthy wherever they run, `bad_on` pairs of an instance and a version; `errors_of` maps
    versions that are well to the part of their answers that are errors.
    """

    def __init__(
        self,
        count: int,
        slots: bool = False,
        weights: Sequence[int] = (),
        zones: Sequence[str] = (),
    ) -> None:
        self.machines: dict[str, Machine] = {}
        for number in range(1, count + 1):
            name = f"web-{number:02}"
            slot = "" if not slots else SLOTS[number > count // 2]
            weight = 0 if slot == SLOTS[1] else weights[number - 1] if weights else 100
            zone = zones[(number - 1) % len(zones)] if zones else ""
            self.machines[name] = Machine(
                name, slot=slot, zone=zone, configured=weight, weight=weight
            )
        self.bad: set[str] = set()
        self.bad_on: set[tuple[str, str]] = set()
        self.errors_of: dict[str, float] = {}
        self.rate = RATE
        self.answered: dict[str, float] = {}  # by version, whatever the balancer forgot
        self.unknown: set[str] = set()  # to the balancer
        self.stubborn: set[str] = set()  # whose sessions never end
        self.driver_fails: set[tuple[str, str]] = set()
        self.driver_hangs: set[str] = set()
        self.counts_sessions = True
        self.driver_lies: set[str] = set()  # says that it gave a version, and did nothing
        self.prepare_fails: set[str] = set()
        self.misses: set[str] = set()  # where the driver finds no host before the start
        self.update_seconds = 1.0
        self._counted_at = START
        self._written: list[tuple[float, dict[str, Saved]]] = []

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def well(self, machine: Machine) -> bool:
        bad = machine.runs in self.bad or (machine.name, machine.runs) in self.bad_on
        return not bad and not machine.sick and not machine.broken

    def out(self, machine: Machine) -> bool:
        return machine.out

    def count(self) -> None:
        """Let the requests of the time since the last call be answered, as all was meanwhile."""
        now = self.now()
        requests = self.rate * (now - self._counted_at)
        self._counted_at = now
        if not requests:
            return
        serving = [machine for machine in self.machines.values() if machine.serving]
        total = sum(machine.weight for machine in serving)
        for machine in serving:
            part = requests * machine.weight / total
            machine.answers += part
            wrong = self.errors_of.get(machine.runs, 0.0) if self.well(machine) else 1.0
            machine.errors += part * wrong
            self.answered[machine.runs] = self.answered.get(machine.runs, 0.0) + part

    def reported(self) -> BalancerReport:
        """Return what the balancer says of its servers."""
        self.count()
        servers = {
            one.name: Server(
                one.name,
                one.state,
                one.up,
                one.sessions if self.counts_sessions else None,
                one.weight,
                one.configured,
                int(one.answers),
                int(one.errors),
            )
            for one in self.machines.values()
            if one.name not in self.unknown
        }
        return BalancerReport(servers)

    def write_down(self) -> None:
        """Note what a balancer would write down, for when it comes back."""
        states = {one.name: Saved(one.state, one.weight) for one in self.machines.values()}
        self._written.append((self.now(), states))

    def written_down(self) -> Mapping[str, Saved]:
        """Return what was written down of the balancer when that was done last."""
        written = [states for at, states in self._written if at <= self.now() - SAVED_EVERY]
        return written[-1] if written else {}

    def restart_balancer(self, saved: Mapping[str, Saved]) -> None:
        """Restart the balancer, so that it knows no more than what was `saved` of it."""
        self.count()
        now = self.now()
        for machine in self.machines.values():
            machine.answers = machine.errors = 0.0
            known = saved.get(machine.name, Saved(ServerState.READY, machine.configured))
            if machine.weight != known.weight:
                if machine.lost_weight is None:
                    machine.lost_weight = machine.weight
                machine.weight, machine.lost_at = known.weight, now
                if machine.weight == machine.lost_weight:
                    machine.lost_weight = None
            if machine.state is not known.state:
                machine.state, machine.last_forgotten = known.state, now
                machine.recalled = machine.out
                machine.forgotten_at = None if machine.recalled else now
