"""The forecasts command: questions before answers, in the order of time."""

import pytest

from saga_sim.costs import preset
from saga_sim.forecasts import main, spearman
from saga_sim.hindsight import Trial, load, stream
from saga_sim.sequels import fano, measure
from saga_sim.tools import tools_of

ENGINE = preset("llama3-8b-h100")


def test_the_stream_is_in_order_and_whole():
    workflows = load("synth:demo:6")
    told = stream(workflows, ENGINE, 4, seed=1)
    assert [event.at for event in told] == sorted(event.at for event in told)
    for index, workflow in enumerate(workflows):
        kinds = [event.what for event in told if event.workflow == index]
        assert kinds[0] == "began"
        assert kinds[-1] == "ended"
        assert kinds.count("stepped") == len(workflow.steps)


def test_a_trial_counts_only_its_half():
    workflows = load("synth:demo:8")
    counted = {}
    for half in ("even", "odd", "all"):
        trial = Trial(workflows, ENGINE, half, blind=False)
        for told in stream(workflows, ENGINE, 2, seed=1):
            trial.tell(told)
        counted[half] = trial.sums.steps
    assert counted["even"] == sum(len(workflow.steps) for workflow in workflows[::2])
    assert counted["even"] + counted["odd"] == counted["all"]


def test_the_last_step_of_a_session_asks_for_nothing():
    assert all(tools_of(workflow)[-1] == "-" for workflow in load("synth:demo:3"))


def test_the_report_says_what_was_counted(capsys):
    assert main(["synth:demo:12", "--half", "all", "--live", "2"]) == 0
    said = capsys.readouterr().out
    assert "12 workflows, half all" in said
    assert "next tool" in said
    assert "work at   0%" in said


def test_an_unknown_source_is_a_usage_error(capsys):
    assert main(["synth:nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_rank_correlation_by_hand():
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(3**0.5 / 2)
    assert spearman([5, 5, 5], [1, 2, 3]) == 0.0


def test_looking_back_tells_what_looking_at_nothing_cannot():
    rows = [["a", "b"] * 100]
    assert measure(rows, 0)[1] < 0.6
    assert measure(rows, 1)[1] > 0.95


def test_fanos_bound_of_a_fair_coin_and_of_certainty():
    assert fano(1.0, 2) == pytest.approx(0.5, abs=0.01)
    assert fano(0.0, 5) == pytest.approx(1.0, abs=0.001)
