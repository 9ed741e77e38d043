"""What a workflow will take of the engines: what a client that knows its own program can declare."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from saga_core.costs import CostTable
from saga_sim.trace.records import Workflow, shared_tokens


def work_s(costs: CostTable, workflow: Workflow) -> float:
    """Engine seconds of useful work, as the head counts it: nothing is computed twice."""
    total = 0.0
    for step in workflow.steps:
        known = 0
        if step.ctx_parent is not None:
            parent = workflow.steps[step.ctx_parent]
            known = shared_tokens(workflow, step)
            if known == parent.prompt_tokens:
                known = min(known + parent.output_tokens, step.prompt_tokens - 1)
        total += costs.work_s(known, step.prompt_tokens, step.output_tokens)
    return total


def told(costs: CostTable, sigma: float = 0.0, seed: int = 0) -> Callable[[Workflow], float]:
    """What a workflow declares: its work, wrong by a log-normal factor of that `sigma`."""

    def declared(workflow: Workflow) -> float:
        error = Random(f"{seed}/{workflow.workflow_id}").lognormvariate(0.0, sigma) if sigma else 1.0  # noqa: S311
        return work_s(costs, workflow) * error

    return declared
