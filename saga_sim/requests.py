"""What an engine works on, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_sim.cache import Span
from saga_sim.streams import Stream


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One LLM call in an engine: the first `prompt_tokens` of `stream`, then `output_tokens` generated behind them."""

    key: int
    stream: Stream
    prompt_tokens: int
    output_tokens: int
    session: str = ""
    priority: int = 0
    """The smaller, the sooner, where the engine is `Shape.priority`; as vLLM's field of that name."""
    arrived_at: float = 0.0
    computed: int = 0
    left: int = 0
    order: int = -1
    joined: int = -1
    """The decoding's step counter when `computed` and `left` were true; negative: it is not decoding."""
    stored: int = 0
    """Full blocks that it has, found or computed."""
    found: int = 0
    """Of these, the blocks found in the cache at its latest admission."""
    held: list[Span] = field(default_factory=list)
    cached_tokens: int | None = None
    """Prompt tokens found in the cache at first admission, host memory included, as usage reports them."""
    first_at: float | None = None
    preemptions: int = 0
    computed_before: int = 0
    """Leading tokens whose KV had been computed before, by earlier steps or before a preemption."""
    over: bool = False

    @property
    def known_tokens(self) -> int:
        """Prompt and what has been generated."""
        return self.prompt_tokens + self.output_tokens - self.left


@dataclass(slots=True)
class Totals:
    """Counters since the start, in tokens and seconds."""

    busy_s: float = 0.0
    again_s: float = 0.0
    """Of these, spent on prefilling what had been computed before."""
    generated_tokens: int = 0
    hit_tokens: int = 0
    """Prompt tokens found in the pool at first admission."""
    host_hit_tokens: int = 0
    """The same in host memory, behind what the pool had."""
    loaded_tokens: int = 0
    """Loaded from host memory, also after preemptions."""
    preemptions: int = 0
    steps: int = 0
    """Engine steps, a stretch of decoding counted step by step."""
