"""`saga sim plan` for a person: sizes tried with a guess of the time left, and the answer with all that was tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from saga_cli.grid import Grid
from saga_cli.progress import Progress
from saga_cli.units import UNKNOWN, count, duration, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from saga_sim.experiment import Arrivals
    from saga_sim.search import Search
    from saga_sim.sizing import Question, Try
    from saga_sim.targets import Target
    from saga_sim.trace import Workflow

LEGEND = (
    "A size is enough when every target is reached under every seed (the worst seed's value stands here) and every "
    "workflow finishes. p50, p95, p99, mean, geomean: of completion times. slo: share of workflows that took at most "
    "the given multiple of their time alone. A run that can no longer reach its targets is cut: so many of those that had ended were late, or the sum of their "
    "times is above the mean's limit for all."
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga sim plan` says. workers, gpus, nodes: the answer; None: no size up to most_workers is enough.

    against: sizes tried that contradict a threshold at the answer: smaller and enough, or larger and not. beyond: why
    no size at all can be enough, known without a run; else empty.
    """

    profile: str
    preset: str
    arrivals: str
    workflows: int
    seeds: int
    slo: float
    targets: list[str]
    most_workers: int
    workers: int | None
    gpus: int | None
    nodes: int | None
    monotone: bool
    against: list[int]
    beyond: str
    tries: list[Try]
    wall_s: float


def arrivals_text(arrivals: Arrivals, workflows: Sequence[Workflow]) -> str:
    """When workflows come, in words."""
    if arrivals.max_live is not None:
        return f"{arrivals.max_live} at a time"
    if arrivals.per_s is not None:
        return f"Poisson arrivals, {arrivals.per_s:g}/s"
    known = {workflow.arrival_s for workflow in workflows} - {None}
    if len(known) < 2 or not arrivals.scale_time:
        return "all arrive at once"
    return "arrivals as recorded" + (f" x {arrivals.scale_time:g}" if arrivals.scale_time != 1 else "")


@dataclass(slots=True)
class _Trying:
    """Simulates the sizes that the search asks for, and shows how far it is."""

    question: Question
    show: Progress
    tries: list[Try] = field(default_factory=list)
    search: Search | None = None
    _ended: int = 0

    def __call__(self, workers: int) -> bool:
        from saga_sim.sizing import attempt

        self._ended = 0
        self.show.phase(self._title(workers), len(self.question.workflows) * self.question.seeds)
        tried = attempt(self.question, workers, self._one)
        self.tries.append(tried)
        self.show.say(f"  {outcome(tried)}")
        return tried.met

    def _one(self) -> None:
        self._ended += 1
        self.show.tick(self._ended)

    def _title(self, workers: int) -> str:
        assert self.search is not None
        left = self.search.left()
        about = (
            f", {duration(left * fmean(t.wall_s for t in self.tries))} at the mean of these"
            if self.tries
            else ""
        )
        return f"{plural(workers, 'worker')} (size {len(self.tries) + 1}; at most {left} to go{about})"


def outcome(tried: Try) -> str:
    """One size in one line."""
    values = ", ".join(f"{one.target}: {_value(one.target, one.value)}" for one in tried.reached)
    return f"{'enough' if tried.met else 'not enough'}: {tried.why or values}"


def plan(question: Question, most_workers: int, show: Progress) -> Plan:
    """Search for the size, and say what was found."""
    from saga_sim.search import Search
    from saga_sim.sizing import beyond

    trying = _Trying(question, show)
    search = trying.search = Search(trying, most_workers)
    why_none = beyond(question)
    answer = None if why_none else search.answer()
    found = next((t for t in trying.tries if t.workers == answer), None)
    return Plan(
        profile=question.profile,
        preset=question.spec.preset.name,
        arrivals=arrivals_text(question.arrivals, question.workflows),
        workflows=len(question.workflows),
        seeds=question.seeds,
        slo=question.slo,
        targets=[str(target) for target in question.targets],
        most_workers=most_workers,
        workers=answer,
        gpus=found.gpus if found else None,
        nodes=found.nodes if found else None,
        monotone=not search.against(answer),
        against=search.against(answer),
        beyond=why_none,
        tries=sorted(trying.tries, key=lambda t: t.workers),
        wall_s=sum(t.wall_s for t in trying.tries),
    )


# -- as a table -------------------------------------------------------------------------------


def table(plan: Plan) -> RenderableType:
    """The question, what was tried, the answer."""
    from textwrap import fill

    from rich.console import Group
    from rich.text import Text

    asked = (
        f"{plan.profile} on {plan.preset}: {plural(plan.workflows, 'workflow')}, {plan.arrivals}, "
        f"{plural(plan.seeds, 'seed')}; simulated in {duration(plan.wall_s)}"
    )
    return Group(
        Text(fill(asked, 79)),
        Text(),
        _tries(plan),
        Text(),
        Text(answer(plan), style="bold"),
        Text(),
        Text(fill(LEGEND, 79)),
    )


def _tries(plan: Plan) -> Grid:
    shown = [_shown(target) for target in plan.targets]
    return Grid(
        ">WORKERS", ">GPUS", ">NODES", *(f">{title}" for title in shown), "ENOUGH", "*WHY NOT",
        rows=[
            (
                str(t.workers), count(t.gpus) if t.gpus else UNKNOWN, str(t.nodes),
                *(_value(one.target, one.value) for one in t.reached), "yes" if t.met else "no", t.why,
            )
            for t in plan.tries
        ],
        empty="no size was tried",
    )  # fmt: skip


def answer(plan: Plan) -> str:
    """The answer in words, broken to 79 columns."""
    from textwrap import fill

    wanted = " and ".join(_shown(target) for target in plan.targets)
    if plan.beyond:
        said = f"No size reaches {wanted}: {plan.beyond}."
    elif plan.workers is None:
        said = f"No size up to {plural(plan.most_workers, 'worker')} reaches {wanted} (more: --max-workers)."
    else:
        gpus = f"{plural(plan.gpus, 'GPU')}, " if plan.gpus else ""
        assert plan.nodes is not None
        size = f"{plural(plan.workers, 'worker')} ({gpus}{plural(plan.nodes, 'node')})"
        said = f"{size} for {wanted}{_neighbours(plan)}."
    return fill(said + _against(plan), 79)


def _neighbours(plan: Plan) -> str:
    assert plan.workers is not None
    below = f"; {plan.workers - 1} is not enough" if plan.workers > 1 else ""
    above = f", {plan.workers + 1} is" if any(t.workers == plan.workers + 1 for t in plan.tries) else ""
    return below + above


def _against(plan: Plan) -> str:
    if plan.monotone:
        return ""
    limit = plan.workers or plan.most_workers + 1
    smaller = [str(size) for size in plan.against if size < limit]
    larger = [str(size) for size in plan.against if size > limit]
    parts = [f"{', '.join(smaller)} would be enough too"] if smaller else []
    parts += [f"{', '.join(larger)} would not"] if larger else []
    return f" Not monotone: {', '.join(parts)}; the answer holds for the sizes next to it only."


def _shown(target: str) -> str:
    """`p95 <= 5m00s`: a target with its limit as people read it."""
    from saga_sim.targets import parse

    parsed: Target = parse(target)[0]
    sign = target.removeprefix(f"{parsed.metric} ").split()[0]
    return f"{parsed.metric} {sign} {_value(target, parsed.limit)}"


def _value(target: str, value: float | None) -> str:
    if value is not None and target.startswith("slo"):
        return f"{100 * value:.1f}%"
    return duration(value)
