"""`saga sim run`: figures side by side, refusals before anything runs."""

import json

import pytest

from saga_cli.main import run
from saga_sim.slowdown import SLO


def sim(*words):
    return run(["sim", "run", "--synth", "demo", "--workflows", "4", *words])


def test_every_profile_beside_the_first(capsys):
    code = sim("--workers", "2", "--preset", "agent-cpu", "--pressure", "0.5", "--seeds", "2")
    out = capsys.readouterr().out
    assert code == 0
    assert out.splitlines()[2].split() == ["sticky", "saga-paper", "thunder", "saga"]
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    for row in (
        "TCT mean",
        "TTFT p95",
        "cached share",
        "useful KV",
        "speed-up",
        "95 % confidence",
        "over seeds",
        "slowdown max",
        "within 2.5x",
        "Jain over tenants",
        "events/s",
    ):
        assert row in rows, row
    assert "8/8" in rows["finished"]


def test_json_is_one_value_with_every_run(capsys):
    code = sim(
        "--workers", "2", "--preset", "agent-cpu", "--concurrency", "2", "--profile", "sticky,round-robin",
        "--output", "json",
    )  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [r["profile"] for r in answer["runs"]] == ["sticky", "round-robin"]
    assert answer["runs"][0]["summary"]["finished"] == 4
    assert answer["ratios"][0]["baseline"] == "sticky"
    assert answer["ratios"][0]["ci_low"] < answer["ratios"][0]["geomean"] < answer["ratios"][0]["ci_high"]
    slowed = answer["runs"][0]["slowdowns"]
    assert slowed["slo"] == SLO
    assert [tenant["workflows"] for tenant in slowed["tenants"]] == [4]


def test_tenants_have_their_own_lines_and_the_objective_is_as_asked(capsys):
    words = (
        "--synth",
        "ten-tenants",
        "--workflows",
        "25",
        "--workers",
        "1",
        "--concurrency",
        "25",
        "--slo",
        "1.2",
    )
    assert run(["sim", "run", *words, "--profile", "sticky"]) == 0
    out = capsys.readouterr().out
    assert "within 1.2x" in out
    shown = [line.split()[0] for line in out.split("within the objective")[1].splitlines()[1:11]]
    assert shown == sorted(["heavy-1", "heavy-2", "heavy-3", *(f"medium-{i}" for i in range(1, 5)), "light-1", "light-2",
                            "light-3"])  # fmt: skip


def test_faults_show_as_steps_tried_again(capsys):
    code = sim(
        "--workers", "2", "--preset", "agent-cpu", "--profile", "sticky", "--fault", "crash:n0001/0@5",
        "--fault", "death:n0001@9+8", "--arrival-rate", "2", "--lose", "0.1", "--output", "json",
    )  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["runs"][0]["summary"]["finished"] == 4
    assert answer["runs"][0]["summary"]["retries"] > 0


def test_kv_moves_from_a_node_that_ends_when_there_is_a_way(capsys):
    def cached(*moves):
        words = (
            "--workers",
            "2",
            "--per-node",
            "1",
            "--preset",
            "agent-cpu",
            "--profile",
            "saga",
            "--concurrency",
            "4",
        )
        assert sim(*words, "--fault", "end:n0001@10+60", *moves, "--output", "json") == 0
        return json.loads(capsys.readouterr().out)["runs"][0]["summary"]["cached_tokens"]

    without = cached()
    assert cached("--moves", "0") == without
    assert cached("--moves", "1e6") > without


def test_the_belady_ratio_is_there_when_asked_for(capsys):
    words = ("--workers", "1", "--preset", "agent-cpu", "--concurrency", "4", "--profile", "sticky")
    assert sim(*words) == 0
    assert "Belady" not in capsys.readouterr().out
    assert sim(*words, "--belady") == 0
    shown = capsys.readouterr().out
    assert "Belady ratio" in shown
    assert "away 10-60 s" in shown
    assert sim(*words, "--belady", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)["runs"][0]
    assert told["belady"]["reference"].startswith("this run: sticky, seed 0, facts " + told["trace_hash"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "--gpus N or --workers N"),
        (("--gpus", "8", "--workers", "2"), "one of them"),
        (("--gpus", "6"), "a multiple"),
        (("--gpus", "4", "--preset", "agent-cpu"), "give --workers"),
        (("--workers", "1", "--preset", "nope"), "llama3-70b-a100"),
        (("--workers", "1", "--profile", "stikcy"), "sticky"),
        (("--workers", "1", "--profile", "sticky,sticky"), "each profile once"),
        (("--workers", "1", "--pressure", "1", "--concurrency", "2"), "exclude each other"),
        (("--workers", "1", "--pressure", "-1"), "above 0"),
        (("--workers", "1", "--scale-time", "-1"), "valid: 0 or above"),
        (("--workers", "1", "--trace", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--workers", "1", "--fault", "crash:n0009/0@1"), "n0001/0"),
        (("--workers", "1", "--moves", "inf"), "0 or more"),
        (("--workers", "1", "--lose", "2"), "0 to below 1"),
        (("--workers", "1", "--slo", "0.5"), "1 or more"),
        (("--workers", "1", "--belady", "--lose", "0.1"), "without faults"),
    ],
)
def test_what_cannot_be_is_refused(capsys, words, why):
    assert sim(*words) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")


def test_a_damaged_trace_is_refused_with_its_line(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"v": 1}\n')
    assert run(["sim", "run", "--trace", str(path), "--workers", "1"]) == 2
    assert "bad.jsonl:1:" in capsys.readouterr().err
