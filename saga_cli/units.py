"""Numbers for people: durations, counts, shares; and strangers' text made harmless."""

from __future__ import annotations

import re
from typing import Final

from saga_core.errors import UserError

UNKNOWN: Final = "-"
"""What a table shows where there is no value."""

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def duration(seconds: float | None) -> str:
    """`0.42s`, `8.3s`, `42s`, `3m12s`, `2h05m`, `3d04h`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{max(0.0, seconds):.2f}s"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, name, small, small_name in (
        (DAY_S, "d", HOUR_S, "h"),
        (HOUR_S, "h", MINUTE_S, "m"),
        (MINUTE_S, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{name}{whole % size // small:02d}{small_name}"
    return f"{whole}s"


_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)


def seconds(text: str, option: str) -> float:
    """The inverse of `duration`: `90`, `90s`, `5m`, `1h30m`, `2d`. Raises UserError naming `option`."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise UserError(f"{option} {text!r} is not a span of time (valid: 90s, 5m, 1h30m, 2d)")
    sizes = (DAY_S, HOUR_S, MINUTE_S, 1)
    return sum(float(part) * size for part, size in zip(found.groups(), sizes, strict=True) if part)


def count(number: int | None) -> str:
    """`950`, `12.3k`, `4.56M`: at most five characters below a billion."""
    if number is None:
        return UNKNOWN
    if number < 1000:
        return str(number)
    if number < 999_950:
        return f"{number / 1000:.1f}k" if number < 99_950 else f"{number / 1000:.0f}k"
    return f"{number / 1e6:.2f}M" if number < 99_950_000 else f"{number / 1e6:.0f}M"


def share(part: float, whole: float) -> str:
    """`71%`; `-` where the whole is nothing."""
    return f"{100 * part / whole:.0f}%" if whole else UNKNOWN


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plain(text: str) -> str:
    """`text` without control characters: names come from strangers and must not move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)
