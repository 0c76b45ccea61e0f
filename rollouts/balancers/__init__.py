"""Balancers by kind.

To add one: a module with a class that implements ports.Balancer, and a row in KINDS; or, in a
package of its own, an entry point of the group `lockgate.balancers`, named as the kind, that is
the maker.

A maker takes the settings of a service and what surrounds them, does no I/O and raises
SettingsError with all that is wrong about them.
"""

from collections.abc import Mapping
from typing import Any

from rollouts import adapters
from rollouts.adapters import NOWHERE, Surroundings
from rollouts.balancers.aws import Aws
from rollouts.balancers.chain import Chain
from rollouts.balancers.command import Command
from rollouts.balancers.haproxy import HAProxy
from rollouts.balancers.nginx import Nginx
from rollouts.balancers.none import NoBalancer
from rollouts.ports import Balancer

GROUP = "lockgate.balancers"


def _chain(raw: Mapping[str, Any], surroundings: Surroundings) -> Balancer:
    return Chain.from_settings(raw, surroundings, make)


KINDS: Mapping[str, adapters.Maker[Balancer]] = {
    "aws": Aws.from_settings,
    "chain": _chain,
    "command": Command.from_settings,
    "haproxy": HAProxy.from_settings,
    "nginx": Nginx.from_settings,
    "none": NoBalancer.from_settings,
}


def check(raw: Mapping[str, Any]) -> None:
    """Raise SettingsError naming every bad, unknown and missing key of `raw`."""
    make(raw)


def make(raw: Mapping[str, Any], surroundings: Surroundings = NOWHERE) -> Balancer:
    """Return the balancer that the settings `raw` describe; raise SettingsError."""
    return adapters.make(KINDS, GROUP, raw, surroundings)
