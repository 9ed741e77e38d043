"""How figures are written in the report; nothing else formats a number. A number and its unit are never parted."""

from __future__ import annotations

UNKNOWN = "–"
GAP = "\N{NO-BREAK SPACE}"
THOUSANDS = "\N{NARROW NO-BREAK SPACE}"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def seconds(value: float | None) -> str:
    """`4.2 ms`, `0.42 s`, `8.3 s`, `42 s`, `3 min 12 s`, `2 h 05 min`, `3 d 04 h`."""
    if value is None:
        return UNKNOWN
    if value < 0.01:
        return f"{1000 * value:.1f}{GAP}ms" if value else f"0{GAP}s"
    if value < 59.5:
        digits = 2 if value < 0.995 else 1 if value < 9.95 else 0
        return f"{value:.{digits}f}{GAP}s"
    if value < HOUR_S - 0.5:
        return _parts(round(value), 60, "min", "s")
    if value < DAY_S - MINUTE_S / 2:
        return _parts(round(value / MINUTE_S), 60, "h", "min")
    return _parts(round(value / HOUR_S), 24, "d", "h")


def _parts(whole: int, size: int, name: str, small_name: str) -> str:
    return f"{whole // size}{GAP}{name}{GAP}{whole % size:02d}{GAP}{small_name}"


def tick_seconds(value: float) -> str:
    """A round duration, on an axis or in a setting: `20 ms`, `0.5 s`, `30 s`, `5 min`, `2 h`."""
    for size, name in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if value >= size:
            return f"{value / size:.3g}{GAP}{name}"
    if 0 < value < 0.1:
        return f"{1000 * value:.3g}{GAP}ms"
    return f"{value:.3g}{GAP}s"


def share(value: float | None) -> str:
    """`71.3 %`."""
    return UNKNOWN if value is None else f"{100 * value:.1f}{GAP}%"


def tick_share(value: float) -> str:
    """`71 %`."""
    return f"{100 * value:.0f}{GAP}%"


def ratio(value: float | None) -> str:
    """`1.23`, `0.957`, `12.0`: three significant digits."""
    if value is None:
        return UNKNOWN
    if 0.001 <= value < 999.5:
        return f"{value:#.3g}".removesuffix(".")
    return f"{value:.3g}" if value < 1 else f"{value:.0f}"


def tick_ratio(value: float) -> str:
    """`1.5×`."""
    return f"{value:g}×"


def count(value: float | None) -> str:
    """`8.3`, `950`, `12.3 k`, `4.56 M`."""
    if value is None:
        return UNKNOWN
    if value < 999.5:
        return f"{value:.0f}" if value == round(value) or value >= 99.95 else f"{value:.1f}"
    for size, name in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if value < 999.5 * size:
            return f"{value / size:.3g}{GAP}{name}"
    return f"{value / 1e9:.0f}{GAP}G"


def rate(value: float | None) -> str:
    """`0.482`, `30.1`, `12.3 k`: three significant digits."""
    return ratio(value) if value is None or value < 999.5 else count(value)


def tick_count(value: float) -> str:
    """`1 204`."""
    return f"{value:,.10g}".replace(",", THOUSANDS)


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`, `1 204 workflows`."""
    return f"{tick_count(number)}{GAP}{noun}" if number == 1 else f"{tick_count(number)}{GAP}{noun}s"
