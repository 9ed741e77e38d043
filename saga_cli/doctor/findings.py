"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from saga_core.errors import SagaError


class Verdict(StrEnum):
    """How bad it is: `fail` ends in exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    told: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def ok(what: str, told: str) -> Finding:
    return Finding(what, Verdict.OK, told)


def warn(what: str, told: str, remedy: str) -> Finding:
    return Finding(what, Verdict.WARN, told, remedy)


def fail(what: str, told: str, remedy: str) -> Finding:
    return Finding(what, Verdict.FAIL, told, remedy)


Check = Callable[[], Iterable[Finding]]


def examined(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """All that the checks find; one that cannot be made is a finding, not an end."""
    found: list[Finding] = []
    for what, check in checks:
        try:
            found += check()
        except (SagaError, OSError) as error:
            found.append(fail(what, str(error), "see the message"))
    return found
