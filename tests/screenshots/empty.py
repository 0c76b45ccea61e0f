"""An installation in which there is nothing yet, up to its first service."""

import tempfile
from pathlib import Path

from dashboard.local.places import Places
from tests.acceptance.people import run_inside
from tests.acceptance.running import command, free_port, until
from tests.screenshots.studio import Studio

UP_WITHIN = 120.0  # seconds
FIRST = """
from rollouts.models import Service
Service.objects.create(name="shop", driver={"kind": "command", "update": ["/opt/shop/deploy"]},
    balancer={"kind": "haproxy", "addresses": ["unix:/run/haproxy/admin.sock"], "backend": "app"})
"""


def take(studio: Studio) -> None:
    """Take the pages of `manage.py up` on an empty database."""
    with tempfile.TemporaryDirectory(prefix="lgs-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        data, port = Path(folder) / "data", free_port()
        with command("up", "--data", str(data), "--port", str(port)) as process:
            said = process.stderr
            assert said is not None
            until(lambda: "Up: open" in said.readline(), UP_WITHIN, "it is up")
            places = Places.of(data)
            password = places.password.read_text().strip()
            with studio.visitor(f"http://127.0.0.1:{port}", "admin", password) as page:
                studio.show("overview-empty", page, "/")
                studio.show("admin-empty", page, "/admin/")
                studio.show("figures-empty", page, "/figures/")
                run_inside(places, FIRST)
                studio.show("overview-first-service", page, "/")
                studio.show("service-empty", page, "/services/shop/")
                studio.show("deploy-no-instances", page, "/services/shop/deploy/?version=v1")
