"""What the steps of a recording asked for, as a gateway sees it in their answers."""

from __future__ import annotations

from saga_core.aeg import ANSWER, UNKNOWN
from saga_sim.trace.records import Step, Workflow, session_names


def tools_of(workflow: Workflow) -> tuple[str, ...]:
    """What each step asked for; a session's last step asked for nothing more."""
    names = session_names(workflow)
    last = {name: index for index, name in enumerate(names)}
    return tuple(
        _tool(step, last=step.id == last[name]) for step, name in zip(workflow.steps, names, strict=True)
    )


def _tool(step: Step, *, last: bool) -> str:
    if step.tool is None:
        return ANSWER if last else UNKNOWN  # in the middle: the recording does not say
    return ANSWER if step.tool.kind == "user" else step.tool.name or UNKNOWN
