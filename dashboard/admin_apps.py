"""Django's admin with a site of ours."""

from django.contrib.admin.apps import AdminConfig


class InventoryConfig(AdminConfig):
    """Has everything registered with the site that knows what operators look for."""

    default_site = "dashboard.admin_site.InventorySite"
