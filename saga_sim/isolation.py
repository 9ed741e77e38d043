"""How long a workflow takes alone on one worker that has computed nothing before: computed from costs, not simulated.

A lone engine step takes what the cost table says, so a step's time is known once it is known what the cache holds: with
nobody else there, all blocks that the workflow's own earlier steps computed. A workflow's time is then the longest way
through its steps and gaps. Two things are left out: steps of one workflow that run beside each other do not slow each
other down, and its contexts always fit the pool. Both make the result a lower bound (docs/simulator.md says by how much).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saga_sim.cluster import Link
from saga_sim.costs import Preset
from saga_sim.pacing import Pace
from saga_sim.streams import Contexts, Groups, Piece, Stream
from saga_sim.trace.records import Step, Workflow


def isolated_s(preset: Preset, link: Link, pace: Pace, workflows: Sequence[Workflow]) -> list[float]:
    """Seconds from each workflow's arrival to the end of its last step, were it alone."""
    return [longest_way_s(workflow, pace, steps_s(preset, link, workflow)) for workflow in workflows]


def steps_s(preset: Preset, link: Link, workflow: Workflow) -> list[float]:
    """Seconds of each step, from the client's call to its last token there, on an engine that serves nothing else."""
    cache = _Unbounded()
    contexts = Contexts(workflow, Groups(), preset.shape.block_tokens)
    there_and_back_s = 2 * (link.client_s + link.worker_s)
    return [
        there_and_back_s + engine_s(preset, step, cache.serve(contexts, step, preset.shape.block_tokens))
        for step in workflow.steps
    ]


def longest_way_s(workflow: Workflow, pace: Pace, durations_s: Sequence[float]) -> float:
    """Seconds to the end of the last step if each takes so long and none ever waits: the replay rules of `pacing`."""
    ends_s: list[float] = []
    for step, duration_s in zip(workflow.steps, durations_s, strict=True):
        if step.parents:
            start_s = max(ends_s[parent] for parent in step.parents) + pace.gap_s(workflow, step)
        else:
            start_s = (step.ts_s or 0.0) * pace.time_scale
        ends_s.append(start_s + duration_s)
    return max(ends_s)


def engine_s(preset: Preset, step: Step, cached_tokens: int) -> float:
    """Seconds of one call on an idle engine: a prefill in chunks, then one engine step for each further token."""
    costs, fresh = preset.costs, step.prompt_tokens - cached_tokens
    chunks = -(-fresh // preset.shape.step_tokens)
    more = step.output_tokens - 1
    contexts = more * step.prompt_tokens + more * (more - 1) / 2
    prefill_s = (
        costs.intake_s(step.prompt_tokens) + chunks * costs.step_s + costs.chunk_s(cached_tokens, fresh)
    )
    return prefill_s + more * (costs.step_s + costs.decode_s) + costs.context_token_s * contexts


class _Unbounded:
    """A prefix cache that never forgets: how many blocks of each stream were computed."""

    def __init__(self) -> None:
        self._ends: dict[Stream, int] = {}

    def serve(self, contexts: Contexts, step: Step, block_tokens: int) -> int:
        """Tokens of the step's prompt that are found; from then on its own blocks are there too."""
        prompt = contexts.build(step)
        # One prompt token is always computed; the last generated token was never an input.
        found = self._found(prompt.stream.pieces((prompt.tokens - 1) // block_tokens))
        for stream, _, high in prompt.stream.pieces((prompt.tokens + step.output_tokens - 1) // block_tokens):
            self._ends[stream] = max(self._ends.get(stream, 0), high)
        return found * block_tokens

    def _found(self, pieces: Iterable[Piece]) -> int:
        found = 0
        for stream, _, high in pieces:
            end = self._ends.get(stream, 0)
            found = max(found, min(end, high))
            if end < high:
                break
        return found
