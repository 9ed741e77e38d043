"""The verdict in words: who wins by how much, how sure that is, and where each profile loses."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from saga_sim.pairing import Basis
from saga_sim.report import notation
from saga_sim.report.comparison import Comparison, compare
from saga_sim.report.data import ReportData
from saga_sim.report.measures import LOWER, MEASURES, NEITHER, Measure

NOTABLE = 0.02
"""A figure that is worse by less than this is not called a loss."""
FEW_SEEDS = 3
RATIO = (
    "The ratio is the geometric mean, over the same workflows with the same arrivals, of completion time under the "
    "baseline over completion time here."
)


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks against one profile, sentence by sentence."""

    profile: str
    points: tuple[str, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`headline`: one sentence. `remarks`: how the figure was found and how far to trust it."""

    headline: str
    remarks: tuple[str, ...]
    losses: tuple[Loss, ...]


def verdict(data: ReportData) -> Verdict:
    """Judge the runs against the first profile."""
    found = comparisons(data)
    best_first = [c.profile for c in sorted(found, key=lambda c: -c.ratio)]
    best_first += [profile for profile in data.profiles if profile not in best_first]
    return Verdict(
        headline=_headline(data, found),
        remarks=tuple(_remarks(data, found)),
        losses=tuple(loss for loss in (_loss(data, profile, found) for profile in best_first) if loss.points),
    )


def comparisons(data: ReportData) -> list[Comparison]:
    """Every profile but the baseline against it; those without a pair are left out."""
    found = (compare(data, profile) for profile in data.profiles[1:])
    return [comparison for comparison in found if comparison is not None]


def _headline(data: ReportData, found: Sequence[Comparison]) -> str:
    if len(data.profiles) < 2:
        return f"Only {data.baseline} was run: there is nothing to compare."
    winners = [c for c in found if c.wins]
    if winners:
        best = max(winners, key=lambda c: c.ratio)
        return f"{best.profile} wins: workflows finish {_times(best)} as fast as under {data.baseline}{_sure(best)}."
    if found and all(c.loses for c in found):
        best = max(found, key=lambda c: c.ratio)
        return f"{data.baseline} wins: the next, {best.profile}, is {_times(best)} as fast{_sure(best)}."
    if not found:
        return "No workflow finished under two profiles: there is nothing to compare."
    best = max(found, key=lambda c: c.ratio)
    return f"No profile is shown to beat {data.baseline}: the nearest, {best.profile}, is {_times(best)} as fast{_sure(best)}."


def _times(found: Comparison) -> str:
    return f"{notation.ratio(found.ratio)} times"


def _sure(found: Comparison) -> str:
    if found.low is None or found.high is None:
        return " (a single workflow: no confidence interval)"
    return f" (95 % confidence: {notation.ratio(found.low)} to {notation.ratio(found.high)})"


def _remarks(data: ReportData, found: Sequence[Comparison]) -> list[str]:
    if not found:
        return []
    said = [f"The baseline is {data.baseline}. {RATIO}"]
    if found[0].basis is Basis.SEEDS:
        said.append(f"The interval is Student's over {notation.plural(len(data.seeds), 'seed')}.")
        if len(data.seeds) < FEW_SEEDS:
            said.append("Two seeds make it wide; more will narrow it.")
    else:
        said.append(_one_run(data))
    said += _gains(data, max(found, key=lambda c: c.ratio).profile)
    left_out = max(c.left_out for c in found)
    if left_out:
        said.append(
            f"Up to {notation.plural(left_out, 'pair')} did not finish on both sides and do not count."
        )
    return said


def _one_run(data: ReportData) -> str:
    why = "All seeds gave the same run (nothing is drawn)" if len(data.seeds) > 1 else "There is one seed"
    return (
        f"{why}: the interval is over the workflows of one run. They share the cluster and are not independent, so the true "
        "uncertainty is larger."
    )


def _loss(data: ReportData, profile: str, found: Sequence[Comparison]) -> Loss:
    points = [*_unfinished(data, profile)]
    if profile != data.baseline:
        mine = next((c for c in found if c.profile == profile), None)
        points += _slower(data, mine)
        points += _worse_figures(data, profile)
    return Loss(profile=profile, points=tuple(points))


def _unfinished(data: ReportData, profile: str) -> list[str]:
    outcomes = [outcome for run in data.of(profile) for outcome in run.outcomes]
    missing = sum(outcome.completion_s is None for outcome in outcomes)
    return [f"{missing} of {notation.plural(len(outcomes), 'workflow')} did not finish"] if missing else []


def _slower(data: ReportData, found: Comparison | None) -> list[str]:
    if found is None:
        return ["no workflow finished both here and under the baseline"]
    points = []
    if found.loses:
        points.append(f"slower than {data.baseline}: {_times(found)} as fast{_sure(found)}")
    elif not found.wins:
        points.append(f"no difference to {data.baseline} is shown: {_times(found)} as fast{_sure(found)}")
    if found.slower:
        share = notation.tick_share(found.slower / len(found.pairs))
        points.append(f"{share} of the workflows took longer than under {data.baseline}")
    return points


def _gains(data: ReportData, profile: str) -> list[str]:
    """What else speaks for the best profile: a ratio alone would hide it."""
    gains = [
        _beside(m, ours, theirs) for m, ours, theirs in _figures(data, profile) if is_worse(m, theirs, ours)
    ]
    return [f"{profile} is better in {'; '.join(gains)}."] if gains else []


def _worse_figures(data: ReportData, profile: str) -> list[str]:
    return [
        _beside(m, ours, theirs) for m, ours, theirs in _figures(data, profile) if is_worse(m, ours, theirs)
    ]


def _figures(data: ReportData, profile: str) -> list[tuple[Measure, float, float]]:
    """The judged figures that are known here and under the baseline, means over seeds."""
    both = (
        (m, m.mean(data.of(profile)), m.mean(data.of(data.baseline))) for m in MEASURES if m.better != NEITHER
    )
    return [
        (measure, ours, theirs) for measure, ours, theirs in both if ours is not None and theirs is not None
    ]


def _beside(measure: Measure, ours: float, theirs: float) -> str:
    name = measure.name[0].lower() + measure.name[1:]
    return f"{name}: {measure.write(ours)} instead of {measure.write(theirs)}"


def is_worse(measure: Measure, ours: float, theirs: float) -> bool:
    """Worse by a notable part. What rounds to the same on paper is no loss either."""
    if measure.write(ours) == measure.write(theirs):
        return False
    gap = ours - theirs if measure.better == LOWER else theirs - ours
    return gap > NOTABLE * abs(theirs)
