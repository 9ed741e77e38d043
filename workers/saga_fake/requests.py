"""Requests in the engine, and what a step does with them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from saga_fake.reply import Piece, StopWatch


class RequestState(StrEnum):
    """Life of a request: waiting, running, waiting again when preempted, finished."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """As in vLLM's metrics; clients see stop and length."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(slots=True, eq=False, kw_only=True)
class EngineRequest:
    """One request in the engine; `tokens` grows from the prompt by what is generated."""

    id: str
    tokens: list[int]
    reply: Iterator[Piece]
    max_tokens: int
    min_tokens: int = 0
    natural_tokens: int | None = None
    """The model ends its reply by itself after this many tokens; None: never."""
    ignore_eos: bool = False
    stops: StopWatch = field(default_factory=lambda: StopWatch(()))
    stop_token_ids: frozenset[int] = frozenset()
    session: str | None = None
    salt: str | None = None
    priority: int = 0
    """Smaller is sooner, where the engine serves by it."""
    state: RequestState = RequestState.WAITING
    prompt_tokens: int = field(init=False)
    computed_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens found in the cache at first admission, as usage reports them."""
    blocks: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    stored_blocks: int = 0
    preemptions: int = 0
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def generated_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(slots=True, frozen=True)
class Chunk:
    """What one request does in one step: `tokens` more computed behind `context_tokens`."""

    request: EngineRequest
    context_tokens: int
    tokens: int

    @property
    def is_prefill(self) -> bool:
        return self.tokens > 1 or self.context_tokens < self.request.prompt_tokens


@dataclass(slots=True, frozen=True)
class Step:
    """One engine step: decided, not done."""

    chunks: list[Chunk]
    duration_s: float


@dataclass(slots=True, frozen=True)
class Output:
    """One token for one request; `text` may lag behind the tokens while it may still become a stop string."""

    request: EngineRequest
    piece: Piece
    text: str
    finish: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    preemptions: int = 0
    finished: dict[FinishReason, int] = field(default_factory=lambda: dict.fromkeys(FinishReason, 0))
