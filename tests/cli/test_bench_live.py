"""`saga bench live`: arms, arrivals and figures as values, and the whole way with engine doubles."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from canned import workflow
from msgspec.structs import replace as changed

from saga_bench import live
from saga_bench.live import Arm, LiveRun, arms, left_s, rows, turns
from saga_cli import benching
from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.numbering import even_start, number_evenly
from saga_cli.replaying import Workload, _Desk
from saga_core.config import Config, with_settings
from saga_core.errors import UserError
from saga_core.fleet import Pool, Worker
from saga_core.ids import NodeId, WorkerId
from saga_core.policy.profiles import PROFILES
from saga_sim.costs import AGENT_CPU
from saga_sim.runs import Summary
from saga_sim.trace import write_trace
from saga_sim.trace.synth import synthesise
from saga_sim.work import work_s

SAGA = [sys.executable, "-m", "saga_cli", "--output", "json", "bench", "live", "--engine", "fake"]


def plan(**changes):
    told = {
        "arms": arms("sticky,saga"), "workload": Workload(synth="live-gate", seed=3), "workflows": 48, "over_s": 20.0,
        "rounds": 2, "workers": 2, "kv_tokens": 32768, "preset": AGENT_CPU, "engine": "vllm",
    } | changes  # fmt: skip
    return benching.Plan(**told)


def run(arm, round_, tct_s, *, others=0.1, took_s=60.0, span_s=40.0, lost=()):
    times = sorted(tct_s.values())
    geomean = 1.0
    for t in times:
        geomean *= t ** (1 / len(times))
    summary = Summary(
        workflows=len(times) + len(lost), finished=len(times), failed=len(lost), cancelled=0, steps=30, retries=0,
        mismatches=0, tct_mean_s=sum(times) / len(times), tct_geomean_s=geomean, tct_p95_s=times[-1], ttft_mean_s=0.3,
        ttft_p95_s=0.9, prompt_tokens=200_000, output_tokens=900, cached_tokens=160_000, cached_share=0.8,
        regenerated_tokens=5000, wall_s=span_s, interrupted=False,
    )  # fmt: skip
    return LiveRun(
        arm=arm, round=round_, at=1_800_000_000.0, summary=summary, tct_s=tct_s, others_cores=others, took_s=took_s,
        lost=list(lost),
    )  # fmt: skip


RUNS = [
    run("sticky", 1, {"a": 10.0, "b": 40.0}, span_s=50.0),
    run("saga", 1, {"a": 5.0, "b": 20.0}),
    run("saga", 2, {"a": 5.0, "b": 10.0}, others=0.3),
    run("sticky", 2, {"a": 10.0, "b": 40.0}, span_s=60.0),
]


# -- arms ----------------------------------------------------------------------------------


def test_an_arm_is_a_profile_and_what_it_is_given():
    assert [a.name for a in arms("sticky, saga,saga+declared,saga+warm+declared")] == [
        "sticky", "saga", "saga+declared", "saga+declared+warm",
    ]  # fmt: skip
    assert arms("saga+warm")[0] == Arm(profile="saga", warm=True)


def test_flags_are_for_the_arms_whom_they_can_move():
    names = [a.name for a in arms("sticky,saga-blind,thunder,saga", declared=True, warm=True)]
    assert names == ["sticky", "saga-blind", "thunder", "saga+declared+warm"]
    assert {name for name in PROFILES if Arm(profile=name).learns} >= {"saga", "saga-paper"}


@pytest.mark.parametrize(
    "names", ["", "saga,saga", "stiky", "saga+hot", "saga+warm+warm", "saga+declared+warm,saga+warm+declared"]
)
def test_wrong_arms_are_refused(names):
    with pytest.raises(UserError, match="profile"):
        arms(names)


def test_two_arms_that_a_flag_makes_one_are_refused():
    with pytest.raises(UserError, match="each one once"):
        arms("saga,saga+warm", warm=True)


def test_rounds_alternate_and_every_second_one_runs_backwards():
    one, two = arms("sticky,saga")
    assert turns([one, two], 3) == [(1, one), (1, two), (2, two), (2, one), (3, one), (3, two)]


def test_what_is_left_is_told_by_what_the_same_arms_took():
    order = turns(arms("sticky,saga"), 2)
    assert left_s(order, []) is None
    assert left_s(order, [run("sticky", 1, {"a": 1.0}, took_s=300.0)]) == 900.0, "nothing better is known"
    both = [run("sticky", 1, {"a": 1.0}, took_s=300.0), run("saga", 1, {"a": 1.0}, took_s=100.0)]
    assert left_s(order, both) == 400.0
    assert left_s(order, [*both, both[1]]) == 300.0
    assert left_s(order, [*both, *both]) == 0.0


# -- the workload --------------------------------------------------------------------------


def test_every_round_and_arm_gets_the_same_workflows_and_arrivals():
    first, second = benching.draw(plan(), 1), benching.draw(plan(), 2)
    assert first == second
    assert first.warming == [], "no arm asks for it"
    arrivals = [w.arrival_s for w in first.measured]
    assert len(arrivals) == 48
    assert arrivals[0] == 0.0
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(20.0, rel=0.5)
    assert benching.pressure(plan(), first.measured) > 4, "beyond the cliff"


def test_fewer_workflows_arrive_over_the_same_time():
    some = benching.draw(plan(workflows=20), 1).measured
    assert len(some) == 20
    assert some[-1].arrival_s == pytest.approx(20.0, rel=0.6)
    many = benching.draw(plan(workflows=400), 1).measured
    assert many[-1].arrival_s == pytest.approx(20.0, rel=0.2)
    steps = benching.draw(plan(), 1).measured[:20]
    assert [w.steps for w in some] == [w.steps for w in steps]


def test_a_warm_arm_learns_from_other_workflows_of_the_same_kind():
    drawn = benching.draw(plan(arms=arms("sticky,saga+warm")), 1)
    assert len(drawn.warming) == 48
    assert not {w.workflow_id for w in drawn.warming} & {w.workflow_id for w in drawn.measured}
    assert {w.agent_type for w in drawn.warming} == {w.agent_type for w in drawn.measured}


def test_a_redraw_gives_each_round_workflows_of_its_own():
    first, second = (benching.draw(plan(redraw=True), turn) for turn in (1, 2))
    assert [w.steps for w in first.measured] != [w.steps for w in second.measured]


def test_a_trace_is_taken_as_recorded_and_learned_from_where_it_is_long_enough(tmp_path):
    file = tmp_path / "t.jsonl.gz"
    recorded = synthesise("demo", 5, 0)
    write_trace(file, recorded)
    taken = {"workload": Workload(files=(str(file),)), "over_s": None}
    drawn = benching.draw(plan(**taken, workflows=3), 1)
    assert [w.arrival_s for w in drawn.measured] == [w.arrival_s for w in recorded[:3]]
    warm = benching.draw(plan(**taken, workflows=3, arms=arms("saga+warm")), 1)
    assert [w.workflow_id for w in warm.warming] == [w.workflow_id for w in recorded[3:]]
    with pytest.raises(UserError, match=r"the trace has 5 in all \(--workflows 2 leaves as many\)"):
        benching.draw(plan(**taken, arms=arms("saga+warm")), 1)
    with pytest.raises(UserError, match="--redraw"):
        benching.draw(plan(**taken, redraw=True), 1)


def test_the_cluster_is_what_the_preset_describes():
    settings = benching.settings(plan(), arms("thunder+warm")[0])
    config = with_settings(Config(), settings, where="test")
    assert config.costs == AGENT_CPU.costs
    assert (config.profile, config.workers.count, config.workers.kv_tokens) == ("thunder", 2, 32768)
    assert (config.workers.max_model_len, config.workers.block_size) == (16_384, 32)
    assert config.workers.extra_args == ("--max-num-batched-tokens", "2048")
    assert "--speed" in benching.settings(plan(engine="fake"), arms("saga")[0])["workers.extra_args"]


def test_no_client_gives_up_before_the_gate_lets_everybody_in():
    assert Config().admission.force_s < benching.SILENCE_S


def test_numbers_are_shared_out_evenly_in_each_round_another_way():
    names = ("local/0", "local/1")
    pool = Pool()
    for name in names:
        pool.add(Worker(WorkerId(name), NodeId(""), ""))

    def owners(first, count):
        return [pool.hashed(f"workflow {number}").id for number in range(first, first + count)]

    assert owners(1, 48).count("local/0") == 15, "the luck of the first numbers"
    starts = [even_start(1, 48, names, turn) for turn in (1, 2, 3)]
    assert starts == sorted(set(starts))
    assert [owners(start, 48).count("local/0") for start in starts] == [24, 24, 24]
    assert abs(2 * owners(even_start(100, 21, names, 1), 21).count("local/0") - 21) == 1
    assert even_start(7, 5, ("local/0",), 3) == 9, "one worker gets all of any"
    assert even_start(1, 48, names, 10**6) == starts[0], "there are not so many: the evenest"


def test_numbers_are_left_out_before_the_run(stub, folder):
    """The stub has one ready worker: every start is even."""
    control = Control.of(ClusterFolder(folder))
    stub.workflows.append(workflow(8, "done"))  # the number that the stub gives to whatever is submitted
    assert number_evenly(control, 4, 1) == 9
    assert not [method for method, _, _ in stub.asked if method == "POST"]
    assert number_evenly(control, 4, 3) == 11
    told = [(path, body) for method, path, body in stub.asked if method == "POST"]
    assert [path for path, _ in told] == ["/saga/v1/workflows", "/saga/v1/workflows/8/finish"] * 2
    assert told[1][1]["state"] == "cancelled", "nothing is learned from it"


async def test_a_declared_workflow_says_at_its_submission_what_it_will_take(stub, folder):
    (made,) = synthesise("live-gate", 1, 0)
    control = Control.of(ClusterFolder(folder))
    await _Desk(control).endpoint(made)
    await _Desk(control, benching._declared(plan())).endpoint(made)
    silent, telling = (body for method, path, body in stub.asked if method == "POST")
    assert not silent["work_s"]
    assert telling["work_s"] == pytest.approx(work_s(AGENT_CPU.costs, made))
    assert telling["work_s"] > 0.1


# -- the figures ---------------------------------------------------------------------------


def test_ratios_are_of_pairs_within_a_round():
    sticky, saga = rows(RUNS)
    assert (sticky.arm, sticky.ratio, sticky.ratios, sticky.runs) == ("sticky", None, {}, 2)
    assert saga.ratios == pytest.approx({1: 2.0, 2: 8**0.5})
    assert saga.ratio == pytest.approx((2 * 8**0.5) ** 0.5)
    assert saga.low < saga.ratio < saga.high
    assert sticky.makespan_s == pytest.approx(55.0)
    assert sticky.tct_geomean_s == pytest.approx(20.0)
    assert saga.workflows_per_min == pytest.approx(2 / 40 * 60)
    assert saga.others_cores == pytest.approx(0.2)


def test_only_what_finished_under_both_is_compared():
    half = [run("sticky", 1, {"a": 10.0, "b": 4.0}), run("saga", 1, {"a": 5.0}, lost=["workflow 2 failed"])]
    assert rows(half)[1].ratio == pytest.approx(2.0)
    none = [run("sticky", 1, {"a": 10.0}), run("saga", 1, {"b": 5.0})]
    assert (rows(none)[1].ratio, rows(none)[1].ratios) == (None, {})
    assert rows([*none, *[changed(r, round=2) for r in half]])[1].ratios == pytest.approx({2: 2.0})
    assert rows(RUNS[1:3])[0].ratio is None


# -- the whole way -------------------------------------------------------------------------


def family(folder: Path) -> list[psutil.Process]:
    everyone = psutil.process_iter(["cmdline"])
    return [p for p in everyone if str(folder) in " ".join(p.info["cmdline"] or [])]


def test_a_run_has_a_cluster_of_its_own_and_leaves_nothing(tmp_path):
    words = [
        "--workflows",
        "2",
        "--over",
        "0.5",
        "--rounds",
        "1",
        "--profile",
        "sticky,saga",
        "--warm",
        "--declare",
    ]
    out = tmp_path / "answer.json"
    done = subprocess.run(
        [*SAGA, *words, "--out", str(out)], capture_output=True, text=True, check=False, timeout=150,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(r["arm"], r["round"], len(r["tct_s"])) for r in answer["runs"]] == [
        ("sticky", 1, 2),
        ("saga+declared+warm", 1, 2),
    ]
    for each in answer["runs"]:
        assert (each["summary"]["finished"], each["summary"]["mismatches"], each["lost"]) == (2, 0, [])
        assert 0.5 < each["summary"]["cached_share"] < 1
    assert answer["runs"][0]["homes"] == {"local/0": 1, "local/1": 1}, (
        "sticky, but not by the luck of numbers"
    )
    assert answer["rows"][1]["ratio"] > 0
    assert json.loads(out.read_text())["runs"][1]["arm"] == "saga+declared+warm"
    assert not family(tmp_path)
    assert not list(tmp_path.glob("saga-live-*"))


def test_an_interrupted_bench_shows_the_runs_that_were_through_and_leaves_nothing(tmp_path):
    words = ["--workflows", "2", "--over", "0.5", "--rounds", "40", "--profile", "sticky"]
    out = tmp_path / "answer.json"
    bench = subprocess.Popen(
        [*SAGA, *words, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while not (out.exists() and [p for p in family(tmp_path) if "saga_node" in " ".join(p.cmdline())]):
            assert time.monotonic() < end, "a second run begins"
            time.sleep(0.05)
        bench.send_signal(signal.SIGINT)
        told, _ = bench.communicate(timeout=60)
        assert bench.returncode == 130
        answer = json.loads(told)
        assert answer["interrupted"]
        assert len(answer["runs"]) >= 1
        assert not family(tmp_path)
        assert not list(tmp_path.glob("saga-live-*"))
    finally:
        bench.kill()
        bench.wait()


def answer(**changes):
    told = {
        "engine": "vllm", "workload": "live-gate", "workflows": 2, "over_s": 20.0, "workers": 2, "kv_tokens": 32768,
        "pressure": 6.25, "preset": "agent-cpu", "seed": 0, "rounds": 2, "version": "0.1.0", "cores": 2, "runs": RUNS,
        "rows": rows(RUNS),
    } | changes  # fmt: skip
    return live.LiveBench(**told)


def test_the_answer_in_all_three_modes(saga, folder, stub, monkeypatch):
    from test_golden import MODES, _compare, _section

    lost = [
        *RUNS[:3],
        run("sticky", 2, {"a": 10.0}, lost=["workflow 7 (b) failed after 3 of 9 steps: HTTP 500"]),
    ]
    monkeypatch.setattr(benching, "bench", lambda *_: answer())
    whole = "\n".join(_section(saga, mode, ["bench", "live"], stub, folder) for mode in MODES)
    _compare("bench-live", whole)
    cut = answer(runs=lost, rows=rows(lost), interrupted=True, engine="fake", over_s=None)
    monkeypatch.setattr(benching, "bench", lambda *_: cut)
    _compare("bench-live-cut", _section(saga, "table", ["bench", "live"], stub, folder))


def test_help_says_every_option(saga, folder, stub):
    from test_golden import _compare

    _compare("bench-live-help", saga("bench", "live", "--help").out)


def test_tables_fit_80_columns(saga, monkeypatch, folder, stub):
    long = [changed(r, arm=r.arm.replace("saga", "least-loaded+declared+warm")) for r in RUNS]
    monkeypatch.setattr(benching, "bench", lambda *_: answer(runs=long, rows=rows(long)))
    assert max(map(len, saga("bench", "live").out.splitlines())) <= 80


def test_the_engine_must_be_one_there_is(saga, folder, stub):
    said = saga("bench", "live", "--engine", "fak")
    assert said.code == 2
    assert "fake" in said.err


def test_one_round_needs_no_second_table(saga, monkeypatch, folder, stub):
    monkeypatch.setattr(benching, "bench", lambda *_: answer(runs=RUNS[:2], rows=rows(RUNS[:2]), rounds=1))
    out = saga("bench", "live").out
    assert "ROUND" not in out
    assert "confidence" not in out, "of one round it would be that over workflows: too narrow"
    assert " 2.00 " in out
