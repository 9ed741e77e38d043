"""Targets of a plan: `p95 <= 5m`, `ttft p95 <= 2s and slo >= 95%`. Text in, values out; nothing is simulated here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from saga_core.errors import UserError


class Metric(StrEnum):
    """What a target can be about: completion times, times to first token, and the share that met its objective."""

    P50 = "p50"
    P95 = "p95"
    P99 = "p99"
    MEAN = "mean"
    GEOMEAN = "geomean"
    TTFT_P50 = "ttft p50"
    TTFT_P95 = "ttft p95"
    TTFT_P99 = "ttft p99"
    TTFT_MEAN = "ttft mean"
    SLO = "slo"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """`metric <= limit` in seconds, or `slo >= limit` with a share from 0 to 1. `strict`: without the equal sign."""

    metric: Metric
    limit: float
    strict: bool = False

    def __str__(self) -> str:
        """As one would write it; `parse` reads it back as the same target."""
        sign = (">" if self.metric is Metric.SLO else "<") + ("" if self.strict else "=")
        unit = "" if self.metric is Metric.SLO else "s"
        return f"{self.metric} {sign} {self.limit!r}{unit}"

    def met(self, value: float | None) -> bool:
        """Whether this value reaches it; None, of a run that has none, does not."""
        if value is None:
            return False
        over = value - self.limit if self.metric is Metric.SLO else self.limit - value
        return over > 0 if self.strict else over >= 0


SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
NUMBER: Final = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?"
DURATION_PART: Final = re.compile(rf"({NUMBER})\s*(ms|[smhd])\s*", re.ASCII)
CLAUSE: Final = re.compile(r"(?P<metric>[^<>=≤≥]*)(?P<sign>[<>=≤≥]+)(?P<value>.*)", re.DOTALL)
ALSO_MEANT: Final = {"tct ": "", "average": "mean", "avg": "mean", "median": "p50"}
EXAMPLE: Final = "p95 <= 5m"
LONGEST: Final = 1000
"""Characters of one text. Nobody writes more by hand."""


def parse_all(texts: Iterable[str]) -> list[Target]:
    """The targets of all texts, each metric at most once. Raises UserError saying what, where, and what is valid."""
    targets = [target for text in texts for target in parse(text)]
    if not targets:
        raise UserError(f"no target is given (valid: for example --target '{EXAMPLE}')")
    seen: dict[Metric, Target] = {}
    for target in targets:
        if target.metric in seen:
            raise UserError(
                f"two targets for {target.metric}: '{seen[target.metric]}' and '{target}' (valid: one)"
            )
        seen[target.metric] = target
    return targets


def parse(text: str) -> list[Target]:
    """The targets of one text, joined with ` and `. Raises UserError with the place, counted in characters from 1."""
    if len(text) > LONGEST:
        raise UserError(f"a target of {len(text)} characters (valid: at most {LONGEST})")
    targets, start = [], 0
    for joint in [*re.finditer(r"\sand\s", text, re.IGNORECASE), None]:
        end = len(text) if joint is None else joint.start()
        targets.append(_clause(text, start, end))
        start = end if joint is None else joint.end()
    return targets


def _clause(text: str, start: int, end: int) -> Target:
    clause = text[start:end]
    if not clause.strip():
        raise _wrong(text, start, "nothing stands here", f"a target such as '{EXAMPLE}'")
    parts = CLAUSE.fullmatch(clause)
    if parts is None:
        raise _wrong(
            text, start, f"'{clause.strip()}' has no comparison", f"METRIC <= LIMIT, such as '{EXAMPLE}'"
        )
    metric = _metric(text, start, parts["metric"])
    strict = _sign(text, start + parts.start("sign"), metric, parts["sign"])
    at = start + parts.start("value")
    limit = (_share if metric is Metric.SLO else _duration)(text, at, parts["value"])
    return Target(metric=metric, limit=limit, strict=strict)


def _metric(text: str, at: int, written: str) -> Metric:
    name = " ".join(written.lower().split())
    for said, meant in ALSO_MEANT.items():
        name = name.replace(said, meant)
    if name not in list(Metric):
        raise _wrong(text, at, f"unknown metric '{written.strip()}'", ", ".join(Metric))
    return Metric(name)


def _sign(text: str, at: int, metric: Metric, written: str) -> bool:
    """Whether it is strict."""
    sign = written.replace("≤", "<=").replace("≥", ">=")
    valid = (">=", ">") if metric is Metric.SLO else ("<=", "<")
    if sign not in valid:
        what = "a share is bounded from below" if metric is Metric.SLO else "a time is bounded from above"
        raise _wrong(text, at, f"'{written}' after {metric}: {what}", " or ".join(valid))
    return len(sign) == 1


def _duration(text: str, at: int, written: str) -> float:
    """Seconds of `300`, `300s`, `1.5h`, `1h30m`, `250ms`."""
    body, valid = written.strip().lower(), "a time above 0, such as 300, 250ms, 5m, 1.5h or 1h30m"
    if re.fullmatch(NUMBER, body, re.ASCII):
        seconds = float(body)
    else:
        parts = list(DURATION_PART.finditer(body))
        if not parts or "".join(part[0] for part in parts) != body:
            raise _wrong(text, at, f"'{written.strip()}' is not a time", valid)
        seconds = sum(float(part[1]) * SECONDS[part[2]] for part in parts)
    if not 0 < seconds < float("inf"):
        raise _wrong(text, at, f"'{written.strip()}' cannot be reached or missed", valid)
    return seconds


def _share(text: str, at: int, written: str) -> float:
    """`0.95` or `95%`."""
    body, valid = written.strip(), "a share above 0 and up to 1, such as 0.95 or 95%"
    number = body.removesuffix("%").rstrip()
    if not re.fullmatch(NUMBER, number, re.ASCII | re.IGNORECASE):
        raise _wrong(text, at, f"'{body}' is not a share", valid)
    share = float(number) / 100 if body.endswith("%") else float(number)
    if not 0 < share <= 1:
        raise _wrong(text, at, f"'{body}' is out of range", valid)
    return share


def _wrong(text: str, at: int, what: str, valid: str) -> UserError:
    """What, where (the first character that is not blank), what is valid."""
    at += len(text[at:]) - len(text[at:].lstrip())
    return UserError(f"target '{text}', at character {min(at + 1, len(text) + 1)}: {what} (valid: {valid})")
