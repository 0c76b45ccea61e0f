"""The policy: defaults of the contract, and refusals that name every key at once."""

from typing import Any

import pytest

from rollouts.policy import KNOBS, Policy, PolicyError, parse, resolve

CONTRACT = {
    "strategy": "rolling",
    "batch_size": 2,
    "max_unavailable": 2,
    "batch_pause": 10,
    "drain_timeout": 30,
    "update_timeout": 300,
    "health_check_path": "/health",
    "health_check_timeout": 5,
    "health_check_retries": 3,
    "health_check_interval": 1,
    "min_healthy_time": 0,
    "healthy_deadline": 60,
    "progress_deadline": 600,
    "auto_rollback": True,
    "rollback_threshold": 10,
    "verify_version": True,
    "slow_start": 0,
}


def test_the_defaults_are_those_of_the_contract() -> None:
    """Every key of the contract is there with its default."""
    policy = parse()
    assert {key: getattr(policy, key) for key in CONTRACT} == CONTRACT


def test_every_knob_is_a_field_and_has_words() -> None:
    """The form is drawn from the knobs, so none may lack its help."""
    assert [knob.key for knob in KNOBS] == list(Policy.__dataclass_fields__)
    assert all(knob.help for knob in KNOBS)


def test_every_bad_key_is_named_at_once() -> None:
    """One answer lists unknown keys, wrong types and impossible values together."""
    with pytest.raises(PolicyError) as caught:
        parse({"batch_size": "lots", "no_such": 1, "drain_timeout": -1, "auto_rollback": "yes"})
    assert set(caught.value.errors) == {
        "batch_size",
        "no_such",
        "drain_timeout",
        "auto_rollback",
    }


def test_later_layers_win() -> None:
    """The request overrides the service, the service overrides the defaults."""
    policy = parse({"batch_pause": 5, "drain_timeout": 7}, {"batch_pause": 1})
    assert (policy.batch_pause, policy.drain_timeout) == (1, 7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", True),
        ("batch_size", "0%"),
        ("batch_size", "101%"),
        ("batch_size", 1.5),
        ("max_unavailable", -1),
        ("batch_pause", "10"),
        ("batch_pause", float("nan")),
        ("health_check_path", "health"),
        ("health_check_path", "//evil.example"),
        ("health_check_path", "http://169.254.169.254/"),
        ("health_check_path", "/health\n"),
        ("health_check_retries", 0),
        ("rollback_threshold", 101),
        ("strategy", "yolo"),
        ("verify_version", 1),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key: str, value: Any) -> None:
    """Nothing that is out of range or of another type passes."""
    with pytest.raises(PolicyError) as caught:
        parse({key: value})
    assert key in caught.value.errors


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"batch_size": 3, "max_unavailable": 2}, "batch_size"),
        ({"healthy_deadline": 601}, "healthy_deadline"),
        ({"min_healthy_time": 60}, "min_healthy_time"),
    ],
)
def test_values_that_contradict_each_other_are_refused(raw: dict[str, Any], key: str) -> None:
    """Each is fine alone; together they are impossible."""
    with pytest.raises(PolicyError) as caught:
        parse(raw)
    assert list(caught.value.errors) == [key]


def test_percentages_are_compared_on_the_real_fleet() -> None:
    """25 % of 20 are 5, which is more than 2; of 8 they are 2."""
    with pytest.raises(PolicyError, match="batch of 5, larger than max_unavailable"):
        parse({"batch_size": "25%"}, total=20)
    assert parse({"batch_size": "25%"}, total=8).batch_size == "25%"


@pytest.mark.parametrize(
    ("amount", "total", "number"),
    [(3, 20, 3), ("25%", 20, 5), ("25%", 7, 1), ("10%", 5, 1), ("100%", 20, 20), ("33.4%", 3, 1)],
)
def test_percentages_are_rounded_down_to_at_least_one(
    amount: int | str, total: int, number: int
) -> None:
    """As the contract says."""
    assert resolve(amount, total) == number
