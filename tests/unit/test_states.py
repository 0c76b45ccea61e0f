"""The state machines: what may follow what."""

import itertools

import pytest

from rollouts.states import (
    ACTIVE,
    DEPLOYMENT_MOVES,
    TARGET_MOVES,
    TERMINAL,
    DeploymentStatus,
    IllegalMove,
    TargetStatus,
    check_deployment_move,
    check_target_move,
)

D, T = DeploymentStatus, TargetStatus


def test_terminal_states_are_the_four_of_the_contract() -> None:
    """Nothing leaves completed, rolled_back, failed or cancelled."""
    assert {D.COMPLETED, D.ROLLED_BACK, D.FAILED, D.CANCELLED} == TERMINAL
    for old, new in itertools.product(TERMINAL, D):
        with pytest.raises(IllegalMove):
            check_deployment_move(old, new)


def test_every_status_has_its_moves_and_can_reach_an_end() -> None:
    """No status is forgotten, and from each active one a terminal one can be reached."""
    assert set(DEPLOYMENT_MOVES) == set(D)
    assert set(TARGET_MOVES) == set(T)
    for start in ACTIVE:
        seen, edge = {start}, [start]
        while edge:
            new = DEPLOYMENT_MOVES[edge.pop()] - seen
            seen |= new
            edge.extend(new)
        assert seen & TERMINAL


def test_a_rollback_is_never_rolled_back() -> None:
    """rolling_back leads to ends only, never forward again."""
    assert DEPLOYMENT_MOVES[D.ROLLING_BACK] <= TERMINAL


def test_a_target_serves_only_after_its_checks() -> None:
    """healthy and rolled_back are reached from health_checking alone."""
    before_healthy = {old for old, new in TARGET_MOVES.items() if T.HEALTHY in new}
    before_rolled_back = {old for old, new in TARGET_MOVES.items() if T.ROLLED_BACK in new}
    assert before_healthy == before_rolled_back == {T.HEALTH_CHECKING}


def test_a_target_is_updated_only_after_draining() -> None:
    """updating is reached from draining, or repeated."""
    assert {old for old, new in TARGET_MOVES.items() if T.UPDATING in new} == {
        T.DRAINING,
        T.UPDATING,
    }


def test_an_illegal_move_names_both_states() -> None:
    """The refusal says what was asked."""
    with pytest.raises(IllegalMove, match="can't move from healthy to updating"):
        check_target_move(T.HEALTHY, T.UPDATING)
