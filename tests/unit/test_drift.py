"""What is told of drift: in words, and nothing of what nobody said."""

import pytest

from rollouts import looks
from rollouts.drift import Expected, Seen, differences
from rollouts.facts import Answer, BalancerReport, Server, ServerState

AS_IT_IS = Seen(healthy=True, version="v42", in_rotation=True, weight=100, server="ready")
INVENTORY = Expected(version="v42")


def seen(**fields: object) -> Seen:
    """Return an instance that is as the inventory says, but for `fields`."""
    return Seen(**{**vars(AS_IT_IS), **fields})  # type: ignore[arg-type]


def server(**fields: object) -> Server:
    return Server(
        **{  # type: ignore[arg-type]
            "name": "web-01",
            "state": ServerState.READY,
            "up": True,
            "sessions": 0,
            "weight": 100,
            **fields,
        }
    )


def test_an_instance_that_is_as_the_inventory_says_has_no_difference() -> None:
    """In rotation, well, and on the version that was verified last."""
    assert differences(INVENTORY, AS_IT_IS) == ()


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        (INVENTORY, seen(version="v41"), "reports v41, verified was v42"),
        (
            Expected(version="v42", digest="sha256:aa"),
            seen(digest="sha256:bb"),
            "runs another build of v42 than was verified: sha256:bb",
        ),
        (
            INVENTORY,
            seen(version=None, error="no answer from the host"),
            "nobody can tell what it runs: no answer from the host",
        ),
        (
            INVENTORY,
            seen(healthy=False, version=None, error="/health answered 503"),
            "not well: /health answered 503",
        ),
        (
            INVENTORY,
            seen(in_rotation=False, server="drain"),
            "out of rotation though no deployment left it out: it drains",
        ),
        (
            INVENTORY,
            seen(in_rotation=False, server="weightless", weight=0),
            "out of rotation though no deployment left it out: its weight is 0",
        ),
        (
            Expected(version="v42", held_out="/health answered 500"),
            AS_IT_IS,
            "in rotation though held out: /health answered 500",
        ),
        (Expected(version="v42", idle=True), AS_IT_IS, "in rotation though its slot is idle"),
        (
            INVENTORY,
            seen(in_rotation=False, weight=None, server="unknown"),
            "unknown to the balancer",
        ),
        (
            INVENTORY,
            seen(in_rotation=None, weight=None, server=None, balancer_error="no such socket"),
            "the balancer could not be asked: no such socket",
        ),
    ],
)
def test_each_difference_is_told_in_words(expected: Expected, found: Seen, words: str) -> None:
    """With what was seen and, where there is one, what was expected."""
    assert differences(expected, found) == (words,)


def test_all_that_differs_is_told_at_once() -> None:
    """The reader sees that it is not well before wondering why it is out."""
    found = seen(healthy=False, error="no answer", version="v41", in_rotation=False, server="maint")
    assert differences(INVENTORY, found) == (
        "not well: no answer",
        "reports v41, verified was v42",
        "out of rotation though no deployment left it out: in maintenance",
    )


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (Expected(), AS_IT_IS),
        (INVENTORY, seen(version=None)),
        (Expected(version="v42", digest="sha256:aa"), AS_IT_IS),
        (INVENTORY, seen(in_rotation=None, weight=None, server=None)),
        (Expected(version="v42", held_out="it failed"), seen(in_rotation=False, server="drain")),
        (Expected(version="v42", idle=True), seen(in_rotation=False, server="weightless")),
        (Expected(version="v42", idle=None), seen(in_rotation=False, server="weightless")),
        (Expected(version="v42", idle=None), AS_IT_IS),
    ],
)
def test_what_nobody_knows_or_what_is_meant_to_be_is_no_difference(
    expected: Expected, found: Seen
) -> None:
    """Such as a version that nobody verified, and a slot that is idle."""
    assert differences(expected, found) == ()


@pytest.mark.parametrize(
    ("fields", "word", "in_rotation"),
    [
        ({}, "ready", True),
        ({"state": ServerState.DRAIN}, "drain", False),
        ({"state": ServerState.MAINT, "up": False}, "maint", False),
        ({"up": False}, "down", False),
        ({"weight": 0}, "weightless", False),
    ],
)
def test_the_balancers_word_is_kept_and_whether_that_means_traffic(
    fields: dict[str, object], word: str, in_rotation: bool
) -> None:
    """So that it can be said why one is out."""
    one = server(**fields)
    heard = looks.BalancerHeard(BalancerReport({"web-01": one}))
    found = Seen.of(Answer(0.0, ok=True), heard, one)
    assert (found.server, found.in_rotation) == (word, in_rotation)


def test_of_a_balancer_that_did_not_answer_nothing_is_told_but_that() -> None:
    """Neither in nor out; a server that it does not have is out."""
    silent = looks.BalancerHeard(None, "no answer within 2 s")
    found = Seen.of(Answer(0.0, ok=True), silent, None)
    assert (found.server, found.in_rotation, found.weight) == (None, None, None)
    strange = Seen.of(Answer(0.0, ok=True), looks.BalancerHeard(BalancerReport({})), None)
    assert (strange.server, strange.in_rotation) == ("unknown", False)


def test_what_comes_from_afar_is_cut_and_has_no_control_characters() -> None:
    """It ends up on screens and terminals."""
    found = Seen.of(
        Answer(0.0, ok=False, error="\x1b[31mred\n" + 10_000 * "x"),
        looks.BalancerHeard(BalancerReport({})),
        None,
    )
    assert found.error.isprintable()
    assert len(found.error) < 600
    assert found.error.endswith("(cut)")
