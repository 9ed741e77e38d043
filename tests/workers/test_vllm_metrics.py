"""Reading a worker's /metrics, on a recording of vLLM 0.32.0 after three requests."""

from pathlib import Path

import pytest

from saga_vllm.metrics import EngineLoad, KvPool, parse_metrics, parse_pool

RECORDED = (Path(__file__).parent / "data/vllm-0.32-metrics.txt").read_text()


def test_the_load_of_a_recording() -> None:
    assert parse_metrics(RECORDED) == EngineLoad(
        running=0,
        waiting=0,
        kv_usage=0.0,
        prefix_queries_tokens=579,
        prefix_hits_tokens=192,
        preemptions=0,
        prompt_tokens=579,
        generation_tokens=24,
    )


def test_the_pool_of_a_recording() -> None:
    pool = parse_pool(RECORDED)
    assert pool == KvPool(blocks=256, block_tokens=32)
    assert pool.tokens == 255 * 32, "one block is vLLM's own"


def test_a_busy_worker_with_two_engines() -> None:
    text = RECORDED
    for name, first, second in [
        ("num_requests_running", "3.0", "2.0"),
        ("num_requests_waiting", "1.0", "4.0"),
        ("kv_cache_usage_perc", "0.25", "0.75"),
    ]:
        line = f'vllm:{name}{{engine="0",model_name="m"}}'
        other = line.replace('engine="0"', 'engine="1"')
        assert f"\n{line} 0.0\n" in text
        text = text.replace(f"\n{line} 0.0\n", f"\n{line} {first}\n{other} {second}\n")
    load = parse_metrics(text)
    assert (load.running, load.waiting, load.kv_usage) == (5, 5, 0.75)


def test_labels_with_blanks_and_large_counts() -> None:
    text = RECORDED.replace('model_name="m"', 'model_name="my {odd} model"').replace(
        "} 24.0\n", "} 1.234567e+09\n"
    )
    assert parse_metrics(text).generation_tokens == 1_234_567_000


def test_the_last_line_may_lack_its_end() -> None:
    name = "vllm:generation_tokens_total{"
    head, tail = RECORDED.split(f"\n{name}")
    line = tail.partition("\n")[0].replace(" 24.0", " 24")
    assert parse_metrics(f"{head}\n{name}{line}").generation_tokens == 24


@pytest.mark.parametrize("text", ["", "<html>", RECORDED.replace("num_preemptions", "preempted")])
def test_what_is_not_vllm_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="no metric vllm:"):
        parse_metrics(text)


@pytest.mark.parametrize("text", ["", RECORDED.replace('num_gpu_blocks="256"', 'num_gpu_blocks="None"')])
def test_a_pool_not_known_yet(text: str) -> None:
    assert parse_pool(text) is None


def test_another_label_that_ends_alike_is_not_the_block_size() -> None:
    text = RECORDED.replace("{_block_size_resolved", '{mamba_block_size="16",_block_size_resolved')
    assert parse_pool(text) == KvPool(blocks=256, block_tokens=32)
