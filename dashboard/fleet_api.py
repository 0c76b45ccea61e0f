"""What REST can be asked about fleets."""

from django.http import HttpRequest, HttpResponse

from dashboard import schemas
from dashboard.access import DEPLOY
from dashboard.api import PROBLEMS, answer, api, may
from dashboard.fleet_views import looked_at
from rollouts import actions
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
