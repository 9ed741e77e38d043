"""What happened between two requests of a session: the tools that were seen, else what the model asked for."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from saga_sim.trace.importers.dynamo_records import FinishReason
from saga_sim.trace.importers.requests import Request
from saga_sim.trace.records import MAX_NAME_CHARS, Tool

Part = tuple[str, float | None]


@dataclass(frozen=True, slots=True)
class ToolSpan:
    """A tool as its harness recorded it, in seconds on the trace's clock."""

    name: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Spans:
    """The tools of one session: by the request that took the result up where that is known, else by their end."""

    by_consumer: dict[str, list[ToolSpan]] = field(default_factory=dict)
    by_end: list[ToolSpan] = field(default_factory=list)

    def sort(self) -> None:
        self.by_end.sort(key=lambda span: span.end_s)

    def before(self, request: Request, request_id: str, since_s: float) -> list[ToolSpan]:
        """Dynamo's window: ended after `since_s` (start of the request before) and not after `request` started."""
        until_s = request.start_s or 0.0
        low = bisect_right(self.by_end, since_s, key=lambda span: span.end_s)
        high = bisect_right(self.by_end, until_s, key=lambda span: span.end_s)
        return [*self.by_consumer.get(request_id, ()), *self.by_end[low:high]]


def describe(
    request: Request, following: Request, seen: Sequence[ToolSpan], reason: FinishReason | None
) -> Tool:
    """The pause after `request`: its kind, the slowest tool's name, how long it was."""
    joined = [parent.end_s or 0.0 for parent in following.after if parent.agent != following.agent]
    ended_s = max([request.end_s or 0.0, *joined])
    latency_s = round(max(0.0, (following.start_s or 0.0) - ended_s), 6)
    parts: list[Part] = [(span.name[:MAX_NAME_CHARS], round(span.end_s - span.start_s, 6)) for span in seen]
    if joined:
        return Tool(kind="subagent", name=_slowest(parts), latency_s=latency_s)
    if parts:
        return _called(parts, _slowest(parts), latency_s)
    calls = reason.tool_calls if reason is not None else ()
    if calls:
        asked = [(call.name or "")[:MAX_NAME_CHARS] for call in calls]
        name = asked[0] if len(set(asked)) == 1 and asked[0] else None
        return _called([(name, None) for name in asked], name, latency_s)
    over = reason is not None and reason.finish_reason == "stop"
    return Tool(kind="user" if over else "tool", name=None, latency_s=latency_s)


def tool_of_events(events: Sequence[Part], gap_s: float) -> Tool:
    """A pause whose tools are told as (class, seconds)."""
    parts = [(name[:MAX_NAME_CHARS], lasted_s) for name, lasted_s in events]
    return _called(parts, _slowest(parts), round(gap_s, 6))


def _called(parts: Sequence[Part], name: str | None, latency_s: float) -> Tool:
    if len(parts) < 2:
        return Tool(kind="tool", name=name, latency_s=latency_s)
    return Tool(kind="tool", name=name, latency_s=latency_s, n=len(parts), parts=tuple(parts))


def _slowest(parts: Sequence[Part]) -> str | None:
    return max(parts, key=lambda part: part[1] or 0.0)[0] if parts else None
