"""Real prompts of a trace's token counts, as token ids, whose prefixes extend exactly as the trace says.

Nothing of the recorded text is known, and nothing is needed: engines reuse KV by equal leading
tokens. A step's prompt is the shared part of its context parent's prompt; then, where it was
appended to, the parent's output as the server really returned it (so that KV made while decoding
is reused, as with a real agent); then seeded random tokens.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random

from saga_core.errors import UserError
from saga_sim.trace.records import Step, Workflow, shared_tokens

# Below 300 byte-level tokenizers keep bytes and special tokens; our demo model ends at 4096.
DEFAULT_VOCAB = (300, 4000)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and how many leading ones the workflow's own earlier steps had computed KV for."""

    tokens: array[int]
    computed_before: int


class Prompts:
    """The prompts of one workflow, step by step; holds only what later steps still extend."""

    def __init__(self, workflow: Workflow, *, seed: int, vocab: tuple[int, int] = DEFAULT_VOCAB) -> None:
        low, high = vocab
        if not 0 <= low < high - 1:
            raise UserError(f"vocabulary {low}..{high} is too small (valid: 0 <= low, high at least low + 2)")
        self._workflow = workflow
        self._seed = seed
        self._vocab = vocab
        self._prompts: dict[int, array[int]] = {}
        self._outputs: dict[int, array[int]] = {}
        self._heirs = [0] * len(workflow.steps)
        for step in workflow.steps:
            if step.ctx_parent is not None:
                self._heirs[step.ctx_parent] += 1

    def build(self, step: Step) -> Prompt:
        """The prompt of a step whose context parent was built before. Once per step; retries reuse the value."""
        if step.ctx_parent is None:
            prompt = Prompt(self._opening(step), 0)
        else:
            prompt = self._extended(step, step.ctx_parent)
            self._release(step.ctx_parent)
        if self._heirs[step.id]:
            self._prompts[step.id] = prompt.tokens
        return prompt

    def finished(self, step: Step, output: list[int]) -> None:
        """Remember what the server generated, if a later step may begin with it."""
        if self._heirs[step.id]:
            self._outputs[step.id] = array("I", output)

    def _opening(self, step: Step) -> array[int]:
        """A new context: the group's shared system prompt, then the workflow's own tokens."""
        common = min(step.shared_prefix_tokens or 0, step.prompt_tokens) if step.shared_prefix_group else 0
        tokens = _random_tokens(f"{self._seed}/group/{step.shared_prefix_group}", common, self._vocab)
        return tokens + self._own(step, step.prompt_tokens - common)

    def _extended(self, step: Step, parent: int) -> Prompt:
        base = self._prompts[parent]
        shared = shared_tokens(self._workflow, step)
        tokens = base[:shared]
        output = self._outputs.get(parent, array("I"))
        generated = min(self._workflow.steps[parent].output_tokens, len(output))
        fed = output[: min(generated, step.prompt_tokens - shared)] if shared == len(base) else array("I")
        rest = self._own(step, step.prompt_tokens - shared - len(fed))
        if shared < len(base):
            self._part(rest, base[shared])
        # The last generated token was never an input, so its KV does not exist.
        unmade = 1 if fed and len(fed) == len(output) else 0
        return Prompt(tokens + fed + rest, shared + len(fed) - unmade)

    def _own(self, step: Step, count: int) -> array[int]:
        return _random_tokens(f"{self._seed}/{self._workflow.workflow_id}/{step.id}", count, self._vocab)

    def _part(self, rest: array[int], other: int) -> None:
        """Make the first own token differ from the parent's there, so that not one token more is shared."""
        low, high = self._vocab
        if rest[0] == other:
            rest[0] = low + (other - low + 1) % (high - low)

    def _release(self, parent: int) -> None:
        self._heirs[parent] -= 1
        if not self._heirs[parent]:
            self._prompts.pop(parent, None)
            self._outputs.pop(parent, None)


def _random_tokens(key: str, count: int, vocab: tuple[int, int]) -> array[int]:
    """`count` ids; a longer row of the same key begins with a shorter one. `random()` alone is stable by promise."""
    low, high = vocab
    draw, span = Random(key).random, high - low  # noqa: S311 - a workload, not a secret
    return array("I", [low + int(draw() * span) for _ in range(count)])
