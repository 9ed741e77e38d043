"""The engine model: continuous batching over a paged prefix cache, as vLLM 0.32's scheduler does it.

Pure: no clock and no I/O. A caller alternates `schedule(now)`, which decides a step and says how long it takes, and
`complete(step, now)`, which says what it produced; the time between is the caller's to sleep or to skip. `abort` may
come at any moment.

Rules of this file:
1. Running requests are served first, oldest first; each gets its decode token or its next prefill chunk.
2. Without a free block for one of them, the newest running request is preempted: its blocks are freed, it waits at
   the head of the queue and is computed again (what is still cached is found again).
3. Waiting requests are admitted first come, first served, when their whole prompt fits.
4. A full block is findable from the moment it is scheduled. At least one prompt token is always computed.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from saga_core.errors import UserError
from saga_fake.costs import CostTable
from saga_fake.pool import BlockPool
from saga_fake.reply import Piece
from saga_fake.requests import Chunk, EngineRequest, FinishReason, Output, RequestState, Step, Totals
from saga_fake.tokens import EOS


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineShape:
    """The limits of one engine, named as vLLM's flags."""

    max_model_len_tokens: int = 32768
    block_tokens: int = 32
    blocks: int = 1025
    max_num_seqs: int = 128
    step_tokens: int = 2048
    """max_num_batched_tokens: the chunk of chunked prefill."""
    priority: bool = False
    """--scheduling-policy priority: what waits is taken in by it; who is preempted is still the newest."""

    def __post_init__(self) -> None:
        needed = -(-self.max_model_len_tokens // self.block_tokens) + 1
        if needed > self.blocks:
            raise UserError(
                f"a request of --max-model-len {self.max_model_len_tokens} tokens needs {needed} blocks (with the null "
                f"block), --num-blocks is {self.blocks}: raise it or lower --max-model-len"
            )


class Engine:
    """The model of one vLLM engine core."""

    def __init__(self, shape: EngineShape, costs: CostTable | None = None) -> None:
        self.shape = shape
        self.costs = costs or CostTable()
        self.pool = BlockPool(shape.blocks, shape.block_tokens)
        self.totals = Totals()
        self.waiting: deque[EngineRequest] = deque()
        self.running: list[EngineRequest] = []

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    def submit(self, request: EngineRequest, now: float) -> None:
        """Queue a request. ValueError unless prompt and reply fit --max-model-len: the front must have checked."""
        total = request.prompt_tokens + request.max_tokens
        if not 0 < request.prompt_tokens < total <= self.shape.max_model_len_tokens:
            raise ValueError(
                f"request {request.id}: {request.prompt_tokens} + {request.max_tokens} tokens do not fit"
            )
        request.arrived_s = now
        self._extend_contents(request)
        self._queue(request)

    def _queue(self, request: EngineRequest) -> None:
        if self.shape.priority:
            place = bisect_right(self.waiting, (request.priority, request.arrived_s), key=_rank)
            self.waiting.insert(place, request)
        else:
            self.waiting.append(request)

    def abort(self, request: EngineRequest) -> None:
        """Drop a request and free its blocks; nothing happens when it has finished already."""
        if request.state is not RequestState.FINISHED:
            self._leave(request, FinishReason.ABORT)

    def reset_prefix_cache(self) -> bool:
        """Forget cached content; False while any request runs."""
        return self.pool.clear()

    def schedule(self, now: float) -> Step | None:
        """Decide the next step; None when there is nothing to do. `now`: seconds, any origin, never going back."""
        budget = self.shape.step_tokens
        chunks: list[Chunk] = []
        preempted_before = self.totals.preemptions
        budget = self._schedule_running(chunks, budget)
        if self.totals.preemptions == preempted_before:
            self._schedule_waiting(chunks, budget, now)
        if not chunks:
            return None
        return Step(chunks, self._duration_s(chunks))

    def complete(self, step: Step, now: float) -> list[Output]:
        """What the step produced, once its duration has passed; requests aborted since produce nothing."""
        # Not equal in mid-prefill, and after an abort (nothing is computed then).
        done = (c.request for c in step.chunks if c.request.computed_tokens == len(c.request.tokens))
        return [self._generate(request, now) for request in done]

    def _schedule_running(self, chunks: list[Chunk], budget: int) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            tokens = min(len(request.tokens) - request.computed_tokens, budget)
            if not self._make_room(request, tokens):
                break
            budget -= tokens
            self._advance(request, tokens, chunks)
            index += 1
        return budget

    def _make_room(self, request: EngineRequest, tokens: int) -> bool:
        """Free blocks by preempting the newest; False when that was `request` itself."""
        while self._missing_blocks(request, tokens) > self.pool.free_blocks:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _schedule_waiting(self, chunks: list[Chunk], budget: int, now: float) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.shape.max_num_seqs:
            request = self.waiting[0]
            cached = self.pool.lookup(
                request.contents[: (len(request.tokens) - 1) // self.shape.block_tokens]
            )
            free = self.pool.free_blocks - self.pool.idle(cached)
            if -(-len(request.tokens) // self.shape.block_tokens) - len(cached) > free:
                return
            self.waiting.popleft()
            self._admit(request, cached, now)
            tokens = min(len(request.tokens) - request.computed_tokens, budget)
            budget -= tokens
            self._advance(request, tokens, chunks)

    def _admit(self, request: EngineRequest, cached: list[int], now: float) -> None:
        self.pool.touch(cached)
        request.blocks = cached
        if request.session:
            self.pool.use(request.session, cached)
        request.stored_blocks = len(cached)
        request.computed_tokens = len(cached) * self.shape.block_tokens
        request.state = RequestState.RUNNING
        self.running.append(request)
        if request.cached_tokens is None:
            request.admitted_s = now
            request.cached_tokens = request.computed_tokens
            self.totals.prefix_queries_tokens += len(request.tokens)
            self.totals.prefix_hits_tokens += request.computed_tokens

    def _missing_blocks(self, request: EngineRequest, tokens: int) -> int:
        return -(-(request.computed_tokens + tokens) // self.shape.block_tokens) - len(request.blocks)

    def _advance(self, request: EngineRequest, tokens: int, chunks: list[Chunk]) -> None:
        """Give the request its blocks for `tokens` more, and make those that become full findable."""
        new = self.pool.take(self._missing_blocks(request, tokens))
        request.blocks += new
        if request.session:
            self.pool.use(request.session, new)
        chunks.append(Chunk(request, request.computed_tokens, tokens))
        request.computed_tokens += tokens
        first, full = request.stored_blocks, request.computed_tokens // self.shape.block_tokens
        if full == first:
            return
        size = self.shape.block_tokens
        self.pool.store(
            request.blocks[first:full],
            request.contents[first:full],
            request.tokens[first * size : full * size],
            parent=request.contents[first - 1] if first else None,
            session=request.session,
            salt=request.salt,
        )
        request.stored_blocks = full

    def _duration_s(self, chunks: list[Chunk]) -> float:
        decodes = [chunk.context_tokens for chunk in chunks if not chunk.is_prefill]
        prefill_s = sum(self.costs.chunk_s(c.context_tokens, c.tokens) for c in chunks if c.is_prefill)
        return self.costs.step_s + prefill_s + self.costs.decodes_s(decodes)

    def _generate(self, request: EngineRequest, now: float) -> Output:
        if request.first_token_s is None:
            request.first_token_s = now
            self.totals.prompt_tokens += request.prompt_tokens
        piece = self._next_piece(request)
        request.tokens.append(piece.token)
        self.totals.generation_tokens += 1
        self._extend_contents(request)
        finish, why = self._finish_of(request, piece)
        text = request.stops.release(finished=finish is not None)
        if finish is not None:
            self._leave(request, finish)
        return Output(request, piece, text, finish, why)

    def _next_piece(self, request: EngineRequest) -> Piece:
        n = request.generated_tokens
        if (
            request.natural_tokens is not None
            and n >= max(request.natural_tokens, request.min_tokens)
            and not request.ignore_eos
        ):
            return Piece(EOS)
        return next(request.reply)

    def _finish_of(
        self, request: EngineRequest, piece: Piece
    ) -> tuple[FinishReason | None, str | int | None]:
        may_stop = request.generated_tokens > request.min_tokens
        stop = request.stops.read(piece.text, may_stop=may_stop)
        if stop is not None:
            return FinishReason.STOP, stop
        if piece.token == EOS and not request.ignore_eos:
            return FinishReason.STOP, None
        if may_stop and piece.token in request.stop_token_ids:
            return FinishReason.STOP, piece.token
        if request.generated_tokens >= request.max_tokens:
            return FinishReason.LENGTH, None
        return None, None

    def _preempt(self, victim: EngineRequest) -> None:
        self.running.remove(victim)
        self._free(victim)
        victim.state = RequestState.WAITING
        victim.preemptions += 1
        self.totals.preemptions += 1
        if self.shape.priority:
            self._queue(victim)
        else:
            self.waiting.appendleft(victim)

    def _leave(self, request: EngineRequest, reason: FinishReason) -> None:
        queue: deque[EngineRequest] | list[EngineRequest]
        queue = self.running if request.state is RequestState.RUNNING else self.waiting
        queue.remove(request)
        self._free(request)
        request.state = RequestState.FINISHED
        self.totals.finished[reason] += 1

    def _free(self, request: EngineRequest) -> None:
        """Give all blocks back, the tail first: it is evicted first."""
        self.pool.give_back(request.blocks[::-1])
        request.blocks = []
        request.stored_blocks = 0
        request.computed_tokens = 0

    def _extend_contents(self, request: EngineRequest) -> None:
        size = self.shape.block_tokens
        while (len(request.contents) + 1) * size <= len(request.tokens):
            start = len(request.contents) * size
            parent = request.contents[-1] if request.contents else None
            salt = request.salt if not start else None
            request.contents.append(content_hash(parent, request.tokens[start : start + size], salt))


def _rank(request: EngineRequest) -> tuple[int, float]:
    return request.priority, request.arrived_s


def content_hash(parent: int | None, tokens: Sequence[int], salt: str | None = None) -> int:
    """64 bits that name a block by its tokens and all before them; the same in every process."""
    state = hashlib.blake2b((parent or 0).to_bytes(8, "big"), digest_size=8)
    state.update(array("I", tokens).tobytes())
    if salt:
        state.update(salt.encode())
    return int.from_bytes(state.digest(), "big")
