"""When may a step of a workflow start? A machine without clock, input or output.

The replay rules of the trace format: a step starts `gap_s` after the latest end of all its parents;
where that is absent, after the tool latency of its context parent; where that is unknown too, after
one drawn from measured quantiles. Roots start `ts_s` after the workflow's arrival. Live replay and
simulator drive the same machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import log
from random import Random

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.quantiles import LatencyTable
from saga_sim.trace.records import Step, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a trace's times become replay times.

    time_scale: factor on gaps, drawn latencies and root starts (0 = no waiting at all);
    max_gap_s: no single gap longer than this, after scaling;
    arrivals_per_s: a seeded Poisson stream instead of the recorded arrivals; seed: of all that is drawn.
    """

    time_scale: float = 1.0
    max_gap_s: float | None = None
    arrivals_per_s: float | None = None
    seed: int = 0
    latencies: LatencyTable = field(default_factory=LatencyTable.published)

    def __post_init__(self) -> None:
        if not 0 <= self.time_scale < float("inf"):
            raise UserError(f"time scale {self.time_scale:g} is not valid (valid: 0 or above)")
        if self.max_gap_s is not None and self.max_gap_s < 0:
            raise UserError(f"longest gap {self.max_gap_s:g} s is negative")
        if self.arrivals_per_s is not None and not 0 < self.arrivals_per_s < float("inf"):
            raise UserError(f"arrival rate {self.arrivals_per_s:g}/s is not valid (valid: above 0)")

    def arrivals(self, workflows: Sequence[Workflow]) -> list[float]:
        """When each workflow arrives, in seconds after the first. As recorded and scaled; unknown = at once."""
        if self.arrivals_per_s is not None:
            return self._poisson(len(workflows), self.arrivals_per_s)
        known = [workflow.arrival_s for workflow in workflows if workflow.arrival_s is not None]
        first_s = min(known, default=0.0)
        return [
            0.0 if workflow.arrival_s is None else (workflow.arrival_s - first_s) * self.time_scale
            for workflow in workflows
        ]

    def _poisson(self, count: int, rate_per_s: float) -> list[float]:
        draw = Random(f"{self.seed}:arrivals").random  # noqa: S311 - a workload
        gaps_s = [0.0, *(-log(1.0 - draw()) / rate_per_s for _ in range(count - 1))]
        return list(accumulate(gaps_s))[:count]

    def gap_s(self, workflow: Workflow, step: Step) -> float:
        """Seconds from the end of the step's last parent to its start."""
        scaled_s = self._recorded_gap_s(workflow, step) * self.time_scale
        return scaled_s if self.max_gap_s is None else min(scaled_s, self.max_gap_s)

    def _recorded_gap_s(self, workflow: Workflow, step: Step) -> float:
        if step.gap_s is not None:
            return step.gap_s
        tool = workflow.steps[step.ctx_parent].tool if step.ctx_parent is not None else None
        if tool is None:
            return 0.0
        if tool.latency_s is not None:
            return tool.latency_s
        draw = Random(f"{self.seed}:{workflow.workflow_id}:{step.id}").random()  # noqa: S311 - a workload
        return self.latencies.draw(tool.kind, tool.name, draw)


class ReadyStep(msgspec.Struct, frozen=True):
    """A step all of whose parents are done, and when it may start (on the caller's clock)."""

    step: Step
    start_at: float


class WorkflowPace:
    """One workflow's progress: tell it what finished, and it says what may start when."""

    def __init__(self, workflow: Workflow, pace: Pace) -> None:
        self.workflow = workflow
        self._pace = pace
        self._open_parents = [len(step.parents) for step in workflow.steps]
        self._children: list[list[int]] = [[] for _ in workflow.steps]
        for step in workflow.steps:
            for parent in step.parents:
                self._children[parent].append(step.id)
        self._running: set[int] = set()
        self._finished = 0

    @property
    def done(self) -> bool:
        """Every step has finished."""
        return self._finished == len(self.workflow.steps)

    def arrive(self, now: float) -> list[ReadyStep]:
        """The steps without parents, each at its recorded start after the arrival `now`."""
        roots = [step for step in self.workflow.steps if not step.parents]
        self._running.update(step.id for step in roots)
        return [ReadyStep(step, now + (step.ts_s or 0.0) * self._pace.time_scale) for step in roots]

    def step_finished(self, step_id: int, now: float) -> list[ReadyStep]:
        """The steps that waited for this one last. Calls come in order of `now`, so `now` is the latest end."""
        if step_id not in self._running:
            raise ValueError(f"step {step_id} of {self.workflow.workflow_id} is not running")
        self._running.remove(step_id)
        self._finished += 1
        ready = []
        for child in self._children[step_id]:
            self._open_parents[child] -= 1
            if not self._open_parents[child]:
                step = self.workflow.steps[child]
                ready.append(ReadyStep(step, now + self._pace.gap_s(self.workflow, step)))
        self._running.update(item.step.id for item in ready)
        return ready
