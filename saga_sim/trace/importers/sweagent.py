"""SWE-agent's `.traj` files: one JSON document per run.

Source of the format: github.com/SWE-agent/SWE-agent, sweagent/types.py (TrajectoryStep, HistoryItem) and
docs/usage/trajectories.md. From 1.1.0 a step holds `query`, the messages as the model saw them; 1.0 holds
`messages`, what it saw at the next step; before, prompts are the `history` up to each answer, without what a
history processor took out.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.importers.lines import decoded, whole
from saga_sim.trace.importers.options import Imported, ImportOptions
from saga_sim.trace.importers.tokens import Counter, counter
from saga_sim.trace.records import Step, Tool, Workflow

VALID = "a .traj file of SWE-agent: an object with 'trajectory', 'history' or both"
TOOL_NAME = re.compile(r"[A-Za-z_][\w.+-]{0,63}")
GROUP_BYTES = 5


class Message(msgspec.Struct, frozen=True):
    """`content`: text, or parts of which those with text count. SWE-agent's `{}` stands for no message."""

    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    is_demo: bool = False
    action: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """One step of the trajectory. `execution_time` in seconds, 0 where it was not taken."""

    action: str | None = None
    thought: str | None = None
    response: str | None = None
    query: tuple[Message, ...] = ()
    messages: tuple[Message, ...] = ()
    execution_time: Annotated[float, msgspec.Meta(ge=0)] | None = None
    tool_calls: list[Any] | None = None


class Trajectory(msgspec.Struct, frozen=True):
    trajectory: tuple[Turn, ...] = ()
    history: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One LLM call: what the model saw, what it said, what was done then."""

    prompt: Sequence[Message]
    answer: str
    action: str | None
    execution_s: float | None


_decoder = msgspec.json.Decoder(Trajectory)


def read_sweagent(files: Sequence[Path], options: ImportOptions) -> Imported:
    """One workflow per file. Raises UserError for a file that is none or that has no call in it."""
    count = counter(options.tokenizer)
    taken: dict[str, int] = {}
    workflows: list[Workflow] = []
    for path in files:
        stem = path.name.removesuffix(".gz").removesuffix(".traj")[:200]
        taken[stem] = taken.get(stem, 0) + 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        workflows.append(_workflow(path, name, stem, count, options))
    return Imported(workflows=workflows)


def _workflow(path: Path, name: str, stem: str, count: Counter, options: ImportOptions) -> Workflow:
    told = decoded(_decoder, whole(path), str(path), VALID)
    made = tuple(_steps(list(_calls(told, path)), count))
    timed = any(step.tool is not None and step.tool.latency_s is not None for step in made)
    return options.workflow(
        workflow_id=f"swe-agent/{name}",
        source="swe-agent",
        workload="swe-agent",
        harness="swe-agent",
        arrival_s=None,
        timing="partial" if timed else "none",
        steps=made,
        tokens=count.name,
        instance=stem,
    )


def _calls(told: Trajectory, path: Path) -> Iterator[_Call]:
    prompts = _prompts(told.trajectory)
    if not prompts:
        yield from _by_history(told, path)
    for prompt, turn in prompts:
        yield _Call(prompt=prompt, answer=_answer(turn), action=turn.action, execution_s=turn.execution_time)


def _prompts(turns: Sequence[Turn]) -> Sequence[tuple[Sequence[Message], Turn]]:
    """What the model saw at each step, where the steps say it; empty where they do not.

    A step without a query among steps with one was no call (SWE-agent submits by itself at its limits).
    """
    asked = [(turn.query, turn) for turn in turns if any(message.role for message in turn.query)]
    if asked or not turns or not all(turn.messages for turn in turns):
        return asked
    first = turns[0].messages
    answers = [index for index, message in enumerate(first) if message.role == "assistant"]
    opening = first[: answers[-1] if answers else len(first)]
    return list(zip((opening, *(turn.messages for turn in turns)), turns, strict=False))


def _by_history(told: Trajectory, path: Path) -> Iterator[_Call]:
    """The messages before each answer; steps tell the tools if there is one for each answer."""
    spoken = [i for i, m in enumerate(told.history) if m.role == "assistant" and not m.is_demo]
    if not spoken:
        raise UserError(
            f"{path}: no call: neither 'query' in a step nor 'messages' in all, nor an answer in 'history' (valid: {VALID})"
        )
    turns: Sequence[Turn | None] = (
        told.trajectory if len(spoken) == len(told.trajectory) else [None] * len(spoken)
    )
    for index, done in zip(spoken, turns, strict=True):
        message = told.history[index]
        yield _Call(
            prompt=told.history[:index],
            answer=_said(message),
            action=done.action if done is not None else message.action,
            execution_s=done.execution_time if done is not None else None,
        )


def _answer(turn: Turn) -> str:
    """What the model wrote: its response, and its tool calls as they stand."""
    text = turn.response or f"{turn.thought or ''}{turn.action or ''}"
    return text + (msgspec.json.encode(turn.tool_calls).decode() if turn.tool_calls else "")


def _said(message: Message) -> str:
    """A message's text with its tool calls."""
    calls = msgspec.json.encode(message.tool_calls).decode() if message.tool_calls else ""
    if message.content is None or isinstance(message.content, str):
        return (message.content or "") + calls
    return "".join(str(part.get("text", "")) for part in message.content) + calls


def _steps(calls: Sequence[_Call], count: Counter) -> Iterator[Step]:
    last: list[tuple[str, str]] = []
    for index, call in enumerate(calls):
        now = [(message.role, _said(message)) for message in call.prompt]
        same = next(
            (i for i, (a, b) in enumerate(zip(last, now, strict=False)) if a != b), min(len(last), len(now))
        )
        prompt = max(1, sum(count.message(text) for _, text in now))
        shared = min(sum(count.message(text) for _, text in now[:same]), prompt - 1)
        last = now
        yield Step(
            id=index,
            ctx_parent=index - 1 if shared else None,
            parents=(index - 1,) if index else (),
            agent="main",
            prompt_tokens=prompt,
            new_prompt_tokens=prompt - shared,
            output_tokens=max(1, count.text(call.answer)),
            tool=_tool(call, last=index == len(calls) - 1),
            **_system(now, count, prompt),
        )


def _system(messages: Sequence[tuple[str, str]], count: Counter, prompt_tokens: int) -> dict[str, Any]:
    """Who shares the system prompt, by a hash of it."""
    if not messages or messages[0][0] != "system":
        return {}
    text = messages[0][1]
    group = hashlib.blake2b(text.encode(), digest_size=GROUP_BYTES).hexdigest()
    return {"shared_prefix_group": group, "shared_prefix_tokens": min(count.message(text), prompt_tokens)}


def _tool(call: _Call, *, last: bool) -> Tool | None:
    """The tool's name is the first word of the action that looks like a command; nothing else of it is kept."""
    if last and not (call.action or "").strip():
        return None
    latency_s = round(call.execution_s, 6) if call.execution_s else None
    return Tool(kind="tool", name=tool_name(call.action or ""), latency_s=latency_s)


def tool_name(action: str) -> str | None:
    """`FOO=1 /usr/bin/python3 x.py` -> `python3`; None where the first word is no command's name."""
    words: list[str] = action.split(None, 8)[:8]
    while words and re.fullmatch(r"[A-Za-z_]\w*=\S*", words[0]):
        words.pop(0)
    base = words[0].rpartition("/")[2] if words else ""
    return base if TOOL_NAME.fullmatch(base) else None
