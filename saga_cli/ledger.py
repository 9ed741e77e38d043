"""What is known of a list of programs, on disk: results for the person, submissions for the next call.

Rules of this file
  1. `<results>` has one JSON line per program that is over for good; `<results>.state` what was submitted. Both only
     grow, and a torn last line (the machine went down) is left out.
  2. A submission is noted before it is made and again with its number. Between the two only the head knows of it: it is
     found there by its name, which has the entry's key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from saga_cli.output import json_text
from saga_core.errors import ClusterError, UserError

VERSION: Final = 1
DONE: Final = "done"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a state file."""

    version: int
    program: list[str]
    cluster: str


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One submission of an entry."""

    key: str
    attempt: int
    sent_at: float
    id: int | None = None
    """None: about to be submitted."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an entry."""

    instance: str
    state: str
    attempts: int
    id: int
    exit_code: int | None
    reason: str
    submitted_at: float
    ended_at: float | None
    tct_s: float | None
    steps: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    log: str
    key: str
    entry: dict[str, Any]


class _Known(msgspec.Struct):
    """Of a result, what a later call needs."""

    key: str
    state: str


@dataclass(slots=True)
class Ledger:
    """The two files of one list."""

    results: Path
    done: set[str] = field(default_factory=set)
    """Keys of entries that are done."""
    sent: dict[str, Sent] = field(default_factory=dict)
    """The latest submission of each entry that has no result after it."""
    _results: IO[bytes] | None = None
    _state: IO[bytes] | None = None

    @property
    def state(self) -> Path:
        return self.results.with_name(self.results.name + ".state")

    def open(self, header: Header) -> None:
        """Read what is there, and be ready for more. Raises UserError where it is of something else."""
        held = list(_lines(self.state))
        if held:
            _check(held[0], header, self.state)
        for text in held[1:]:
            sent = msgspec.json.decode(text, type=Sent)
            self.sent[sent.key] = sent
        for text in _lines(self.results):
            known = msgspec.json.decode(text, type=_Known)
            self.sent.pop(known.key, None)
            self.done |= {known.key} if known.state == DONE else set()
        try:
            self._results, self._state = _append(self.results), _append(self.state)
        except OSError as error:
            raise ClusterError(f"{self.results}: {error.strerror}") from None
        if not held:
            _write(self._state, msgspec.json.encode(header))

    def note(self, sent: Sent) -> None:
        assert self._state is not None
        self.sent[sent.key] = sent
        _write(self._state, msgspec.json.encode(sent))

    def keep(self, result: Result) -> None:
        """It is over for good."""
        assert self._results is not None
        _write(self._results, json_text(result).encode())
        self.sent.pop(result.key, None)
        self.done |= {result.key} if result.state == DONE else set()

    def close(self) -> None:
        for file in (self._results, self._state):
            if file is not None:
                file.close()


def _check(text: bytes, header: Header, path: Path) -> None:
    other = "take another --results, or remove it and the results beside it to begin anew"
    try:
        held = msgspec.json.decode(text, type=Header)
    except msgspec.DecodeError:
        raise UserError(f"{path}: not the state of a list of programs; {other}") from None
    if held.program != header.program:
        raise UserError(f"{path} is of another program ({' '.join(held.program)}); {other}")
    if held.cluster != header.cluster:
        raise UserError(f"{path} is of the cluster at {held.cluster}, not of {header.cluster}; {other}")


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines that are JSON; the rest of a torn one is left out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}") from None
    whole = data[: data.rfind(b"\n") + 1]
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            raise UserError(f"{path}, line {number}: not a line of ours") from None
        yield text


def _append(path: Path) -> IO[bytes]:
    """Open for more, after the last whole line."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.ftruncate(descriptor, data.rfind(b"\n") + 1)
    return file


def _write(file: IO[bytes], line: bytes) -> None:
    file.write(line + b"\n")
    os.fsync(file.fileno())
