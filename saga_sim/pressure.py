"""How hard a workload presses on a cluster's KV memory, independent of any policy (Little's law).

A workflow that ran alone would hold its contexts for some time; the integral of tokens over seconds, times the arrival
rate, is the mean number of tokens that want to be in memory at once. Pressure is that over the cluster's capacity.
"""

from __future__ import annotations

from collections.abc import Sequence

from saga_core.errors import UserError
from saga_sim.costs import Preset
from saga_sim.pacing import Pace
from saga_sim.trace.records import Step, Workflow, shared_tokens


def step_alone_s(preset: Preset, workflow: Workflow, step: Step) -> float:
    """Seconds of one step on an idle engine that still has all the workflow had computed."""
    costs, cached = preset.costs, 0
    if step.ctx_parent is not None:
        parent = workflow.steps[step.ctx_parent]
        cached = shared_tokens(workflow, step)
        if cached == parent.prompt_tokens:
            cached = min(cached + parent.output_tokens, step.prompt_tokens - 1)
    fresh = step.prompt_tokens - cached
    chunks = -(-fresh // preset.shape.step_tokens)
    prefill_s = chunks * costs.step_s + costs.chunk_s(cached, fresh)
    context = step.prompt_tokens + step.output_tokens / 2
    decode_s = costs.step_s + costs.decode_s + costs.context_token_s * context
    return prefill_s + (step.output_tokens - 1) * decode_s


def token_seconds(preset: Preset, pace: Pace, workflow: Workflow) -> float:
    """Context tokens over time of a workflow that runs alone; the shared system prompt is not its own."""
    total = 0.0
    for step in workflow.steps:
        own = step.prompt_tokens + step.output_tokens - (step.shared_prefix_tokens or 0)
        total += step_alone_s(preset, workflow, step) * max(0, own)
        if step.ctx_parent is not None:
            parent = workflow.steps[step.ctx_parent]
            held = parent.prompt_tokens + parent.output_tokens - (parent.shared_prefix_tokens or 0)
            total += pace.gap_s(workflow, step) * max(0, held)
    return total


def arrival_rate(
    preset: Preset, workers: int, pace: Pace, workflows: Sequence[Workflow], pressure: float
) -> float:
    """Workflows per second at which this workload has that pressure."""
    if not 0 < pressure < float("inf"):
        raise UserError(f"pressure {pressure:g} is not valid (valid: above 0)")
    mean = sum(token_seconds(preset, pace, workflow) for workflow in workflows) / len(workflows)
    return pressure * workers * preset.shape.capacity_tokens / mean


def pressure_of(
    preset: Preset, workers: int, pace: Pace, workflows: Sequence[Workflow], arrivals: Sequence[float]
) -> float | None:
    """The pressure of these arrivals; None when they all come at once, which has no rate."""
    span_s = max(arrivals) - min(arrivals)
    if not span_s:
        return None
    total = sum(token_seconds(preset, pace, workflow) for workflow in workflows)
    return total / span_s / (workers * preset.shape.capacity_tokens)
