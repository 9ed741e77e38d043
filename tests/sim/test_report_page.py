"""The report's page: its fragments against golden files, and what every reader needs. SAGA_UPDATE_GOLDEN=1 writes anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from report_makers import full, outcome, report, run
from test_report import Reader

from saga_sim.report import axis, curves, pairs, render, tables, tenants, timelines
from saga_sim.report.comparison import compare
from saga_sim.report.plot import colour, dashes
from saga_sim.report.verdict import comparisons

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
FRAGMENTS = {
    "completion-curves": lambda data, _: curves.completion_curves(data),
    "verdict-plot": pairs.verdict_plot,
    "ratio-histogram": lambda data, found: pairs.ratio_histogram(data, found[0]),
    "ratio-dots": lambda data, found: pairs.ratio_dots(data, found[0]),
    "busy-workers": lambda data, _: timelines.busy_workers(data),
    "memory": lambda data, _: timelines.memory(data.runs[0]),
    "set-up": lambda data, _: tables.set_up(data),
    "figures": tables.figures,
    "by-agent-type": lambda data, _: tables.groups(data, "agent type", lambda o: o.agent_type),
    "by-tenant": lambda data, _: tenants.table(data),
    "tenant-plot": lambda data, _: tenants.tenant_plot(data),
    "slowdown-curves": lambda data, _: curves.slowdown_curves(data),
    "ttft-curves": lambda data, _: curves.ttft_curves(data),
}


@pytest.mark.parametrize("name", FRAGMENTS)
def test_fragment_is_as_it_was(name):
    data = full()
    # One element per line, so that a change reads well.
    made = FRAGMENTS[name](data, comparisons(data)).replace("><", ">\n<") + "\n"
    path = GOLDEN / f"{name}.html"
    if os.environ.get("SAGA_UPDATE_GOLDEN"):
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


def drawings(page):
    return re.findall(r"<svg [^>]*role=\"img\".*?</svg>", page, flags=re.DOTALL)


def test_every_plot_has_a_text_alternative_axis_names_and_a_caption():
    page = render(full())
    plots = drawings(page)
    assert len(plots) == 12
    for plot in plots:
        assert re.search(r"<title>[^<]+</title><desc>[^<]{20,}</desc>", plot)
        assert plot.count('class="name"') == 2
    assert page.count("<figcaption>") == len(plots)
    assert not re.search(r"<figcaption>[^<]{0,30}<", page)


def test_a_tenant_is_told_its_slowdown_and_its_share_within_the_objective():
    """Tenant b under the baseline, both seeds: slowdowns 20/8, 40/8, 21/8, 44/8; only the first is within 2.5."""
    row = tenants.table(full()).split('<th scope="row">b</th>')[1].split("</tr>")[0]
    assert row.startswith("<td>2</td><td>3.91, 25")
    assert tenants.table(report(run("sticky", [1.0, 2.0]))) is None
    assert tenants.tenant_plot(report(run("sticky", [1.0, 2.0]))) is None


def test_curves_that_nobody_measured_are_left_out():
    bare = report(run("sticky", [1.0, 2.0]))
    assert curves.slowdown_curves(bare) is None
    assert curves.ttft_curves(bare) is None


def test_a_slowdown_curve_ends_where_workflows_did_not_finish():
    """Half of them finished, so the curve goes half way up; the objective is a line."""
    half = report(run("sticky", (), outcomes=(outcome(4.0, alone_s=2.0), outcome(None))))
    drawn = curves.slowdown_curves(half)
    low, high = 254.0, 26.0  # the frame's floor and top
    ends = float(re.search(r'<circle class="mark c0"[^>]*cy="([\d.]+)"', drawn.split('class="grid"')[-1])[1])
    assert ends == pytest.approx((low + high) / 2)
    assert 'class="unity"' in drawn


def test_profiles_differ_in_dashes_and_marks_not_by_colour_alone():
    lines = re.findall(r'<path class="line c(\d)"[^>]*?(?: stroke-dasharray="([^"]*)")?/>', render(full()))
    assert dict(lines) == {"0": "", "1": "7 3"}
    page = curves.completion_curves(full())
    assert page.count("<circle") > 1
    assert page.count("<rect") > 1


def test_fourteen_profiles_still_look_different():
    looks = {(colour(n), dashes(n)) for n in range(14)}
    assert len(looks) == 14


def test_names_of_strangers_stay_text():
    evil = '"><script>alert(1)</script>'
    made = [
        run(p, (), outcomes=(outcome(t, agent_type=evil, tenant=evil), outcome(t + 1)))
        for p, t in ((evil, 10), ("b", 5))
    ]
    page = render(report(*made, title=evil))
    assert "<script" not in page
    assert not Reader(page).open


@pytest.mark.parametrize(
    "runs",
    [
        [run("a", ())],
        [run("a", (None, None)), run("b", (None, None))],
        [run("a", (3.0,)), run("b", (3.0,))],
        [run("a", (1e-4, 1e6)), run("b", (1e6, 1e-4))],
        [run(f"profile-{n}", (10.0 + n, 20.0)) for n in range(9)],
    ],
    ids=["nothing", "nothing finished", "one workflow", "far apart", "many profiles"],
)
def test_odd_experiments_are_still_a_page(runs):
    page = render(report(*runs))
    assert not Reader(page).open
    assert not re.search(r"\b(nan|inf|None)\b", page)


def test_what_was_not_recorded_is_not_drawn():
    page = render(report(run("a", (1.0, 2.0)), run("b", (1.0, 3.0))))
    assert "Busy workers" not in page
    assert "KV memory under" not in page
    assert "Cached share" not in page


def test_set_up_names_all_that_is_needed_to_run_it_again():
    page = tables.set_up(full())
    for told in ("team.jsonl.gz", "llama3-70b-a100", "8\N{NO-BREAK SPACE}GPUs", "2 per node", "0, 1", "as recorded",
                 "saga sim run --gpus 8", "saga 1"):  # fmt: skip
        assert told in page


def test_a_histogram_counts_every_pair_once_and_no_bar_holds_faster_and_slower():
    times = [0.01, *(2.0 + i / 50 for i in range(300)), 900.0]
    data = report(run("a", [4.0] * len(times)), run("b", times))
    found = compare(data, "b")
    bins = pairs._binned(axis.ratios("", [0.9, 1.3]), [r for _, r in found.pairs])
    assert sum(count for _, _, count in bins) == len(times)
    assert not any(low < 1 - 1e-9 and high > 1 + 1e-9 for low, high, _ in bins)


def test_a_curve_ends_at_the_share_that_finished():
    assert curves._curve([1.0, 2.0, 3.0], 4) == [(1.0, 0.25), (2.0, 0.5), (3.0, 0.75)]
    data = report(run("a", (1.0, 2.0, 3.0, None)))
    whole = report(run("a", (1.0, 2.0, 3.0)))
    assert curves.completion_curves(data) != curves.completion_curves(whole)


def test_ten_thousand_workflows_do_not_make_a_heavy_page():
    times = [1.0 + (i * 7919 % 10_000) / 100 for i in range(10_000)]
    page = render(report(run("a", times), run("b", [t * 0.9 for t in times])))
    assert len(page) < 200_000
    assert "One in 20 is drawn" in page
