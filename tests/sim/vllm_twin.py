"""vLLM's own scheduler and KV manager in virtual time, beside the simulator's engine: same calls, same engine steps.

No model runs and no clock: a step takes one unit of time, every call's output is forced, and both sides write down what
they decided. Prompts are made twice from the same trace records: as token ids (`saga_sim.prompts`, what a live replay
sends) for vLLM, as streams (`saga_sim.streams`) for the simulator. Labels tie the two: a block of vLLM's is the block
(stream, index) of ours, and it is an error if one content has two labels or one label two contents.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from saga_core.costs import CostTable
from saga_sim.costs import Shape
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.prompts import Prompts
from saga_sim.streams import Contexts, Groups, Stream
from saga_sim.trace.records import Workflow

# Ids are only hashed here: so many of them that no block is equal by chance, even of one token.
VOCAB = (300, 1 << 30)
STEP = CostTable(step_s=1.0, prefill_token_s=0.0, attention_token2_s=0.0, decode_s=0.0, context_token_s=0.0)
ARRIVES_EARLY = 0.5
"""What counts from step k on comes in the middle of step k - 1."""

Label = tuple[int, int]
"""Number of a stream, index of a block in it."""


@dataclass(slots=True, eq=False)
class Call:
    """One call: it arrives `gap` steps after the last of `after` has ended, or at step `gap`."""

    number: int
    stream: Stream
    prompt: int
    output: int
    tokens: list[int]
    after: tuple[int, ...]
    gap: int
    patience: int | None = None
    """Aborted so many steps after its arrival, if not done by then."""
    priority: int = 0


def calls_of(workflows: Iterable[Workflow], block: int, rng: Random, *, gap_steps: Any = None) -> list[Call]:
    """The calls of all workflows; `gap_steps(step)` says how long a tool takes, in steps of at least one."""
    calls: list[Call] = []
    groups = Groups()
    for workflow in workflows:
        contexts = Contexts(workflow, groups, block)
        prompts = Prompts(workflow, seed=0, vocab=VOCAB)
        first = len(calls)
        for step in workflow.steps:
            ours, theirs = contexts.build(step), prompts.build(step)
            assert len(theirs.tokens) == ours.tokens == step.prompt_tokens
            output = [rng.randrange(*VOCAB) for _ in range(step.output_tokens)]
            prompts.finished(step, output)
            gap = gap_steps(step) if gap_steps else rng.choice([1, 1, 2, 5, 40])
            after = tuple(first + parent for parent in step.parents)
            tokens = [*theirs.tokens, *output]
            calls.append(Call(len(calls), ours.stream, ours.tokens, len(output), tokens, after, max(1, gap)))
    return calls


@dataclass(slots=True)
class Log:
    """What one side decided. Every list is in the order of the decisions."""

    admitted: list[tuple[int, int, int]] = field(default_factory=list)
    """(step, call, cached tokens)"""
    chunks: list[tuple[int, int, int]] = field(default_factory=list)
    """(step, call, prefill tokens scheduled)"""
    preempted: list[tuple[int, int]] = field(default_factory=list)
    finished: list[tuple[int, int]] = field(default_factory=list)
    pools: dict[int, tuple[int, int, tuple[Label, ...]]] = field(default_factory=dict)
    """By step, after its scheduling: decoding requests, free blocks, and the cached free blocks, next victim first."""


class Labels:
    """Numbers of streams, and the contents that their blocks have."""

    def __init__(self) -> None:
        self._streams: dict[Stream, int] = {}
        self.of: dict[bytes, Label] = {}
        self._contents: dict[Label, bytes] = {}

    def label(self, stream: Stream, block: int) -> Label:
        return self._streams.setdefault(stream, len(self._streams)), block

    def learn(self, stream: Stream, hashes: list[bytes], known: int) -> int:
        """Tie the content of the blocks from `known` on to their labels; how many are known then."""
        for owner, low, high in stream.pieces(len(hashes), known):
            for block in range(low, high):
                content, label = hashes[block], self.label(owner, block)
                assert self.of.setdefault(content, label) == label, "equal tokens, two streams"
                assert self._contents.setdefault(label, content) == content, (
                    "one block of a stream, two contents"
                )
        return len(hashes)


class Watched(Engine):
    """The simulator's engine, which also writes down what it decides."""

    log: Log
    at = 0

    def _fits(self, request: Request) -> bool:
        fits = super()._fits(request)
        if fits:
            self.log.admitted.append((self.at, request.key, request.computed))
        return fits

    def _prefill(self, request: Request, tokens: int) -> float:
        self.log.chunks.append((self.at, request.key, tokens))
        return super()._prefill(request, tokens)

    def _preempt(self, victim: Request, *, scheduled: bool = False) -> None:
        self.log.preempted.append((self.at, victim.key))
        super()._preempt(victim, scheduled=scheduled)


class Ours:
    """The simulator's side."""

    def __init__(self, shape: Shape, labels: Labels, *, pools: bool = True) -> None:
        self.engine = Watched(shape, STEP, self._done)
        self.log = self.engine.log = Log()
        self.lag = 0
        self.labels, self._pools = labels, pools
        self._requests: dict[int, Request] = {}

    @property
    def next_at(self) -> float:
        return self.engine.next_at

    def submit(self, call: Call, step: int) -> None:
        request = Request(
            key=call.number,
            stream=call.stream,
            prompt_tokens=call.prompt,
            output_tokens=call.output,
            priority=call.priority,
        )
        self._requests[call.number] = request
        self.engine.submit(request, step - ARRIVES_EARLY)

    def abort(self, call: Call, step: int) -> None:
        self.engine.abort(self._requests[call.number], step - ARRIVES_EARLY)

    def step(self, step: int) -> None:
        engine = self.engine
        engine.at = step
        engine.advance(float(step))
        engine.check()
        if self._pools:
            self.log.pools[step] = engine.decoding.count, engine.cache.free, self.queue()

    def queue(self) -> tuple[Label, ...]:
        """The cached free blocks, next victim first."""
        return tuple(
            self.labels.label(span.stream, block)
            for span in self.engine.cache.queue()
            for block in range(span.high - 1, span.low - 1, -1)
        )

    def _done(self, request: Request, at: float) -> None:
        assert at == int(at)
        self.log.finished.append((int(at), request.key))


class VLLM:
    """What all schedulers of a test run share: vLLM's configuration of one small model that is never loaded."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm.engine.arg_utils import EngineArgs
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import init_none_hash
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.structured_output import StructuredOutputManager

        self._plain, self._overlapped = Scheduler, AsyncScheduler
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(SMALL_LLAMA))
        self.config = EngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            block_size=16,
            max_model_len=1024,
            max_num_batched_tokens=1024,
        ).create_engine_config()
        self.hash = get_hash_fn_by_name("sha256")
        init_none_hash(self.hash)
        self.grammars = StructuredOutputManager(self.config)

    def scheduler(self, shape: Shape, *, overlapped: bool = False) -> Any:
        """A fresh scheduler with an empty pool of `shape.blocks` usable blocks."""
        import torch
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        config, size = self.config, shape.block_tokens
        config.cache_config.block_size = size
        config.cache_config.num_gpu_blocks = shape.blocks + 1
        config.scheduler_config.policy = "priority" if shape.priority else "fcfs"
        config.scheduler_config.max_num_seqs = shape.max_num_seqs
        config.scheduler_config.max_num_batched_tokens = shape.step_tokens
        config.model_config.max_model_len = shape.max_model_len_tokens
        spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        return (self._overlapped if overlapped else self._plain)(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=shape.blocks + 1,  # and the null block
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=self.grammars,
            block_size=size,
            hash_block_size=size,
            log_stats=False,
        )


SMALL_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 1 << 20,
    "torch_dtype": "bfloat16",
}


def name_of(call: Call) -> str:
    """vLLM compares names where priority and arrival are equal, so they must sort as numbers do."""
    return f"{call.number:06d}"


class Theirs:
    """vLLM's side."""

    def __init__(
        self, vllm: VLLM, shape: Shape, labels: Labels, *, pools: bool = True, overlapped: bool = False
    ) -> None:
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher

        self.scheduler = vllm.scheduler(shape, overlapped=overlapped)
        self.log = Log()
        self.labels, self._pools, self.lag = labels, pools, int(overlapped)
        self._hasher = get_request_block_hasher(shape.block_tokens, vllm.hash)
        self._calls: dict[str, Call] = {}
        self._learnt: dict[str, int] = {}
        self._prefilling: set[str] = set()
        self._in_flight: deque[tuple[int, Any, list[str]]] = deque()
        self._at, self.next_at = 0, NEVER
        scheduler, preempt = self.scheduler, self.scheduler._preempt_request

        def watched(request: Any, *more: Any, **named: Any) -> None:
            self.log.preempted.append((self._at, self._calls[request.request_id].number))
            self._prefilling.discard(request.request_id)
            preempt(request, *more, **named)

        scheduler._preempt_request = watched

    def submit(self, call: Call, step: int) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request as VLLMRequest

        name = name_of(call)
        self._calls[name] = call
        request = VLLMRequest(
            request_id=name,
            priority=call.priority,
            arrival_time=step - ARRIVES_EARLY,
            prompt_token_ids=call.tokens[: call.prompt],
            sampling_params=SamplingParams(max_tokens=call.output, ignore_eos=True),
            pooling_params=None,
            block_hasher=self._hasher,
        )
        self._learnt[name] = self.labels.learn(call.stream, request.block_hashes, 0)
        self.scheduler.add_request(request)
        self.next_at = min(self.next_at, step)

    def abort(self, call: Call, step: int) -> None:
        from vllm.v1.request import RequestStatus

        self._prefilling.discard(name_of(call))
        self.scheduler.finish_requests(name_of(call), RequestStatus.FINISHED_ABORTED)

    def step(self, step: int) -> None:
        """Schedule a step, and hand over the output of the step before (`lag` steps before that, if overlapped)."""
        from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT

        self._at = step
        preempted = len(self.log.preempted)
        output = self.scheduler.schedule()
        while len(self.log.preempted) > preempted and not output.num_scheduled_tokens:
            # A step that only preempts runs no model: vLLM's engine core comes back at once.
            preempted = len(self.log.preempted)
            self.scheduler.update_from_output(output, EMPTY_MODEL_RUNNER_OUTPUT)
            output = self.scheduler.schedule()
        self._note(output, step)
        self._in_flight.append((step, output, self._complete_after(output)))
        if len(self._in_flight) > self.lag:
            self._update()
        while self._in_flight and not self._in_flight[0][1].num_scheduled_tokens:
            self._update()
        busy = self.scheduler.has_unfinished_requests() or self._in_flight
        self.next_at = step + 1 if busy else NEVER

    def _note(self, output: Any, step: int) -> None:
        scheduled, log = output.num_scheduled_tokens, self.log
        fresh = {r.req_id: r.num_computed_tokens for r in output.scheduled_new_reqs}
        again = output.scheduled_cached_reqs
        resumed = set(again.resumed_req_ids)
        fresh |= {r: n for r, n in zip(again.req_ids, again.num_computed_tokens, strict=True) if r in resumed}
        decoding = 0
        for name, tokens in scheduled.items():
            number = self._calls[name].number
            if name in fresh:
                log.admitted.append((step, number, fresh[name]))
                self._prefilling.add(name)
            if name in self._prefilling:
                log.chunks.append((step, number, tokens))
            else:
                decoding += 1
        if self._pools:
            pool = self.scheduler.kv_cache_manager.block_pool
            log.pools[step] = decoding, pool.get_num_free_blocks(), self.queue()

    def queue(self) -> tuple[Label, ...]:
        """The cached free blocks, next victim first."""
        from vllm.v1.core.kv_cache_utils import get_block_hash

        pool = self.scheduler.kv_cache_manager.block_pool
        return tuple(
            self.labels.of[get_block_hash(block.block_hash)]
            for block in pool.free_block_queue.get_all_free_blocks()
            if block.block_hash is not None
        )

    def _complete_after(self, output: Any) -> list[str]:
        """The requests that have a token after this step: all that is known of them is computed then."""
        ready = []
        for name in output.num_scheduled_tokens:
            request = self.scheduler.requests[name]
            if not request.is_prefill_chunk:
                self._prefilling.discard(name)
                ready.append(name)
        return ready

    def _update(self) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        step, output, ready = self._in_flight.popleft()
        names = list(output.num_scheduled_tokens)
        alive = self.scheduler.requests
        tokens = [[self._next_token(name)] if name in ready and name in alive else [] for name in names]
        requests = [alive.get(name) for name in names]
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: i for i, name in enumerate(names)},
                sampled_token_ids=tokens,
            ),
        )
        for name, request in zip(names, requests, strict=True):
            if request is None:
                continue
            call = self._calls[name]
            self._learnt[name] = self.labels.learn(call.stream, request.block_hashes, self._learnt[name])
            if request.num_output_tokens == call.output:
                self.log.finished.append((step + 1, call.number))

    def _next_token(self, name: str) -> int:
        request, call = self.scheduler.requests[name], self._calls[name]
        return call.tokens[call.prompt + request.num_output_tokens]


def play(side: Ours | Theirs, calls: list[Call], *, limit: int = 1_000_000) -> Log:
    """Drive one side until all calls are over; a call arrives when those before it have ended on this side."""
    waits = {call.number: len(call.after) for call in calls}
    heirs: dict[int, list[Call]] = {}
    due: dict[int, list[tuple[int, Call]]] = {}

    def at(step: int, what: int, call: Call) -> None:
        due.setdefault(step, []).append((what, call))

    for call in calls:
        for parent in call.after:
            heirs.setdefault(parent, []).append(call)
        if not call.after:
            at(call.gap + side.lag, 0, call)
    over: set[int] = set()
    seen = 0

    def end(number: int, step: int) -> None:
        if number in over:  # it ended in the very step in which it was given up
            return
        over.add(number)
        for heir in heirs.get(number, ()):
            waits[heir.number] -= 1
            if not waits[heir.number]:
                at(step + heir.gap + side.lag, 0, heir)

    while due or side.next_at < NEVER:
        step = int(min([*due, -(-side.next_at // 1)]))
        assert step < limit, "no end in sight"
        for what, call in sorted(due.pop(step, ()), key=lambda item: (item[0], item[1].number)):
            if what == 0:
                side.submit(call, step)
                if call.patience is not None:
                    at(step + call.patience, 1, call)
            elif call.number not in over:
                side.abort(call, step)
                end(call.number, step)
        if side.next_at <= step:
            side.step(step)
        for ended, number in side.log.finished[seen:]:
            end(number, ended)
        seen = len(side.log.finished)
    assert len(over) == len(calls), "some calls never ended"
    return side.log
