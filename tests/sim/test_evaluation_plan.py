"""What an evaluation runs, on which workflows, and what decides whether a kept result still counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import log
from statistics import fmean, variance

import pytest
from evaluation_makers import cell
from trace_makers import TRACES, chain, needs_traces, step, workflow

from saga_core.errors import UserError
from saga_core.policy import ordering
from saga_core.policy.admission import Admission
from saga_core.policy.modes import MODES
from saga_core.policy.profiles import PROFILES
from saga_sim.evaluation.fingerprint import key, meaning
from saga_sim.evaluation.plan import (
    PROBES_PER_WORKER,
    Choice,
    Half,
    Load,
    enumerate_cells,
    probes,
)
from saga_sim.evaluation.sets import SETS, USER_GAP_S, absent, draw, in_half, shaped
from saga_sim.evaluation.suites import ABLATIONS, SENSITIVITY, SUITES, suite
from saga_sim.evaluation.twists import Kind, Twist, tool_spreads, twist, twisted, words
from saga_sim.evaluation.variants import Variant, changed, known, variant
from saga_sim.experiment import repeated
from saga_sim.trace.profiles import TEN_TENANTS
from saga_sim.trace.records import Tool
from saga_sim.trace.synth import synthesise


def test_quick_is_two_sets_at_two_pressures():
    cells = enumerate_cells(suite("quick"), ["sticky", "saga"], Choice())
    assert [(c.level, c.workflows, c.work, c.profile) for c in cells] == [
        (level, workflows, work, profile)
        for level, workflows in ((0.3, 160), (1.5, 300))
        for work in ("swe", "iso")
        for profile in ("sticky", "saga")
    ]
    assert {(c.workers, c.seed, c.load) for c in cells} == {(4, 0, Load.PRESSURE)}


def test_seeds_come_one_after_the_other():
    """A run that is cut short has whole comparisons."""
    cells = enumerate_cells(suite("standard"), ["sticky", "saga"], Choice())
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)
    assert {c.seed for c in cells} == {0, 1, 2}


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_names_known_sets_and_no_cell_twice(name):
    cells = enumerate_cells(suite(name), ["sticky"], Choice())
    assert {c.work for c in cells} <= SETS.keys()
    assert len(set(cells)) == len(cells)


def test_full_is_the_whole_matrix():
    cells = enumerate_cells(suite("full"), ["sticky"], Choice())
    assert {c.seed for c in cells} == set(range(5))
    assert {c.level for c in cells if c.load is Load.PEAK} == {0.5, 0.8, 0.9, 0.97, 1.1}
    pressed = [c for c in cells if c.load is Load.PRESSURE and not c.twist]
    gpus = {c.workers * (4 if c.work == "swe" else 1) for c in pressed if c.work in ("swe", "entire")}
    assert gpus == {4, 16, 64, 256}
    assert {c.level for c in pressed if c.work == "iso" and c.workers == 4} == {
        0.1,
        0.3,
        0.5,
        1.0,
        1.5,
        2.0,
        4.0,
    }


def test_a_person_may_narrow_a_suite():
    choice = Choice(works=("swe",), pressures=(0.7,), seeds=2, workflows=9, half=Half.REPORT)
    cells = enumerate_cells(suite("standard"), ["sticky"], choice)
    assert [(c.work, c.level, c.seed, c.workflows, c.half) for c in cells] == [
        ("swe", 0.7, 0, 9, "report"),
        ("swe", 0.7, 1, 9, "report"),
    ]


def test_given_pressures_take_the_largest_grid_of_each_set():
    cells = enumerate_cells(
        suite("standard"), ["sticky"], Choice(works=("swe", "kvct"), pressures=(2.0,), seeds=1)
    )
    assert {(c.work, c.level, c.workflows) for c in cells} == {("swe", 2.0, 800), ("kvct", 2.0, 200)}
    assert len(cells) == 2


def test_pressures_do_not_replace_shares_of_the_peak():
    cells = enumerate_cells(suite("standard"), ["sticky"], Choice(works=("mix",), pressures=(2.0,)))
    assert {c.level for c in cells} == {0.8, 0.9, 0.97}


def test_the_peak_is_probed_once_for_all_profiles_and_shares():
    cells = enumerate_cells(suite("standard"), ["sticky", "saga"], Choice())
    asked = probes(cells)
    assert sorted({c.level for c in asked}) == [4.0 * n for n in PROBES_PER_WORKER]
    assert {(c.work, c.profile, c.load, c.seed) for c in asked} == {
        ("mix", "sticky", Load.AT_ONCE, 0), ("mix", "sticky", Load.AT_ONCE, 1)
    }  # fmt: skip
    assert len(set(asked)) == len(asked) == 2 * len(PROBES_PER_WORKER)
    assert probes([cell()]) == []


def test_a_profile_may_be_told_the_work():
    assert variant("saga") == Variant(profile="saga")
    assert variant("saga+declared") == Variant(profile="saga", sigma=0.0)
    assert variant("saga+declared~0.7") == Variant(profile="saga", sigma=0.7)


@pytest.mark.parametrize(
    "name",
    [
        "saga+",
        "saga+told",
        "saga+declared~",
        "saga+declared~-1",
        "saga+declared~inf",
        "saga+host",
        "saga+low=much",
        "saga+mode=slow",
    ],
)
def test_other_additions_are_refused(name):
    with pytest.raises(UserError, match=r"valid: |admission.low=much"):
        variant(name)


def test_additions_are_taken_together():
    named = variant("saga+no-pause+declared~0.5+host~2+instance+half_life_s=15")
    assert named == Variant(
        profile="saga", sigma=0.5, instance=True, host=2.0, changes=("no-pause", "half_life_s=15")
    )
    assert named.scheduler == "saga+no-pause+half_life_s=15"
    assert variant("saga+declared+host~2").scheduler == "saga"


def test_what_is_taken_away_is_gone_and_all_else_is_as_it_was():
    usual = PROFILES["saga"]
    for name, differs in (
        ("no-half-life", {"half_life_s": 0.0}),
        ("no-gap", {"low": 1.0, "high": 1.0}),
        ("rise=0.3", {"rise": 0.3}),
        ("mode=throughput", MODES["throughput"]._asdict()),
    ):
        found = changed(variant(f"saga+{name}"))
        assert found == replace(usual, admission=replace(Admission(), **differs))
    assert changed(variant("saga+lru")) == replace(usual, admission=Admission(), retention=None)
    assert changed(variant("saga+by-arrival")).key is ordering.arrival
    assert changed(variant("saga+newest-first")).key is PROFILES["saga-blind"].key


@pytest.mark.parametrize("name", [*ABLATIONS, *SENSITIVITY])
def test_every_row_of_the_ablation_is_another_scheduler(name):
    assert changed(variant(name)) != replace(PROFILES["saga"], admission=Admission())


def test_a_profile_without_a_gate_has_nothing_to_take_away():
    with pytest.raises(UserError, match=r"sticky\+no-pause: it has no gate"):
        changed(variant("sticky+no-pause"))
    with pytest.raises(UserError, match=r"low is above"):
        changed(variant("saga+low=1.5"))


def test_a_changed_profile_is_known_while_it_runs_and_forgotten_after():
    with known(variant("saga+lru+declared")) as name:
        assert name == "saga+lru"
        assert PROFILES[name].retention is None
    assert "saga+lru" not in PROFILES


def test_twists_are_told_and_mistakes_too():
    assert twist("cv~2") == Twist(Kind.CV, 2.0)
    assert twist("then~iso") == Twist(Kind.THEN, other="iso")
    assert words("slow~10") == "tools 10 times as slow from the middle on"
    for name in ("cv", "cv~0", "slow~x", "then~", "host~2"):
        with pytest.raises(UserError, match="valid: cv~2"):
            twist(name)


def test_wider_tool_times_keep_their_median_and_order():
    made = synthesise("swe-bench-like", 60, 0)
    wide, narrow = (twisted(made, twist(name)) for name in ("cv~3", "cv~0.5"))
    for name, (middle_s, sigma) in tool_spreads(made).items():
        for found, cv in ((wide, 3.0), (narrow, 0.5)):
            middle, spread = tool_spreads(found)[name]
            assert middle == pytest.approx(middle_s, rel=1e-3)
            assert spread == pytest.approx(log(1 + cv**2) ** 0.5)
            assert spread != pytest.approx(sigma)
    first = wide[0].steps
    assert all(after.gap_s == before.tool.latency_s for before, after in pairwise(first))
    assert [s.prompt_tokens for s in first] == [s.prompt_tokens for s in made[0].steps]


def test_slower_tools_come_in_the_middle_and_people_stay_as_they_are():
    user = Tool(kind="user", name=None, latency_s=40.0)
    bash = Tool(kind="tool", name="bash", latency_s=3.0)
    one = workflow(
        step(0, 100, tool=user), step(1, 200, 50, gap_s=40.0, tool=bash), step(2, 300, 50, gap_s=4.0)
    )
    before, after = twisted([one, one], twist("slow~10"))
    assert before == one
    assert [s.gap_s for s in after.steps] == [None, 40.0, 40.0]
    assert [s.tool and s.tool.latency_s for s in after.steps] == [40.0, 30.0, None]


def test_items_that_are_run_again_resemble_each_other():
    made = synthesise("swe-bench-like-again", 1200, 3)
    runs = {}
    for one in made:
        runs.setdefault(one.instance, []).append(one)
    assert {len(found) for found in runs.values()} == {4}
    assert all(len({w.steps[0].prompt_tokens for w in found}) == 1 for found in runs.values())
    logs = [[log(len(w.steps)) for w in found] for found in runs.values()]
    within, between = fmean(map(variance, logs)), variance([fmean(found) for found in logs])
    shared = between - within / 4
    assert shared / (shared + within) == pytest.approx(0.51, abs=0.07)
    alone = [len(w.steps) for w in synthesise("swe-bench-like", 1200, 3)]
    assert fmean(len(w.steps) for w in made) == pytest.approx(fmean(alone), rel=0.1)


def test_a_recording_that_comes_again_is_of_another_item():
    again = repeated([chain(id="a", instance="x"), chain(id="b")], 5)
    assert [w.instance for w in again] == ["x", None, "x~2", None, "x~3"]


def test_all_that_may_be_compared_runs_at_one_size():
    cells = enumerate_cells(suite("full"), None, Choice(seeds=1), ["sticky", "saga"])
    sizes = {}
    for one in cells:
        sizes.setdefault((one.work, one.load, one.level, one.workers, one.twist), set()).add(one.workflows)
    assert all(len(found) == 1 for found in sizes.values())
    assert {"saga", "saga+instance", "sticky"} <= {
        c.profile for c in cells if c.work == "iso" and c.level == 1.5
    }


def test_each_grid_runs_its_own_profiles_unless_others_are_asked_for():
    own = enumerate_cells(suite("standard"), None, Choice(seeds=1))
    assert {c.profile for c in own if c.level == 0.3} == {"sticky", "thunder", "saga-blind", "saga"}
    assert "saga+host~2" in {c.profile for c in own if c.work == "kvct"}
    assert "saga+host~2" not in {c.profile for c in own if c.work == "swe"}
    asked = enumerate_cells(suite("standard"), ["las"], Choice(seeds=1))
    assert {c.profile for c in asked} == {"las"}


def test_mistakes_are_told_with_what_is_valid():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        suite("quik")
    with pytest.raises(UserError, match="nothing to run"):
        enumerate_cells(suite("quick"), ["sticky"], Choice(works=("mix",)))


def test_sets_that_are_not_here_are_named_with_the_reason(tmp_path):
    assert absent(None).keys() == {"iso", "entire", "kvct", "chat"}
    (tmp_path / "entire-cli.jsonl.gz").write_bytes(b"")
    missing = absent(tmp_path)
    assert missing.keys() == {"iso", "kvct", "chat"}
    assert str(tmp_path) in missing["iso"]


def test_recordings_are_cut_to_the_bounds_of_the_study():
    user = Tool(kind="user", name=None, latency_s=4000.0)
    long = workflow(
        step(0, 100, output=9000, tool=user),
        step(1, 9200, 50, gap_s=4000.0, tool=Tool(kind="tool", name="bash", latency_s=500.0)),
        step(2, 9300, 50, gap_s=500.0),
    )
    made = shaped(long)
    assert [s.gap_s for s in made.steps] == [None, USER_GAP_S, 500.0]
    assert made.steps[0].tool.latency_s == USER_GAP_S
    assert [s.output_tokens for s in made.steps] == [4096, 5, 5]
    assert len(shaped(chain(steps=200)).steps) == 150


def test_halves_share_no_benchmark_item():
    runs = [chain(id=f"w/{i}", instance=f"item-{i // 3}") for i in range(300)]
    tune = {w.instance for w in runs if in_half(w, Half.TUNE)}
    report = {w.instance for w in runs if in_half(w, Half.REPORT)}
    assert not tune & report
    assert tune | report == {w.instance for w in runs}
    assert 25 < len(tune) < 75


def test_made_workflows_to_tune_on_are_others():
    tuned, reported = (draw(SETS["swe"], None, 3, 0, half) for half in (Half.TUNE, Half.REPORT))
    assert not {w.workflow_id for w in tuned} & {w.workflow_id for w in reported}


@needs_traces
def test_a_recording_is_drawn_by_seed_each_workflow_before_any_comes_twice():
    made = SETS["chat"]
    one, same, other = (draw(made, TRACES, 150, seed) for seed in (0, 0, 1))
    assert [w.workflow_id for w in one] == [w.workflow_id for w in same] != [w.workflow_id for w in other]
    assert len({w.workflow_id for w in one}) == 150
    assert len({w.workflow_id.partition("~")[0] for w in one[:116]}) == 116


def test_ten_tenants_send_as_the_paper_says():
    made = synthesise(TEN_TENANTS, 4 * 230, 0)
    counts = {}
    for one in made:
        counts[one.tenant] = counts.get(one.tenant, 0) + 1
    assert counts == {
        **{f"heavy-{i}": 160 for i in (1, 2, 3)}, **{f"medium-{i}": 80 for i in (1, 2, 3, 4)},
        **{f"light-{i}": 40 for i in (1, 2, 3)},
    }  # fmt: skip
    for name, mean in (("heavy-agent", 100), ("medium-agent", 30), ("light-agent", 10)):
        steps = [len(w.steps) for w in made if w.harness == name]
        assert sum(steps) / len(steps) == pytest.approx(mean, rel=0.08)
    assert {w.tenant for w in made[:10]} >= {"heavy-1", "medium-1"}, "no tenant sends in one block"


def test_a_result_counts_for_its_cell_input_and_code_alone():
    asked = cell()
    assert key(asked, "x") == key(cell(), "x")
    others = [cell(seed=1), cell("saga"), cell(level=2.0), cell(workers=5), cell(half=Half.TUNE)]
    assert len({key(asked, "x"), key(asked, "y"), *(key(other, "x") for other in others)}) == 7


def test_comments_and_docstrings_do_not_change_the_code():
    plain = "X = 1\ndef f(a):\n    return a + X\n"
    told = '"""Why."""\nX = 1  # as measured\n\n\ndef f(a):\n    """Sum."""\n    return (a + X)\n'
    assert meaning(plain) == meaning(told)
    assert meaning(plain) != meaning(plain.replace("1", "2"))


def test_more_per_worker_but_never_fewer_than_the_least():
    grid = suite("standard").grids[0]
    assert grid.workflows(4) == 800
    assert replace(grid, per_worker=0, least=600).workflows(4) == 600
