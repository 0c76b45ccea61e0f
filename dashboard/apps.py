"""Where the dashboard joins the domain: the journal's news leave for Redis."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """The web of Lockgate, and its project."""

    name = "dashboard"

    def ready(self) -> None:
        """Publish every event of the journal, in whichever process wrote it."""
        from dashboard import live  # noqa: PLC0415  models can't be imported before they are ready

        live.attach()
