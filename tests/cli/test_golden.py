"""Every command in all three modes against its golden output. SAGA_UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from canned import CLUSTER, EMPTY, EXPLANATION, GATED, workflow

from saga_cli.local.up import Started
from saga_cli.replaying import Replayed, Report

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"
MODES = ("table", "json", "quiet")


def report(profile: str, tct_s: float) -> Report:
    from saga_sim.runs import Summary

    summary = Summary(
        workflows=2, finished=1, failed=1, cancelled=0, steps=24, retries=0, mismatches=0, tct_mean_s=tct_s,
        tct_geomean_s=tct_s - 1, tct_p95_s=tct_s + 5, ttft_mean_s=0.21, ttft_p95_s=0.93, prompt_tokens=81_234,
        output_tokens=1200, cached_tokens=61_000, cached_share=0.751, regenerated_tokens=1834, wall_s=tct_s * 2,
        interrupted=False,
    )  # fmt: skip
    rows = [
        Replayed(id=5, workflow="demo/0/0000", agent_type="demo-coding", state="finished", steps=12, expected_steps=12, tct_s=tct_s, retries=0, why=""),
        Replayed(id=6, workflow="demo/0/0001", agent_type="demo-coding", state="failed", steps=11, expected_steps=12, tct_s=tct_s, retries=1, why="step 11: HTTP 500"),
    ]  # fmt: skip
    return Report(profile=profile, model="agent", seed=0, summary=summary, workflows=rows)


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    """What starts or ends processes is tested end to end in test_local.py."""
    monkeypatch.setattr("saga_cli.local.up.bring_up", lambda *_, **__: Started(CLUSTER, already=False))
    monkeypatch.setattr("saga_cli.local.down.take_down", lambda *_, **__: 2)
    monkeypatch.setattr(
        "saga_cli.demonstration.demonstrate", lambda *_: [report("saga-paper", 20.0), report("sticky", 25.0)]
    )
    monkeypatch.setattr("saga_cli.replaying.run", lambda *_, **__: report("saga-paper", 20.0))


COMMANDS = {
    "up": ["up", "--local", "--engine", "fake"],
    "down-refused": ["down"],
    "down": ["down", "--force"],
    "status": ["status"],
    "url": ["url"],
    "url-key": ["url", "--key"],
    "profile": ["profile"],
    "profile-set": ["profile", "sticky"],
    "submit": ["submit", "--name", "mine", "--", "python", "agent.py", "--output", "x"],
    "submit-replay": ["submit", "--synth", "demo", "--workflows", "2"],
    "ps": ["ps"],
    "ps-all": ["ps", "--all"],
    "ps-range": ["ps", "2-3,last"],
    "inspect": ["inspect", "1"],
    "inspect-failed": ["inspect", "3"],
    "explain": ["explain", "1"],
    "explain-step": ["explain", "saga-48"],
    "explain-unknown": ["explain", "99"],
    "explain-unknown-step": ["explain", "saga-99"],
    "logs": ["logs", "1"],
    "wait": ["wait", "2-3"],
    "cancel": ["cancel", "all"],
    "top": ["top", "--once"],
    "trace-synth": ["trace", "synth", "t.jsonl.gz", "--workflows", "3"],
    "trace-stats": ["trace", "stats", "t.jsonl.gz"],
    "trace-check": ["trace", "check", "t.jsonl.gz"],
    "config-show": ["config", "show", "--set", "head.port=8080"],
    "demo": ["demo", "--engine", "fake"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_all_three_modes(name, saga, folder, stub):
    if name in {"trace-stats", "trace-check"}:
        saga("trace", "synth", "t.jsonl.gz", "--workflows", "3")
    told = "\n".join(_section(saga, mode, COMMANDS[name], stub, folder) for mode in MODES)
    _compare(name, told)


def _section(saga, mode, command, stub, folder) -> str:
    stub.cluster = CLUSTER
    said = saga(*command, "--output", mode) if command[0] != "submit" else saga("--output", mode, *command)
    if mode == "json":
        values = [json.loads(line) for line in said.out.splitlines()]
        assert len(values) == (said.code != 2 and name_has_answer(said)), (
            "exactly one value, or an error and none"
        )
    text = f"$ saga --output {mode} {' '.join(command)}\n{said.out}"
    text += "".join(f"! {line}\n" for line in said.err.splitlines())
    return _neutral(f"{text}[exit {said.code}]\n", folder, stub)


def name_has_answer(said) -> bool:
    return '{"error"' not in said.err


def _neutral(text, folder, stub) -> str:
    text = text.replace(str(folder), "CLUSTER_DIR").replace(stub.url, "http://HOST:PORT")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _compare(name: str, told: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SAGA_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(told)
    assert told == path.read_text(), f"differs from {path.name}; SAGA_UPDATE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("name", ["status", "ps", "top"])
def test_an_empty_cluster_has_words(name, saga, folder, stub):
    stub.cluster, stub.workflows = EMPTY, []
    said = saga(name, *(["--once"] if name == "top" else []))
    assert said.code == 0
    _compare(f"empty-{name}", _neutral(said.out, folder, stub))


@pytest.mark.parametrize("command", [["status"], ["ps"], ["inspect", "1"], ["top", "--once"]])
def test_who_waits_at_the_gate_is_shown(command, saga, folder, stub):
    stub.cluster, stub.workflows = GATED, list(GATED.workflows)
    said = saga(*command)
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    _compare(f"gated-{command[0]}", _neutral(said.out, folder, stub))


def test_an_explanation_fits_80_columns_and_moves_no_cursor(saga, folder):
    out = saga("explain", "1").out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out + saga("explain", "1", "--output", "quiet").out


def test_a_priority_is_a_mark_before_the_name_and_a_number_in_full(saga, folder, stub):
    stub.cluster = GATED
    stub.workflows = [workflow(1, "tool", priority=5), workflow(2, "tool", priority=-2), workflow(3, "tool")]
    marks = [line.split()[1] for line in saga("ps").out.splitlines()[1:]]
    assert marks == ["↑5", "↓2", "agent.py"]
    assert [row["priority"] for row in json.loads(saga("ps", "--output", "json").out)] == [5, -2, 0]
    assert re.search(r"^priority +-2$", saga("inspect", "2").out, re.MULTILINE)
    assert "priority" not in saga("inspect", "3").out
    assert re.search(r"^priority +5$", saga("explain", "1").out, re.MULTILINE)
    assert " ↑5 agent.py" in saga("top", "--once").out


def test_a_step_is_asked_for_by_its_request_id(saga, folder, stub):
    saga("explain", "saga-48")
    assert stub.asked == [("GET", "/saga/v1/steps/48/explanation", None)]


def test_the_explanation_survives_the_wire():
    assert msgspec.json.decode(msgspec.json.encode(EXPLANATION), type=type(EXPLANATION)) == EXPLANATION


def test_tables_fit_80_columns(saga, folder, stub):
    large = {"home": "gpu-node-0017/12", "steps": 100_000, "priority": -10}
    stub.workflows = [workflow(12345, "cancelling", name="x" * 200, **large)]
    for command in (["ps"], ["ps", "--all"], ["status"], ["inspect", "12345"], ["top", "--once"]):
        assert max(map(len, saga(*command).out.splitlines())) <= 80, command


def test_strangers_names_cannot_move_the_cursor(saga, folder):
    assert "\x1b" not in saga("ps", "--all").out + saga("inspect", "3").out + saga("top", "--once").out


def test_json_has_times_in_iso_8601_and_durations_in_seconds(saga, folder):
    row = json.loads(saga("ps", "2", "--output", "json").out)[0]
    assert row["submitted_at"] == "2027-01-15T07:56:48.000Z"
    assert row["tct_s"] == 92.0
    assert row["started_at"].endswith("Z")


def test_the_stub_answers_in_the_views_types(stub):
    """The canned views are what the wire carries: they survive it."""
    assert msgspec.json.decode(msgspec.json.encode(CLUSTER), type=type(CLUSTER)) == CLUSTER
