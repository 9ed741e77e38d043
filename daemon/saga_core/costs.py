"""What an engine step costs in seconds: the head weighs work by it, the simulator runs by it.

One step takes `step + prefill * tokens + attention * tokens * context + decode * n + context * sum of contexts` seconds
(policy study, section 1; there: a, b, e, c, d), and what it admits has to be taken in beside (`intake_s`).
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_TOKEN = 4.0
"""Of a request's body, until the first answer tells (English and code in JSON: 3.5 to 4.5)."""
TYPICAL_BATCH = 12
"""Sequences that share an engine step when its price is divided among them (policy study, section 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """Coefficients in seconds. The defaults are those of an 8B model on an H100 (policy study, section 1).

    Where only the order of work matters, as at the gate, the ratios between them count and not their scale.
    """

    step_s: float = 6e-3
    prefill_token_s: float = 40e-6
    attention_token2_s: float = 1.3e-9
    decode_s: float = 0.03e-3
    context_token_s: float = 49e-9
    call_s: float = 0.0
    """For taking in a call, in the step that admits it."""
    prompt_token_s: float = 0.0
    """For taking in its prompt, cached or not: reading it and hashing its blocks."""

    def intake_s(self, prompt_tokens: int) -> float:
        """What a call costs the step that admits it, whatever is cached of it."""
        return self.call_s + self.prompt_token_s * prompt_tokens

    def chunk_s(self, context_tokens: int, tokens: int) -> float:
        """Prefill of `tokens` behind `context_tokens`; each attends to all before it, on average half the chunk."""
        attended = context_tokens + tokens / 2
        return self.prefill_token_s * tokens + self.attention_token2_s * tokens * attended

    def work_s(self, cached_tokens: int, prompt_tokens: int, output_tokens: int) -> float:
        """Engine seconds that a call takes of a batch: its own prefill, and its share of the steps it decodes in."""
        context = prompt_tokens + output_tokens / 2
        decoding_s = self.decode_s + self.context_token_s * context + self.step_s / TYPICAL_BATCH
        return self.chunk_s(cached_tokens, max(0, prompt_tokens - cached_tokens)) + output_tokens * decoding_s
