"""What no page and no REST call does on a demo: other people, and states that take weeks."""

import os
import subprocess
import sys

from dashboard.local.environment import DEMO_SETTINGS
from dashboard.local.places import Places
from tests.acceptance.running import ROOT

PASSWORD = "only-for-tests-only"
PERSON = """
from django.contrib.auth.models import Permission, User
user, _ = User.objects.get_or_create(username={name!r})
user.set_password({password!r})
user.save()
user.user_permissions.set(Permission.objects.filter(
    content_type__app_label="rollouts", codename__in={rights!r}))
"""


def run_inside(places: Places, code: str) -> str:
    """Run Python with the models of the installation that is kept in `places`."""
    environment = {
        **{key: value for key, value in os.environ.items() if key not in DEMO_SETTINGS},
        **DEMO_SETTINGS,
        "DATABASE_URL": places.database_url,
        "REDIS_URL": places.redis_url,
        "SECRET_KEY": places.key.read_text().strip(),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def add_person(places: Places, name: str, *rights: str) -> None:
    """Have somebody who may log in with PASSWORD, and has these rights of inventory and engine."""
    run_inside(places, PERSON.format(name=name, password=PASSWORD, rights=list(rights)))
