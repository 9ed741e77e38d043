"""`saga sim plan|explain` and `saga bench sim` in all three modes against their golden outputs, with canned answers."""

from __future__ import annotations

import pytest
from test_golden import MODES, _compare, _section

from saga_bench.simulation import SimulationBench, SimulationOptions, SizeRow, growth
from saga_cli.planning import Plan
from saga_cli.telling import Explained
from saga_sim.sizing import Reached, Try
from saga_sim.story import Parts, Pause, Placement, StepStory, Story

P95, SLO = "p95 <= 300.0s", "slo >= 0.95"


def tried(workers, p95_s, slo, why="", *, met=False):
    reached = (Reached(target=P95, value=p95_s, met=met), Reached(target=SLO, value=slo, met=met))
    return Try(
        workers=workers, gpus=4 * workers, nodes=-(-workers // 2), met=met, reached=reached, seeds=3, why=why, wall_s=1.5
    )  # fmt: skip


def plan(**changes):
    told = {
        "profile": "saga", "preset": "llama3-70b-a100", "arrivals": "Poisson arrivals, 0.5/s", "workflows": 300,
        "seeds": 3, "slo": 2.5, "targets": [P95, SLO], "most_workers": 1024, "workers": 5, "gpus": 20, "nodes": 3,
        "monotone": False, "against": [2], "beyond": "", "wall_s": 9.0,
        "tries": [
            tried(1, None, None, "cut: 16 of 31 late"), tried(2, 250.0, 0.96, met=True),
            tried(4, 310.0, 0.9), tried(5, 299.0, 0.953, met=True), tried(6, 240.0, 1.0, met=True),
        ],
    }  # fmt: skip
    return Plan(**(told | changes))


NONE = {"workers": None, "gpus": None, "nodes": None, "against": [], "monotone": True, "most_workers": 4}


def step(number, **changes):
    told = {
        "step": number, "session": "main.0", "start_s": 12.0 * number, "wait_s": 0.0, "worker": "n0001/0",
        "why": "home", "moved_from": None, "attempts": 1, "placements": (), "prompt_tokens": 12_345,
        "cached_tokens": 11_000, "again_tokens": 16, "output_tokens": 200, "ttft_s": 0.31, "duration_s": 7.5,
        "gap_s": 4.5, "on_way": True, "parts": Parts(),
    } | changes  # fmt: skip
    if not told["placements"]:
        told["placements"] = (Placement(at_s=told["start_s"], worker=told["worker"], why=told["why"]),)
    return StepStory(**told)


def story():
    lost = Placement(at_s=24.0, worker="gpu-node-0017/3", why="home", lost="broken: it crashed")
    came = Placement(
        at_s=25.0, worker="n0001/1", why="let in after 58.7 s: 1459 tokens, 0.68 of n0001/1 in use"
    )
    why = (
        "least loaded (0.54); home gpu-node-0017/3 has load 0.84 >= 0.8, and a reason that needs another line"
    )
    steps = (
        step(0, wait_s=3.2, gap_s=0.2, why="least loaded (0.08); no home yet"),
        step(1),
        step(2, worker="n0001/1", why=came.why, attempts=2, placements=(lost, came), moved_from="n0001/0"),
        step(3, session="sub.3", worker="gpu-node-0017/3", why=why, on_way=False, gap_s=None),
        step(4, worker="n0001/1", why="home", gap_s=None, again_tokens=9000, cached_tokens=0),
    )
    way = Parts(tools_s=9.0, gate_s=3.2, work_s=20.0, again_s=6.5, shared_s=11.0, links_s=0.1, lost_s=1.2)
    return Story(
        workflow_id="django/\x1b[2Jevil", agent_type="swe-agent", state="failed", why="step 5: 503 queue_full: 9 wait",
        rank=2, of=40, arrived_s=75.0, completion_s=51.0, moves=1, steps=steps, way=way,
        pauses=(Pause(at_s=13.0, session="main.0", worker="n0001/0", why="0.97 of n0001/0 in use"),),
        all_steps=Parts(tools_s=9.0, gate_s=3.2, work_s=27.5, again_s=6.5, shared_s=11.0, links_s=0.1, lost_s=1.2),
    )  # fmt: skip


def bench():
    sizes = {16: 10.5, 64: 13.0, 256: 15.0, 1024: 17.5}
    rows, before = [], None
    for gpus, cost_us in sizes.items():
        rows.append(
            SizeRow(
                gpus=gpus, nodes=gpus // 8, live=10 * gpus, events=10_000 * gpus, events_per_s=1e6 / cost_us,
                events_per_s_min=0.9e6 / cost_us, events_per_s_max=1.1e6 / cost_us, event_us=cost_us,
                per_doubling_us=None if before is None else (cost_us - before) / 2, speed=3000 / gpus,
                start_s=gpus / 100, peak_mb=30 + gpus / 6, load=1.2, rounds=2,
            )
        )  # fmt: skip
        before = cost_us
    return SimulationBench(
        preset="llama3-8b-h100",
        workload="swe-bench-like",
        options=SimulationOptions(),
        rows=rows,
        growth=growth(rows),
    )


ASKED = ["--synth", "demo", "--arrival-rate", "1"]
COMMANDS = {
    "sim-plan": ["sim", "plan", "--target", "p95 <= 5m and slo >= 95%", *ASKED],
    "sim-plan-none": ["sim", "plan", "--target", "p95 <= 5m", *ASKED],
    "sim-plan-beyond": ["sim", "plan", "--target", "p95 <= 5m", *ASKED],
    "sim-explain": ["sim", "explain", "#2", "--workers", "2", *ASKED],
    "bench-sim": ["bench", "sim"],
}
PLANS = {
    "sim-plan-none": NONE | {"tries": plan().tries[::2][:1]},
    "sim-plan-beyond": NONE | {"tries": [], "beyond": "p95 is at least 720 s with every prompt cached"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_answer_in_all_three_modes(name, saga, folder, stub, monkeypatch):
    told = Explained(profile="saga", preset="llama3-70b-a100", workers=2, seed=0, workflows=40, story=story())
    monkeypatch.setattr("saga_cli.planning.plan", lambda *_: plan(**PLANS.get(name, {})))
    monkeypatch.setattr("saga_cli.telling.explain", lambda *_: told)
    monkeypatch.setattr("saga_bench.simulation.run_simulation", lambda *_: bench())
    _compare(name, "\n".join(_section(saga, mode, COMMANDS[name], stub, folder) for mode in MODES))


@pytest.mark.parametrize("command", [["sim", "run"], ["sim", "plan"], ["sim", "explain"], ["bench", "sim"]])
def test_help_says_every_option(command, saga, folder, stub):
    _compare(f"{'-'.join(command)}-help", saga(*command, "--help").out)


@pytest.mark.parametrize("name", ["sim-plan", "sim-explain", "bench-sim"])
def test_tables_fit_80_columns_and_move_no_cursor(name, saga, monkeypatch, folder, stub):
    monkeypatch.setattr("saga_cli.planning.plan", lambda *_: plan())
    told = Explained(profile="saga", preset="llama3-70b-a100", workers=2, seed=0, workflows=40, story=story())
    monkeypatch.setattr("saga_cli.telling.explain", lambda *_: told)
    monkeypatch.setattr("saga_bench.simulation.run_simulation", lambda *_: bench())
    out = saga(*COMMANDS[name]).out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
