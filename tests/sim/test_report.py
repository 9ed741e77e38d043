"""The report of a simulated experiment, whole."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, fitted, simulate
from saga_sim.report import render, report_data, trace_source
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec

SPEC = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)


@pytest.fixture(scope="module")
def data():
    workflows = fitted(synthesise("demo", 6, 0), SPEC)
    arrivals = Arrivals(per_s=0.5)
    runs = [
        (*simulate(profile, workflows, SPEC, arrivals, seed=seed), None)
        for profile in ("sticky", "round-robin")
        for seed in range(2)
    ]
    return report_data(
        runs, workflows=workflows, sources=[trace_source("demo", workflows)], spec=SPEC, arrivals=arrivals
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
