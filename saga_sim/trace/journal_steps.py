"""Calls of a journal as steps: what they share, whom they follow, when. The rules stand in `journal.py`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from saga_core.aeg import ANSWER, UNKNOWN
from saga_sim.trace.records import MAX_NAME_CHARS, Step, Tool

DECIMALS = 6
# Cache reads are whole blocks, and the last token is always computed: within the largest default block
# of an engine (vLLM on CPU: 128 tokens) a read of the parent's prompt is a read of all of it.
BLOCK_SLACK_TOKENS = 128
KEY_BYTES = 8


@dataclass(slots=True, eq=False)
class Call:
    """A step that arrived; then what it used."""

    session: str
    model: str
    started_at: float
    ended_at: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None
    ttft_s: float | None = None
    after: list["Call"] = field(default_factory=list)
    joins: list["Call"] = field(default_factory=list)
    """Last steps so far of sessions that its own had opened."""
    context: "Call | None" = None
    tool: str = UNKNOWN
    """What its answer asked for."""
    brings: str = UNKNOWN
    """The tool whose result it says to bring."""


def steps_of(calls: list[Call], kind: str, submitted_at: float) -> Iterator[Step]:
    """The steps of a workflow of `kind`, from its calls in order of their start."""
    number = {id(call): index for index, call in enumerate(calls)}
    final = {call.session: id(call) for call in calls}
    appending = _appending(calls)
    for call in calls:
        call.joins = [other for other in call.joins if final[other.session] == id(other)]
    pauses = _pauses(calls)
    for index, call in enumerate(calls):
        context = call.context
        shared, reuse = (0, None) if context is None else _shared(call, context, call.session in appending)
        parents = sorted({number[id(parent)] for parent in (*call.after, *call.joins)})
        ts_s, llm_s, gap_s = _times(call, [calls[parent] for parent in parents], submitted_at)
        yield Step(
            id=index,
            ctx_parent=number[id(context)] if context is not None and shared else None,
            parents=tuple(parents),
            agent=_agent(call.session, kind),
            prompt_tokens=call.prompt_tokens,
            new_prompt_tokens=call.prompt_tokens - shared,
            output_tokens=call.output_tokens,
            model=named(call.model.rpartition("/")[2] if call.model.startswith("/") else call.model) or None,
            cached_tokens=None if call.cached_tokens is None else min(call.cached_tokens, call.prompt_tokens),
            reuse=reuse,
            compacted=context is not None and not shared,
            ts_s=ts_s,
            llm_s=llm_s,
            ttft_s=None if call.ttft_s is None else round(max(0.0, call.ttft_s), DECIMALS),
            gap_s=gap_s,
            tool=pauses.get(id(call)),
        )


def _appending(calls: Iterable[Call]) -> set[str]:
    """Sessions whose engine once found the whole last prompt in its cache, or never says what it found."""
    silent: set[str] = set()
    proven: set[str] = set()
    refuted: set[str] = set()
    for call in calls:
        if call.context is None or call.cached_tokens is None:
            silent.add(call.session)
        elif call.cached_tokens > call.context.prompt_tokens - BLOCK_SLACK_TOKENS:
            proven.add(call.session)
        else:
            refuted.add(call.session)
    return proven | (silent - refuted)


def _shared(call: Call, context: Call, appends: bool) -> tuple[int, Literal["reported", "append"] | None]:
    """Tokens of the prompt that are the context's prompt again, and what says so: rule 1 of this file."""
    whole, read = context.prompt_tokens, call.cached_tokens or 0
    most = min(whole, call.prompt_tokens - 1)
    if read > whole - BLOCK_SLACK_TOKENS and call.prompt_tokens > whole:
        return most, "reported"
    holds_output = call.prompt_tokens >= whole + context.output_tokens
    if appends and (holds_output or (call.cached_tokens is None and call.prompt_tokens > whole)):
        return most, "append"
    return (min(read, most), "reported") if read else (0, None)


def _pauses(calls: Iterable[Call]) -> dict[int, Tool]:
    """What stood between a step and the next one of its session."""
    pauses: dict[int, Tool] = {}
    for call in calls:
        if call.context is None:
            continue
        ended_at = max(other.ended_at for other in (call.context, *call.joins))
        latency_s = round(max(0.0, call.started_at - ended_at), DECIMALS)
        tool = call.context.tool or call.brings
        kind: Literal["tool", "user", "subagent"] = "user" if tool == ANSWER else "tool"
        if call.joins:
            kind = "subagent"
        name = None if tool in (ANSWER, UNKNOWN) else named(tool) or None
        pauses.setdefault(id(call.context), Tool(kind=kind, name=name, latency_s=latency_s))
    return pauses


def _times(call: Call, parents: list[Call], submitted_at: float) -> tuple[float, float, float]:
    """Start after the submission, duration, and pause since the last of its parents ended, in seconds."""

    def since(at: float) -> float:
        return round(max(0.0, at - submitted_at), DECIMALS)

    start_s = since(call.started_at)
    ends = [since(parent.ended_at) for parent in parents]
    gap_s = round(max(0.0, start_s - max(ends)), DECIMALS) if ends else 0.0
    return start_s, round(since(call.ended_at) - start_s, DECIMALS), gap_s


def _agent(session: str, kind: str) -> str:
    """The session's name; a replay's sessions are `<agent>.<first step>`, and the agent is meant."""
    agent, _, first = session.rpartition(".")
    return named(agent if kind == "replay" and agent and first.isdigit() else session) or "main"


def named(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:MAX_NAME_CHARS]


def hashed(key: str) -> str:
    """A client's own key, unreadable but the same each time."""
    return blake2b(key.encode(), digest_size=KEY_BYTES).hexdigest()
