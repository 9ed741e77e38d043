"""The report of a simulated experiment, whole."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, fitted, simulate
from saga_sim.report import render, report_data, trace_source, trace_sources
from saga_sim.report.adapter import arrivals_words
from saga_sim.runs import RunState
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec

SPEC = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)


@pytest.fixture(scope="module")
def experiment():
    workflows = fitted(synthesise("demo", 6, 0), SPEC)
    profiles = ("sticky", "round-robin")
    runs = [
        simulate(profile, workflows, SPEC, Arrivals(per_s=0.5), seed=seed)
        for profile in profiles
        for seed in range(2)
    ]
    return workflows, runs


@pytest.fixture(scope="module")
def data(experiment):
    workflows, runs = experiment
    return report_data(
        [(figures, result, None) for figures, result in runs],
        workflows=workflows,
        sources=[trace_source("demo", workflows)],
        spec=SPEC,
        arrivals=Arrivals(per_s=0.5),
    )


class Reader(HTMLParser):
    """Checks that elements nest, and keeps their names and attributes."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed_and_fetches_nothing(data):
    page = render(data)
    reader = Reader(page)
    assert not reader.open
    names = {tag for tag, _ in reader.seen}
    assert not names & {"script", "link", "img", "iframe", "object"}
    for _, attributes in reader.seen:
        assert not {"href", "src", "srcset"} & attributes.keys()
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_same_data_gives_the_same_bytes(data):
    assert render(data) == render(data)


def test_figures_and_outcomes_are_those_of_the_runs(data, experiment):
    workflows, runs = experiment
    assert data.profiles == ("sticky", "round-robin")
    assert data.seeds == (0, 1)
    for made, (figures, result) in zip(data.runs, runs, strict=True):
        whole = figures.summary
        known = made.metrics
        assert (known.tct_mean_s, known.ttft_p95_s, known.cached_tokens, known.regenerated_tokens) == (
            whole.tct_mean_s, whole.ttft_p95_s, whole.cached_tokens, whole.regenerated_tokens,
        )  # fmt: skip
        for name in ("tct_p50_s", "tct_p99_s", "workflows_per_min", "pressure", "again_share", "useful_share",
                     "busy_share", "preemptions"):  # fmt: skip
            assert getattr(known, name) == getattr(figures, name)
        slowed = figures.slowdowns
        assert (known.slowdown_max, known.slo_share, known.slo_least, known.fairness_tenants) == (
            slowed.max, slowed.slo_share, slowed.slo_least, slowed.jain_tenants,
        )  # fmt: skip
        assert max(o.slowdown for o in made.outcomes) == slowed.max
        steps = sorted(step.ttft_s for run in result.runs for step in run.steps)
        assert (made.ttfts_s[0], made.ttfts_s[-1]) == (steps[0], steps[-1])
        assert [o.completion_s for o in made.outcomes] == [run.completion_s for run in result.runs]
        assert {o.tenant for o in made.outcomes} == {w.tenant or "default" for w in workflows}


def test_a_workflow_that_failed_has_no_completion_time(experiment):
    workflows, [(figures, result), *_] = experiment
    first, *rest = result.runs
    broken = replace(result, runs=(replace(first, state=RunState.FAILED), *rest))
    made = report_data(
        [(figures, broken, None)], workflows=workflows, sources=(), spec=SPEC, arrivals=Arrivals(per_s=0.5)
    )
    assert [o.completion_s is None for o in made.runs[0].outcomes] == [True, *[False] * len(rest)]


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        (Arrivals(pressure=2.0, max_gap_s=None), "Poisson, at a pressure of 2 on KV memory"),
        (Arrivals(per_s=0.5), "Poisson, 0.5 per second; no gap between steps above 10 min"),
        (Arrivals(max_live=4, max_gap_s=None), "4 at a time"),
        (Arrivals(scale_time=0.5, max_gap_s=None), "as recorded; recorded times multiplied by 0.5"),
    ],
)  # fmt: skip
def test_arrivals_in_words(arrivals, words):
    assert arrivals_words(arrivals).replace("\N{NO-BREAK SPACE}", " ") == words


def test_a_source_is_counted():
    workflows = synthesise("demo", 3, 0)
    source = trace_source("demo", workflows)
    assert (source.name, source.workflows) == ("demo", 3)
    assert source.steps == sum(len(w.steps) for w in workflows)
    assert source.prompt_tokens == sum(s.prompt_tokens for w in workflows for s in w.steps)


def test_several_sources_are_told_apart_by_their_workflows():
    made = [replace(w, source=name) for w, name in zip(synthesise("demo", 3, 0), "aba", strict=True)]
    assert [(s.name, s.workflows) for s in trace_sources(["x.gz", "y.gz"], made)] == [("a", 2), ("b", 1)]
    assert [(s.name, s.workflows) for s in trace_sources(["x.gz"], made)] == [("x.gz", 3)]


def test_the_plots_are_of_the_run(data, experiment):
    _, [(_, result), *_] = experiment
    live = data.runs[0].live_workflows
    width_s = live[1].at_s
    whole_s = sum(run.ended_s - run.arrived_s for run in result.runs)
    assert sum(sample.value for sample in live) * width_s == pytest.approx(whole_s)
