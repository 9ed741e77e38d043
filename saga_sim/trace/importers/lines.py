"""Foreign files, read with suspicion: plain or gzip (told by content), bounded, every fault with its place."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.format import MAX_LINE_BYTES

T = TypeVar("T")
GZIP_MAGIC = b"\x1f\x8b"
# A `.traj` holds its prompts in full at every step; the longest published ones are some 100 MB.
MAX_FILE_BYTES = 1 << 30


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a JSON Lines file that hold anything, each with its place `FILE:LINE`."""
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}:{number}: line is longer than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    yield f"{path}:{number}", line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: after line {number}: damaged gzip data: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def whole(path: Path) -> bytes:
    """A file that is one JSON document."""
    try:
        with _open(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip data: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: is longer than {MAX_FILE_BYTES} bytes")
    return data


def decoded(decoder: msgspec.json.Decoder[T], data: bytes, where: str, valid: str) -> T:
    """`data` as a record, or a UserError that says where, what, and what would be valid."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: {str(error).replace('`', chr(39))} (valid: {valid})") from None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as probe:
        packed = probe.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")
