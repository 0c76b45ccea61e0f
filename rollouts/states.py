"""The two state machines: statuses, legal moves, terminal sets."""

from enum import StrEnum


class DeploymentStatus(StrEnum):
    """Where a deployment is. Nothing leaves a terminal status."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TargetStatus(StrEnum):
    """Where one instance is within one deployment."""

    PENDING = "pending"
    DRAINING = "draining"
    UPDATING = "updating"
    HEALTH_CHECKING = "health_checking"
    HEALTHY = "healthy"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


D = DeploymentStatus
T = TargetStatus

DEPLOYMENT_MOVES: dict[DeploymentStatus, frozenset[DeploymentStatus]] = {
    D.PENDING: frozenset({D.IN_PROGRESS, D.FAILED, D.CANCELLED}),
    D.IN_PROGRESS: frozenset({D.PAUSED, D.ROLLING_BACK, D.COMPLETED, D.FAILED, D.CANCELLED}),
    D.PAUSED: frozenset({D.IN_PROGRESS, D.ROLLING_BACK, D.CANCELLED}),
    D.ROLLING_BACK: frozenset({D.ROLLED_BACK, D.FAILED, D.CANCELLED}),
    D.COMPLETED: frozenset(),
    D.ROLLED_BACK: frozenset(),
    D.FAILED: frozenset(),
    D.CANCELLED: frozenset(),
}

# The way back passes through the same steps toward the old version, so a target that
# is healthy or failed may be drained again, and one that was never updated may be
# probed again without an update. So may one of an idle slot that has the version already.
TARGET_MOVES: dict[TargetStatus, frozenset[TargetStatus]] = {
    T.PENDING: frozenset({T.DRAINING, T.HEALTH_CHECKING, T.FAILED}),
    T.DRAINING: frozenset({T.DRAINING, T.UPDATING, T.HEALTH_CHECKING, T.FAILED}),
    T.UPDATING: frozenset({T.DRAINING, T.UPDATING, T.HEALTH_CHECKING, T.FAILED}),
    T.HEALTH_CHECKING: frozenset(
        {T.DRAINING, T.HEALTH_CHECKING, T.HEALTHY, T.ROLLED_BACK, T.FAILED}
    ),
    T.HEALTHY: frozenset({T.DRAINING}),
    T.FAILED: frozenset({T.DRAINING}),
    T.ROLLED_BACK: frozenset(),
}

TERMINAL = frozenset(status for status, moves in DEPLOYMENT_MOVES.items() if not moves)
ACTIVE = frozenset(DeploymentStatus) - TERMINAL

# A target in one of these is between two whole states: no deployment may end with it.
IN_FLIGHT = frozenset({T.DRAINING, T.UPDATING, T.HEALTH_CHECKING})

# A target in one of these has been put back into rotation, verified.
SERVING = frozenset({T.HEALTHY, T.ROLLED_BACK})


class IllegalMove(Exception):
    """A status was asked to move where its state machine does not lead."""

    def __init__(self, what: str, old: StrEnum, new: StrEnum) -> None:
        super().__init__(f"{what} can't move from {old} to {new}")
        self.old = old
        self.new = new


def check_deployment_move(old: DeploymentStatus, new: DeploymentStatus) -> None:
    """Raise IllegalMove unless a deployment may go from `old` to `new`."""
    if new not in DEPLOYMENT_MOVES[old]:
        raise IllegalMove("a deployment", old, new)


def check_target_move(old: TargetStatus, new: TargetStatus) -> None:
    """Raise IllegalMove unless a target may go from `old` to `new`."""
    if new not in TARGET_MOVES[old]:
        raise IllegalMove("a target", old, new)
