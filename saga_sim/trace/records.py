"""The records of a trace file, format version 1: one workflow per line, its steps inside.

The field names on the wire are the file format's own (`task_id`, `calls`, `v`); in code we say
workflow and step. What a single record can get wrong is a bound here; what records can get wrong
about each other (parents, shared prefixes, times, block lists) is in `checks.py`.
"""

from typing import Annotated, Literal

import msgspec

FORMAT_VERSION = 1

# Bounds on what a stranger's file may ask of us: a step above 16 Mi tokens or a week-long name
# is no recording of an agent. Longest prompt in the public traces: 0.2 M tokens.
MAX_STEP_TOKENS = 1 << 24
MAX_NAME_CHARS = 256
MAX_STEPS = 100_000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Label = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP_TOKENS)]
TokensOrNone = Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP_TOKENS)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
StepId = Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEPS)]
BlockRun = tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP_TOKENS)]]

Workload = Literal[
    "coding-agent",
    "swe-agent",
    "web-agent",
    "chat-tools",
    "search-agent",
    "data-agent",
    "terminal-agent",
    "prod-chat",
    "prod-code",
]


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What happened between a step and the next one of the same agent.

    `latency_s`: end of the step to start of the next; null = unknown. For a sub-agent it is only
    the remainder after the last of its steps. `n` and `parts` tell parallel tool calls apart.
    """

    kind: Literal["tool", "user", "subagent"]
    name: Label | None
    latency_s: Seconds | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    parts: tuple[tuple[Label, Seconds | None], ...] | None = None


class Blocks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Block ids of a prompt: the first `keep` ids of the context parent's list, then runs (start, length)."""

    keep: Annotated[int, msgspec.Meta(ge=0)]
    add: tuple[BlockRun, ...]


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One LLM call. `new_prompt_tokens` is the prompt less the longest prefix shared with the PROMPT of
    `ctx_parent`, so it holds the parent's own output re-fed as input plus what the tool returned.
    """

    id: StepId
    ctx_parent: StepId | None
    parents: tuple[StepId, ...]
    agent: Name
    prompt_tokens: Tokens
    new_prompt_tokens: Tokens
    output_tokens: Tokens
    model: Label | None = None
    reasoning_tokens: TokensOrNone | None = None
    cached_tokens: TokensOrNone | None = None
    reuse: Literal["reported", "append"] | None = None
    compacted: bool = False
    shared_prefix_group: Label | None = None
    shared_prefix_tokens: TokensOrNone | None = None
    ts_s: Seconds | None = None
    llm_s: Seconds | None = None
    ttft_s: Seconds | None = None
    step_s: Seconds | None = None
    gap_s: Seconds | None = None
    tool: Tool | None = None
    blocks: Blocks | None = None


class Workflow(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={"version": "v", "workflow_id": "task_id", "steps": "calls"},
):
    """One run of an agent program, as recorded. `arrival_s`: seconds after the first one of the file."""

    version: Literal[1]
    workflow_id: Name
    source: Label
    workload: Workload
    harness: Label
    tenant: Label | None
    arrival_s: Seconds | None
    block_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None
    hash_scope: Literal["task", "source"] | None
    tokens: Literal["reported", "reported+o200k_base", "o200k_base", "estimated"]
    timing: Literal["measured", "partial", "none"]
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]
    campaign: Label | None = None
    instance: Label | None = None
    org: Label | None = None

    @property
    def agent_type(self) -> str:
        """The class of workflows this one shares its patterns with: the program that made it."""
        return self.harness


def shared_tokens(workflow: Workflow, step: Step) -> int:
    """Tokens that the step's prompt shares with the prompt of its context parent (0 for a new context).

    Prompt minus new tokens, as the file says, with one repair: a source that compares prompts by
    block hashes only sees whole blocks. If what is missing to the parent's whole prompt is less than
    one block, the prompt was appended to, and the shared prefix is the parent's whole prompt.
    """
    if step.ctx_parent is None:
        return 0
    shared = step.prompt_tokens - step.new_prompt_tokens
    whole = workflow.steps[step.ctx_parent].prompt_tokens
    block = workflow.block_size if step.blocks is not None and workflow.block_size else 1
    return whole if shared > whole - block and whole < step.prompt_tokens else shared


def session_names(workflow: Workflow) -> tuple[str, ...]:
    """Each step's session: one growing context. Named `<agent>.<first step>`.

    A step stays in its context parent's session if that session had come to rest (its latest step
    is among the step's parents). A new context (start, sub-agent, after compaction) and a branch
    beside a running session each open their own.
    """
    names: list[str] = []
    latest: dict[str, int] = {}
    for step in workflow.steps:
        inherited = names[step.ctx_parent] if step.ctx_parent is not None else None
        goes_on = inherited is not None and latest[inherited] in step.parents
        name = inherited if inherited is not None and goes_on else f"{step.agent}.{step.id}"
        latest[name] = step.id
        names.append(name)
    return tuple(names)
