"""Pure changes of scale: a recording of 200k-token contexts over weeks made to fit an engine and an hour.

Every result passes the format's own checks. Token changes keep the prefix structure: what was
appended to its parent's prompt still is, what shared a part still shares that part, scaled.
Block lists count the original tokens, so a change of tokens drops them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from saga_core.errors import UserError
from saga_sim.trace.records import MAX_STEP_TOKENS, Step, Tool, Workflow, shared_tokens

# Times are written to the microsecond, as in the recordings.
DECIMALS = 6
# Halvings of the search for the largest factor that fits: 2^-30 is below one token of any prompt.
FIT_HALVINGS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What `--scale-tokens X --scale-time Y --max-context N …` ask for, applied in the order of the fields.

    take: at most that many workflows; cut_gap_s: end a workflow at a user gap longer than this;
    max_gap_s: no gap longer than this (before time is scaled); tokens, time: factors;
    max_context: prompt + output of every step, in tokens.
    """

    take: int | None = None
    cut_gap_s: float | None = None
    max_gap_s: float | None = None
    tokens: float = 1.0
    time: float = 1.0
    max_context: int | None = None


def rescale(workflows: Iterable[Workflow], scaling: Scaling) -> list[Workflow]:
    """All the changes of `scaling` on a set of workflows. Raises UserError for a scale that cannot be met."""
    chosen = list(workflows) if scaling.take is None else take_first(workflows, scaling.take)
    return [_rescale(workflow, scaling) for workflow in chosen]


def _rescale(workflow: Workflow, scaling: Scaling) -> Workflow:
    if scaling.cut_gap_s is not None:
        workflow = cut_at_user_gap(workflow, scaling.cut_gap_s)
    if scaling.max_gap_s is not None:
        workflow = clamp_gaps(workflow, scaling.max_gap_s)
    if scaling.tokens != 1.0:
        workflow = scale_tokens(workflow, scaling.tokens)
    if scaling.time != 1.0:
        workflow = scale_time(workflow, scaling.time)
    if scaling.max_context is not None:
        workflow = fit_context(workflow, scaling.max_context)
    return workflow


def take_first(workflows: Iterable[Workflow], count: int) -> list[Workflow]:
    """The first `count` workflows of a trace, in file order."""
    if count < 1:
        raise UserError(f"cannot take {count} workflows (valid: 1 or more)")
    return list(islice(workflows, count))


def scale_tokens(workflow: Workflow, factor: float) -> Workflow:
    """Every token count times `factor`, at least one token each. Raises UserError beyond the format's bounds."""
    _require_positive("token scale", factor)
    counts = _scaled_counts(workflow, factor)
    largest = max(max(count.prompt, count.output) for count in counts)
    if largest > MAX_STEP_TOKENS:
        raise UserError(
            f"workflow {workflow.workflow_id!r}: token scale {factor:g} makes a step of {largest} tokens "
            f"(limit {MAX_STEP_TOKENS})"
        )
    return _with_counts(workflow, counts, factor)


def fit_context(workflow: Workflow, max_context: int) -> Workflow:
    """Scale the whole workflow down, if need be, until prompt + output of every step fit in `max_context`.

    Raises UserError when even one token per piece does not fit (a long chain that only appends).
    """
    if _longest(_scaled_counts(workflow, 1.0)) <= max_context:
        return workflow
    low, high = 0.0, min(1.0, max_context / _longest(_scaled_counts(workflow, 1.0)))
    least = _longest(_scaled_counts(workflow, low))
    if least > max_context:
        raise UserError(
            f"workflow {workflow.workflow_id!r} cannot fit a context of {max_context} tokens: "
            f"its {len(workflow.steps)} steps need at least {least}"
        )
    if _longest(_scaled_counts(workflow, high)) <= max_context:
        low = high
    for _ in range(FIT_HALVINGS if low < high else 0):
        middle = (low + high) / 2
        fits = _longest(_scaled_counts(workflow, middle)) <= max_context
        low, high = (middle, high) if fits else (low, middle)
    return _with_counts(workflow, _scaled_counts(workflow, low), low)


def scale_time(workflow: Workflow, factor: float) -> Workflow:
    """Arrival, gaps, tool latencies and measured durations times `factor`: the recording on a faster clock."""
    _require_positive("time scale", factor)

    def scaled(value_s: float | None) -> float | None:
        return None if value_s is None else round(value_s * factor, DECIMALS)

    steps: list[Step] = []
    for step in workflow.steps:
        told = replace(
            step,
            ts_s=_not_before_parents(steps, step, scaled(step.ts_s)),
            **{name: scaled(getattr(step, name)) for name in ("llm_s", "ttft_s", "step_s", "gap_s")},
            tool=_with_latency(step.tool, scaled),
        )
        steps.append(_with_told_gap(steps, told))
    return replace(workflow, arrival_s=scaled(workflow.arrival_s), steps=tuple(steps))


def clamp_gaps(workflow: Workflow, max_gap_s: float) -> Workflow:
    """No gap or tool latency above `max_gap_s`. Measured starts no longer hold and are dropped, but for roots."""
    if max_gap_s < 0:
        raise UserError(f"longest gap {max_gap_s:g} s is negative")

    def clamped(value_s: float | None) -> float | None:
        return None if value_s is None else min(value_s, max_gap_s)

    def clamp(step: Step) -> Step:
        start_s = None if step.parents else step.ts_s
        return replace(step, ts_s=start_s, gap_s=clamped(step.gap_s), tool=_with_latency(step.tool, clamped))

    if all(clamp(step).gap_s == step.gap_s and clamp(step).tool == step.tool for step in workflow.steps):
        return workflow  # its measured starts hold
    return replace(workflow, steps=tuple(clamp(step) for step in workflow.steps))


def cut_at_user_gap(workflow: Workflow, longer_than_s: float) -> Workflow:
    """End the workflow where a person was away for longer than this: those steps and what follows from them go."""
    kept: dict[int, Step] = {}
    for step in workflow.steps:
        whole = all(parent in kept for parent in step.parents)
        if whole and not _after_user_gap(workflow, step, longer_than_s):
            kept[step.id] = step
    new_id = {old: new for new, old in enumerate(kept)}
    steps = tuple(
        replace(
            step,
            id=new_id[step.id],
            parents=tuple(new_id[parent] for parent in step.parents),
            ctx_parent=None if step.ctx_parent is None else new_id[step.ctx_parent],
        )
        for step in kept.values()
    )
    return replace(workflow, steps=steps)


def _after_user_gap(workflow: Workflow, step: Step, longer_than_s: float) -> bool:
    """Did any of the step's parents end in a user gap, and was it too long?"""
    for parent in step.parents:
        tool = workflow.steps[parent].tool
        if tool is not None and tool.kind == "user":
            gap_s = step.gap_s if step.gap_s is not None else tool.latency_s
            if gap_s is not None and gap_s > longer_than_s:
                return True
    return False


@dataclass(frozen=True, slots=True)
class _Counts:
    prompt: int
    new: int
    output: int


def _scaled_counts(workflow: Workflow, factor: float) -> list[_Counts]:
    """Scale in file order, so that a step's shared prefix is cut from its parent's scaled prompt."""
    counts: list[_Counts] = []
    for step in workflow.steps:
        shared = shared_tokens(workflow, step)
        if step.ctx_parent is not None:
            whole = shared == workflow.steps[step.ctx_parent].prompt_tokens
            limit = counts[step.ctx_parent].prompt
            shared = limit if whole else min(_times(shared, factor), limit)
        prompt = max(_times(step.prompt_tokens, factor), shared + 1)
        counts.append(_Counts(prompt, prompt - shared, max(1, _times(step.output_tokens, factor))))
    return counts


def _with_counts(workflow: Workflow, counts: list[_Counts], factor: float) -> Workflow:
    def scaled(value: int | None, limit: int) -> int | None:
        return None if value is None else min(_times(value, factor), limit)

    steps = tuple(
        replace(
            step,
            prompt_tokens=count.prompt,
            new_prompt_tokens=count.new,
            output_tokens=count.output,
            reasoning_tokens=scaled(step.reasoning_tokens, count.output),
            cached_tokens=scaled(step.cached_tokens, count.prompt),
            shared_prefix_tokens=scaled(step.shared_prefix_tokens, count.prompt),
            blocks=None,
        )
        for step, count in zip(workflow.steps, counts, strict=True)
    )
    return replace(workflow, steps=steps, block_size=None, hash_scope=None)


def _times(tokens: int, factor: float) -> int:
    return int(tokens * factor)


def _longest(counts: list[_Counts]) -> int:
    return max(count.prompt + count.output for count in counts)


def _with_latency(tool: Tool | None, change: Callable[[float | None], float | None]) -> Tool | None:
    if tool is None:
        return None
    parts = tool.parts and tuple((name, change(latency_s)) for name, latency_s in tool.parts)
    return replace(tool, latency_s=change(tool.latency_s), parts=parts)


def _not_before_parents(steps: list[Step], step: Step, start_s: float | None) -> float | None:
    """Rounding slack in a recording must not grow with the scale into a start before a parent's."""
    if start_s is None:
        return None
    starts = [steps[parent].ts_s for parent in step.parents]
    return max([start_s, *(start for start in starts if start is not None)])


def _with_told_gap(steps: list[Step], step: Step) -> Step:
    """The gap that follows from the scaled times, where all of them are known."""
    parents = [steps[parent] for parent in step.parents]
    ends = [p.ts_s + p.llm_s for p in parents if p.ts_s is not None and p.llm_s is not None]
    if step.gap_s is None or step.ts_s is None or not parents or len(ends) < len(parents):
        return step
    return replace(step, gap_s=round(max(0.0, step.ts_s - max(ends)), DECIMALS))


def _require_positive(what: str, factor: float) -> None:
    if not 0 < factor < float("inf"):
        raise UserError(f"{what} {factor:g} is not valid (valid: above 0)")
