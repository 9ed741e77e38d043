"""Which workflows a person means: `last`, `all`, `3`, `3-7`, `1,4-6`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saga_core.errors import UserError

VALID = "last, all, a number, a range like 3-7, or a list of these like 1,4-6"

_PART = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def select(text: str, known: Sequence[int]) -> list[int]:
    """The ids of `known` that `text` means, rising, each once.

    Raises UserError for words that are none of the valid ones and for what names no workflow.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        chosen |= _part(part.strip(), text, known)
    return sorted(chosen)


def _part(part: str, text: str, known: Sequence[int]) -> set[int]:
    if part == "all":
        return set(known)
    if part == "last":
        return {_last(known)}
    found = _PART.fullmatch(part, 0) if part.isascii() else None
    if found is None:
        raise UserError(f"{text!r} does not select workflows (valid: {VALID})")
    low = int(found[1])
    high = int(found[2]) if found[2] is not None else low
    if high < low:
        raise UserError(f"{text!r} does not select workflows: the range {part} runs backwards")
    return _between(low, high, part, known)


def _last(known: Sequence[int]) -> int:
    if not known:
        raise UserError("there is no last workflow: none was submitted yet")
    return max(known)


def _between(low: int, high: int, part: str, known: Sequence[int]) -> set[int]:
    inside = {id_ for id_ in known if low <= id_ <= high}
    if not inside:
        have = f"have: {ranges(known)}" if known else "none was submitted yet"
        raise UserError(f"no workflow {part} ({have})")
    return inside


def ranges(ids: Sequence[int]) -> str:
    """`1-4, 6, 9-12`: ids in the selectors' own words."""
    runs: list[list[int]] = []
    for id_ in sorted(set(ids)):
        if runs and id_ == runs[-1][1] + 1:
            runs[-1][1] = id_
        else:
            runs.append([id_, id_])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
