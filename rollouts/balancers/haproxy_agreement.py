"""What several HAProxies say of one backend, made one report, weights in proportion. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from rollouts.balancers.haproxy_replies import Counts, Row, View
from rollouts.balancers.servers import Told, agreed
from rollouts.facts import BalancerReport, Server


def merge(views: Sequence[View], told: Told) -> BalancerReport:
    """Return one report of all `views`, numbers added up.

    A server that not every HAProxy knows is left out: no call on it could succeed.
    """
    names = [name for name in views[0].rows if all(name in view.rows for view in views)]
    return BalancerReport(
        servers={name: _server(name, views, told) for name in names},
        requests=sum(view.whole.requests for view in views),
        failed=sum(view.whole.failed for view in views),
    )


def _server(name: str, views: Sequence[View], told: Told) -> Server:
    rows = [view.rows[name] for view in views]
    seen = [_seen(view.rows[name], view.counts.get(name)) for view in views]
    return replace(
        agreed(seen, told),
        weight=_weight(rows, told.weights.get(name)),
        configured=max(row.configured for row in rows),
    )


def _seen(row: Row, counts: Counts | None) -> Server:
    counts = counts or Counts()
    return Server(
        row.name,
        row.state,
        row.up,
        counts.sessions,
        row.weight,
        row.configured,
        counts.answers,
        counts.errors,
        counts.response_ms,
    )


def _weight(rows: Sequence[Row], told: int | None) -> int:
    """Return the weight in terms of the largest configured one.

    Where they disagree: that of one that was `told` another weight; where nothing was told, one
    that nobody follows.
    """
    whole = max(row.configured for row in rows)
    weight = next(row.weight for row in rows if row.configured == whole)
    if all(row.weight == part(weight, row.configured, whole) for row in rows):
        return weight
    if told is not None:
        astray = [row for row in rows if row.weight != part(told, row.configured, whole)]
        return min(_whole(row, whole) for row in astray)
    return next(
        number
        for number in count(1)
        if all(row.weight != part(number, row.configured, whole) for row in rows)
    )


def part(weight: int, configured: int, whole: int) -> int:
    """Return what `weight`, meant where `whole` is configured, is where `configured` is.

    So every HAProxy keeps the proportions of its own configuration; one that configures a server
    as idle takes the weight as it is.
    """
    if not weight or not configured or configured >= whole:
        return weight
    return max(1, (weight * configured + whole // 2) // whole)


def _whole(row: Row, whole: int) -> int:
    """Return the weight of `row` where `whole` is configured."""
    if not row.configured or row.configured >= whole:
        return row.weight
    return round(row.weight * whole / row.configured)


def wholes(report: BalancerReport) -> Mapping[str, int]:
    """Return of each server the largest weight that is configured anywhere."""
    return {name: server.configured for name, server in report.servers.items()}
