"""The web and the Django project: pages, REST, sockets, admin, and all on one machine."""
