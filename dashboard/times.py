"""Times in words, the same as static/js/time.js says."""

import math
from datetime import datetime


def duration(seconds: float) -> str:
    """Return `seconds` in the two units that matter."""
    whole = max(0, math.floor(seconds + 0.5))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(text: str | None) -> datetime | None:
    """Return the aware datetime that a snapshot's time says."""
    return datetime.fromisoformat(text) if text else None
