"""What an engine step costs, as a formula with measured coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """Seconds of one engine step = step + prefill·tokens + attention·tokens·context + decode·n + context·Σ contexts.

    Defaults: the 3 M parameter demo model `agent` on one CPU core under vLLM 0.32: a cold prefill of 4k / 8k / 16k
    tokens takes 0.33 / 1.1 / 3.9 s, and one sequence decodes at about 150 tokens/s. The two prefill coefficients
    solve the 4k and 16k figures; 8k then comes out at 1.10 s.
    """

    step_s: float = 4.0e-3
    prefill_token_s: float = 2.81e-5
    attention_token2_s: float = 2.563e-8
    decode_s: float = 2.0e-3
    context_token_s: float = 1.2e-7

    def chunk_s(self, context_tokens: int, tokens: int) -> float:
        """Prefill of `tokens` behind `context_tokens`: each token attends to all before it, half the chunk on average."""
        attended = context_tokens + tokens / 2
        return self.prefill_token_s * tokens + self.attention_token2_s * tokens * attended

    def decodes_s(self, contexts_tokens: Sequence[int]) -> float:
        """One more token for each of these contexts."""
        return self.decode_s * len(contexts_tokens) + self.context_token_s * sum(contexts_tokens)
