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
  6. With `Shape.priority` (vLLM's `--scheduling-policy priority`) the waiting line is ordered by (priority, arrival)
     and the victim of rule 2 is the running request that is last in that order, also when the step has served it
     already. A request that is its own victim ends the serving of that step: those behind it stand still once.
  7. With `Shape.host_tokens`, what the cache lacks of an admitted prompt and host memory has is loaded over the link,
     one request after the other (`saga_sim.loads`). The request runs from its admission, so it has its blocks and can
     be preempted, but it is prefilled only when its load is there; the batch goes on meanwhile, as in vLLM.

A prompt never holds what another request is still generating: a step starts after its context parent has ended. So what
a request decodes is stored when it leaves, and nobody can tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container

from saga_core.costs import CostTable
from saga_sim.cache import Cache
from saga_sim.costs import Shape
from saga_sim.decoding import Decoding
from saga_sim.loads import Loads
from saga_sim.requests import Request, Totals
from saga_sim.waiting import ByPriority

__all__ = ["NEVER", "Engine", "Request", "Totals"]
NEVER = float("inf")


class Engine:
    """The model of one engine core. `done(request, at)` is called for each request that has all its tokens."""

    def __init__(self, shape: Shape, costs: CostTable, done: Callable[[Request, float], None]) -> None:
        self.shape, self.costs, self._done = shape, costs, done
        self.cache = Cache(shape.blocks)
        self.decoding: Decoding[Request] = Decoding(shape.block_tokens)
        self.waiting: deque[Request] | ByPriority[Request] = ByPriority() if shape.priority else deque()
        self.running: dict[Request, None] = {}
        """In the order of admission."""
        self.totals = Totals()
        self.next_at = NEVER
        """When `advance` is to be called."""
        self._prefilling: dict[Request, None] = {}
        self._hosted = shape.host_tokens > 0
        self._loads = Loads(shape, self.cache)
        self._standing: list[Request] = []
        """They decode, but not in the step under way (rule 6)."""
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
        if self.waiting[0] is request and len(self.running) < self.shape.max_num_seqs:
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
        self._started_at = now
        while not self._begin_step(now):
            pass

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

    def _begin_step(self, now: float) -> bool:
        """Decide a step and begin it; False when it only preempted, which takes no time."""
        for request in self._standing:
            self.decoding.join(request)
        self._standing.clear()
        if self._hosted:
            self._prefilling.update(dict.fromkeys(self._loads.landed(now)))
        preempted = self.totals.preemptions
        budget, prefill_s = 0, 0.0
        served = self._serve_decoding()
        if served:
            budget, prefill_s = self._serve_prefilling(self.shape.step_tokens - self.decoding.count)
        calm = self.totals.preemptions == preempted
        if calm:
            prefill_s += self._serve_waiting(budget)
        self._stretch = steps = 1 if served and self._prefilling else self._decodes(single=not calm)
        self.next_at = now + prefill_s + self.decoding.cost_s(self.costs, steps) if steps else NEVER
        if self._hosted and self._loads:
            self._await_load(now)
        return calm or self._stretch > 0

    def _decodes(self, *, single: bool) -> int:
        """How many steps can come that only decode; a `single` one when the queue was not looked at and has to be."""
        decoding = self.decoding
        if single or not decoding.count:
            return min(1, decoding.count)
        # The first step's blocks are taken; the others' as far as they are there.
        free = self.cache.free + decoding.next_blocks
        return max(1, decoding.affordable(decoding.until_end, free))

    def _await_load(self, now: float) -> None:
        """The next load that comes in is seen: at once when nothing else is under way, else after the step it is in."""
        ready_at = self._loads.ready_at
        if not self._stretch:
            self.next_at = ready_at
        elif self._stretch > 1 and ready_at < self.next_at:
            self._stretch = self.decoding.steps_within(self.costs, ready_at - now, self._stretch)
            self.next_at = now + self.decoding.cost_s(self.costs, self._stretch)

    def _serve_decoding(self) -> bool:
        """A block for each that needs one; False when one of them had to give way itself."""
        need = self.decoding.next_blocks
        if need <= self.cache.free:
            self.cache.take(need)
            return True
        served: set[Request] = set()
        requests = list(self.running)
        for at, request in enumerate(requests):
            if request.joined < 0:  # it prefills, loads, or has been preempted
                continue
            self.decoding.settle(request)
            if request.computed % self.shape.block_tokens == 0:
                if not self._make_room(request, 1, served):
                    self._hold_back(requests[at + 1 :])
                    return False
                self.cache.take(1)
            served.add(request)
        return True

    def _hold_back(self, requests: list[Request]) -> None:
        """Those of them that decode do not in this step."""
        for request in requests:
            if request.joined >= 0:
                self.decoding.leave(request)
                self._standing.append(request)

    def _make_room(self, request: Request, blocks: int, served: Container[Request]) -> bool:
        """Free blocks by preempting; False when that came to `request` itself. `served`: they have their token."""
        while self.cache.free < blocks:
            victim = self._victim()
            # vLLM stores a block as soon as its last token is scheduled, so the token counts here.
            self._preempt(victim, scheduled=victim in served and victim.joined >= 0)
            if victim is request:
                return False
        return True

    def _victim(self) -> Request:
        if self.shape.priority:
            return max(self.running, key=lambda request: (request.priority, request.arrived_at))
        return next(reversed(self.running))

    def _serve_prefilling(self, budget: int) -> tuple[int, float]:
        seconds = 0.0
        for request in list(self._prefilling):
            if request not in self._prefilling:  # preempted for one in front of it
                continue
            tokens = min(request.known_tokens - request.computed, budget)
            if not tokens or not self._make_room(request, self._missing(request, tokens), self.running):
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
            if self._hosted and request in self._loads:
                continue
            tokens = min(request.known_tokens - request.computed, budget)
            budget -= tokens
            if not request.preemptions:
                seconds += self.costs.intake_s(request.prompt_tokens)
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
        self.cache.follow(request.session, request.stream.pieces(request.known_tokens // size))
        request.found = request.stored = found
        request.computed = found * size
        self._orders += 1
        request.order = self._orders
        self.running[request] = None
        loaded = self._loads.begin(request, self._started_at) if self._hosted else 0
        if not loaded:
            self._prefilling[request] = None
        if request.cached_tokens is None:
            request.cached_tokens = request.computed + loaded
            self.totals.hit_tokens += request.computed
            self.totals.host_hit_tokens += loaded
        self.totals.loaded_tokens += loaded
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

    def _preempt(self, victim: Request, *, scheduled: bool = False) -> None:
        if victim not in self._prefilling:
            self.decoding.leave(victim)
        victim.computed_before = max(victim.computed_before, victim.computed)
        victim.computed += scheduled
        self._free(victim)
        victim.preemptions += 1
        self.totals.preemptions += 1
        victim.computed = victim.stored = 0
        self.waiting.appendleft(victim)

    def _leave(self, request: Request) -> None:
        if request in self.running:
            self._free(request)
        else:
            self.waiting.remove(request)
        if request in self._standing:
            self._standing.remove(request)
        request.over = True

    def _free(self, request: Request) -> None:
        """Give all blocks back, the tail first: it is evicted first."""
        del self.running[request]
        loading = self._loads.drop(request) if self._hosted else 0
        if request in self._prefilling:
            del self._prefilling[request]
        elif not loading:
            self.decoding.leave(request)
            self._store(request)
        self.cache.release(request, loading or (1 if request.computed % self.shape.block_tokens else 0))

    def check(self) -> None:
        """Raise AssertionError where queues, batch and pool disagree."""
        self.cache.check()
        known = self.decoding.count + len(self._prefilling) + len(self._standing) + len(self._loads)
        assert known == len(self.running), "a request in two places"
        assert not self._prefilling or self._stretch <= 1
        if not self.running:
            assert self.cache.free == self.cache.blocks, "blocks lost"
