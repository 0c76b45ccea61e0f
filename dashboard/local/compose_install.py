"""The one-shot container: brings the database up to date and makes the first administrator."""

import os
import secrets

import django
from django.core.management import call_command

from dashboard.local.compose_start import SECRETS, kept

ADMIN = "admin"


def first_admin() -> str:
    """Make the administrator of an empty installation; return a sentence that says so."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - not before django.setup()

    users = get_user_model()._default_manager
    if users.exists():
        return "There are users already: none was made."
    password, where = os.environ.get("ADMIN_PASSWORD", ""), "the password of ADMIN_PASSWORD"
    if not password:
        path = SECRETS / "admin_password"
        password = kept(path, secrets.token_urlsafe(12))
        where = f"the password that `docker compose exec web cat {path}` shows"
    users.create_superuser(username=ADMIN, password=password)
    return f"Made the administrator {ADMIN!r} with {where}."


def main() -> None:
    """Migrate, then make the administrator where there is nobody."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    django.setup()
    call_command("migrate", interactive=False)
    print(first_admin(), flush=True)


if __name__ == "__main__":
    main()
