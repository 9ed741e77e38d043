"""What a worker's /metrics says about its load. Read every heartbeat: so only the few lines needed are parsed.

The names are vLLM's (v1/metrics/loggers.py, the same in 0.30 to 0.32). With several engines behind one server (data
parallel) counts are summed and the fullest KV pool counts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Labels of vllm:cache_config_info; the leading [{,] keeps "mamba_block_size" and its like out.
_BLOCKS = re.compile(r'[{,]num_gpu_blocks="(\d+)"')
_BLOCK_TOKENS = re.compile(r'[{,]block_size="(\d+)"')


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """One reading. The *_tokens and preemptions are counters since the engine's start."""

    running: int
    waiting: int
    # Of the KV pool, in [0, 1]: what running requests hold. Blocks kept for reuse count as free.
    kv_usage: float
    prefix_queries_tokens: int
    prefix_hits_tokens: int
    preemptions: int
    prompt_tokens: int
    generation_tokens: int


@dataclass(frozen=True, slots=True)
class KvPool:
    """The size of the KV memory."""

    blocks: int
    block_tokens: int

    @property
    def tokens(self) -> int:
        """What fits: vLLM keeps one block, the null block, for itself."""
        return (self.blocks - 1) * self.block_tokens


def parse_metrics(text: str) -> EngineLoad:
    """The load in a Prometheus text. ValueError: it is not vLLM's (names it, so that a renamed metric is found)."""
    return EngineLoad(
        running=_total(text, "vllm:num_requests_running"),
        waiting=_total(text, "vllm:num_requests_waiting"),
        kv_usage=max(_values(text, "vllm:kv_cache_usage_perc"), default=0.0),
        prefix_queries_tokens=_total(text, "vllm:prefix_cache_queries_total"),
        prefix_hits_tokens=_total(text, "vllm:prefix_cache_hits_total"),
        preemptions=_total(text, "vllm:num_preemptions_total"),
        prompt_tokens=_total(text, "vllm:prompt_tokens_total"),
        generation_tokens=_total(text, "vllm:generation_tokens_total"),
    )


def parse_pool(text: str) -> KvPool | None:
    """The KV pool in a Prometheus text, of the first engine; None while the engine has not said it."""
    line = next(_lines(text, "vllm:cache_config_info"), "")
    blocks, block_tokens = _BLOCKS.search(line), _BLOCK_TOKENS.search(line)
    if blocks is None or block_tokens is None:
        return None
    return KvPool(int(blocks[1]), int(block_tokens[1]))


def _total(text: str, name: str) -> int:
    values = list(_values(text, name))
    if not values:
        raise ValueError(f"no metric {name} in what the worker says: not vLLM, or a version that renamed it")
    return int(sum(values))


def _values(text: str, name: str) -> Iterator[float]:
    for line in _lines(text, name):
        # A label's value may hold spaces or braces, the number never does; a timestamp vLLM does not write.
        yield float(line.rpartition(" ")[2])


def _lines(text: str, name: str) -> Iterator[str]:
    """The samples of `name`. Searching for the name skips the other 600 lines at C speed."""
    start = f"\n{name}{{"
    at = text.find(start)
    while at >= 0:
        end = text.find("\n", at + 1)
        yield text[at + 1 : end if end >= 0 else len(text)]
        at = text.find(start, at + 1)
