"""What REST takes and gives, for its checks of input and its description of itself."""

import re
from enum import IntEnum
from typing import Any, Literal

from ninja import Field, Schema
from pydantic import ConfigDict, field_validator

from rollouts import policy

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Body(Schema):
    """What a client sends; what is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Plan(Body):
    """What is to be deployed."""

    version: str = Field(description="Letters, digits, '.', '_', '+' and '-'.")
    strategy: str | None = Field(None, description=f"One of: {', '.join(policy.STRATEGIES)}.")
    policy: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys that differ from the service's own policy: "
        + " ".join(
            f"`{knob.key}` ({knob.unit or knob.kind}, default {knob.default!r}): {knob.help}"
            for knob in policy.KNOBS
        ),
    )

    instances: list[str] | None = Field(
        None,
        max_length=10_000,
        description="Change these alone, by name (rolling only); all where it is left out.",
    )

    def layer(self) -> dict[str, Any]:
        """Return the policy that was asked for, the strategy included."""
        return self.policy if self.strategy is None else {**self.policy, "strategy": self.strategy}


class Start(Plan):
    """A deployment to start."""

    note: str = Field("", max_length=500, description="Why, for those who look later.")

    @field_validator("note")
    @classmethod
    def printable(cls, value: str) -> str:
        """Refuse control characters: PostgreSQL would refuse some, a terminal obey others."""
        if UNPRINTABLE.search(value):
            raise ValueError("must hold no control characters")
        return value


class Retry(Body):
    """How an instance that is held out is tried again."""

    version: str = Field("", description="That of the rest of the fleet where it is left out.")


class Ask(Body):
    """Something asked of a running deployment."""

    seen: str = Field(
        "", description="The status that was acted on; 409 if it is another one by now."
    )


class Cancel(Ask):
    """How to stop: leave what is done, or bring everything back."""

    mode: str = Field(description='"stop" or "roll_back"', examples=["stop", "roll_back"])


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: dict[str, str] | None = Field(None, description="Each bad key and what is right.")
    deployment: str | None = Field(None, description="The deployment that is in the way.")


class Progress(Schema):
    """How many targets are how far."""

    total: int
    updated: int
    healthy: int
    failed: int
    rolled_back: int
    batch: int
    batches: int


class Promote(Ask):
    """Going past what is waited for."""

    to: Literal["next", "end"] = Field(
        "next", description="The next step, or the end: past all that come before 100 %."
    )
    step: int | None = Field(
        None, description="The step that was acted on; 409 if it is another one by now."
    )


class HealthCheck(Schema):
    """One answer to a probe."""

    at: str
    status: int | None
    latency_ms: float | None
    error: str


class Target(Schema):
    """One instance's part in a deployment."""

    instance: str
    address: str
    slot: str
    zone: str
    batch: int
    status: str
    old_version: str
    new_version: str
    digest: str
    touched: bool
    error: str
    sessions: int | None
    updated_at: str
    health_checks: list[HealthCheck]


class Traffic(Schema):
    """What clients got since the start, and how it is shared among versions."""

    requests: int
    failed_requests: int
    shares: dict[str, float] = Field(description="By version, as the weights are set.")
    observed: dict[str, float] = Field(
        description="By version, of what was answered since the weights were set last."
    )


class Side(Schema):
    """What one side answered since the new one has traffic; `response_pm` two standard errors."""

    answers: int
    errors: int
    response_ms: float | None
    response_pm: float | None


class Analysis(Schema):
    """What the live traffic says so far; condemned once `evidence` is above `against_at`."""

    old: Side
    new: Side
    evidence: float
    against_at: float
    verdict: str
    words: str
    unseen: str


class Summary(Schema):
    """A deployment in a list. Times are ISO 8601 in UTC."""

    id: str
    service: str
    version: str
    previous_version: str
    strategy: str
    status: str
    step: int
    reason: str
    policy: dict[str, Any]
    approvals: list[int] = Field(
        description="The steps of the plan at which it waits until a person promotes it."
    )
    progress: Progress
    traffic: Traffic
    note: str
    wish: str
    wish_by: str
    waiting_for: str
    waiting_until: str | None
    started_by: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    seq: int


class Snapshot(Summary):
    """A deployment as a whole, as of event `seq`."""

    steps: list[dict[str, Any]] = Field(description="The plan; `step` is the one that is next.")
    way_back: list[dict[str, Any]] | None = Field(description="Where it is followed instead.")
    analysis: Analysis | None
    targets: list[Target]


class Event(Schema):
    """One thing that happened; `patch` holds the snapshot's fields that changed."""

    seq: int
    at: str
    kind: str
    target: str | None = None
    patch: dict[str, Any]
    message: str


class HeldOut(Schema):
    """Why a deployment left an instance out of rotation; `version` is what it was to get."""

    reason: str
    since: str | None
    deployment: str | None
    version: str


class Lock(Schema):
    """Whether a deployment may start."""

    locked: bool
    reason: str
    by: str
    until: str | None


class LastDeployment(Schema):
    """The latest deployment of a service."""

    id: str
    version: str
    status: str
    started_by: str
    created_at: str
    completed_at: str | None


class Service(Schema):
    """A service in a list; `versions` counts its active instances."""

    name: str
    total: int
    versions: dict[str, int]
    slots: dict[str, dict[str, int]] = Field(
        description="The same for each slot; empty where no instance is in one."
    )
    held_out: list[str] = Field(description="Active instances that a deployment left out.")
    lock: Lock
    active_deployment: str | None
    last_deployment: LastDeployment | None
    live_slot: str = Field(description="blue, green, or empty before the first shift.")
    preview_url: str = Field(description="Of the idle slot, where the service has one.")
    policy: dict[str, Any]
    drift: dict[str, list[str]] = Field(
        description="What the last look found otherwise than the inventory says, by instance."
    )
    looked_at: str | None = Field(description="Since when all instances have been looked at.")


class Seen(Schema):
    """What the last look from afar found; null for what was not told."""

    at: str
    healthy: bool
    version: str | None
    digest: str
    in_rotation: bool | None
    rotation_since: str | None = Field(
        None, description="Since when it is in rotation or out of it: put so, or first seen so."
    )
    weight: int | None
    server: str | None = Field(
        description="How the balancer has it: ready, drain, maint, down, weightless or unknown."
    )
    error: str
    balancer_error: str
    differs: bool


class Part(Schema):
    """How an instance is in the active deployment."""

    status: str
    since: str


class Instance(Schema):
    """One instance, with the version last verified on it."""

    name: str
    address: str
    server: str
    slot: str
    zone: str
    active: bool
    version: str
    digest: str = Field(description="Of exactly what was verified on it, where one is known.")
    version_at: str | None
    held_out: HeldOut | None
    part: Part | None = Field(description="Null where no active deployment has begun with it.")
    seen: Seen | None = Field(
        description="Null where a deployment has changed it, or one has ended, since the last look."
    )
    drift: list[str] = Field(description="What of `seen` is otherwise than the inventory says.")


class ServiceDetail(Service):
    """A service with its instances."""

    instances: list[Instance]


class Tick(Schema):
    """One thing that was looked at; `ok` is null where it could not be told."""

    instance: str | None = None
    what: str
    ok: bool | None
    detail: str


class Preflight(Schema):
    """What must hold before a deployment, the fleet's own ticks first."""

    ok: bool = Field(description="Whether nothing was found that does not hold.")
    checked_at: str
    checked_from: str = Field(description="The machine of the worker that looked.")
    ticks: list[Tick]


class Draft(Schema):
    """What a deployment would do."""

    service: str
    version: str
    strategy: str
    total: int = Field(description="Instances that are changed.")
    fleet: int = Field(description="Instances among which `least_in_service` are in rotation.")
    batches: list[list[str]]
    zones: list[str] = Field(description="Of each batch, where `by_zone` is on; else empty.")
    steps: list[dict[str, Any]]
    least_in_service: int
    expected_seconds: float
    warnings: list[str]
    policy: dict[str, Any]


class Days(IntEnum):
    """How long a period may be."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90


class Sums(Schema):
    """What ended within some time; times are in seconds, null where nothing tells."""

    deployments: int = Field(description="Completed, rolled back and failed ones.")
    deployments_per_week: float
    completed: int
    rolled_back: int
    failed: int
    cancelled: int = Field(description="Not among the deployments.")
    failure_rate: float | None = Field(description="From 0 to 1: rolled back and failed ones.")
    time_to_restore: float | None = Field(
        description="The median, from the start of one that failed until the service was whole."
    )
    not_restored: int = Field(description="Failed, and the service not whole since.")
    duration_median: float | None = Field(description="Of those that completed.")
    duration_p90: float | None


class FigureBar(Schema):
    """What ended on a day, or in a week from a Monday on, in UTC."""

    begin: str
    completed: int
    failed: int = Field(description="Rolled back ones too.")
    cancelled: int
    duration: float | None
    time_to_restore: float | None


class Figures(Schema):
    """The figures of the team, of all services where `service` is null."""

    days: int
    service: str | None
    since: str
    until: str
    now: Sums
    before: Sums = Field(description="Of as many days before `since`.")
    unit: str = Field(description="What a bar is: day or week.")
    bars: list[FigureBar]


class Services(Schema):
    """A page of services."""

    items: list[Service]
    next: str | None


class Deployments(Schema):
    """A page of deployments."""

    items: list[Summary]
    next: str | None


class Events(Schema):
    """A page of events; `next` is the `after` of the page that follows."""

    items: list[Event]
    next: int | None
