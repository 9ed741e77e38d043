"""Mixed traffic, random orders, aborts, resets and kills on one real engine: nothing leaks, the mirror is the engine.

This is the short one. By hand, for long: `python -m saga_bench.kv_soak` (docs/kv.md, where its last result stands).
"""

import os

import pytest

from saga_bench import engine, kv_soak

SOAK_S = float(os.environ.get("SAGA_SOAK_S", "60"))
pytestmark = [pytest.mark.vllm, pytest.mark.nightly, pytest.mark.timeout(SOAK_S + 600)]


async def test_mixed_traffic_leaks_nothing_and_the_mirror_is_the_engine(tmp_path) -> None:
    model = await engine.build("nano", tmp_path)
    result = await kv_soak.soak(kv_soak.SoakOptions(seconds=SOAK_S, kills=1), model, print)
    assert result.faults == []
    killed, last = result.lives
    assert killed.count["steps"]
    assert last.count["steps"]
    assert not [name for name in killed.left if "offload" in name], "the tier is private memory"
