"""Steps as they are typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.step_lines import lines, steps_of
from rollouts.policy import BY_KEY

SHARES = st.one_of(st.integers(1, 100), st.integers(1, 9999).map(lambda many: many / 100))
TIMES = st.one_of(st.integers(1, 604_800), st.integers(1, 9999).map(lambda many: many / 10))
STEPS = st.one_of(
    st.fixed_dictionaries({"share": SHARES}, optional={"bake": TIMES}),
    st.fixed_dictionaries({"approve": st.just(True)}, optional={"timeout": TIMES}),
)


@given(st.lists(STEPS, max_size=8))
def test_what_is_shown_can_be_typed(steps: list[dict[str, object]]) -> None:
    """In lines or with commas between, any steps come back as they were."""
    assert steps_of("\n".join(lines(steps))) == steps
    assert steps_of(", ".join(lines(steps))) == steps


def test_a_step_is_said_in_words() -> None:
    """In the largest unit that is whole; how it is spaced does not matter."""
    typed = "5% for 5m\n\n  25 %  for 90 s\r\nApprove within 2 h\napprove\n100 %"
    steps = steps_of(typed)
    assert steps == [
        {"share": 5, "bake": 300},
        {"share": 25, "bake": 90},
        {"approve": True, "timeout": 7200},
        {"approve": True},
        {"share": 100},
    ]
    assert lines(steps) == [
        *("5 % for 5 min", "25 % for 90 s", "approve within 2 h", "approve", "100 %"),
    ]
    assert BY_KEY["canary_steps"].check(steps) == steps


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("5 % for 5 min\nhalf of it", "step 2, “half of it”, is not understood: write it like"),
        ("5 % for ever", "step 1: “ever” is no time"),
        ("5", "step 1, “5”, is not understood"),
        ("approve for 5 min", "step 1, “approve for 5 min”, is not understood"),
        ('[{"share": 5}]', "is not understood"),
        ("x" * 500, f"“{'x' * 40}”"),
    ],
)
def test_what_is_not_understood_is_told_with_how_to_write_it(typed: str, why: str) -> None:
    """Cut short where it is long."""
    with pytest.raises(ValueError, match="step") as refused:
        steps_of(typed)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 200
