"""The frozen facts that the pure rooms, the ports and the engine speak in.

Times are seconds: `now`, `at` and deadlines since the Unix epoch, the rest durations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rollouts.policy import Policy
from rollouts.states import IN_FLIGHT, DeploymentStatus, TargetStatus


@dataclass(frozen=True)
class Instance:
    """Where one running copy of a service is; `server` is its name in the balancer."""

    name: str
    hostname: str
    port: int
    server: str
    slot: str = ""
    zone: str = ""

    @property
    def address(self) -> str:
        """Return host:port, an IPv6 host in brackets."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What one probe heard from an instance."""

    at: float
    ok: bool
    listening: bool = True
    code: int | None = None  # the HTTP status, where one came
    latency_ms: float | None = None
    version: str | None = None  # what the instance says it runs; None where not asked
    error: str = ""


class ServerState(StrEnum):
    """How the balancer was told to treat a server."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class Server:
    """The balancer's own answer about one server, over all addresses of the balancer.

    `sessions` are added up; `state` and `up` are the worst of all. Counters run since the
    balancer's start: `requests`, `failed` (answers of 500 to 599 given to clients).
    """

    name: str
    state: ServerState
    up: bool
    sessions: int
    weight: int
    requests: int = 0
    failed: int = 0

    @property
    def serving(self) -> bool:
        """Whether new requests reach this server."""
        return self.state is ServerState.READY and self.up and self.weight > 0


@dataclass(frozen=True)
class BalancerReport:
    """All servers of a backend by name, and what clients got from the backend as a whole."""

    servers: Mapping[str, Server]
    requests: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Prepare:
    """Fetch the version on all targets before the first drain; a failure touches nothing."""


@dataclass(frozen=True)
class Change:
    """Drain, update, verify and put back these targets, as many at once as is allowed."""

    batch: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Pause:
    """Wait before the next batch."""

    seconds: float


Step = Prepare | Change | Pause


class Wish(StrEnum):
    """What a person asked for; the engine turns it into status."""

    CANCEL_STOP = "stop"
    CANCEL_ROLL_BACK = "roll_back"
    PAUSE = "pause"
    RESUME = "resume"
    ROLL_BACK = "rollback"

    @property
    def ends(self) -> bool:
        """Whether it asks for the end of the deployment, in whichever way."""
        return self not in {Wish.PAUSE, Wish.RESUME}

    def answered_by(self, status: DeploymentStatus) -> bool:
        """Whether nothing is left to do for this wish once the deployment moves to `status`.

        A wish to end it stays on record: the sentence at the end names who asked.
        """
        match self:
            case Wish.PAUSE:
                return status is not DeploymentStatus.IN_PROGRESS
            case Wish.RESUME:
                return status is not DeploymentStatus.PAUSED
            case _:
                return False


class Waiting(StrEnum):
    """What a deployment that is due, and that nobody drives, waits for."""

    WORKER = "worker"
    REDIS = "redis"

    def words(self, started: bool) -> str:
        """Return it as a sentence for people."""
        if self is Waiting.WORKER:
            return "Waiting for a worker: all are busy, or none is alive."
        return f"Saved, {'goes on' if started else 'starts'} when Redis is back."


@dataclass(frozen=True)
class Target:
    """One instance's part in one deployment.

    `touched` says that an update to the new version was begun, whatever became of it;
    `returning` that its way back was begun.
    """

    instance: Instance
    batch: int
    status: TargetStatus
    old_version: str
    new_version: str
    touched: bool = False
    returning: bool = False
    error: str = ""

    @property
    def kept_out(self) -> bool:
        """Whether it must get no traffic: held out, or between two versions."""
        return self.status is TargetStatus.FAILED or (self.touched and self.status in IN_FLIGHT)


@dataclass(frozen=True)
class Rollout:
    """A deployment as stored: all that decides what is done next."""

    id: str
    service: str
    version: str
    policy: Policy
    status: DeploymentStatus
    plan: tuple[Step, ...]
    targets: tuple[Target, ...]
    way_back: tuple[Step, ...] | None = None
    ends_as: DeploymentStatus | None = None  # what the way back leads to
    cursor: int = 0  # the step of the plan, or of the way back, that is next
    waiting_until: float | None = None
    progress_at: float = 0.0  # the last time one more target became healthy
    wish: Wish | None = None
    wish_by: str = ""
    reason: str = ""

    @property
    def going_back(self) -> bool:
        """Whether the targets are on the way to their old versions."""
        return self.way_back is not None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps that are being followed."""
        return self.plan if self.way_back is None else self.way_back

    def target(self, name: str) -> Target:
        """Return the target of the instance `name`; raise KeyError where there is none."""
        for target in self.targets:
            if target.instance.name == name:
                return target
        raise KeyError(name)

    def settled(self, target: Target) -> bool:
        """Whether nothing more is to be done with `target` in the direction followed now.

        Whoever failed on the way back stays held out: it is tried once.
        """
        if self.going_back:
            failed = target.status is TargetStatus.FAILED and target.returning
            return failed or target.status is TargetStatus.ROLLED_BACK
        return target.status in {TargetStatus.HEALTHY, TargetStatus.FAILED}

    def wanted(self, target: Target) -> str:
        """Return the version that `target` should run in the direction followed now."""
        return target.old_version if self.going_back else target.new_version
