"""The Prometheus text of the engine: vLLM's names and labels for the figures that saga reads."""

from collections.abc import Iterator

from saga_fake.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(engine: Engine, model: str) -> str:
    """One exposition of all figures of `engine`."""
    return "\n".join([*_figures(engine, model), ""])


def _figures(engine: Engine, model: str) -> Iterator[str]:
    labels = f'engine="0",model_name="{_escaped(model)}"'
    totals = engine.totals
    gauges = {
        "num_requests_running": float(len(engine.running)),
        "num_requests_waiting": float(len(engine.waiting)),
        "kv_cache_usage_perc": engine.pool.usage,
    }
    counters = {
        "prefix_cache_queries": totals.prefix_queries_tokens,
        "prefix_cache_hits": totals.prefix_hits_tokens,
        "num_preemptions": totals.preemptions,
        "prompt_tokens": totals.prompt_tokens,
        "generation_tokens": totals.generation_tokens,
    }
    for name, value in gauges.items():
        yield from (f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {value}")
    for name, count in counters.items():
        yield from (f"# TYPE vllm:{name}_total counter", f"vllm:{name}_total{{{labels}}} {float(count)}")
    yield "# TYPE vllm:request_success_total counter"
    for reason, count in totals.finished.items():
        yield f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}'
    shape = engine.shape
    cache = f'block_size="{shape.block_tokens}",enable_prefix_caching="True",engine="0",num_gpu_blocks="{shape.blocks}"'
    yield from ("# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{cache}}} 1.0")


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
