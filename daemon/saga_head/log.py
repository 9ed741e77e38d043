"""Structured log lines: `time level event key=value ...` on stderr, one per life-cycle change."""

from __future__ import annotations

import logging
import sys


def setup(level: str = "INFO") -> None:
    """Send everything to stderr, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def line(event: str, **bound: object) -> str:
    """`event key=value ...`; values with spaces are quoted, newlines never get through."""
    return " ".join([event, *(f"{key}={_value(value)}" for key, value in bound.items())])


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c == '"' for c in text) else text
