"""Reading and writing trace files: JSON Lines, one workflow per line, plain or gzip.

A file is strangers' data: lines are bounded, every record is checked alone and against its
neighbours, and a fault names file, line, what is wrong and what is valid.
"""

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO, cast

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.checks import faults
from saga_sim.trace.records import FORMAT_VERSION, Workflow

SUFFIXES = (".jsonl.gz", ".jsonl")
# 70 times the longest line of the public traces (240 kB); far below what would hurt a laptop.
MAX_LINE_BYTES = 16 << 20

_decoder = msgspec.json.Decoder(Workflow)
_encoder = msgspec.json.Encoder()


def read_trace(path: str | Path) -> Iterator[Workflow]:
    """The workflows of a trace file, one by one, each checked. Raises UserError at the first fault.

    A fault further down is found only when the reader gets there: use `load_trace` to have all or nothing.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        workflow = decode_workflow(line, f"{path}:{number}")
        first = seen.setdefault(workflow.workflow_id, number)
        if first != number:
            raise UserError(
                f"{path}:{number}: task_id {workflow.workflow_id!r} stands on line {first} already"
            )
        yield workflow
    if not seen:
        raise UserError(f"{path}: holds no workflow (valid: one JSON object per line, format version 1)")


def load_trace(path: str | Path, select: str | None = None) -> list[Workflow]:
    """The whole file, checked to its end before anything is used; with `select` the one workflow of that id."""
    workflows = list(read_trace(path))
    if select is None:
        return workflows
    chosen = [workflow for workflow in workflows if workflow.workflow_id == select]
    if not chosen:
        ids = [workflow.workflow_id for workflow in workflows]
        near = get_close_matches(select, ids, n=3, cutoff=0.3) or ids[:3]
        raise UserError(f"{path}: no workflow {select!r} among its {len(ids)} (have: {', '.join(near)}, …)")
    return chosen


def parse_source(source: str) -> tuple[Path, str | None]:
    """Split `FILE.jsonl[.gz][:ID]` into the file and the workflow's id. Raises UserError for other suffixes."""
    for suffix in SUFFIXES:
        head, found, rest = source.partition(suffix)
        if not found or not head:
            continue
        if not rest:
            return Path(source), None
        if rest.startswith(":") and len(rest) > 1:
            return Path(head + suffix), rest[1:]
    raise UserError(f"{source!r} is not a trace (valid: FILE.jsonl, FILE.jsonl.gz, FILE.jsonl.gz:ID)")


def decode_workflow(line: bytes, where: str) -> Workflow:
    """One line as a checked workflow; `where` begins the message of the UserError."""
    try:
        workflow = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: {_explain(line, error)}") from None
    fault = next(faults(workflow), None)
    if fault is not None:
        raise UserError(f"{where}: workflow {workflow.workflow_id!r}: {fault}")
    return workflow


def encode_workflow(workflow: Workflow) -> bytes:
    """One line of the format, without the line end. Raises UserError if a reader would refuse it."""
    line = _encoder.encode(workflow)
    decode_workflow(line, f"workflow {workflow.workflow_id!r} cannot be written")
    if len(line) >= MAX_LINE_BYTES:
        raise UserError(
            f"workflow {workflow.workflow_id!r} is {len(line)} bytes long (limit {MAX_LINE_BYTES})"
        )
    return line


def write_trace(path: str | Path, workflows: Iterable[Workflow]) -> int:
    """Write a trace file in one piece or not at all; same workflows, same bytes. Returns how many.

    Gzip by suffix, without name or time in its header. Raises UserError when nothing can be written there.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: a trace file ends in {' or '.join(SUFFIXES)}")
    lines = [encode_workflow(workflow) + b"\n" for workflow in workflows]
    if not lines:
        raise UserError(f"{path}: no workflow to write")
    data = b"".join(lines)
    packed = gzip.compress(data, compresslevel=9, mtime=0) if path.name.endswith(".gz") else data
    try:
        _replace(path, packed)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return len(lines)


def _replace(path: Path, data: bytes) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(scratch).unlink()
        raise


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: not a trace file (valid: {', '.join(SUFFIXES)})")
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}:{number}: line is longer than {MAX_LINE_BYTES} bytes")
                if not line.strip():
                    raise UserError(f"{path}:{number}: empty line (valid: one JSON object per line)")
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: after line {number}: damaged gzip data: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _open(path: Path) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _explain(line: bytes, error: Exception) -> str:
    """The decoder's words, and what would have been valid."""
    try:
        version = msgspec.json.decode(line, type=_Version).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        version = None
    if isinstance(version, int) and version != FORMAT_VERSION:
        return f"trace format version {version} is not known (valid: {FORMAT_VERSION})"
    told = str(error).replace("`", "'")
    if "unknown field" in told:
        return f"{told} (a field of format version {FORMAT_VERSION} is meant?)"
    return told


class _Version(msgspec.Struct):
    v: int | None = None
