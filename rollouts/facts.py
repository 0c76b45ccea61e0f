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
    digest: str = ""  # of exactly what it runs, where somebody can tell
    error: str = ""


@dataclass(frozen=True)
class Running:
    """What an instance runs, as its driver tells: `digest` names exactly what was built."""

    version: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Tick:
    """One thing that was looked at before a deployment.

    `what` names it in a few words ("host reachable"), `detail` says what was found and, where it
    does not hold, what to do. `ok` is None for what could not be told, which keeps nobody from
    deploying.
    """

    what: str
    ok: bool | None
    detail: str = ""


FULL_WEIGHT = 100  # of a server whose configuration says 0, as that of an idle slot does


class ServerState(StrEnum):
    """How the balancer was told to treat a server."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class Server:
    """The balancer's own answer about one server, over all addresses of the balancer.

    `sessions` are added up, and None where the balancer can't count them; `state` and `up` are
    the worst of all. `weight` is that of now,
    `configured` what the balancer's configuration says, both from 0 to 256. Counters run since
    the balancer's start and are None where it does not count: `answers` (of any status, and
    tries that got none) and `errors` (of these: 500 to 599, and tries that got none, so that a
    retry that hides a bad instance is seen). `response_ms` is the mean time to the first byte of
    its last answers, as the balancer averages it; None where it had none or does not measure.
    """

    name: str
    state: ServerState
    up: bool
    sessions: int | None
    weight: int
    configured: int = 100
    answers: int | None = None
    errors: int | None = None
    response_ms: float | None = None

    @property
    def ready(self) -> bool:
        """Whether it is in rotation: new requests reach it as far as its weight lets them."""
        return self.state is ServerState.READY and self.up

    @property
    def serving(self) -> bool:
        """Whether new requests reach this server."""
        return self.ready and self.weight > 0

    @property
    def full(self) -> int:
        """Return its weight in normal service: where it is configured as idle, the usual 100."""
        return self.configured or FULL_WEIGHT


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
    """Drain, update, verify and put back these targets, as many at once as is allowed.

    They enter with weights that give the new side `share` percent of the traffic at most, or
    with None with their full weights. Without `update` they run the version already, and are
    verified where they are.
    """

    batch: int
    targets: tuple[str, ...]
    share: float | None = None
    update: bool = True


@dataclass(frozen=True)
class Pause:
    """Wait before the next batch."""

    seconds: float


@dataclass(frozen=True)
class Shift:
    """Give the new side this percentage of the traffic, by weights, all at once.

    `old` names the servers of the old slot; empty where the targets that still run the old
    version are the old side.
    """

    share: float
    old: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bake:
    """Let both sides take their shares for so long, judged meanwhile; go on if nothing is found.

    With `keep` the new side has all, and the old slot stays warm for the way back.
    """

    seconds: float
    keep: bool = False


@dataclass(frozen=True)
class Approve:
    """Wait until a person promotes; after `timeout` seconds, if any, go back."""

    timeout: float | None = None


@dataclass(frozen=True)
class Retire:
    """Take the servers of the old slot out of rotation."""

    old: tuple[str, ...]


@dataclass(frozen=True)
class Restore:
    """Give every target its configured weight again."""


Step = Prepare | Change | Pause | Shift | Bake | Approve | Retire | Restore


class Wish(StrEnum):
    """What a person asked for; the engine turns it into status."""

    CANCEL_STOP = "stop"
    CANCEL_ROLL_BACK = "roll_back"
    PAUSE = "pause"
    RESUME = "resume"
    ROLL_BACK = "rollback"
    PROMOTE = "promote"
    PROMOTE_ALL = "promote_all"

    @property
    def ends(self) -> bool:
        """Whether it asks for the end of the deployment, in whichever way."""
        return self in {Wish.CANCEL_STOP, Wish.CANCEL_ROLL_BACK, Wish.ROLL_BACK}

    @property
    def promotes(self) -> bool:
        """Whether it asks to go past what is being waited for."""
        return self in {Wish.PROMOTE, Wish.PROMOTE_ALL}

    def answered_by(self, status: DeploymentStatus) -> bool:
        """Whether nothing is left to do for this wish once the deployment moves to `status`.

        A wish to end it stays on record: the sentence at the end names who asked.
        """
        match self:
            case Wish.PAUSE:
                return status is not DeploymentStatus.IN_PROGRESS
            case Wish.RESUME:
                return status is not DeploymentStatus.PAUSED
            case Wish.PROMOTE | Wish.PROMOTE_ALL:
                return status is not DeploymentStatus.IN_PROGRESS
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


class Finding(StrEnum):
    """What the live traffic says so far of the new side against the old one."""

    AGAINST = "against"
    FINE = "fine"
    TOO_LITTLE = "too_little"  # requests for a verdict: neither good nor bad
    OFF = "off"  # nobody looks


@dataclass(frozen=True)
class Judgement:
    """A finding, and in a sentence what it rests on."""

    finding: Finding
    reason: str = ""


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
    judgement: Judgement = Judgement(Finding.OFF)
    others: tuple[Instance, ...] = ()  # of the same fleet, left as they are: they count as out too

    @property
    def size(self) -> int:
        """Return how many instances the fleet has, which percentages refer to."""
        return len(self.targets) + len(self.others)

    @property
    def going_back(self) -> bool:
        """Whether the targets are on the way to their old versions."""
        return self.way_back is not None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps that are being followed."""
        return self.plan if self.way_back is None else self.way_back

    @property
    def step(self) -> Step | None:
        """Return the step that is next, or under way; None at the end."""
        return self.steps[self.cursor] if self.cursor < len(self.steps) else None

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
