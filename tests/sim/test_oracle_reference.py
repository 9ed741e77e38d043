"""Recordings made from traces, recordings that make no sense, and the command line."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_cases import COSTS, access, recording
from trace_makers import TRACES, chain, needs_traces, step, workflow, workflows

from saga_core.errors import UserError
from saga_sim.costs import LLAMA_8B_H100, LLAMA_70B_A100
from saga_sim.oracle import RULES, Recorder, Timing, accesses_of, compare, replay_cache
from saga_sim.oracle.__main__ import main
from saga_sim.oracle.brute import path
from saga_sim.pacing import Pace
from saga_sim.trace import load_trace, write_trace
from saga_sim.trace.records import Tool
from saga_sim.trace.scale import Scaling, rescale

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def made_of(*many, block=16, pace=None, **timing):
    timing = Timing(**({"working_set_tokens": 1e9} | timing))
    return accesses_of(many, pace or Pace(), COSTS, block_tokens=block, timing=timing)


def test_a_chain_becomes_accesses_that_extend_each_other():
    made = made_of(chain(steps=3, first=100, grow=42, output=10, gap_s=7.0), batch=2)
    first, second, third = made.accesses
    assert [a.runs[0].high for a in made.accesses] == [109 // 16, 151 // 16, 193 // 16]
    assert [a.prompt_blocks for a in made.accesses] == [99 // 16, 141 // 16, 183 // 16]
    assert {a.runs[0].stream for a in made.accesses} == {0}
    assert second.start_s == pytest.approx(first.end_s + 7.0)
    decode_s = COSTS.step_s + 2 * (COSTS.decode_s + COSTS.context_token_s * 105)
    assert first.end_s == pytest.approx(COSTS.chunk_s(0, 100) + 10 * decode_s)
    # All but the last token generated was computed while it was generated.
    assert [a.new_tokens for a in made.accesses] == [100, 33, 33]
    assert made.ends_s == {"w/1": third.end_s}
    assert [a.private_blocks for a in made.accesses] == [1, 1, 1]


def test_a_context_of_whole_blocks_needs_no_private_one():
    assert made_of(workflow(step(0, 30, output=3))).accesses[0].private_blocks == 0


@given(st.lists(workflows(), min_size=1, max_size=3), st.sampled_from([1, 16, 64]), st.integers(100, 20_000))
@QUICK
def test_any_workflows_make_a_recording_without_contradictions(many, block, tokens):
    many = [w for i, w in enumerate(many) if w.workflow_id not in [v.workflow_id for v in many[:i]]]
    made = made_of(*many, block=block, working_set_tokens=tokens, pool_blocks=max(1, tokens // block))
    made.check()
    assert len(made.accesses) == sum(len(w.steps) for w in many)
    assert set(made.ends_s) == {w.workflow_id for w in many}
    assert all(a.start_s <= b.start_s for a, b in pairwise(made.accesses))


@given(workflows())
@QUICK
def test_what_is_compulsory_is_what_nobody_computed_before(made):
    recorded = made_of(made, block=64)
    seen, new = set(), 0
    for one in recorded.accesses:
        new += len([block for block in path(one)[: one.prompt_blocks] if block not in seen])
        seen.update(path(one))
    outcome = replay_cache(recorded, 100_000, RULES["lru"](), COSTS)
    assert outcome.compulsory_tokens == 64 * new
    assert outcome.missed_tokens == 0


def test_workflows_share_the_system_prompt_of_their_group():
    def opening(name, group):
        return workflow(step(0, 200, shared_prefix_group=group, shared_prefix_tokens=130), id=name)

    made = made_of(opening("a", "g"), opening("b", "g"), opening("c", "h"))
    a, b, c = (set(path(one)) for one in made.accesses)
    assert len(a & b) == 130 // 16
    assert not a & c


def live_at_once(made):
    starts = {}
    for one in made.accesses:
        starts.setdefault(one.workflow, one.start_s)
    return max(sum(starts[w] <= at < made.ends_s[w] for w in starts) for at in starts.values())


def test_workflows_enter_while_their_mean_contexts_fit():
    many = [chain(f"w/{i}", steps=5, first=1000, grow=100, output=10, gap_s=50.0) for i in range(12)]
    made = made_of(*many, working_set_tokens=3700)
    assert live_at_once(made) == 3
    starts = {a.workflow: a.start_s for a in reversed(made.accesses)}
    assert sorted(starts.values())[3:] == sorted(made.ends_s.values())[:9]
    assert live_at_once(made_of(*many, working_set_tokens=1)) == 1
    assert live_at_once(made_of(*many)) == 12


def test_steps_wait_until_they_fit_the_oldest_workflow_first():
    many = [
        workflow(step(0, 1600), step(1, 1700, 100, gap_s=0.001), id="old"),
        workflow(step(0, 1500), id="young"),
    ]
    rows = {
        oldest: [a.workflow for a in made_of(*many, pool_blocks=120, oldest_first=oldest).accesses]
        for oldest in (True, False)
    }
    assert rows[False] == ["old", "young", "old"]
    assert rows[True] == ["old", "young", "old"]
    third = workflow(step(0, 1500), id="younger")
    assert [a.workflow for a in made_of(*many, third, pool_blocks=120).accesses] == [
        "old", "young", "old", "younger",
    ]  # fmt: skip
    made = made_of(*many, third, pool_blocks=120, oldest_first=False)
    assert [a.workflow for a in made.accesses] == ["old", "young", "younger", "old"]
    assert all(a.end_s <= b.start_s for a, b in pairwise(made.accesses))


def test_what_a_step_held_is_free_again_when_it_ends():
    many = [workflow(step(0, 500, output=10 + i), id=f"w{i}") for i in range(6)]
    made = made_of(*many, pool_blocks=70)
    at_once = [sum(b.start_s <= a.start_s < b.end_s for b in made.accesses) for a in made.accesses]
    assert at_once == [2, 2, 2, 2, 2, 2]


def test_the_last_token_of_a_prompt_is_computed_always():
    assert made_of(workflow(step(0, 32, output=1))).accesses[0].prompt_blocks == 1
    assert made_of(workflow(step(0, 33, output=1))).accesses[0].prompt_blocks == 2


def test_a_person_is_never_away_for_longer_than_said():
    away = Tool(kind="user", name=None, latency_s=500.0)
    tool = Tool(kind="tool", name="t", latency_s=500.0)
    for kind, gap_s in ((away, 60.0), (tool, 500.0)):
        made = made_of(workflow(step(0, 50, tool=kind), step(1, 90, 40)), max_user_gap_s=60.0)
        first, second = made.accesses
        assert second.start_s - first.end_s == pytest.approx(gap_s)
    assert made.accesses[0].tool == "tool:t"


def test_a_seed_shuffles_and_the_same_seed_shuffles_alike():
    many = [chain(f"w/{i}", steps=2, gap_s=1.0) for i in range(20)]

    def order(seed):
        return [a.workflow for a in made_of(*many, working_set_tokens=1, seed=seed).accesses]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(None)[::2] == [w.workflow_id for w in many]


@pytest.mark.parametrize(
    "wrong", [{"working_set_tokens": 0}, {"working_set_tokens": float("nan")}, {"batch": 0}]
)
def test_timings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError, match=r"valid: (above 0|1 or more)"):
        made_of(chain(), **wrong)


@pytest.mark.parametrize(
    ("accesses", "fault"),
    [
        (
            [access("a", 5, 6, (1, 0, 2)), access("b", 4, 6, (2, 0, 2))],
            "access 1 .* before the access in front",
        ),
        ([access("a", 5, 4, (1, 0, 2))], "ends at 4 s, before its start at 5 s"),
        ([access("a", 0, 1, (1, 0, 2), prompt=3)], "prompt of 3 blocks in 2"),
        ([access("a", 0, 1, (1, 1, 2))], "begins at block 1, not at the root"),
        ([access("a", 0, 1, (1, 0, 2), (2, 3, 4))], "begins at block 3, where 2 is next"),
        ([access("a", 0, 1, (1, 0, 2), (2, 2, 2))], "empty run of stream 2"),
        ([access("a", 0, 1, (1, 0, 2), (2, 2, 3)), access("b", 1, 2, (1, 0, 1), (2, 1, 3))], "one trunk"),
    ],
)
def test_recordings_that_contradict_themselves_are_refused(accesses, fault):
    with pytest.raises(UserError, match=fault):
        recording(*accesses)


def test_an_access_after_the_end_of_its_workflow_is_refused():
    with pytest.raises(UserError, match="ends after its workflow 'a' did"):
        recording(access("a", 0, 5, (1, 0, 2)), ends={"a": 4.0})


def test_a_recorder_takes_accesses_in_any_order_and_names_streams():
    recorder = Recorder(16)
    one, two = object(), object()
    late = recorder.runs([(one, 0, 2), (two, 2, 3)])
    early = recorder.runs([(one, 0, 4)])
    recorder.add(access("b", 5, 6, *late))
    recorder.add(access("a", 1, 2, *early))
    recorder.ended("a", 2.0)
    made = recorder.recording()
    assert [(a.session, [tuple(run) for run in a.runs]) for a in made.accesses] == [
        ("a", [(0, 0, 4)]), ("b", [(0, 0, 2), (1, 2, 3)]),
    ]  # fmt: skip
    assert (made.block_tokens, made.ends_s) == (16, {"a": 2.0})


def test_the_command_prints_one_json_value(tmp_path, capsysbinary):
    file = tmp_path / "t.jsonl"
    write_trace(file, [chain(f"w/{i}", steps=6, first=300, grow=90, gap_s=3.0) for i in range(9)])
    words = [
        str(file),
        "--pool-tokens",
        "3200",
        "--block",
        "16",
        "--rules",
        "lru,density",
        "--max-context",
        "2000",
    ]
    assert main([*words, "--seed", "3", "--fcfs", "--bound", "20"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert told["accesses"] == 54
    assert told["uncached_share"] == 0.0
    assert 0 < told["least_s"] <= told["rules"]["farthest-cost"]["missed_s"]
    assert set(told["rules"]) == {
        "lru", "density", "farthest", "farthest-cost", "farthest-session", "farthest-cost-session",
    }  # fmt: skip
    assert told["rules"]["lru"]["ratio_tokens"] >= 1.0
    assert told["rules"]["farthest"]["ratio_tokens"] == 1.0


def test_what_the_command_cannot_do_is_said_on_stderr(tmp_path, capsys):
    file = tmp_path / "t.jsonl"
    write_trace(file, [chain()])
    assert main([str(file), "--rules", "lur"]) == 2
    assert "lur" in capsys.readouterr().err
    assert main([str(file), "--preset", "h200"]) == 2
    assert "h200" in capsys.readouterr().err


def test_the_package_runs_as_a_module(tmp_path):
    file = tmp_path / "t.jsonl"
    write_trace(file, [chain()])
    done = subprocess.run(
        [sys.executable, "-m", "saga_sim.oracle", file, "--rules", "lru"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["rules"]["lru"]["ratio_tokens"] is None


@needs_traces
def test_a_whole_recording_replays():
    """14,462 steps of up to 32k tokens in blocks of 16, one rule: about a second of a core."""
    many = rescale(load_trace(TRACES / "iso-bench-trae.jsonl.gz"), Scaling(max_context=32_768))
    preset = LLAMA_70B_A100
    timing = Timing(working_set_tokens=585_000, pool_blocks=preset.shape.blocks)
    made = accesses_of(many, Pace(max_gap_s=600), preset.costs, block_tokens=16, timing=timing)
    outcome = replay_cache(made, preset.shape.blocks, RULES["lru"](), preset.costs)
    assert outcome.uncached_blocks == 0
    assert outcome.hit_tokens > outcome.missed_tokens > 0


@needs_traces
def test_on_a_recording_the_rules_stand_in_the_order_of_the_study():
    many = rescale(load_trace(TRACES / "entire-cli.jsonl.gz"), Scaling(take=60, max_context=120_000))
    preset = LLAMA_8B_H100
    timing = Timing(working_set_tokens=520_000, pool_blocks=400_000 // 512, max_user_gap_s=60)
    made = accesses_of(many, Pace(max_gap_s=600), preset.costs, block_tokens=512, timing=timing)
    compared = compare(made, 400_000 // 512, preset.costs, ["lru", "lru-session", "lru-finish", "density"])
    ratio = {name: compared.ratio_s(name) for name in compared.outcomes}
    assert 1.0 < ratio["density"] < ratio["lru-finish"] < ratio["lru"] < ratio["lru-session"] < 4
    assert Counter(round(ratio[name], 1) for name in ("farthest", "farthest-cost")) == {1.0: 2}
