"""The environment of the tests, set before Django's settings are read (`-p tests.environment`).

It points at servers of the tests' own, in a folder that goes away with the run. They are
started by `tests.servers`, for tests that ask for them alone.
"""

import os
import tempfile
from pathlib import Path

import pytest

from dashboard.local.environment import DEMO_SETTINGS
from dashboard.local.places import Places, is_root

# Which of the processes that run tests at the same time this one is.
SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Short, because sockets lie in it; not below pytest's folders, which PostgreSQL's own account
# may not enter where the tests run as root.
FOLDER = tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp", ignore_cleanup_errors=True)
if is_root():
    Path(FOLDER.name).chmod(0o711)
PLACES = Places(Path(FOLDER.name).resolve() / "data", Path(FOLDER.name).resolve() / "run")

os.environ.update(
    DEMO_SETTINGS
    | {
        "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1],testserver",
        "DATABASE_URL": PLACES.database_url,
        "REDIS_URL": PLACES.redis_url,
        "SECRET_KEY": "only-for-tests-only-for-tests-only-for-tests",
    }
)


def pytest_configure(config: pytest.Config) -> None:
    # After pytest-django, whose django_db_setup it extends.
    config.pluginmanager.import_plugin("tests.servers")


def pytest_unconfigure() -> None:
    FOLDER.cleanup()
