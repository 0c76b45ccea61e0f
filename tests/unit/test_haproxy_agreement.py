"""What several HAProxies say, made one report, and how instances are named in a backend."""

from itertools import product

import pytest

from rollouts import balancers
from rollouts.adapters import SettingsError, Surroundings
from rollouts.balancers.haproxy_agreement import merge, part
from rollouts.balancers.haproxy_replies import Counts, Row, View, Whole
from rollouts.balancers.servers import Told
from rollouts.facts import Instance, Server, ServerState

SETTINGS = {"kind": "haproxy", "addresses": ["unix:/run/haproxy.sock"], "backend": "app"}


def row(name: str = "web-01", **values: object) -> Row:
    fields = {"state": ServerState.READY, "up": True, "weight": 100, "configured": 100}
    return Row(name=name, backend_id="3", **(fields | values))  # type: ignore[arg-type]


def view(*rows: Row, counts: Counts = Counts(), whole: Whole = Whole()) -> View:  # noqa: B008
    return View({each.name: each for each in rows}, {each.name: counts for each in rows}, whole)


def merged(*rows: Row, told: Told | None = None) -> Server:
    return merge([view(each) for each in rows], told or Told()).servers["web-01"]


def test_of_several_balancers_numbers_add_up() -> None:
    """A server is up where all find it up, and its weight is in terms of the largest."""
    report = merge(
        [
            view(row(), counts=Counts(1, 10, 2, 20.0), whole=Whole(100, 3)),
            view(
                row(up=False, weight=80, configured=80),
                counts=Counts(2, 30, 1, 40.0),
                whole=Whole(50, 4),
            ),
            view(row(), counts=Counts(0, 0, 0, None)),
        ],
        Told(),
    )
    server = report.servers["web-01"]
    assert (server.state, server.up) == (ServerState.READY, False)
    assert (server.weight, server.configured) == (100, 100)
    assert (server.sessions, server.answers, server.errors) == (3, 40, 3)
    assert server.response_ms == 35.0, "by the answers behind each"
    assert (report.requests, report.failed) == (150, 7)


def test_what_one_balancer_does_not_count_is_not_known() -> None:
    """A part of the sum would look like a fall once the other one counts, or the other way."""
    views = [view(row(), counts=Counts(1, 10, 2, 20.0)), view(row(), counts=Counts(1))]
    server = merge(views, Told()).servers["web-01"]
    assert (server.sessions, server.answers, server.errors) == (2, None, None)
    assert server.response_ms == 20.0
    assert merged(row()).response_ms is None


def test_a_server_that_one_balancer_lacks_is_not_in_the_report() -> None:
    """Inventory and balancers disagree about it, and a check before the start can say so."""
    report = merge([view(row(), row("web-02")), view(row("web-02"))], Told())
    assert list(report.servers) == ["web-02"]


@pytest.mark.parametrize("out", [ServerState.DRAIN, ServerState.MAINT])
def test_out_at_one_and_in_at_the_other_is_neither(out: ServerState) -> None:
    """Ready, so that it is drained again, and not up, so that it does not count as serving."""
    server = merged(row(state=out), row())
    assert (server.state, server.up) == (ServerState.READY, False)
    assert merged(row(state=out), row(state=out)).state is out
    assert merged(row(state=out), row(), told=Told(ready={"web-01"})).state is out


def test_drain_and_maintenance_are_both_out() -> None:
    """The stricter one is told."""
    server = merged(row(state=ServerState.MAINT), row(state=ServerState.DRAIN))
    assert server.state is ServerState.MAINT


@pytest.mark.parametrize("configured", [1, 7, 40, 50, 99, 100, 150, 256, 0])
def test_a_weight_that_both_follow_reads_back_exactly(configured: int) -> None:
    """Whatever the other one configures, and whether or not this object told it."""
    for weight in range(257):
        whole = max(configured, 100)
        rows = [row(weight=part(weight, own, whole), configured=own) for own in (100, configured)]
        for told in (Told(), Told(weights={"web-01": weight})):
            server = merged(*rows, told=told)
            assert (server.weight, server.configured) == (weight, whole)
        assert all((one.weight > 0) is (weight > 0) for one in rows)


@pytest.mark.parametrize("configured", [7, 50, 100, 150, 0])
def test_a_weight_that_one_does_not_follow_never_reads_back_as_told(configured: int) -> None:
    """Of two that differ neither may hide the other."""
    whole = max(configured, 100)
    for weight, other in product((0, 1, 2, 49, 50, 100, 256), repeat=2):
        parts = [part(weight, 100, whole), part(other, configured, whole)]
        rows = [
            row(weight=own, configured=of) for own, of in zip(parts, (100, configured), strict=True)
        ]
        if parts[1] == part(weight, configured, whole) or parts[0] == part(other, 100, whole):
            continue
        for told in (weight, other):
            assert merged(*rows, told=Told(weights={"web-01": told})).weight != told
            assert merged(*rows).weight not in {0, told}


@pytest.mark.parametrize(("told", "lost"), [(100, 0), (0, 100), (40, 100)])
def test_of_a_weight_that_one_lost_the_report_shows_what_that_one_has(told: int, lost: int) -> None:
    """So a server that gets nothing from one of them does not count as serving."""
    for weights in ((told, lost), (lost, told)):
        rows = [row(weight=weight) for weight in weights]
        assert merged(*rows, told=Told(weights={"web-01": told})).weight == lost


def instance(name: str, hostname: str = "10.0.0.1", port: int = 80, **more: str) -> Instance:
    return Instance(name, hostname, port, name, **more)


BAD_RULES: list[object] = [
    "{name};quit",
    "srv_{name}\n",
    "srv {name}",
    "{name}/x",
    "srv",
    "{port}",
    "{slot}",
    "{version}_{name}",
    "{name",
    "{}{name}",
    "{name.__class__}",
    "{{name}}",
    "ü{name}",
    7,
]
BAD_OPTIONS: list[object] = [
    "inter 1s",
    "check;shutdown",
    "check\nquit",
    "check  inter 1s",
    " check",
    "check #",
    'check "x"',
    "check \\x",
    "check ${HOME}",
    "check " + "x" * 1000,
    "",
    7,
]


@pytest.mark.parametrize("rule", BAD_RULES)
def test_a_rule_that_makes_no_names_is_refused_at_save(rule: object) -> None:
    """Or one that could be a command, or that calls all alike."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check(SETTINGS | {"server": rule})
    assert list(refusal.value.errors) == ["server"]


@pytest.mark.parametrize(
    ("rule", "instances", "words"),
    [
        ("{hostname}", [instance("a"), instance("b", port=81)], "makes 10.0.0.1 of both a and b"),
        ("{hostname}{port}", [instance("a", "h1", 80), instance("b", "h", 180)], "of both a and b"),
        ("{name}-" + "x" * 120, [instance("web-0001")], "which names no server"),
    ],
)
def test_names_that_the_rule_makes_of_instances_are_checked(
    rule: str, instances: list[Instance], words: str
) -> None:
    """Each is a name, and no two are alike."""
    with pytest.raises(SettingsError, match=words):
        balancers.make(SETTINGS | {"server": rule}, Surroundings(tuple(instances)))


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_of_an_added_server_hold_no_command(options: object) -> None:
    """And have it checked, since it is ready only after that."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check(SETTINGS | {"add": options})
    assert list(refusal.value.errors) == ["add"]


def test_good_rules_and_options_are_taken() -> None:
    """Each placeholder is known."""
    rule = "s_{slot}.{zone}-{name}:{hostname}_{port}"
    balancers.check(SETTINGS | {"server": rule, "add": "check inter 1s ssl verify none"})
