"""The web's entry: pages and REST over HTTP, live news over sockets."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
pages = get_asgi_application()

from dashboard.routing import sockets  # noqa: E402  needs the models, which pages loaded

application = ProtocolTypeRouter({"http": pages, "websocket": sockets})
