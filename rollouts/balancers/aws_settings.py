"""The settings of an AWS load balancer: what they may look like. Pure."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rollouts.adapters import SettingsError, checked, wrong_keys

OPTIONAL = ("target_group", "target_groups", "listener", "listener_rule", "endpoint_url", "profile")
SLOTS = {"blue", "green"}
REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
PROFILE = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")
ARN = re.compile(
    r"arn:aws[a-z-]*:elasticloadbalancing:(?P<region>[a-z0-9-]+):[0-9]{12}:"
    r"(?P<kind>targetgroup|listener/app|listener-rule/app)/[A-Za-z0-9/-]{1,160}"
)


@dataclass(frozen=True)
class Settings:
    """`groups` maps slots to the ARNs of target groups, or "" to that of the only one."""

    region: str
    groups: Mapping[str, str] = field(default_factory=dict)
    forward: str = ""  # the ARN of the listener or rule that parts the traffic between two
    endpoint_url: str | None = None
    profile: str | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Settings":
        """Return the settings in `raw`; raise SettingsError with every bad key."""
        errors = wrong_keys(raw, required=("kind", "region"), optional=OPTIONAL)
        region = raw.get("region")
        checks: dict[str, Callable[[Any], None]] = {
            "region": _check_region,
            "target_group": partial(_check_arn, "targetgroup", region),
            "target_groups": partial(_check_groups, region),
            "listener": partial(_check_arn, "listener/app", region),
            "listener_rule": partial(_check_arn, "listener-rule/app", region),
            "endpoint_url": _check_endpoint,
            "profile": _check_profile,
        }
        checked(raw, checks, errors)
        errors |= _misfits(raw) if not errors.keys() & set(OPTIONAL) else {}
        if errors:
            raise SettingsError(errors)
        return cls(
            raw["region"],
            raw.get("target_groups") or {"": raw["target_group"]},
            raw.get("listener") or raw.get("listener_rule") or "",
            raw.get("endpoint_url"),
            raw.get("profile"),
        )


def _misfits(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong about the keys together."""
    if ("target_group" in raw) == ("target_groups" in raw):
        return {"target_group": "give either this, or target_groups for blue/green"}
    forwards = [key for key in ("listener", "listener_rule") if key in raw]
    if "target_group" in raw and forwards:
        return {forwards[0]: "is only for two target_groups: one has all the traffic"}
    if "target_groups" in raw and len(forwards) != 1:
        return {"listener": "give either this or listener_rule, whose action parts the traffic"}
    return {}


def _check_region(raw: Any) -> None:
    if not (isinstance(raw, str) and REGION.fullmatch(raw)):
        raise ValueError("must be the name of a region, such as eu-central-1")


def _check_arn(kind: str, region: Any, raw: Any) -> None:
    match = ARN.fullmatch(raw) if isinstance(raw, str) else None
    if match is None or match["kind"] != kind:
        raise ValueError(
            f"must be an ARN such as arn:aws:elasticloadbalancing:REGION:ACCOUNT:{kind}/..."
        )
    if isinstance(region, str) and REGION.fullmatch(region) and match["region"] != region:
        raise ValueError(f"is in {match['region']}, and not in the region {region}")


def _check_groups(region: Any, raw: Any) -> None:
    if not isinstance(raw, dict) or raw.keys() != SLOTS:
        raise ValueError('must map both slots to target groups: {"blue": ARN, "green": ARN}')
    for arn in raw.values():
        _check_arn("targetgroup", region, arn)
    if raw["blue"] == raw["green"]:
        raise ValueError("must be two target groups, and not the same one twice")


def _check_endpoint(raw: Any) -> None:
    """Requests carry a session's token: over a network they need TLS."""
    try:
        parts = urlsplit(raw) if isinstance(raw, str) and raw.isprintable() else None
        good = parts is not None and parts.hostname and not (parts.username or parts.query)
        if good and parts is not None and (parts.scheme == "https" or _is_loopback(parts)):
            return
    except ValueError:
        pass
    raise ValueError("must be like https://HOST/; http:// only to this machine itself")


def _is_loopback(parts: Any) -> bool:
    if parts.scheme != "http":
        return False
    return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback


def _check_profile(raw: Any) -> None:
    if not (isinstance(raw, str) and PROFILE.fullmatch(raw)):
        raise ValueError("must be the name of a profile in the AWS configuration of the workers")
