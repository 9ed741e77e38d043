"""One engine in virtual time: continuous batching with chunked prefill over a paged prefix cache, as vLLM schedules.

The caller owns the clock. It submits and aborts requests, asks `next_at` when the engine wants to be called, and calls
`advance(now)` then. A stretch of steps in which every request only decodes is one event, however many tokens it makes.

Rules of this file (those of the block-exact double in workers/saga_fake/engine.py, which tests compare with)
  1. Running requests are served first, oldest first; each gets its decode token or its next prefill chunk.
  2. Without a free block for one of them, the newest running request is preempted: its blocks are freed, it waits at
     the head of the queue and is computed again (what is still cached is found again).
  3. Waiting requests are admitted first come, first served, when their whole prompt fits. None passes another.
  4. A full block is findable from the moment it is scheduled. At least one prompt token is always computed.
  5. What arrives or is aborted within a step counts from the next step on.

A prompt never holds what another request is still generating: a step starts after its context parent has ended. So what
a request decodes is stored when it leaves, and nobody can tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from saga_core.costs import CostTable
from saga_sim.cache import Cache, Span
from saga_sim.costs import Shape
from saga_sim.decoding import Decoding
from saga_sim.streams import Stream

NEVER = float("inf")


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One LLM call in an engine: the first `prompt_tokens` of `stream`, then `output_tokens` generated behind them."""

    key: int
    stream: Stream
    prompt_tokens: int
    output_tokens: int
    session: str = ""
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
    """Prompt tokens found in the cache at first admission, as usage reports them."""
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
    preemptions: int = 0
    steps: int = 0
    """Engine steps, a stretch of decoding counted step by step."""


class Engine:
    """The model of one engine core. `done(request, at)` is called for each request that has all its tokens."""

    def __init__(self, shape: Shape, costs: CostTable, done: Callable[[Request, float], None]) -> None:
        self.shape, self.costs, self._done = shape, costs, done
        self.cache = Cache(shape.blocks)
        self.decoding: Decoding[Request] = Decoding(shape.block_tokens)
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        """In the order of admission."""
        self.totals = Totals()
        self.next_at = NEVER
        """When `advance` is to be called."""
        self._prefilling: dict[Request, None] = {}
        self._started_at = 0.0
        """Begin of the stretch under way."""
        self._stretch = 0
        """Its number of steps; 0: nothing is under way."""
        self._aborted: list[Request] = []
        self._orders = 0

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def usage(self) -> float:
        """Share of the pool that requests hold, 0 to 1; cached but free blocks do not count.

        What the stretch under way has made since it began is not in it yet.
        """
        return 1.0 - self.cache.free / self.cache.blocks

    # -- requests ------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError unless prompt and reply fit the engine's longest context."""
        total = request.prompt_tokens + request.output_tokens
        if not 0 < request.prompt_tokens < total <= self.shape.max_model_len_tokens:
            raise ValueError(f"{request.prompt_tokens} + {request.output_tokens} tokens do not fit")
        request.arrived_at, request.left = now, request.output_tokens
        self.waiting.append(request)
        if len(self.waiting) == 1 and len(self.running) < self.shape.max_num_seqs:
            self._shorten(now)

    def abort(self, request: Request, now: float) -> None:
        """Drop a request once the step under way is over; nothing happens when it has finished."""
        if not request.over:
            self._aborted.append(request)
            self._shorten(now)

    def _shorten(self, now: float) -> None:
        """Something new is to be seen: at once when idle, else after the step under way."""
        if not self._stretch:
            self.next_at = now
        elif self._stretch > 1:
            within_s = now - self._started_at
            self._stretch = self.decoding.steps_within(self.costs, within_s, self._stretch)
            self.next_at = self._started_at + self.decoding.cost_s(self.costs, self._stretch)

    # -- time ----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """The stretch under way ends now: tell what it produced, and begin the next."""
        if self._stretch:
            self._complete(now)
        for request in self._aborted:
            if not request.over:
                self._leave(request)
        self._aborted.clear()
        self._schedule(now)

    def _complete(self, now: float) -> None:
        decoding, steps = self.decoding, self._stretch
        self.totals.busy_s += now - self._started_at
        self.totals.steps += steps
        self.totals.generated_tokens += steps * decoding.count
        self._stretch = 0
        if steps > 1:  # the first step's blocks are taken already
            self.cache.take(decoding.blocks(steps) - decoding.next_blocks)
        decoding.advance(steps)
        finished = decoding.done()
        for request in [r for r in self._prefilling if r.computed == r.known_tokens]:
            self._generate(request, now, finished)
        for request in finished:
            self._leave(request)
            self._done(request, now)

    def _generate(self, request: Request, now: float, finished: list[Request]) -> None:
        """All that was known of it is computed: it has its next token, and decodes from here on."""
        if request.first_at is None:
            request.first_at = now
        del self._prefilling[request]
        request.left -= 1
        self.totals.generated_tokens += 1
        if request.left:
            self.decoding.join(request)
        else:
            finished.append(request)

    # -- one step ------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        self._started_at = now
        preempted = self.totals.preemptions
        self._serve_decoding()
        budget, prefill_s = self._serve_prefilling(self.shape.step_tokens - self.decoding.count)
        calm = self.totals.preemptions == preempted
        if calm:
            prefill_s += self._serve_waiting(budget)
        self._begin(now, prefill_s, single=not calm)

    def _begin(self, now: float, prefill_s: float, *, single: bool) -> None:
        """Begin a stretch; a `single` step when the queue was not looked at and has to be."""
        decoding = self.decoding
        if self._prefilling or (single and decoding.count):
            self._stretch = 1
        elif decoding.count:
            # The first step's blocks are taken; the others' as far as they are there.
            free = self.cache.free + decoding.next_blocks
            self._stretch = max(1, decoding.affordable(decoding.until_end, free))
        else:
            self.next_at = NEVER
            return
        self.next_at = now + prefill_s + decoding.cost_s(self.costs, self._stretch)

    def _serve_decoding(self) -> None:
        need = self.decoding.next_blocks
        if need <= self.cache.free:
            self.cache.take(need)
            return
        for request in list(self.running):
            if request in self._prefilling or request not in self.running:
                continue
            self.decoding.settle(request)
            if request.computed % self.shape.block_tokens == 0 and self._make_room(request, 1):
                self.cache.take(1)

    def _make_room(self, request: Request, blocks: int) -> bool:
        """Free blocks by preempting the newest; False when that was `request` itself."""
        while self.cache.free < blocks:
            victim = next(reversed(self.running))
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _serve_prefilling(self, budget: int) -> tuple[int, float]:
        seconds = 0.0
        for request in list(self._prefilling):
            tokens = min(request.known_tokens - request.computed, budget)
            if not self._make_room(request, self._missing(request, tokens)):
                break
            budget -= tokens
            seconds += self._prefill(request, tokens)
        return budget, seconds

    def _serve_waiting(self, budget: int) -> float:
        seconds = 0.0
        while self.waiting and budget > 0 and len(self.running) < self.shape.max_num_seqs:
            request = self.waiting[0]
            if not self._fits(request):
                break
            self.waiting.popleft()
            tokens = min(request.known_tokens - request.computed, budget)
            budget -= tokens
            seconds += self._prefill(request, tokens)
        return seconds

    def _fits(self, request: Request) -> bool:
        """Admit it if its whole prompt has room, beside what is cached of it."""
        size = self.shape.block_tokens
        hits = self.cache.lookup(request.stream.pieces((request.known_tokens - 1) // size))
        found = sum(high - low for _, low, high in hits)
        idle = sum(high - low for span, low, high in hits if not span.holders)
        if -(-request.known_tokens // size) - found > self.cache.free - idle:
            return False
        self.cache.touch(hits, request)
        request.found = request.stored = found
        request.computed = found * size
        self._orders += 1
        request.order = self._orders
        self.running[request] = self._prefilling[request] = None
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
            self.totals.hit_tokens += request.computed
        return True

    def _missing(self, request: Request, tokens: int) -> int:
        size = self.shape.block_tokens
        return -(-(request.computed + tokens) // size) - -(-request.computed // size)

    def _prefill(self, request: Request, tokens: int) -> float:
        """Compute `tokens` more of what is known of it; seconds that takes."""
        self.cache.take(self._missing(request, tokens))
        context = request.computed
        request.computed += tokens
        self._store(request)
        if tokens == 1 and context >= request.prompt_tokens:  # the last token before a preemption
            return self.costs.decode_s + self.costs.context_token_s * context
        again = min(request.computed, request.computed_before) - context
        if again > 0:
            self.totals.again_s += self.costs.chunk_s(context, again)
        return self.costs.chunk_s(context, tokens)

    def _store(self, request: Request) -> None:
        full = request.computed // self.shape.block_tokens
        if full > request.stored:
            self.cache.store(request.stream.pieces(full, request.stored), request)
            request.stored = full

    # -- ends ----------------------------------------------------------------------------

    def _preempt(self, victim: Request) -> None:
        self._free(victim)
        victim.preemptions += 1
        self.totals.preemptions += 1
        victim.computed_before = max(victim.computed_before, victim.computed)
        victim.computed = victim.stored = 0
        self.waiting.appendleft(victim)

    def _leave(self, request: Request) -> None:
        if request in self.running:
            self._free(request)
        else:
            self.waiting.remove(request)
        request.over = True

    def _free(self, request: Request) -> None:
        """Give all blocks back, the tail first: it is evicted first."""
        del self.running[request]
        if request in self._prefilling:
            del self._prefilling[request]
        else:
            self.decoding.leave(request)
            self._store(request)
        self.cache.release(request, 1 if request.computed % self.shape.block_tokens else 0)

    def check(self) -> None:
        """Raise AssertionError where queues, batch and pool disagree."""
        self.cache.check()
        assert self.decoding.count + len(self._prefilling) == len(self.running), "a request in two places"
        assert len(self._prefilling) <= 1 or not self._stretch or self._stretch == 1
        if not self.running:
            assert self.cache.free == self.cache.blocks, "blocks lost"
