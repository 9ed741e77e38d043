"""How figures are written in the report; nothing else formats a number."""

from __future__ import annotations

from math import floor, log10

UNKNOWN = "–"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def seconds(value: float | None) -> str:
    """`0.42 s`, `8.3 s`, `42 s`, `3 min 12 s`, `2 h 05 min`, `3 d 04 h`."""
    if value is None:
        return UNKNOWN
    if value < 0.01:
        return f"{1000 * value:.1f} ms" if value else "0 s"
    if value < 59.5:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    whole = round(value)
    for size, name, small, small_name in (
        (DAY_S, "d", HOUR_S, "h"),
        (HOUR_S, "h", MINUTE_S, "min"),
        (MINUTE_S, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // small:02d} {small_name}"
    raise AssertionError(value)


def tick_seconds(value: float) -> str:
    """A round duration on an axis: `0.1 s`, `30 s`, `5 min`, `2 h`."""
    for size, name in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if value >= size:
            return f"{value / size:g} {name}"
    return f"{value:g} s"


def share(value: float | None) -> str:
    """`71.3 %`."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def tick_share(value: float) -> str:
    return f"{100 * value:.0f} %"


def ratio(value: float | None) -> str:
    """`1.23`; three significant digits."""
    if value is None:
        return UNKNOWN
    digits = 2 if value <= 0 else max(0, 2 - floor(log10(value)))
    return f"{value:.{min(digits, 3)}f}"


def tick_ratio(value: float) -> str:
    return f"{value:g}×"


def count(value: float | None) -> str:
    """`950`, `12.3 k`, `4.56 M`."""
    if value is None:
        return UNKNOWN
    if value < 1000:
        return f"{value:.0f}" if value == round(value) or value >= 100 else f"{value:.1f}"
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {name}" if value < 999.5 * size else f"{value / size:.0f} {name}"
    return f"{value:.0f}"


def tick_count(value: float) -> str:
    return f"{value:,.10g}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`, `1 204 workflows`."""
    return f"{tick_count(number)} {noun}" if number == 1 else f"{tick_count(number)} {noun}s"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
