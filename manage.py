#!/usr/bin/env python
"""Entry of every command; `up` and `demo` bring their own servers and settings."""

import os
import sys

from django.core.management import execute_from_command_line

from dashboard.local.environment import provide


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    if sys.argv[1:2] and sys.argv[1] in {"up", "demo"}:
        provide(sys.argv[2:])
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
