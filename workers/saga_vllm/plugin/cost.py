"""What session control costs in the engine's scheduling step: vLLM's own scheduler, without and with it, side by side.

`python -m saga_vllm.plugin.cost MODEL`: no model runs, only its configuration is read (a folder, or a name); time is
the CPU time of `schedule` and `update_from_output`. The same requests in the same order go to three schedulers: vLLM's
as it comes, one with a connector that does nothing (what vLLM itself does for any), one with session control. Sessions
at random take a step each, their prompt grows, the pool is too small for all. They run in turns of a few steps; each
turn is one comparison, and the median of them is said. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
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
    window: int = 8
    """Steps of one turn: few enough that all three meet the same machine."""
    valued: bool = True
    """Whether every session has a worth, a new one after each of its turns."""


class Kind(StrEnum):
    STOCK = "stock"  # vLLM as it comes
    CONNECTOR = "connector"  # with our connector, which does nothing
    CONTROL = "control"  # with session control


class Twin:
    """One scheduler with its load; `clock_s` is the CPU time of its scheduling so far."""

    def __init__(self, model: str, load: Load, kind: Kind) -> None:
        self._load, self._control = load, kind is Kind.CONTROL
        self._rng, self._values = Random(1), Random(2)  # noqa: S311 - a load, not a secret
        self.scheduler: Scheduler = _scheduler(model, load, connected=kind is not Kind.STOCK)
        if kind is Kind.CONNECTOR:
            _detach(self.scheduler)
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

    def run(self, steps: int) -> float:
        """So many steps; the CPU time of their scheduling in seconds."""
        self.clock_s = 0.0
        for _ in range(steps):
            self.step()
        return self.clock_s

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


def _scheduler(model: str, load: Load, *, connected: bool) -> Scheduler:
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
        kv_transfer_config=KVTransferConfig(**CONNECTOR) if connected else None,
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


def _detach(scheduler: Scheduler) -> None:
    """The connector stays, and the pool has a queue of vLLM's own."""
    connector: Any = scheduler.connector
    connector.saga.keeper.retreat("what vLLM does for any connector is measured")
    connector.saga.keeper = None


_hashers: dict[int, Any] = {}


def _hasher(block_tokens: int) -> Any:
    if block_tokens not in _hashers:
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        sha = get_hash_fn_by_name("sha256")
        init_none_hash(sha)
        _hashers[block_tokens] = get_request_block_hasher(block_tokens, sha)
    return _hashers[block_tokens]


def measure(model: str, load: Load) -> dict[str, Any]:
    """All of them in turns of a window each, so that a busy machine slows all alike."""
    twins = {kind: Twin(model, load, kind) for kind in Kind}
    for twin in twins.values():  # fill the pool first
        while twin.asked_tokens < 2 * load.blocks * load.block_tokens:
            twin.step()
        twin.found_tokens = twin.asked_tokens = 0
    gc.collect()
    gc.freeze()  # as vLLM's engine does once it has started
    windows: dict[Kind, list[float]] = {kind: [] for kind in Kind}
    for number in range(load.steps // load.window):
        for kind in turns(number):
            windows[kind].append(twins[kind].run(load.window))
    gc.unfreeze()
    return {
        "load": asdict(load),
        **compared(windows, load.window),
        "found_share": {kind: twin.found_tokens / max(1, twin.asked_tokens) for kind, twin in twins.items()},
    }


def turns(number: int) -> list[Kind]:
    """Who goes first moves on from window to window: whoever follows another finds less of its own in the caches."""
    kinds, first = list(Kind), number % len(Kind)
    return kinds[first:] + kinds[:first]


def compared(windows: Mapping[Kind, Sequence[float]], steps: int) -> dict[str, Any]:
    """What windows of so many steps took (seconds, in the order in which they were run), in figures.

    step_us: the median window's, per step. more: over vLLM as it comes in the same turn, quartiles of all turns;
    0.05 is 5 % more.
    """
    stock = windows[Kind.STOCK]
    more = {}
    for kind, own in windows.items():
        if kind is not Kind.STOCK:
            low, middle, high = statistics.quantiles(
                [mine / its - 1.0 for mine, its in zip(own, stock, strict=True)], n=4, method="inclusive"
            )
            more[kind] = {"low": low, "median": middle, "high": high, "of_all": sum(own) / sum(stock) - 1.0}
    return {
        "windows": len(stock),
        "step_us": {kind: 1e6 * statistics.median(own) / steps for kind, own in windows.items()},
        "more": more,
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
    parser.add_argument("--window", type=int, default=usual.window)
    parser.add_argument("--valued", action=argparse.BooleanOptionalAction, default=True)
    given = vars(parser.parse_args())
    model = given.pop("model")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
    sys.stdout.write(json.dumps(measure(model, Load(**given))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
