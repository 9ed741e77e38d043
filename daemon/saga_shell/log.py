"""Log lines of the daemons: one event per line, `time level event key=value …`, on stderr.

Rules of this file
  1. An event is a short fixed name; what varies stands in the fields, so that lines can be counted.
  2. Life-cycle changes are `info`, what a person should look at is `warning`, the rest is `debug`.
  3. Keys and environments are never fields.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TextIO

_log = logging.getLogger("saga")
LEVELS = ("debug", "info", "warning", "error")
_PLAIN = re.compile(r"[\w./:@+,%-]+")


class Line(logging.Formatter):
    """The one place that knows how a line looks."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = getattr(record, "fields", {})
        words = [f"{name}={_shown(value)}" for name, value in fields.items()]
        head = f"{at}.{int(record.msecs):03d}Z {record.levelname.lower()} {record.getMessage()}"
        return " ".join([head, *words])


def _shown(value: object) -> str:
    """Plain words as they are, everything else quoted: one line whatever a program calls itself."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def start(level: str = "info", stream: TextIO | None = None) -> None:
    """Begin to write. A full disk below stderr costs the lines and nothing else."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Line())
    _log.handlers[:] = [handler]
    _log.setLevel(level.upper())
    _log.propagate = False


def debug(event: str, **fields: object) -> None:
    _log.debug(event, extra={"fields": fields})


def info(event: str, **fields: object) -> None:
    _log.info(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    _log.warning(event, extra={"fields": fields})


def error(event: str, **fields: object) -> None:
    _log.error(event, extra={"fields": fields})
