"""Which steps are not taken in, and what their clients are told. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saga_core.actions import Refuse
from saga_core.book import SESSIONS, Workflow
from saga_core.events import StepArrived
from saga_core.ids import StepId
from saga_core.states import WorkflowState


def no_such_model(step: StepId, model: str, have: Iterable[str], partly: Sequence[str] = ()) -> Refuse:
    """Nobody serves `model`, or of the workers of one model only `partly` do."""
    message = f"the model {model!r} does not exist (have: {', '.join(have)})"
    if partly:
        message = (
            f"the adapter {model!r} is on {', '.join(partly)} and not on the other workers of the same model: give it to "
            f"all of them, or workers.served_name another name (have: {', '.join(have)})"
        )
    return Refuse(step, 404, "invalid_request_error", "model_not_found", message)


def adapter_known_now(step: StepId, adapter: str, model: str) -> Refuse:
    """It waited under a name that is now known to be an adapter's."""
    message = f"{adapter!r} is an adapter of {model!r}, whose workers are ready now: ask again"
    return Refuse(step, 503, "overloaded_error", "model_starting", message, retry_after_s=1)


def of_workflow(event: StepArrived, workflow: Workflow | None, *, closing: bool) -> Refuse | None:
    """Why the workflow of this step, `workflow` if it is known, takes no step; `closing`: no new workflow may begin."""
    step = event.step
    if event.workflow is not None and (workflow is None or workflow.tenant != event.tenant):
        message = f"workflow {event.workflow} is not known to this cluster"
        return Refuse(step, 404, "invalid_request_error", "workflow_not_found", message)
    if workflow is None:
        message = "this cluster is being taken down and takes no new workflows"
        return Refuse(step, 503, "overloaded_error", "closing", message) if closing else None
    if not workflow.live or workflow.state is WorkflowState.CANCELLING:
        message = f"workflow {workflow.id} takes no more steps: it is {workflow.state}"
        return Refuse(step, 409, "invalid_request_error", "workflow_over", message)
    if event.session not in workflow.sessions and len(workflow.sessions) >= SESSIONS:
        message = f"workflow {workflow.id} has {SESSIONS} sessions already"
        return Refuse(step, 429, "rate_limit_error", "too_many_sessions", message)
    return None


def queue_full(step: StepId, held: int) -> Refuse:
    """So many wait already."""
    message = f"{held} steps wait already"
    return Refuse(step, 503, "overloaded_error", "queue_full", message, retry_after_s=5)
