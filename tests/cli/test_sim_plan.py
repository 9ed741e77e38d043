"""`saga sim plan|explain`: answers in every mode, refusals before anything runs, and 80 columns."""

from __future__ import annotations

import json

import pytest

from saga_cli.main import run

DEMO = ("--synth", "demo", "--workflows", "12", "--preset", "agent-cpu")


def sim(command, *words):
    return run(["sim", command, *words, *DEMO])


def plan(*words):
    return sim("plan", "--profile", "sticky", "--arrival-rate", "1", *words)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_plan_is_a_size_whose_neighbours_were_tried(capsys):
    code = plan(
        "--target", "p95 <= 40s and slo >= 50%", "--seeds", "2", "--max-workers", "16", "--output", "json"
    )
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    met = {one["workers"]: one["met"] for one in answer["tries"]}
    assert met[answer["workers"]]
    assert met[answer["workers"] + 1]
    assert not met[answer["workers"] - 1]
    assert answer["targets"] == ["p95 <= 40.0s", "slo >= 0.5"]
    assert answer["arrivals"] == "Poisson arrivals, 1/s"
    assert answer["nodes"] == -(-answer["workers"] // 8)
    assert answer["monotone"] is (not answer["against"])
    assert plan("--target", "p95 <= 40s", "--target", "slo >= 50%", "--seeds", "2", "--output", "quiet") == 0
    assert capsys.readouterr().out == f"{answer['workers']}\n"


def test_the_table_tells_what_was_tried_and_the_answer(capsys):
    assert plan("--target", "p95 <= 40s") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("sticky on agent-cpu: 12 workflows, Poisson arrivals, 1/s, 1 seed;")
    assert next(line for line in lines if line.startswith("WORKERS")).split()[:3] == [
        "WORKERS",
        "GPUS",
        "NODES",
    ]
    assert any(line.endswith("is.") and "is not enough" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert "1 worker (size 1; at most " in err
    assert " at the mean of these)" in err


def test_no_size_is_an_answer_too(capsys):
    assert plan("--target", "p95 <= 27s", "--max-workers", "3") == 1
    out = capsys.readouterr().out
    assert "No size up to 3 workers reaches p95 <= 27s (more: --max-workers)." in out
    assert "cut: " in out
    assert plan("--target", "p95 <= 27s", "--max-workers", "3", "--output", "quiet") == 1
    assert capsys.readouterr().out == ""


def test_what_the_work_itself_takes_is_known_without_a_run(capsys, monkeypatch):
    monkeypatch.setattr("saga_sim.sizing.simulate", None)
    assert plan("--target", "p95 <= 1s") == 1
    assert "No size reaches p95 <= 1.0s: p95 is at least " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--target", "p95 >= 5m"), "at character 5: '>=' after p95"),
        (("--target", "p95 <= 5m", "--target", "p95 <= 6m"), "two targets for p95"),
        (("--target", "p95 <= 5m", "--pressure", "1"), "exclude each other"),
        (("--target", "slo >= 1", "--slo", "0.5"), "1 or more"),
        (("--target", "mean <= 5m", "--profile", "sticky,saga-paper"), "one profile at a time"),
        (("--target", "mean <= 5m", "--profile", "stikcy"), "did you mean 'sticky'"),
        (("--target", "mean <= 5m", "--fault", "crash:n0009/0@1"), "n0001"),
        ((), "--target"),
    ],
)
def test_what_cannot_be_planned_is_refused(capsys, words, why):
    assert plan(*words) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")


def test_pressure_grows_with_the_cluster_and_is_refused(capsys):
    assert sim("plan", "--target", "p95 <= 5m", "--pressure", "0.5") == 2
    err = capsys.readouterr().err
    assert "--pressure scales the work with the cluster" in err
    assert "--arrival-rate PER_S" in err


def explain(*words):
    return sim("explain", *words, "--workers", "2", "--arrival-rate", "3")


@pytest.mark.parametrize("profile", ["saga", "saga-paper"])
def test_a_life_fits_80_columns_and_adds_up(capsys, profile):
    assert explain("slowest", "--profile", profile) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("number 1 of 12 from the slowest: ")
    assert lines[4].split() == [
        "STEP",
        "AT",
        "WAIT",
        "WORKER",
        "PROMPT",
        "CACHED",
        "AGAIN",
        "TTFT",
        "TIME",
        "GAP",
    ]
    assert any("main.0 -> n0001/" in line for line in lines)
    assert any(line.startswith("completion time ") and line.endswith("100%") for line in lines)


def test_json_and_quiet_name_the_same_workflow(capsys):
    assert explain("#3", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    story = told["story"]
    assert story["rank"] == 3
    assert sum(story["way"].values()) == pytest.approx(story["completion_s"])
    assert {"wait_s", "worker", "why", "ttft_s", "gap_s", "again_tokens"} <= set(story["steps"][0])
    assert explain(story["workflow_id"], "--output", "quiet") == 0
    assert capsys.readouterr().out == f"{story['workflow_id']} {story['completion_s']}\n"


def test_a_crash_amid_a_step_is_told_with_what_followed(capsys):
    assert explain("slowest", "--profile", "sticky", "--output", "json") == 0
    story = json.loads(capsys.readouterr().out)["story"]
    hit = story["steps"][5]
    at_s = story["arrived_s"] + hit["start_s"] + hit["ttft_s"] + 0.9 * (hit["duration_s"] - hit["ttft_s"])
    fault = f"crash:{hit['worker']}@{at_s}"
    assert explain(story["workflow_id"], "--profile", "sticky", "--fault", fault) == 0
    assert "broken: it crashed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("which", "why"),
    [("demo/0/99", "did you mean 'demo/0/"), ("#13", "#1 to #12"), ("p101", "or #N for the N-th slowest")],
)
def test_an_unknown_workflow_is_refused_before_the_run(capsys, monkeypatch, which, why):
    monkeypatch.setattr("saga_sim.experiment.simulate", None)
    assert explain(which) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")
