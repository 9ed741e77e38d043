"""Mooncake request traces: one request per line, `timestamp` (ms), `input_length`, `output_length`, `hash_ids`.

Source of the format: github.com/kvcache-ai/Mooncake, FAST25-release/traces (conversation, synthetic, toolagent):
one id per 512 tokens begun, equal ids are equal prefixes up to and with that block, in the whole file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.importers.blocks import BlockIds
from saga_sim.trace.importers.containment import sessions
from saga_sim.trace.importers.dynamo_records import Duration
from saga_sim.trace.importers.lines import decoded, lines
from saga_sim.trace.importers.options import Imported, ImportOptions
from saga_sim.trace.importers.requests import Request, check_counts, steps
from saga_sim.trace.records import Tool, Workflow

BLOCK_TOKENS = 512
VALID = 'lines like {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}'


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    timestamp: Duration
    input_length: int
    output_length: int
    hash_ids: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


_decoder = msgspec.json.Decoder(_Row)


def read_mooncake(files: Sequence[Path], options: ImportOptions) -> Imported:
    """Each file is a source of its own: its ids mean nothing in another one. Raises UserError at a fault."""
    size = options.block_size or BLOCK_TOKENS
    ids = BlockIds()
    workflows: list[Workflow] = []
    for path in files:
        rows = [_request(line, where, size, ids, path) for where, line in lines(path)]
        if not rows:
            raise UserError(f"{path}: holds no request (valid: {VALID})")
        rows.sort(key=lambda request: request.start_s or 0.0)
        workflows += _workflows(rows, path, size, options)
    return Imported(workflows=workflows)


def _request(line: bytes, where: str, size: int, ids: BlockIds, path: Path) -> Request:
    row = decoded(_decoder, line, where, VALID)
    check_counts(where, row.input_length, row.output_length, len(row.hash_ids), size)
    return Request(
        where=where,
        prompt_tokens=row.input_length,
        output_tokens=row.output_length,
        ids=ids.of(row.hash_ids, path),
        start_s=row.timestamp / 1000,
    )


def _workflows(rows: Sequence[Request], path: Path, size: int, options: ImportOptions) -> list[Workflow]:
    """One per session; what happened between two requests is a person's pause in a service for people."""
    first_s = rows[0].start_s or 0.0
    stem = path.name.partition(".")[0]
    workload = options.workload or "prod-chat"
    made = []
    for number, session in enumerate(sessions(rows, size)):
        for request in session[:-1]:
            request.tool = Tool(kind="user" if workload == "prod-chat" else "tool", name=None)
        made.append(
            options.workflow(
                workflow_id=f"{stem}/{number:05d}",
                source=stem,
                workload=workload,
                harness="kimi",
                arrival_s=round((session[0].start_s or 0.0) - first_s, 6),
                block_size=size,
                timing="partial",
                steps=steps(session, size, session[0].start_s),
            )
        )
    return made
