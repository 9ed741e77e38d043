"""`saga eval` as a process: killed and run again, with a damaged store, and with mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from saga_cli.main import run

QUICK = (
    "eval", "quick", "--sets", "swe", "--profile", "sticky,round-robin", "--workflows", "25", "--pressure", "0.3,1.5",
)  # fmt: skip
PATIENCE_S = 60.0


def started(folder, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "saga_cli", *QUICK, "--out", str(folder), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(fact, what):
    end = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def lines(folder):
    path = folder / "cells.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kept(folder):
    return {line["key"]: line for line in map(json.loads, (folder / "cells.jsonl").read_text().splitlines())}


def outcome(folder):
    """All that must not depend on interruptions."""
    answer = json.loads((folder / "eval.json").read_text())
    return answer["standings"], answer["targets"], answer["losses"], answer["cells"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_cut_short_it_goes_on_and_says_the_same(tmp_path, how):
    first = started(tmp_path / "a", "--seeds", "3", "--jobs", "2")
    try:
        until(lambda: lines(tmp_path / "a") >= 3, "no cell ended")
        workers = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(how)
        _, told = first.communicate(timeout=PATIENCE_S)
    finally:
        first.kill()
    until(
        lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers),
        "a process stayed",
    )
    before = lines(tmp_path / "a")
    assert 3 <= before < 12, "it was to be cut short"
    if how == signal.SIGINT:
        assert first.returncode == 130
        assert "the same command goes on from there" in told
        assert "Traceback" not in told
    again = started(tmp_path / "a", "--seeds", "3", "--jobs", "2")
    _, told = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, told
    whole = len(kept(tmp_path / "a"))
    assert whole == 12
    assert f"{12 - before} cells to run, {before} kept" in told or "damaged result" in told
    one = started(tmp_path / "b", "--seeds", "3", "--jobs", "1")
    _, told = one.communicate(timeout=PATIENCE_S)
    assert one.returncode == 0, told
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_damaged_result_is_run_again(tmp_path, capsys):
    words = [*QUICK, "--workflows", "5", "--jobs", "1", "--out", str(tmp_path), "--output", "json"]
    assert run(words) == 0
    answer = json.loads(capsys.readouterr().out)
    path = tmp_path / "cells.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert run([word for word in words if word not in ("--output", "json")]) == 0
    told = capsys.readouterr().err
    assert "1 damaged result dropped" in told
    assert "1 cell to run, 3 kept" in told
    assert json.loads((tmp_path / "eval.json").read_text())["standings"] == answer["standings"]
    assert {p.name for p in tmp_path.iterdir()} == {"cells.jsonl", "eval.json", "eval.md", "eval.html"}


def test_sets_without_a_recording_are_skipped_and_named(tmp_path, capsys):
    words = [
        "eval",
        "quick",
        "--profile",
        "sticky",
        "--workflows",
        "3",
        "--jobs",
        "1",
        "--traces",
        str(tmp_path),
    ]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert "skipped: iso" in told
    assert "iso-bench-trae.jsonl.gz" in (tmp_path / "out" / "eval.md").read_text()


def test_a_profile_whose_cells_fail_is_reported_and_run_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "saga_sim.evaluation.crew.COMMAND", (sys.executable, "-c", "import sys; sys.stdin.readline()")
    )
    words = [*QUICK, "--workflows", "3", "--jobs", "2", "--out", str(tmp_path)]
    assert run(words) == 1
    told = capsys.readouterr()
    assert "FAILED: its process ended with 0" in told.err
    assert "its process ended with 0" in (tmp_path / "eval.md").read_text()
    assert lines(tmp_path) == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("nope",), "standard"),
        (("quick", "--sets", "sweet"), "swe"),
        (("quick", "--profile", "stikcy"), "sticky"),
        (("quick", "--profile", "sticky", "--baseline", "ttl"), "sticky"),
        (("quick", "--half", "other"), "report"),
        (("quick", "--pressure", "-1"), "above 0"),
        (("quick", "--jobs", "0"), "1 to 1024"),
        (("quick", "--traces", "/nowhere"), "no folder"),
        (("quick", "--sets", "mix"), "nothing to run"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, capsys, words, why):
    assert run(["eval", *words, "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
