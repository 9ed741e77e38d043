"""What the head keeps is freed by counts: the daemon may leave it out of sight of the cyclic collector."""

import gc

import pytest
from core_rig import Rig, config


def life(rig: Rig, workflows: int) -> None:
    """Workflows begin, take steps in two sessions, and end, one in four cancelled with a step under way."""
    for turn in range(workflows):
        number = rig.submit(agent_type="swe")
        for _ in range(3):
            for session in ("main", "sub"):
                rig.step(number, session=session, body_bytes=4_000)
                rig.now += 0.5
                rig.finish(rig.steps, prompt_tokens=1_000, cached_tokens=0, output_tokens=50, tool="bash")
                rig.now += 0.2
        if turn % 4:
            rig.end(number)
        else:
            rig.step(number)
            rig.cancel(number)
            rig.finish(rig.steps)
            rig.now += 1.0
            rig.tick()


@pytest.mark.parametrize("profile", ["saga", "saga-paper"])
def test_a_head_leaves_nothing_to_the_collector(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saga_core.book.KEEP_ENDED", 4)
    rig = Rig(config(profile))
    rig.hello()
    rig.up("n1/0", capacity_tokens=100_000)
    life(rig, 8)
    gc.collect()
    gc.disable()
    try:
        life(rig, 40)
        assert len(rig.head.book.workflows) < 20, "most have come and gone"
        found = gc.collect()
    finally:
        gc.enable()
    assert found == 0
