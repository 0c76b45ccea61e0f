"""What REST can be asked about fleets and what they went through."""

from dataclasses import asdict

from django.http import HttpRequest, HttpResponse
from ninja import P, QueryEx

from dashboard import figures, schemas
from dashboard.access import DEPLOY, VIEW_DEPLOYMENT
from dashboard.api import PROBLEMS, answer, api, may
from dashboard.fleet_views import looked_at
from rollouts import actions
from rollouts.snapshots import iso, one_moment
from rollouts.validators import NAME

__all__ = ["api"]


@api.post("/services/{name}/check", auth=may(DEPLOY), response={200: schemas.Preflight, **PROBLEMS})
def check(request: HttpRequest, name: str) -> HttpResponse:
    """Have a worker look at the fleet: what must hold before a deployment. Changes nothing.

    Takes some seconds, at most a minute. It logs in to hosts, and so asks for the right to deploy.
    """
    if not NAME.fullmatch(name):
        raise actions.NotFound("There is no service of that name.")
    return answer(looked_at(actions.service_named(name)))


@api.get("/figures", auth=may(VIEW_DEPLOYMENT), response={200: schemas.Figures, **PROBLEMS})
def team(
    request: HttpRequest,
    days: QueryEx[schemas.Days, P(description="Today included, in UTC.")] = schemas.Days.MONTH,
    service: str = "",
) -> HttpResponse:
    """Return how often was deployed, what share failed, and how long it took, of one or all."""
    if service and not NAME.fullmatch(service):
        raise actions.NotFound("There is no service of that name.")
    found = actions.service_named(service) if service else None
    with one_moment():
        told = figures.of(found.pk if found else None, int(days))
    length, length_before = told.period.lengths
    return answer(
        {
            "days": int(days),
            "service": service or None,
            "since": iso(told.period.since),
            "until": iso(told.period.until),
            "now": figures.fields(told.now, length),
            "before": figures.fields(told.before, length_before),
            "unit": told.period.unit,
            "bars": [{**asdict(bar), "begin": bar.begin.isoformat()} for bar in told.bars],
        }
    )
