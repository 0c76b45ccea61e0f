"""Preflight for people: the fleet of a service looked at by a worker, on demand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from dashboard.access import DEPLOY
from dashboard.screens import Look
from dashboard.stages import plural
from dashboard.times import moment
from dashboard.views import allowed
from rollouts import actions, preflight
from rollouts.cautions import names
from rollouts.models import Service

Json = dict[str, Any]

TICKS = {
    True: Look("✓", "ok", "ok"),
    False: Look("✕", "wrong", "fail"),
    None: Look("?", "open", "warn"),
}


@require_http_methods(["GET", "POST"])
@allowed(DEPLOY)
def check(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what a worker finds just now; a GET only offers to look."""
    service = actions.service_named(name)
    found = drawn(looked_at(service)) if request.method == "POST" else None
    total = service.instances.filter(active=True).count()
    context = {"service": {"name": service.name, "total": total}, "found": found}
    return render(request, "check.html", context)


def looked_at(service: Service) -> Json:
    """Have a worker look, and wait for its answer, without a connection that pages need."""
    connection.close()
    return preflight.ask_worker(service)


def drawn(found: Mapping[str, Any]) -> Json:
    """Return what pages show of a preflight: what is alike of several instances once."""
    instances: dict[str, list[Json]] = {}
    for tick in found["ticks"]:
        if "instance" in tick:
            instances.setdefault(tick["instance"], []).append(_tick(tick))
    fleet = [_tick(tick) for tick in found["ticks"] if "instance" not in tick]
    problems = _problems(instances)
    return {
        "at": moment(found["checked_at"]),
        "from": found["checked_from"],
        "fleet": fleet,
        "problems": problems,
        "instances": [{"name": name, "ticks": ticks} for name, ticks in instances.items()],
        "well": _well(list(instances.values())),
        "hue": "ok" if found["ok"] else "fail",
        "words": _words([*fleet, *problems], len(instances)),
    }


def _tick(tick: Mapping[str, Any]) -> Json:
    return {**tick, **asdict(TICKS[tick["ok"]])}


def _problems(instances: Mapping[str, Iterable[Json]]) -> list[Json]:
    """Return what does not hold or is not known, with whose it is; the wrong ones first."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    ticks: dict[tuple[str, str, str], Json] = {}
    for name, found in instances.items():
        for tick in found:
            if not tick["ok"]:
                key = (tick["what"], tick["word"], tick["detail"])
                alike.setdefault(key, []).append(name)
                ticks[key] = tick
    problems = [
        {**ticks[key], "whose": _whose(mine, len(instances))} for key, mine in alike.items()
    ]
    return sorted(problems, key=lambda tick: tick["ok"] is not False)


def _whose(instances: Sequence[str], total: int) -> str:
    return f"all {total}" if 1 < total == len(instances) else names(instances)


def _well(instances: Sequence[Sequence[Json]]) -> str:
    """Return of how many instances nothing is wrong, and whether nothing is open either."""
    well = [ticks for ticks in instances if all(tick["ok"] is not False for tick in ticks)]
    sure = all(tick["ok"] for ticks in well for tick in ticks)
    return f"{plural(len(well), 'instance')}: {'all well' if sure else 'nothing wrong'}"


def _words(ticks: Sequence[Json], count: int) -> str:
    """Return the outcome in a sentence, to be said aloud too."""
    wrong, unsure = (sum(tick["ok"] is mark for tick in ticks) for mark in (False, None))
    first = f"{plural(wrong, 'thing')} wrong" if wrong else "Nothing is wrong"
    rest = f", {unsure} open" if unsure else ""
    return f"{first}{rest}: {plural(count, 'instance')} looked at."
