"""What session control costs in the scheduling step: the figures are of turns, and three real schedulers do the same work."""

import pytest

from saga_vllm.plugin.cost import Kind, Load, compared, measure, turns

SMALL = Load(blocks=600, sessions=60, context_tokens=320, output_tokens=32, running=8, steps=48)


def test_each_turn_is_one_comparison():
    """The machine was three times as slow in the third turn, for all alike."""
    windows = {
        Kind.STOCK: [0.010, 0.010, 0.030, 0.010, 0.010],
        Kind.CONNECTOR: [0.010, 0.011, 0.033, 0.012, 0.010],
        Kind.CONTROL: [0.011, 0.011, 0.033, 0.013, 0.010],
    }
    found = compared(windows, steps=10)
    assert found["windows"] == 5
    assert found["step_us"] == pytest.approx({"stock": 1000.0, "connector": 1100.0, "control": 1100.0})
    assert found["more"]["control"] == pytest.approx(
        {"low": 0.1, "median": 0.1, "high": 0.1, "of_all": 8 / 70}
    )
    assert found["more"]["connector"] == pytest.approx(
        {"low": 0.0, "median": 0.1, "high": 0.1, "of_all": 6 / 70}
    )


def test_everybody_is_first_as_often_as_others():
    assert [turns(number)[0] for number in range(4)] == [*Kind, Kind.STOCK]
    assert all(set(turns(number)) == set(Kind) for number in range(3))


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # torch's own, while it is imported
async def test_three_schedulers_of_this_vllm_do_the_same_work(tmp_path):
    from saga_bench import engine

    found = measure(str(await engine.build("nano", tmp_path)), SMALL)
    assert found["windows"] == 6
    assert all(us > 0.0 for us in found["step_us"].values())
    assert found["found_share"]["connector"] == found["found_share"]["stock"], "the pool has vLLM's own queue"
    assert 0.0 < found["found_share"]["control"] < 1.0
