import hashlib
import math

import pytest
from trace_makers import TRACE_FILES, chain, needs_traces, step, workflow

from saga_core.errors import UserError
from saga_sim.trace import load_trace, write_trace
from saga_sim.trace.checks import faults
from saga_sim.trace.profiles import DEMO_CONTEXT_TOKENS, DEMO_WORKFLOWS, PRESETS, TOOL_PERCENTILES_S
from saga_sim.trace.quantiles import LatencyTable, Quantiles, tool_latency
from saga_sim.trace.records import Tool
from saga_sim.trace.stats import percentile, trace_stats
from saga_sim.trace.synth import synthesise


@pytest.fixture(scope="module")
def swe():
    return synthesise("swe-bench-like", 400, 7)


@pytest.fixture(scope="module")
def web():
    return synthesise("webarena-like", 400, 7)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path, preset):
    def digest(name, seed):
        write_trace(tmp_path / name, synthesise(preset, 12, seed))
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    assert digest("a.jsonl.gz", 1) == digest("b.jsonl.gz", 1)
    assert digest("a.jsonl.gz", 1) != digest("c.jsonl.gz", 2)
    assert [w.steps for w in synthesise(preset, 3, 1)] != [w.steps for w in synthesise(preset, 3, 2)]


@pytest.mark.parametrize("preset", PRESETS)
def test_synthetic_workloads_pass_the_format_and_one_more_workflow_changes_none(preset):
    made = synthesise(preset, 40, 3)
    assert [list(faults(w)) for w in made] == [[]] * 40
    assert synthesise(preset, 41, 3)[:40] == made
    arrivals = [w.arrival_s for w in made]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] == 0.0


def test_swe_bench_like_has_the_papers_figures(swe):
    stats = trace_stats(swe)
    assert 34 < stats.steps_per_workflow.mean < 40
    assert stats.steps_per_workflow.max <= 150
    assert 280 < stats.output_tokens.mean < 320
    assert all(2000 <= w.steps[0].prompt_tokens <= 4000 for w in swe)
    assert stats.context_tokens_max <= 32768
    assert stats.prompt_tokens.p90 > 20_000
    counts = {name: spread.count / 100 for name, spread in stats.tools.items()}
    total = sum(counts.values())
    for name, share in {"code": 0.45, "file": 0.40, "web": 0.10, "db": 0.05}.items():
        assert counts[f"tool:{name}"] / total == pytest.approx(share, abs=0.02)


def test_an_agent_at_its_context_limit_compacts(swe):
    compacted = [s for w in swe for s in w.steps if s.compacted]
    assert compacted
    assert all(s.ctx_parent is None and s.parents == (s.id - 1,) for s in compacted)


def test_webarena_like_is_flat_with_little_reuse(web):
    stats = trace_stats(web)
    assert 16 < stats.steps_per_workflow.mean < 20
    assert stats.prompt_tokens.p10 >= 4000
    assert stats.prompt_tokens.max <= 8000
    assert 0.2 < stats.reusable_share < 0.3
    assert 50 <= stats.output_tokens.p10 <= stats.output_tokens.max <= 200


def test_what_webarena_like_own_finds_again_is_each_workflows_own(web):
    own = synthesise("webarena-like-own", 400, 7)
    assert all(step.shared_prefix_tokens for workflow in web for step in workflow.steps)
    assert not any(step.shared_prefix_group or step.shared_prefix_tokens for w in own for step in w.steps)
    assert trace_stats(own).reusable_share == pytest.approx(trace_stats(web).reusable_share, abs=0.03)


def test_arrivals_are_poisson_at_eight_a_minute(swe):
    assert trace_stats(swe).span_s == pytest.approx(400 / 8 * 60, rel=0.15)


def test_the_demo_is_small_and_mixed():
    made = synthesise("demo", DEMO_WORKFLOWS, 1)
    stats = trace_stats(made)
    assert set(stats.agent_types) == {"demo-coding", "demo-browsing"}
    assert stats.context_tokens_max <= DEMO_CONTEXT_TOKENS
    assert stats.span_s < 40
    assert max(s.tool.latency_s for w in made for s in w.steps if s.tool) <= 4.0


def test_the_live_gate_has_the_figures_of_the_studys_live_check():
    """Policy study, section 13, and the generator it ran with."""
    made = synthesise("live-gate", 400, 0)
    stats = trace_stats(made)
    assert 11 < stats.steps_per_workflow.mean < 13.5
    assert (min(len(w.steps) for w in made), stats.steps_per_workflow.max) == (3, 30)
    assert all(1500 <= w.steps[0].prompt_tokens <= 3500 for w in made)
    assert stats.prompt_tokens.max == 14_500
    assert (min(s.output_tokens for w in made for s in w.steps), stats.output_tokens.max) == (24, 48)
    grown = [s.new_prompt_tokens for w in made for s in w.steps[1:] if s.prompt_tokens < 14_500]
    assert (min(grown), max(grown)) == (250, 700)
    stuck = [s.new_prompt_tokens for w in made for s in w.steps[2:] if s.prompt_tokens == 14_500]
    assert 1 in stuck, "at the limit a prompt grows no more"
    assert not any(s.compacted or s.shared_prefix_group for w in made for s in w.steps)
    gaps = sorted(s.tool.latency_s for w in made for s in w.steps if s.tool)
    assert percentile(gaps, 0.5) == pytest.approx(0.6, rel=0.1)
    assert percentile(gaps, 0.84) == pytest.approx(0.6 * math.e, rel=0.15)
    assert gaps[-1] <= 20
    assert trace_stats(made[:48]).span_s == pytest.approx(20, rel=0.3)


def test_live_kinds_is_as_much_work_of_programs_that_differ():
    one, three = synthesise("live-gate", 1500, 0), synthesise("live-kinds", 1500, 0)
    steps = {
        kind: [len(w.steps) for w in three if w.agent_type == kind] for kind in {w.agent_type for w in three}
    }
    means = [sum(steps[kind]) / 500 for kind in ("live-fix", "live-feature", "live-refactor")]
    assert means == pytest.approx([5, 11, 20], rel=0.05)
    assert sum(means) / 3 == pytest.approx(sum(len(w.steps) for w in one) / 1500, rel=0.06)


def test_members_of_a_group_tell_one_prefix_length(swe):
    assert {(s.shared_prefix_group, s.shared_prefix_tokens) for w in swe for s in w.steps} == {
        ("swe-bench-like", 1800)
    }


def test_unknown_presets_and_counts_are_refused():
    with pytest.raises(
        UserError,
        match=r"unknown preset 'swe' \(have: demo, live-gate, live-kinds, swe-bench-like, swe-bench-like-again, ten-tenants, webarena-like, webarena-like-own\)",
    ):
        synthesise("swe", 1, 0)
    with pytest.raises(UserError, match="cannot make 0 workflows"):
        synthesise("demo", 0, 0)


@pytest.mark.parametrize("tool", TOOL_PERCENTILES_S)
def test_the_latency_curve_goes_through_the_published_percentiles(tool):
    percentiles = TOOL_PERCENTILES_S[tool]
    assert [tool_latency(percentiles, p) for p in (0.5, 0.95, 0.99)] == pytest.approx(percentiles)
    curve = [tool_latency(percentiles, i / 1000) for i in range(1001)]
    assert curve == sorted(curve)
    assert 0 < curve[0] < curve[-1] <= 300


def test_quantiles_answer_between_and_beyond_their_grid():
    q = Quantiles((0.0, 0.5, 1.0), (0.0, 10.0, 40.0))
    assert [q.at(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 5.0, 10.0, 25.0, 40.0]
    assert Quantiles((0.1, 0.1, 0.9), (1.0, 2.0, 3.0)).at(0.0) == 2.0


def test_a_latency_table_falls_back_from_name_to_kind_to_tools():
    table = LatencyTable({"tool:x": Quantiles((0, 1), (1, 1)), "tool:*": Quantiles((0, 1), (2, 2))})
    assert [table.draw("tool", name, 0.5) for name in ("x", "y", None)] == [1, 2, 2]
    assert table.draw("user", "someone", 0.5) == 2
    assert LatencyTable({}).draw("tool", "x", 0.5) == 0.0


@needs_traces
@pytest.mark.parametrize(
    ("name", "share"), [("iso-bench-trae", 0.974), ("swe-agent-demos", 0.844), ("tau-bench-airline", 0.909)]
)
def test_statistics_agree_with_the_published_ones(name, share):
    (path,) = [path for path in TRACE_FILES if path.name.startswith(name)]
    assert trace_stats(load_trace(path)).reusable_share == pytest.approx(share, abs=0.0006)


def test_statistics_of_a_small_trace():
    known = Tool(kind="tool", name="bash", latency_s=2.0)
    unknown = Tool(kind="tool", name="bash", latency_s=None)
    stats = trace_stats(
        [workflow(step(0, 100, output=10, tool=known), step(1, 150, 50, tool=unknown)), chain("b", 1)]
    )
    assert (stats.workflows, stats.steps, stats.sessions, stats.tools_of_unknown_latency) == (2, 3, 2, 1)
    assert stats.reusable_share == 100 / 350
    assert stats.decode_reusable_share == 110 / 350
    assert stats.tools["tool:bash"].p50 == 2.0
    assert stats.span_s is None


def test_percentiles_are_linear_between_neighbours():
    assert [percentile([1, 2, 3, 4], share) for share in (0, 0.5, 1)] == [1, 2.5, 4]
