"""The longest way through a workflow that ran: from the step that ended last back to the parent that ended last, and so on."""

from __future__ import annotations

from collections.abc import Mapping

from saga_sim.runs import StepRun
from saga_sim.trace.records import Workflow


def last_parents(workflow: Workflow, done: Mapping[int, StepRun]) -> dict[int, int | None]:
    """For each step that ran the parent that ended last; None: it has none."""
    return {
        number: max(
            workflow.steps[number].parents, key=lambda parent: (done[parent].ended_s, parent), default=None
        )
        for number in done
    }


def longest_way(done: Mapping[int, StepRun], before: Mapping[int, int | None]) -> set[int]:
    """The steps from the one that ended last back to a root. `before` as `last_parents` says."""
    if not done:
        return set()
    at: int | None = max(done, key=lambda number: (done[number].ended_s, number))
    way = set()
    while at is not None:
        way.add(at)
        at = before[at]
    return way


def gaps_behind(done: Mapping[int, StepRun], before: Mapping[int, int | None]) -> dict[int, float]:
    """Seconds from a step's end to the first step that waited for it last; without one it is not there."""
    gaps: dict[int, float] = {}
    for number, parent in before.items():
        if parent is not None:
            gap_s = done[number].started_s - done[parent].ended_s
            gaps[parent] = min(gap_s, gaps.get(parent, gap_s))
    return gaps
