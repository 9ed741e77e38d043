"""What session control costs in the engine's scheduling step: vLLM's own scheduler, without and with it, side by side.

`python -m saga_vllm.plugin.cost MODEL`: no model runs; time is the CPU time of `schedule` and `update_from_output`. The
same requests in the same order go to both: sessions at random take a step each, their prompt grows, the pool is too
small for all. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler

HEAD_DIM = 64
VOCABULARY = (16, 4000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the scheduler."""

    blocks: int = 10_000
    block_tokens: int = 32
    sessions: int = 1_000
    context_tokens: int = 640
    """Of each session at the start: with 1,000 of them twice the pool."""
    turn_tokens: int = 64
    output_tokens: int = 128
    """Of a step; 32 make four times as many blocks change hands per engine step."""
    running: int = 64
    steps: int = 2_000
    valued: bool = True
    """Whether every session has a worth, a new one after each of its turns."""


class Twin:
    """One scheduler with its load; `clock_s` is the CPU time of its scheduling so far."""

    def __init__(self, model: str, load: Load, *, control: bool) -> None:
        self._load, self._control = load, control
        self._rng, self._values = Random(1), Random(2)  # noqa: S311 - a load, not a secret
        self.scheduler: Scheduler = _scheduler(model, load, control=control)
        self._contexts = [self._tokens(load.context_tokens) for _ in range(load.sessions)]
        self._running: dict[str, int] = {}
        """Session of each request."""
        self._computed: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._turn = 0
        self.clock_s = 0.0
        self.found_tokens = self.asked_tokens = 0

    def _tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(*VOCABULARY) for _ in range(count)]

    def step(self) -> None:
        """Keep the engine full, and have it plan and digest one step."""
        from vllm.v1.outputs import ModelRunnerOutput

        while len(self._running) < self._load.running:
            self._arrive()
        began = time.process_time()
        planned = self.scheduler.schedule()
        self.clock_s += time.process_time() - began
        names, tokens = self._sampled(planned)
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
        )
        began = time.process_time()
        self.scheduler.update_from_output(planned, output)
        self.clock_s += time.process_time() - began
        self._leave()

    def _arrive(self) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        busy = set(self._running.values())
        session = next(s for s in iter(lambda: self._rng.randrange(self._load.sessions), -1) if s not in busy)
        self._turn += 1
        self._contexts[session] = self._contexts[session][-4 * self._load.context_tokens :]
        self._contexts[session] += self._tokens(self._load.turn_tokens)
        name = f"r{self._turn}"
        request = Request(
            request_id=name,
            prompt_token_ids=list(self._contexts[session]),
            sampling_params=SamplingParams(max_tokens=self._load.output_tokens, ignore_eos=True),
            pooling_params=None,
            block_hasher=_hasher(self._load.block_tokens),
            session_id=f"{session}.main",
        )
        self._running[name] = session
        self._left[name] = self._load.output_tokens
        self.scheduler.add_request(request)

    def _sampled(self, planned: Any) -> tuple[list[str], list[list[int]]]:
        """One token for every request that has computed its whole prompt."""
        for new in planned.scheduled_new_reqs:
            self._computed[new.req_id] = new.num_computed_tokens
            self.found_tokens += new.num_computed_tokens
            self.asked_tokens += len(new.prompt_token_ids)
        cached = planned.scheduled_cached_reqs
        self._computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        names = list(planned.num_scheduled_tokens)
        tokens: list[list[int]] = []
        for name in names:
            done = self._computed[name] + planned.num_scheduled_tokens[name]
            ready = done >= self.scheduler.requests[name].num_tokens
            tokens.append([7] if ready else [])
            self._left[name] -= ready
        return names, tokens

    def _leave(self) -> None:
        for name in [name for name, left in self._left.items() if not left]:
            session = self._running.pop(name)
            del self._left[name]
            self._computed.pop(name, None)
            if self._control and self._load.valued:
                self._value(f"{session}.main")

    def _value(self, session: str) -> None:
        from saga_core.kv import commands
        from saga_core.kv.retention import Standing

        worth = (int(Standing.LIVE), self._values.random())
        order = commands.Order(incarnation=0, command=commands.Retain(session=session, worth=worth))
        connector: Any = self.scheduler.connector
        connector.saga.order(commands.encode(order))


def _scheduler(model: str, load: Load, *, control: bool) -> Scheduler:
    import torch
    from vllm.config import KVTransferConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from saga_vllm.launch import CONNECTOR

    config = EngineArgs(
        model=model,
        max_model_len=load.context_tokens * 8,
        block_size=load.block_tokens,
        enforce_eager=True,
        load_format="dummy",
        max_num_seqs=load.running,
        kv_transfer_config=KVTransferConfig(**CONNECTOR) if control else None,
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = load.blocks
    spec = FullAttentionSpec(
        block_size=load.block_tokens, num_kv_heads=1, head_size=HEAD_DIM, dtype=torch.bfloat16
    )
    memory = KVCacheConfig(
        num_blocks=load.blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["l"], spec)]
    )
    kind = config.scheduler_config.get_scheduler_cls()
    return kind(
        vllm_config=config,
        kv_cache_config=memory,
        structured_output_manager=StructuredOutputManager(config),
        block_size=load.block_tokens,
        hash_block_size=load.block_tokens,
        log_stats=False,
    )


_hashers: dict[int, Any] = {}


def _hasher(block_tokens: int) -> Any:
    if block_tokens not in _hashers:
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        sha = get_hash_fn_by_name("sha256")
        init_none_hash(sha)
        _hashers[block_tokens] = get_request_block_hasher(block_tokens, sha)
    return _hashers[block_tokens]


def measure(model: str, load: Load, rounds: int) -> dict[str, Any]:
    """Both, in turns of `load.steps / rounds` steps, so that a busy machine slows both alike."""
    stock, ours = Twin(model, load, control=False), Twin(model, load, control=True)
    for twin in (stock, ours):  # fill the pool first
        while twin.asked_tokens < 2 * load.blocks * load.block_tokens:
            twin.step()
        twin.found_tokens = twin.asked_tokens = 0
    gc.collect()
    gc.freeze()  # as vLLM's engine does once it has started
    ratios, spent = [], {"stock_s": 0.0, "control_s": 0.0}
    for _ in range(rounds):
        stock.clock_s = ours.clock_s = 0.0
        for _ in range(load.steps // rounds):
            stock.step()
            ours.step()
        ratios.append(ours.clock_s / stock.clock_s - 1.0)
        spent["stock_s"] += stock.clock_s
        spent["control_s"] += ours.clock_s
    steps = load.steps // rounds * rounds
    return {
        "load": asdict(load),
        "step_us": {name.removesuffix("_s"): 1e6 * value / steps for name, value in spent.items()},
        "more": spent["control_s"] / spent["stock_s"] - 1.0,
        "more_rounds": {"low": min(ratios), "median": statistics.median(ratios), "high": max(ratios)},
        "found_share": {
            "stock": stock.found_tokens / max(1, stock.asked_tokens),
            "control": ours.found_tokens / max(1, ours.asked_tokens),
        },
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="saga_vllm.plugin.cost", description=__doc__)
    usual = Load()
    parser.add_argument("model")
    parser.add_argument("--blocks", type=int, default=usual.blocks)
    parser.add_argument("--sessions", type=int, default=usual.sessions)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--running", type=int, default=usual.running)
    parser.add_argument("--output-tokens", type=int, default=usual.output_tokens)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--valued", action=argparse.BooleanOptionalAction, default=True)
    given = vars(parser.parse_args())
    model, rounds = given.pop("model"), given.pop("rounds")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.stdout.write(json.dumps(measure(model, Load(**given), rounds)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
