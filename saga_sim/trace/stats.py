"""What a trace holds: counts, percentiles, the reusable share of its prompts, its tools."""

from collections.abc import Iterable, Sequence

import msgspec

from saga_sim.trace.records import Workflow, session_names, shared_tokens


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of a sample (linear between neighbours), in the sample's own unit."""

    count: int
    mean: float
    p10: float
    p50: float
    p90: float
    p99: float
    max: float


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """`reusable_share`: prompt tokens that extend a context parent's prompt, of all prompt tokens.
    `decode_reusable_share`: the same plus parents' outputs re-fed right behind it (engines that keep decode KV).
    `tools`: latency spread in seconds by `kind:name`, most frequent first; unknown latencies are counted only.
    """

    workflows: int
    steps: int
    sessions: int
    tenants: int
    agent_types: dict[str, int]
    steps_per_workflow: Spread
    prompt_tokens: Spread
    new_prompt_tokens: Spread
    output_tokens: Spread
    context_tokens_max: int
    reusable_share: float
    decode_reusable_share: float
    span_s: float | None
    tools: dict[str, Spread]
    tools_of_unknown_latency: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of a rising row, linear between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    row = sorted(values)
    at = {f"p{share}": percentile(row, share / 100) for share in (10, 50, 90, 99)}
    return Spread(count=len(row), mean=sum(row) / len(row), max=row[-1], **at)


def trace_stats(workflows: Sequence[Workflow]) -> Stats:
    """Statistics over at least one workflow."""
    steps = [step for workflow in workflows for step in workflow.steps]
    arrivals = [workflow.arrival_s for workflow in workflows if workflow.arrival_s is not None]
    prompt = sum(step.prompt_tokens for step in steps)
    shared = [_shared(workflow) for workflow in workflows]
    tools, unknown = _tools(workflows)
    return Stats(
        workflows=len(workflows),
        steps=len(steps),
        sessions=sum(len(set(session_names(workflow))) for workflow in workflows),
        tenants=len({workflow.tenant for workflow in workflows if workflow.tenant is not None}),
        agent_types=_agent_types(workflows),
        steps_per_workflow=spread(len(workflow.steps) for workflow in workflows),
        prompt_tokens=spread(step.prompt_tokens for step in steps),
        new_prompt_tokens=spread(step.new_prompt_tokens for step in steps),
        output_tokens=spread(step.output_tokens for step in steps),
        context_tokens_max=max(step.prompt_tokens + step.output_tokens for step in steps),
        reusable_share=sum(of_prompt for of_prompt, _ in shared) / prompt,
        decode_reusable_share=sum(of_prompt + of_output for of_prompt, of_output in shared) / prompt,
        span_s=max(arrivals) - min(arrivals) if arrivals else None,
        tools=tools,
        tools_of_unknown_latency=unknown,
    )


def _agent_types(workflows: Sequence[Workflow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for workflow in workflows:
        counts[workflow.agent_type] = counts.get(workflow.agent_type, 0) + 1
    return counts


def _shared(workflow: Workflow) -> tuple[int, int]:
    """Prompt tokens shared with context parents' prompts, and with their outputs right behind."""
    of_prompt = of_output = 0
    for step in workflow.steps:
        if step.ctx_parent is None:
            continue
        parent = workflow.steps[step.ctx_parent]
        shared = shared_tokens(workflow, step)
        of_prompt += shared
        if shared == parent.prompt_tokens:
            of_output += min(parent.output_tokens, step.prompt_tokens - shared)
    return of_prompt, of_output


def _tools(workflows: Sequence[Workflow]) -> tuple[dict[str, Spread], int]:
    latencies: dict[str, list[float]] = {}
    unknown = 0
    for tool in (step.tool for workflow in workflows for step in workflow.steps):
        if tool is None:
            continue
        if tool.latency_s is None:
            unknown += 1
        else:
            latencies.setdefault(f"{tool.kind}:{tool.name or '-'}", []).append(tool.latency_s)
    ordered = sorted(latencies.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: spread(row) for name, row in ordered}, unknown
