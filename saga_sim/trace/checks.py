"""What the records of one workflow must say consistently; the same rules as the public checker."""

from collections.abc import Iterator

from saga_sim.trace.records import Step, Workflow

# Rounding in the files: starts to the microsecond, gaps to the hundredth (a gap is the
# difference of two rounded times).
START_SLACK_S = 1e-6
GAP_SLACK_S = 0.01


def faults(workflow: Workflow) -> Iterator[str]:
    """Every contradiction between the steps of a workflow, as `step N: what is wrong (what is valid)`."""
    blocks: list[int | None] = []
    for index, step in enumerate(workflow.steps):
        if step.id != index:
            yield f"step {index}: id is {step.id} (ids count up from 0 in file order)"
            return
        links = list(_link_faults(step))
        yield from (f"step {index}: {fault}" for fault in links)
        if links:
            return  # the rest follows the links
        for fault in (*_count_faults(workflow, step), *_time_faults(workflow, step)):
            yield f"step {index}: {fault}"
        held, wrong = _blocks_held(workflow, step, blocks)
        blocks.append(held)
        yield from (f"step {index}: {fault}" for fault in wrong)


def _link_faults(step: Step) -> Iterator[str]:
    late = [parent for parent in step.parents if parent >= step.id]
    if late:
        yield f"parent {late[0]} does not precede it (valid: 0 to {step.id - 1})"
    if any(a >= b for a, b in zip(step.parents, step.parents[1:], strict=False)):
        yield f"parents {list(step.parents)} are not in rising order, each once"
    if step.ctx_parent is not None and step.ctx_parent not in step.parents:
        yield f"ctx_parent {step.ctx_parent} is not one of its parents {list(step.parents)}"


def _count_faults(workflow: Workflow, step: Step) -> Iterator[str]:
    prompt, new = step.prompt_tokens, step.new_prompt_tokens
    if new > prompt:
        yield f"new_prompt_tokens {new} exceeds prompt_tokens {prompt}"
    elif step.ctx_parent is None and new != prompt:
        yield f"ctx_parent is null, so new_prompt_tokens must be prompt_tokens {prompt}, not {new}"
    elif step.ctx_parent is not None and prompt - new > workflow.steps[step.ctx_parent].prompt_tokens:
        whole = workflow.steps[step.ctx_parent].prompt_tokens
        yield f"shares {prompt - new} tokens with step {step.ctx_parent}, whose prompt has {whole}"
    for name, count in (("cached", step.cached_tokens), ("shared_prefix", step.shared_prefix_tokens)):
        if count is not None and count > prompt:
            yield f"{name}_tokens {count} exceeds prompt_tokens {prompt}"


def _time_faults(workflow: Workflow, step: Step) -> Iterator[str]:
    if step.ts_s is None:
        return
    parents = [workflow.steps[parent] for parent in step.parents]
    for parent in parents:
        if parent.ts_s is not None and step.ts_s < parent.ts_s - START_SLACK_S:
            yield f"ts_s {step.ts_s} is before its parent {parent.id} started at {parent.ts_s}"
    ends = [p.ts_s + p.llm_s for p in parents if p.ts_s is not None and p.llm_s is not None]
    if step.gap_s is None or not parents or len(ends) < len(parents):
        return
    gap_s = max(0.0, step.ts_s - max(ends))
    if abs(gap_s - step.gap_s) > GAP_SLACK_S:
        yield f"gap_s {step.gap_s} is not the {gap_s:.3f} s between its parents' end and its start"


def _blocks_held(workflow: Workflow, step: Step, held: list[int | None]) -> tuple[int | None, list[str]]:
    """Length of the step's block list, and what is wrong with it."""
    if step.blocks is None:
        return None, []
    size = workflow.block_size
    if size is None:
        return None, ["has blocks, but the workflow has no block_size"]
    base = held[step.ctx_parent] if step.ctx_parent is not None else 0
    keep = step.blocks.keep
    if base is None or keep > base:
        return None, [f"keeps {keep} blocks of a context parent that lists {base or 0}"]
    count = keep + sum(length for _, length in step.blocks.add)
    wrong = []
    if abs(count * size - step.prompt_tokens) > 2 * size:
        wrong.append(f"lists {count} blocks of {size} tokens for a prompt of {step.prompt_tokens}")
    shared = step.prompt_tokens - step.new_prompt_tokens
    if step.ctx_parent is not None and abs(keep * size - shared) > size:
        wrong.append(f"keeps {keep} blocks of {size} tokens where it shares {shared} tokens")
    return count, wrong
