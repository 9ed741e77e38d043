"""The benchmarks run, and say what they claim to say. No figure is judged here: nothing timed is a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saga_bench import native
from saga_bench.bodies import chat_body
from saga_bench.candidates import find_router
from saga_bench.crowd import crowded_head
from saga_bench.decide import DecideOptions, Row, head_memory, run_decide
from saga_bench.gateway import GatewayOptions, run_gateway
from saga_bench.procfs import cpu_ns, tree
from saga_bench.simulation import SimulationOptions, SizeRow, growth, run_simulation
from saga_bench.summary import GatewayRow, summarise, with_added
from saga_core.errors import ClusterError, UserError
from saga_core.policy.profiles import PROFILES

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
TINY = GatewayOptions(
    candidates=("direct", "saga"),
    rounds=1,
    seconds=0.1,
    sizes=(1024,),
    clients=(2,),
    streams=4,
    stream_s=0.2,
    open_streams=8,
    silence_ms=400,
    leaves=1,
    stall_s=0.1,
)


def test_a_crowded_head_has_what_was_asked_for():
    head = crowded_head(12, 30, "saga-paper")
    head.check()
    assert (len(head.fleet.workers), len(head.fleet.nodes), head.book.live) == (12, 2, 30)
    assert not head.book.steps, "every first step is over"
    assert all(w.state == "ready" for w in head.fleet.workers.values())


def test_decide_measures_every_profile_at_every_size():
    seen: list[Row] = []
    options = DecideOptions(workers=(2, 4), workflows=(3, 5), decisions=40, rounds=2)
    rows = run_decide(options, seen.append)
    assert {(r.profile, r.workers, r.workflows) for r in rows} == {
        (profile, workers, workflows) for profile in PROFILES for workers in (2, 4) for workflows in (3, 5)
    }
    assert sorted(map(repr, seen)) == sorted(map(repr, rows))
    for row in rows:
        assert 0 < row.p50_min_us <= row.p50_us <= row.p50_max_us <= row.max_us + 1
        assert row.p50_us <= row.p99_us
        assert row.step_us >= row.p50_us
        assert row.rounds == 2


def test_memory_grows_with_workflows():
    small, large = head_memory(workers=2, workflows=20), head_memory(workers=2, workflows=200)
    assert 200 < small.per_workflow_bytes < 20_000
    assert large.head_bytes > small.head_bytes


def test_bodies_have_their_size_and_steer_the_backend():
    for size in (1024, 200 * 1024):
        body = chat_body(size, stream=True, events=7, gap_us=5, silence_ms=3)
        assert size <= len(body) <= 1.4 * size
        fields = json.loads(body)
        assert (fields["stream"], fields["max_tokens"], fields["seed"], fields["top_k"]) == (True, 7, 5, 3)
    assert chat_body(1024) == chat_body(1024)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match=r"C compiler.*gcc"):
        native.built("load")


@needs_compiler
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", ("--no-such-flag",))
    with pytest.raises(ClusterError, match="no-such-flag"):
        native.built("load")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_compiler
def test_programs_are_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native.built("backend")
    made_at = first.stat().st_mtime_ns
    assert native.built("backend") == first
    assert first.stat().st_mtime_ns == made_at


def test_a_wrong_router_and_a_wrong_candidate_are_refused():
    with pytest.raises(UserError, match="no such program"):
        find_router(Path("/nowhere/vllm-router"))
    with pytest.raises(UserError, match="direct, saga"):
        run_gateway(GatewayOptions(candidates=("sga",)))


def test_ratios_compare_within_a_round():
    rows = [
        GatewayRow(candidate=name, scenario="s", round=number, figures={"per_s": value}, load=0.0)
        for name, values in (("a", (200.0, 10.0, 60.0)), ("b", (50.0, 5.0, 40.0)))
        for number, value in enumerate(values)
    ]
    a, b = summarise(rows)
    assert (a.candidate, a.median, a.min, a.max, a.rounds) == ("a", 60.0, 10.0, 200.0, 3)
    assert a.ratio_to == {"b": 2.0}, "the median of 4, 2 and 1.5; not the ratio of the medians"
    assert b.ratio_to == {"a": 0.5}


def test_added_latency_is_beyond_the_direct_call_of_its_round():
    rows = [
        GatewayRow(candidate=name, scenario="s", round=number, figures={"latency_p50_us": value}, load=0.0)
        for name, number, value in (
            ("direct", 0, 20.0),
            ("saga", 0, 120.0),
            ("direct", 1, 50.0),
            ("saga", 1, 90.0),
        )
    ]
    assert [row.figures.get("added_p50_us") for row in with_added(rows)] == [None, 100.0, None, 40.0]


def test_processes_are_measured_with_their_children():
    script = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print('up', flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        below = tree(process.pid)
        assert len(below) == 2
        assert cpu_ns(process.pid) > 1_000_000
        for pid in reversed(below):
            subprocess.run(["kill", str(pid)], check=False)


@needs_compiler
def test_gateway_measures_the_whole_head_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = set(tree(os.getpid()))
    started: list[str] = []
    rows = run_gateway(TINY, on_start=lambda name, number: started.append(f"{name} {number}"))
    assert started == ["direct 0", "saga 0"]
    found = {(row.candidate, row.scenario): row.figures for row in rows}
    plain = found["saga", "1 KB x 2"]
    assert plain["per_s"] > 0
    assert plain["errors"] == 0
    assert 0 < plain["cpu_us_per_request"] < 100_000
    assert found["saga", "4 streams x 20/s"]["events_per_s"] > 0
    assert found["saga", "8 open streams"]["rss_open_mb"] > 10
    leaving = found["saga", "client leaves silent worker"]
    assert 0 < leaving["stream_ms"] < TINY.silence_ms
    assert 0 < leaving["plain_ms"] < TINY.silence_ms
    assert ("direct", "8 open streams") not in found
    assert set(tree(os.getpid())) == before, "no process of it is left"
    ours = {(s.scenario, s.figure) for s in summarise(rows) if s.candidate == "saga"}
    assert ("1 KB x 2", "added_p50_us") in ours


def size_row(gpus, event_us, per_doubling_us):
    return SizeRow(
        gpus=gpus, nodes=gpus // 8, live=gpus, events=gpus, events_per_s=1.0, events_per_s_min=1.0,
        events_per_s_max=1.0, event_us=event_us, per_doubling_us=per_doubling_us, speed=1.0, start_s=1.0,
        peak_mb=1.0, load=0.0, rounds=1,
    )  # fmt: skip


def test_growth_is_the_line_through_the_logarithm():
    straight = growth([size_row(16, 10.0, None), size_row(64, 12.0, 1.0), size_row(256, 14.0, 1.0)])
    assert straight is not None
    assert (straight.base_us, straight.doubling_us) == (pytest.approx(6.0), pytest.approx(1.0))
    assert (straight.off, straight.bend) == (pytest.approx(0.0), pytest.approx(1.0))
    assert (straight.cost_ratio, straight.log_ratio, straight.within_log) == (1.4, 2.0, True)
    steep = growth([size_row(16, 10.0, None), size_row(64, 11.0, 0.5), size_row(256, 24.0, 6.5)])
    assert steep is not None
    assert (steep.within_log, steep.bend) == (False, pytest.approx(13.0))
    assert steep.off > 0.1
    assert growth([size_row(16, 10.0, None)]) is None


def test_sizes_grow_fourfold_up_to_the_largest():
    assert SimulationOptions().sizes() == [16, 64, 256, 1024]
    assert SimulationOptions(most_gpus=10_000).sizes() == [16, 64, 256, 1024, 4096, 10_000]
    assert SimulationOptions(most_gpus=100).sizes() == [16, 64, 100]
    for wrong in (15, 10_001):
        with pytest.raises(UserError, match="16 to 10000"):
            SimulationOptions(most_gpus=wrong)


def test_the_simulator_is_measured_in_processes_of_its_own():
    options = SimulationOptions(most_gpus=32, profile="sticky", live=2, warm_s=4, span_s=4, rounds=2)
    before, seen = set(tree(os.getpid())), []
    answer = run_simulation(options, lambda number, gpus: seen.append((number, gpus)))
    assert seen == [(0, 16), (0, 32), (1, 32), (1, 16)], "alternating"
    assert set(tree(os.getpid())) == before
    small, large = answer.rows
    assert [(row.gpus, row.nodes, row.rounds) for row in answer.rows] == [(16, 2, 2), (32, 4, 2)]
    assert 16 <= small.live <= 2 * 16
    assert small.events == pytest.approx(large.events, rel=0.3), (
        "small ones as often as makes as many GPUs together"
    )
    assert small.events_per_s_min <= small.events_per_s <= small.events_per_s_max
    assert 10 < small.peak_mb < 2000
    assert (small.per_doubling_us, large.per_doubling_us) == (
        None,
        pytest.approx(large.event_us - small.event_us),
    )


def test_a_run_that_fails_says_its_last_words():
    options = SimulationOptions(most_gpus=16, profile="no-such-profile", live=1, rounds=1)
    with pytest.raises(ClusterError, match=r"16 GPUs ended with 1: .*no-such-profile"):
        run_simulation(options)
