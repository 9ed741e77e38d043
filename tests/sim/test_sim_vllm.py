"""The simulator's engine against vLLM's own scheduler and KV manager, stepped in virtual time without a model."""

import os

import pytest
from engine_twins import COSTS, Names, Told, queue_of, simulate
from test_sim_engine import random_case

from saga_core.costs import CostTable

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # what torch and vLLM deprecate
BLOCK = 32
"""The smallest block that vLLM's CPU build takes."""
CASES = 100


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.engine.arg_utils import EngineArgs

    from saga_vllm.model import build_model

    model = build_model(tmp_path_factory.mktemp("model") / "nano", "nano")
    made = EngineArgs(
        model=str(model), max_model_len=4096, block_size=BLOCK, enforce_eager=True, load_format="dummy"
    ).create_engine_config()
    # What saga's engines do not set, said here so that a changed default of vLLM is seen.
    assert made.scheduler_config.watermark == 0.0
    assert made.scheduler_config.scheduler_reserve_full_isl
    return made


class RealEngine:
    """vLLM's scheduler, its clock ours: a step takes what the cost table says."""

    def __init__(self, config, limits):
        import torch
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        config.cache_config.num_gpu_blocks = limits.blocks + 1
        config.model_config.max_model_len = limits.max_model_len_tokens
        config.scheduler_config.max_num_seqs = limits.max_num_seqs
        config.scheduler_config.max_num_batched_tokens = limits.step_tokens
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        self.scheduler = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=limits.blocks + 1,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            hash_block_size=BLOCK,
            log_stats=False,
        )
        hash_ = get_hash_fn_by_name("sha256")
        init_none_hash(hash_)
        self._hasher = get_request_block_hasher(BLOCK, hash_)
        self.requests, self.whole = {}, {}

    def submit(self, number, whole, prompt, output):
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        request = Request(
            request_id=str(number),
            prompt_token_ids=whole[:prompt],
            sampling_params=SamplingParams(max_tokens=output, ignore_eos=True),
            pooling_params=None,
            block_hasher=self._hasher,
        )
        self.requests[str(number)], self.whole[str(number)] = request, whole
        self.scheduler.add_request(request)

    def schedule(self):
        """One step decided: `(vLLM's own word for it, context of each request, seconds)`; None: nothing to do."""
        word = self.scheduler.schedule()
        if not word.num_scheduled_tokens:
            return None
        costs = CostTable(**COSTS)
        contexts = {r.req_id: r.num_computed_tokens for r in word.scheduled_new_reqs}
        cached = word.scheduled_cached_reqs
        contexts.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        seconds = costs.step_s
        for name, tokens in word.num_scheduled_tokens.items():
            context = contexts[name]
            if tokens > 1 or context < self.requests[name].num_prompt_tokens:
                seconds += costs.chunk_s(context, tokens)
            else:
                seconds += costs.decode_s + costs.context_token_s * context
        return word, contexts, seconds

    def complete(self, word, contexts):
        """Names of requests that have a token more."""
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(word.num_scheduled_tokens)
        sampled, told = [], []
        for name in names:
            request = self.requests[name]
            full = contexts[name] + word.num_scheduled_tokens[name] == request.num_tokens
            sampled.append([self.whole[name][request.num_tokens]] if full else [])
            told += [name] * full
        index = {name: i for i, name in enumerate(names)}
        output = ModelRunnerOutput(req_ids=names, req_id_to_index=index, sampled_token_ids=sampled)
        self.scheduler.update_from_output(word, output)
        return told

    def queue(self, first):
        """First token of each cached free block, the next to be evicted first."""
        from vllm.v1.core.kv_cache_utils import get_block_hash

        free = self.scheduler.kv_cache_manager.block_pool.free_block_queue.get_all_free_blocks()
        return [first[get_block_hash(b.block_hash)] for b in free if b.block_hash is not None]


def play(config, limits, calls, names):
    engine = RealEngine(config, limits)
    told = [Told() for _ in calls]
    pending = sorted(range(len(calls)), key=lambda i: calls[i].at)
    now = 0.0

    def submit():
        call = calls[number := pending.pop(0)]
        whole = names.tokens(call.stream, call.prompt + call.output, BLOCK)
        engine.submit(number, whole, call.prompt, call.output)

    def submit_before(end):
        while pending and calls[pending[0]].at < end:
            submit()

    while True:
        submit_before(now)
        step = engine.schedule()
        if step is None:
            if not pending:
                return told, engine
            now = calls[pending[0]].at
            submit()
            continue
        word, contexts, seconds = step
        for fresh in word.scheduled_new_reqs:
            told[int(fresh.req_id)].cached = fresh.num_computed_tokens
        for name in word.preempted_req_ids or ():
            told[int(name)].preemptions += 1
        submit_before(now + seconds)
        now += seconds
        for name in engine.complete(word, contexts):
            mine = told[int(name)]
            mine.first_at = now if mine.first_at is None else mine.first_at
            if engine.requests[name].is_finished():
                mine.done_at = now


def test_same_hits_times_and_eviction_order_as_vllms_own_scheduler(config):
    preempted = hits = 0
    for seed in range(CASES):
        limits, _, calls = random_case(seed, sizes=(BLOCK,))
        names = Names()
        ours, engine = simulate(limits, calls, check=False)
        theirs, real = play(config, limits, calls, names)
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            where = (seed, number, mine, other)
            assert (mine.cached, mine.preemptions) == (other.cached, other.preemptions), where
            assert mine.first_at == pytest.approx(other.first_at, rel=1e-9, abs=1e-9), where
            assert mine.done_at == pytest.approx(other.done_at, rel=1e-9, abs=1e-9), where
            preempted += mine.preemptions
            hits += mine.cached > 0
        first = {}
        for name, request in real.requests.items():
            for block, hash_ in enumerate(request.block_hashes):
                first[hash_] = real.whole[name][block * BLOCK]
        assert queue_of(engine, names) == real.queue(first), seed
    assert preempted > CASES / 10
    assert hits > CASES
