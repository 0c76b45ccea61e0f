"""Where everything is."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import django_rq.urls
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, include, path

from dashboard import (
    deploy_views,
    deployment_views,
    dialog_views,
    figure_views,
    fleet_views,
    held_views,
    log_views,
    overview_views,
    replay_views,
    service_views,
    views,
)
from dashboard.fleet_api import api

View = Callable[..., HttpResponseBase]


def superusers_only(view: View) -> View:
    """Refuse everybody else: the queue's own pages ask only for staff, and can start jobs."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_superuser:
            raise PermissionDenied("The queue's pages are for superusers.")
        return view(request, *args, **kwargs)

    return login_required(guarded)


def guarded(patterns: list[URLPattern]) -> list[URLPattern]:
    """Return `patterns` with every view for superusers only."""
    return [
        URLPattern(one.pattern, superusers_only(one.callback), one.default_args, one.name)
        for one in patterns
    ]


handler404 = "dashboard.views.not_found"

urlpatterns = [
    path("", overview_views.overview, name="overview"),
    path("figures/", figure_views.shown, name="figures"),
    path("services/<slug:name>/", service_views.service, name="service"),
    path("services/<slug:name>/deploy/", deploy_views.deploy, name="deploy"),
    path("services/<slug:name>/plan/", deploy_views.plan, name="plan"),
    path("services/<slug:name>/check/", fleet_views.check, name="check"),
    path("services/<slug:name>/swap/", service_views.swap, name="swap"),
    path("services/<slug:name>/lock/", service_views.lock, name="lock"),
    path("services/<slug:name>/unlock/", service_views.unlock, name="unlock"),
    path("services/<slug:name>/retry/<slug:instance>/", held_views.retry, name="retry"),
    path("services/<slug:name>/release/<slug:instance>/", held_views.release, name="release"),
    path("deployments/<slug:deployment_id>/", deployment_views.deployment, name="deployment"),
    path("deployments/<slug:deployment_id>/replay/", replay_views.replay, name="replay"),
    path("deployments/<slug:deployment_id>/log/", log_views.log, name="log"),
    path("deployments/<slug:deployment_id>/panel/", log_views.panel, name="panel"),
    path("deployments/<slug:deployment_id>/dialog/", dialog_views.dialog, name="dialog"),
    path("deployments/<slug:deployment_id>/cancel/", deployment_views.cancel, name="cancel"),
    path("deployments/<slug:deployment_id>/pause/", deployment_views.pause, name="pause"),
    path("deployments/<slug:deployment_id>/resume/", deployment_views.resume, name="resume"),
    path("deployments/<slug:deployment_id>/promote/", deployment_views.promote, name="promote"),
    path("deployments/<slug:deployment_id>/rollback/", deployment_views.roll_back, name="rollback"),
    path(
        "login/",
        LoginView.as_view(template_name="login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/queues/", include((guarded(django_rq.urls.urlpatterns), "django_rq"))),
    # django-rq puts the same pages into the admin, where staff would reach them.
    path("admin/django_rq/<path:rest>", superusers_only(views.queues)),
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    path("healthz", views.healthz, name="healthz"),
]
