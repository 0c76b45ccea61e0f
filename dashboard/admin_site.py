"""The admin's site: named after what it is for, and its index as operators think."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

# Models by group, the most wanted first; what is in none comes last.
GROUPS: dict[str, tuple[str, ...]] = {
    "Inventory": ("Service", "Instance"),
    "Access": ("User", "Group", "ApiToken", "HostKey"),
    "What happened": ("LogEntry", "Deployment", "Target", "Event", "HealthCheck"),
}
REST = "Machinery"


class InventorySite(admin.AdminSite):
    """The inventory of Lockgate."""

    site_header = "Lockgate inventory"
    site_title = "Lockgate inventory"
    index_title = "Inventory"
    enable_nav_sidebar = False  # lists are wide, and the index is a click away

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[dict[str, Any]]:
        """Return all models in our groups, or those of one app as Django has them."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        models = [model for app in apps for model in app["models"]]
        for model in models:
            if model["object_name"] == "LogEntry":
                model["name"] = "Audit trail"
        named = {model["object_name"]: model for model in models}
        known = {name for names in GROUPS.values() for name in names}
        groups = [
            (title, [named[n] for n in names if n in named]) for title, names in GROUPS.items()
        ]
        groups.append((REST, [one for one in models if one["object_name"] not in known]))
        return [
            {
                "name": title,
                "app_label": title.lower().replace(" ", "-"),
                "app_url": "",
                "has_module_perms": True,
                "models": members,
            }
            for title, members in groups
            if members
        ]
