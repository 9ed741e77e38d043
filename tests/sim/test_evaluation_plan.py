"""What an evaluation runs, on which workflows, and what decides whether a kept result still counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluation_makers import cell
from trace_makers import TRACES, chain, needs_traces, step, workflow

from saga_core.errors import UserError
from saga_sim.evaluation.fingerprint import key, meaning
from saga_sim.evaluation.plan import (
    PROBES_PER_WORKER,
    SUITES,
    Choice,
    Half,
    Load,
    Variant,
    enumerate_cells,
    probes,
    suite,
    variant,
)
from saga_sim.evaluation.sets import SETS, USER_GAP_S, absent, draw, in_half, shaped
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
    gpus = {c.workers * (4 if c.work == "swe" else 1) for c in cells if c.work in ("swe", "entire")}
    assert gpus == {4, 16, 64, 256}
    assert {c.level for c in cells if c.work == "iso" and c.workers == 4} == {
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
    assert [(c.work, c.level, c.workflows) for c in cells] == [("swe", 2.0, 800), ("kvct", 2.0, 200)]


def test_pressures_do_not_replace_shares_of_the_peak():
    cells = enumerate_cells(suite("standard"), ["sticky"], Choice(works=("mix",), pressures=(2.0,)))
    assert {c.level for c in cells} == {0.8, 0.97}


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
    "name", ["saga+", "saga+told", "saga+declared~", "saga+declared~-1", "saga+declared~inf"]
)
def test_other_additions_are_refused(name):
    with pytest.raises(UserError, match=r"valid: saga\+declared"):
        variant(name)


def test_mistakes_are_told_with_what_is_valid():
    with pytest.raises(UserError, match="quick, standard"):
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
    assert grid.workflows(4) == 200
    assert replace(grid, per_worker=0, least=600).workflows(4) == 600
