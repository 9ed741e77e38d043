"""NVIDIA Dynamo's request traces, `dynamo.request.trace.v1`, and its agentic Mooncake rows.

Source of the formats: github.com/ai-dynamo/dynamo at 04daeb0e, docs "Request Replay Tracing" and "DynoSim
Runs", and the loaders `lib/data-gen/src/request_trace/load.rs`, `.../agentic.rs`, `lib/data-gen/src/mooncake.rs`.
What they read we read; `request_payload` records (text) are passed over, any other event, schema or mixture is
refused. Which of the two it is, the first line says.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.importers.agentic import read_agentic_rows
from saga_sim.trace.importers.lines import decoded, lines
from saga_sim.trace.importers.options import Imported, ImportOptions
from saga_sim.trace.importers.request_trace import read_request_trace

VALID = (
    "dynamo.request.trace.v1 records, bare or under 'event', or agentic Mooncake rows with 'request_id' "
    "and 'hash_ids'; for rows of plain Mooncake import as mooncake"
)


class _Sign(msgspec.Struct, frozen=True):
    """What tells the kinds of lines apart."""

    schema: object = None
    event: object = None
    event_type: object = None
    request_id: object = None
    session_id: object = None


_decoder = msgspec.json.Decoder(_Sign)


def read_dynamo(files: Sequence[Path], options: ImportOptions) -> Imported:
    """All shards of one recording. Raises UserError at a fault."""
    where, line = _first(files)
    sign = decoded(_decoder, line, where, VALID)
    if sign.schema is not None or sign.event is not None or sign.event_type is not None:
        return read_request_trace(files, options)
    if sign.request_id is not None or sign.session_id is not None:
        return read_agentic_rows(files, options)
    raise UserError(f"{where}: neither 'schema' nor 'request_id' (valid: {VALID})")


def _first(files: Sequence[Path]) -> tuple[str, bytes]:
    for path in files:
        for where, line in lines(path):
            return where, line
    raise UserError(f"{', '.join(map(str, files))}: hold no record (valid: {VALID})")
