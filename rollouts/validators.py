"""What names, hosts, ports and versions may look like. Each refusal says what is right."""

import ipaddress
import re

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SERVER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)

VERSION_HINT = (
    "must begin with a letter or digit and hold only letters, digits, '.', '_', '+' and '-' "
    "(at most 128 characters), such as v42 or 2026.11.3"
)


def _fully(pattern: re.Pattern[str], message: str) -> RegexValidator:
    # \Z rather than $: a name that ends in a newline must not pass.
    return RegexValidator(rf"^(?:{pattern.pattern})\Z", message)


validate_version = _fully(VERSION, VERSION_HINT)
validate_name = _fully(
    NAME, "must be lower-case letters, digits and '-', such as web-01 (at most 63 characters)"
)
validate_server = _fully(
    SERVER, "must be a server name of the balancer: letters, digits, '_', '.', ':' and '-'"
)
validate_label = _fully(LABEL, "must be letters, digits, '_', '.' and '-'")


PREVIEW_URL = re.compile(r"https?://[A-Za-z0-9._{}\[\]:-]+(/[!-~]*)?")


def validate_preview_url(value: str) -> None:
    """Raise ValidationError unless `value` is the address of a page, with `{slot}` in it."""
    rest = value.replace("{slot}", "slot")
    if "{slot}" not in value or not PREVIEW_URL.fullmatch(rest) or set("{}") & set(rest):
        raise ValidationError("must be like https://{slot}.shop.example.com/, with {slot} in it")


def validate_host(value: str) -> None:
    """Raise ValidationError unless `value` is a host name or an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        # All digits and dots that is no address is another spelling of one (127.1, 2130706433).
        if not HOST.fullmatch(value) or re.fullmatch(r"[0-9.]+|0x[0-9a-fA-F.x]+", value):
            raise ValidationError("must be a host name or an IP address") from None
