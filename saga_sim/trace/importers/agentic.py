"""Agentic Mooncake rows: Mooncake's counts and block ids, with `wait_for`, `delay` and `tool_wait_ms` between them.

Source of the format: github.com/ai-dynamo/dynamo at 04daeb0e, `MooncakeRow` and `AgenticMooncakeRow` in
lib/data-gen/src/mooncake.rs and docs "DynoSim Runs". Rows without `request_id` but with `session_id` are its closed-loop
turns: each waits for the one before it in its session.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.importers.blocks import BlockIds, common
from saga_sim.trace.importers.dynamo_records import Duration
from saga_sim.trace.importers.lines import decoded, lines
from saga_sim.trace.importers.options import Imported, ImportOptions
from saga_sim.trace.importers.requests import Request, check_counts, ordered, steps
from saga_sim.trace.importers.tools import tool_of_events
from saga_sim.trace.records import Workflow

BLOCK_TOKENS = 512
VALID = (
    'rows like {"request_id": "r2", "session_id": "s", "input_length": 2560, "output_length": 128, '
    '"hash_ids": [1, 2, 3, 4, 5], "wait_for": ["r1"], "delay": 50, "tool_wait_ms": 900}'
)
# Upstream's other names for the same fields.
ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}


class ToolEvent(msgspec.Struct, frozen=True):
    tool_class: str
    duration_ms: Duration


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timestamp`: start of a row that waits for nothing; `delay` + `tool_wait_ms`: from the last of `wait_for` on."""

    input_length: int
    output_length: int
    hash_ids: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    request_id: str | None = None
    session_id: str | None = None
    timestamp: Duration | None = None
    delay: Duration | None = None
    wait_for: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    prefix_reset: bool | None = None
    tool_wait_ms: Duration | None = None
    tool_events: tuple[ToolEvent, ...] = ()
    request_kind: str | None = None
    output_token_ids: msgspec.Raw = msgspec.Raw()
    priority: int | None = None
    strict_priority: int | None = None
    policy_class: str | None = None
    routing_constraints: msgspec.Raw = msgspec.Raw()


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(_Row)


@dataclass(slots=True)
class _Rows:
    """Rows of a file with the requests made of them."""

    rows: list[tuple[_Row, Request]] = field(default_factory=list)
    by_id: dict[str, Request] = field(default_factory=dict)
    by_session: dict[str, list[tuple[_Row, Request]]] = field(default_factory=dict)
    session_of: dict[int, str] = field(default_factory=dict)
    place: dict[int, int] = field(default_factory=dict)


def read_agentic_rows(files: Sequence[Path], options: ImportOptions) -> Imported:
    """Each file is a source of its own. Raises UserError at a fault."""
    size = options.block_size or BLOCK_TOKENS
    ids = BlockIds()
    workflows: list[Workflow] = []
    for path in files:
        held = _Rows()
        for where, line in lines(path):
            _take(held, _row(line, where), where, size, ids, path)
        if not held.rows:
            raise UserError(f"{path}: holds no row (valid: {VALID})")
        for row, request in held.rows:
            _tie(held, row, request)
        workflows += _workflows(held, path, size, options)
    return Imported(workflows=workflows)


def _row(line: bytes, where: str) -> _Row:
    """A row under the canonical names of its fields."""
    raw = decoded(_fields, line, where, VALID)
    if not ALIASES.keys().isdisjoint(raw):
        renamed = {ALIASES.get(name, name): value for name, value in raw.items()}
        if len(renamed) < len(raw):
            raise UserError(f"{where}: a field stands there under both its names (valid: one)")
        line = msgspec.json.encode(renamed)
    return decoded(_decoder, line, where, VALID)


def _take(held: _Rows, row: _Row, where: str, size: int, ids: BlockIds, path: Path) -> None:
    if row.request_id is None and row.session_id is None:
        raise UserError(f"{where}: neither request_id nor session_id (valid: {VALID})")
    check_counts(where, row.input_length, row.output_length, len(row.hash_ids), size)
    request = Request(
        where=where,
        prompt_tokens=row.input_length,
        output_tokens=row.output_length,
        ids=ids.of(row.hash_ids, path),
    )
    held.rows.append((row, request))
    if row.request_id is not None:
        if row.request_id in held.by_id:
            raise UserError(
                f"{where}: request_id {row.request_id!r} stands at {held.by_id[row.request_id].where}"
            )
        held.by_id[row.request_id] = request
    session = row.session_id or f"request {row.request_id}"
    turns = held.by_session.setdefault(session, [])
    held.place[id(request)] = len(turns)
    turns.append((row, request))
    held.session_of[id(request)] = session


def _tie(held: _Rows, row: _Row, request: Request) -> None:
    """What the row waits for, what it continues, and what the pause before it was."""
    for name in row.wait_for:
        if name not in held.by_id:
            raise UserError(
                f"{request.where}: waits for {name!r}, which is not in the file (valid: a request_id)"
            )
        request.after.append(held.by_id[name])
    turns = held.by_session[held.session_of[id(request)]]
    index = held.place[id(request)]
    earlier = turns[index - 1] if index else None
    if row.request_id is None and earlier is not None:
        request.after.append(earlier[1])
    if not request.after:
        request.start_s = (row.timestamp or 0.0) / 1000
        return
    request.gap_s = _pause_ms(row, earlier) / 1000
    if not row.prefix_reset:
        _continue(held, request)
    if request.context is not None:
        events = [(event.tool_class, event.duration_ms / 1000) for event in row.tool_events]
        request.context.tool = tool_of_events(events, request.gap_s)


def _pause_ms(row: _Row, earlier: tuple[_Row, Request] | None) -> float:
    """Explicit, else for a turn the distance of the time stamps, as Dynamo does."""
    if row.delay is None and row.tool_wait_ms is None and row.request_id is None and earlier is not None:
        before = earlier[0].timestamp
        return 0.0 if row.timestamp is None or before is None else max(0.0, row.timestamp - before)
    return (row.delay or 0.0) + (row.tool_wait_ms or 0.0)


def _continue(held: _Rows, request: Request) -> None:
    """Its own session's request among those it waits for, else the one it shares most blocks with."""

    def closeness(parent: Request) -> tuple[bool, int]:
        same = held.session_of[id(parent)] == held.session_of[id(request)]
        return same, common(parent.ids, request.ids)

    request.context = max(request.after, key=closeness)


def _workflows(held: _Rows, path: Path, size: int, options: ImportOptions) -> Iterator[Workflow]:
    stem = path.name.partition(".")[0]
    groups = [ordered(group, lambda r: r.start_s or 0.0) for group in _families(held)]
    groups.sort(key=lambda group: group[0].start_s or 0.0)
    first_s = groups[0][0].start_s or 0.0
    for number, group in enumerate(groups):
        _name_agents(held, group)
        started_s = group[0].start_s or 0.0
        yield options.workflow(
            workflow_id=f"{stem}/{number:05d}",
            source=stem,
            workload="coding-agent",
            harness="dynamo",
            arrival_s=round(started_s - first_s, 6),
            block_size=size,
            timing="partial",
            steps=steps(group, size, started_s),
        )


def _name_agents(held: _Rows, group: Sequence[Request]) -> None:
    names: dict[str, str] = {}
    for request in group:
        session = held.session_of[id(request)]
        request.agent = names.setdefault(session, f"agent-{len(names)}" if names else "main")


def _families(held: _Rows) -> list[list[Request]]:
    """Requests that are tied by session or by waiting: one workflow each, in file order."""
    leader: dict[int, int] = {id(request): id(request) for _, request in held.rows}

    def find(key: int) -> int:
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for _, request in held.rows:
        for parent in request.after:
            leader[find(id(request))] = find(id(parent))
    for turns in held.by_session.values():
        for _, request in turns[1:]:
            leader[find(id(request))] = find(id(turns[0][1]))
    families: dict[int, list[Request]] = {}
    for _, request in held.rows:
        families.setdefault(find(id(request)), []).append(request)
    return list(families.values())
