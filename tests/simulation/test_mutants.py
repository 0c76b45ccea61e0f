"""The simulation sees what it is there for: no wrong engine gets past it."""

import pytest

from tests.simulation.mutants import caught
from tests.simulation.planted import MUTANTS, Mutant


def test_there_are_enough_planted_bugs() -> None:
    """Fifteen at least, each of its own name."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    """By an invariant that it breaks, in a run that the right engine passes."""
    assert caught(mutant.name)
