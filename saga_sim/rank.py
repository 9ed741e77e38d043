"""Which workflow of a run is meant: its id, or its place among all, such as `slowest`, `p95` or `#12`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import Final

from saga_core.errors import UserError

NAMES: Final = {"slowest": 100.0, "median": 50.0, "fastest": 0.0}
PERCENTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?|100)", re.ASCII)
NUMBER: Final = re.compile(r"#(\d{1,9})", re.ASCII)
VALID: Final = "a workflow's id, slowest, median, fastest, pN such as p95, or #N for the N-th slowest"


def check(text: str, ids: Sequence[str]) -> None:
    """Raise UserError unless `text` names one of the workflows `ids`, whatever the run will bring."""
    if text in ids or text in NAMES or PERCENTILE.fullmatch(text):
        return
    numbered = NUMBER.fullmatch(text)
    if numbered is None:
        raise UserError(f"no workflow {text!r}{_near(text, ids)} (valid: {VALID})")
    if not 1 <= int(numbered[1]) <= len(ids):
        raise UserError(f"no workflow {text!r} among {len(ids)} (valid: #1 to #{len(ids)})")


def pick(text: str, ids: Sequence[str], slowest_first: Sequence[int]) -> int:
    """The index of the workflow that `text` means. An id goes before a rank of the same name."""
    check(text, ids)
    if text in ids:
        return ids.index(text)
    numbered = NUMBER.fullmatch(text)
    if numbered is not None:
        return slowest_first[int(numbered[1]) - 1]
    found = PERCENTILE.fullmatch(text)
    share = (float(found[1]) if found is not None else NAMES[text]) / 100
    place = max(1, ceil(share * len(ids)))  # the nearest rank from below: a workflow that is there
    return slowest_first[len(ids) - place]


def _near(text: str, ids: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(text, ids, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
