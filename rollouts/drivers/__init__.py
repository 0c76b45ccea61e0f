"""Drivers by kind.

To add one: a module with a class that implements ports.Driver, and a row in KINDS; or, in a
package of its own, an entry point of the group `lockgate.drivers`, named as the kind, that is
the maker.

A maker takes the settings of a service and what surrounds them, does no I/O and raises
SettingsError with all that is wrong about them.
"""

from collections.abc import Mapping
from typing import Any

from rollouts import adapters
from rollouts.adapters import NOWHERE, Surroundings
from rollouts.drivers.command import Command
from rollouts.drivers.docker import Docker
from rollouts.drivers.ssh import SshDriver
from rollouts.drivers.webhook import Webhook
from rollouts.ports import Driver

GROUP = "lockgate.drivers"
KINDS: Mapping[str, adapters.Maker[Driver]] = {
    "command": Command.from_settings,
    "docker": Docker.from_settings,
    "ssh": SshDriver.from_settings,
    "webhook": Webhook.from_settings,
}


def check(raw: Mapping[str, Any]) -> None:
    """Raise SettingsError naming every bad, unknown and missing key of `raw`."""
    make(raw)


def make(raw: Mapping[str, Any], surroundings: Surroundings = NOWHERE) -> Driver:
    """Return the driver that the settings `raw` describe; raise SettingsError."""
    return adapters.make(KINDS, GROUP, raw, surroundings)
