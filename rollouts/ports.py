"""All that the engine may touch. Adapters implement these; the simulation does too.

Every call is idempotent and cancellable: cancelled or past its deadline it ends what it
began (a driver with all the children of its process) before it returns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollouts.facts import Answer, BalancerReport, Instance, Rollout, Running, Step, Tick, Wish
from rollouts.states import DeploymentStatus, TargetStatus


class BalancerError(Exception):
    """The balancer refused, or its answer was not what was asked for. Not worth repeating."""


class BalancerUnreachable(BalancerError):
    """No answer in time: whether the command took effect is unknown. Worth repeating."""


class DriverError(Exception):
    """The driver failed on an instance; the message says how, in words for the screen."""


class LeaseLost(Exception):
    """Another owner drives the deployment: nothing more may be done or written."""


class Interrupted(Exception):
    """A person asked for the end before this was written: it was not, and must not be done."""


class Balancer(Protocol):
    """Steers traffic. Each call is bounded to some 2 s and verified by reading back.

    What one object was told another has to find: all is asked of the balancer itself.
    """

    async def report(self) -> BalancerReport:
        """Return every server of the backend; raise BalancerError."""
        ...

    async def drain(self, server: str) -> None:
        """Give no new session to `server`, and return once the balancer says so."""
        ...

    async def ready(self, server: str) -> None:
        """Put `server` back in rotation, as much as its weight gives it; verified."""
        ...

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Give each server its weight (0 to 256), all at the same moment as far as it can be.

        Returns once the balancer says so.
        """
        ...

    async def cut(self, server: str) -> None:
        """End the open sessions of `server`."""
        ...

    @property
    def takes_weights(self) -> bool:
        """Whether servers can have other weights than their usual ones."""
        return True

    async def aclose(self) -> None:
        """Give back what was held open; the object is not used after that."""


class Driver(Protocol):
    """Gives an instance a version. `output` takes text for the deployment's log.

    `left` tells for how many seconds the caller is sure to own the deployment, again and again
    as it is asked. What a driver began must not outlive the last word that it got: when the
    caller is stopped or gone without a word, a successor may begin the same update anew.

    `prepare` and `update` are what every driver has; the rest is for those that subclass this
    and can do more than what stands here.
    """

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Fetch what the update will need, changing nothing that runs; raise DriverError."""
        ...

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Make `instance` run `version`; return when that was done, raise DriverError if not."""
        ...

    async def roll_back(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Make `instance` run `version`, its old one, again; where not said otherwise an update."""
        await self.update(instance, version, output, left)

    async def finish(
        self,
        instance: Instance,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Let go of what was kept for the way back: the deployment is at its end.

        Safe to repeat, and where there is nothing; raises DriverError, which is told and changes
        nothing else.
        """

    @property
    def reports_version(self) -> bool:
        """Whether `running` tells what an instance runs."""
        return False

    async def running(self, instance: Instance) -> Running:
        """Return what `instance` runs, asked of whoever keeps it; raise DriverError.

        It is asked where the service does not say how an instance reports its version itself.
        """
        return Running()

    async def preflight(self, instance: Instance, old_version: str) -> Sequence[Tick]:
        """Return what must hold on the instance's side before a deployment, each with its answer.

        Such as that its host can be reached, that the keys are right, and that `old_version` is
        there for the way back ("" where it is not known). Changes nothing, never raises for
        what it finds, and is bounded to some 10 s.
        """
        return ()

    async def aclose(self) -> None:
        """Give back what was held open; the object is not used after that."""


class Probe(Protocol):
    """Asks an instance directly, never through the balancer."""

    async def ask(self, instance: Instance) -> Answer:
        """Return what the instance answers, its version included where the service says how.

        Never raises for what an instance does; bounded by the policy's health_check_timeout.
        """
        ...

    @property
    def reports_version(self) -> bool:
        """Whether the service says how an instance reports its version."""
        ...


class Clock(Protocol):
    """The time. Waiting is asyncio's own, so that a simulated loop can skip it."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        ...


class Lease(Protocol):
    """The right to act on one deployment, held for some seconds at a time and renewed meanwhile.

    After Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file
    cache consistency" (1989): a holder that can't renew stops by its own clock, before anybody
    else may begin.
    """

    def left(self) -> float:
        """Return the seconds for which it is sure to be held; 0 or less: it may be another's."""
        ...

    async def hold(self, seconds: float) -> None:
        """Return once it is sure to outlive `seconds` from now; raise LeaseLost."""
        ...


class Journal(Protocol):
    """The only writer of a status: a change and its event are one transaction.

    Every write holds only as long as its owner owns the deployment, and raises LeaseLost after.

    All is committed in the order of the calls. A call returns once its write is committed;
    those of `check`, `sessions`, `output` and `traffic`, which change no state, and of
    `target` with `soon`, return at once: nothing may be done on the strength of them before
    another call has returned.
    """

    async def read(self) -> Rollout:
        """Return the deployment as it is stored; raise LeaseLost."""
        ...

    async def park(self, until: float | None, seen: Wish | None) -> bool:
        """Give the deployment up until a time, or until a person asks for something.

        Returns False, and gives up nothing, where another wish than the one `seen` is recorded.
        """
        ...

    async def move(self, status: DeploymentStatus, reason: str) -> None:
        """Move the deployment to `status`; `reason` is a sentence for people.

        Raises Interrupted where it would be completed though a person asked for the end.
        """
        ...

    async def begin_way_back(
        self, steps: Sequence[Step], ends_as: DeploymentStatus, reason: str
    ) -> None:
        """Store the way back and move to rolling_back, in one transaction."""
        ...

    async def step(self, cursor: int, waiting_until: float | None, message: str) -> None:
        """Make `cursor` the step that is next, to be waited for until `waiting_until`.

        Where a shift of the traffic was done by that, what was counted since the last one is
        counted anew. A wish to promote is answered by a step further.
        """
        ...

    async def target(
        self,
        name: str,
        status: TargetStatus,
        message: str,
        *,
        error: str = "",
        touched: bool = False,
        version: str | None = None,
        digest: str = "",
        soon: bool = False,
    ) -> None:
        """Move one target; `version` is what was verified on the instance, if anything was.

        `digest` names exactly what that is, where somebody could tell.

        Raises Interrupted where it would go on toward the new version though a person asked for
        the end.
        """
        ...

    async def check(self, name: str, answer: Answer, message: str) -> None:
        """Record what a probe heard."""
        ...

    async def sessions(self, name: str, sessions: int) -> None:
        """Record how many sessions a draining target still has."""
        ...

    async def output(self, name: str, text: str) -> None:
        """Record output of the driver."""
        ...

    async def traffic(self, report: BalancerReport) -> None:
        """Record what clients got so far, each version's share, and what that says of the new."""
        ...

    async def note(self, message: str, name: str = "") -> None:
        """Record something worth telling that changes no state."""
        ...


@dataclass(frozen=True)
class Ports:
    """All that the engine may touch."""

    journal: Journal
    balancer: Balancer
    driver: Driver
    probe: Probe
    clock: Clock
    lease: Lease
