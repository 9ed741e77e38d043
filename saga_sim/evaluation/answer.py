"""The whole answer of an evaluation, as `eval.json` keeps it, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from saga_sim.evaluation.course import Failure, Peak
from saga_sim.evaluation.plan import Load
from saga_sim.evaluation.sets import SETS
from saga_sim.evaluation.standing import Condition, Standing, Versus
from saga_sim.evaluation.suites import BLIND, LEARNED, STICKY, THUNDER
from saga_sim.evaluation.targets import PAPER, Judged, State
from saga_sim.evaluation.twists import words as twist_words
from saga_sim.evaluation.variants import variant
from saga_sim.report import notation

LOSS, LOSS_P95 = 0.98, 0.97
"""A ratio of means below the first, of p95s below the second, is a loss: the issue's bounds for "the same" and "not worse"."""


class SetUp(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to do it again. skipped: set and why; machine, versions: name and value."""

    suite: str
    command: str
    profiles: tuple[str, ...]
    baselines: tuple[str, ...]
    seeds: int
    machine: str
    versions: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...] = ()
    code: str = ""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks against one profile."""

    profile: str
    points: tuple[str, ...]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. cpu_s: what the cells took, summed over the processes."""

    set_up: SetUp
    headline: str
    targets: tuple[Judged, ...]
    losses: tuple[Loss, ...]
    standings: tuple[Standing, ...]
    peaks: tuple[Peak, ...] = ()
    failures: tuple[Failure, ...] = ()
    cells: int = 0
    cpu_s: float = 0.0

    def conditions(self) -> list[Condition]:
        """In the order of the plan."""
        return list(dict.fromkeys(standing.condition for standing in self.standings))

    def at(self, condition: Condition) -> list[Standing]:
        """The standings of one condition, in the order of the profiles."""
        found = {s.profile: s for s in self.standings if s.condition == condition}
        return [found[profile] for profile in self.set_up.profiles if profile in found]


def condition_words(condition: Condition) -> str:
    """`iso-bench-trae, pressure 1.5`; cluster size and half only where they are not the usual ones."""
    what = SETS[condition.work].what if condition.work in SETS else condition.work
    at = load_words(condition.load, condition.level)
    twist = f", {twist_words(condition.twist)}" if condition.twist else ""
    half = "" if condition.half == "all" else f", the half to {condition.half}"
    return f"{what}, {at}, {notation.plural(condition.workers, 'worker')}{twist}{half}"


def load_words(load: Load, level: float) -> str:
    """`pressure 1.5`."""
    match load:
        case Load.PRESSURE:
            return f"pressure {level:g}"
        case Load.PEAK:
            return f"{100 * level:g} % of the peak"
        case Load.AT_ONCE:
            return f"{level:g} at a time"


def headline(targets: Sequence[Judged], standings: Sequence[Standing]) -> str:
    """One sentence: targets, or what the best profile reached where there is none."""
    count = {state: sum(judged.state is state for judged in targets) for state in State}
    if len(targets) > count[State.NOT_RUN]:
        words = [f"{count[State.MET]} of {notation.plural(len(targets), 'target')} met"]
        words += [f"{number} {state}" for state, number in count.items() if number and state is not State.MET]
        return f"{', '.join(words)}."
    lead = (
        "None of the profiles with targets was run"
        if targets
        else "These runs are not those that targets are about"
    )
    pairs = [(v.geomean, s, v) for s in standings for v in s.versus if v.low is not None and v.low > 1]
    if not pairs:
        return f"{lead}, and no profile is shown to beat a baseline."
    best, standing, pair = max(pairs, key=lambda found: found[0])
    return (
        f"{lead}. Best: {standing.profile}, {notation.ratio(best)} times {pair.baseline} "
        f"({condition_words(standing.condition)})."
    )


def gist(standings: Sequence[Standing]) -> list[str]:
    """A line for each load of the sets under which ours was run beside a baseline: how many times as fast, set by set."""
    lines = []
    for load, level in dict.fromkeys((s.condition.load, s.condition.level) for s in standings):
        ours = [
            s
            for s in standings
            if s.profile == LEARNED
            and (s.condition.load, s.condition.level) == (load, level)
            and not s.condition.twist
        ]
        told = [_against(baseline, ours) for baseline in (STICKY, THUNDER, PAPER)]
        if any(told):
            lines.append(
                f"{LEARNED} at {load_words(load, level)}, times as fast as {'; '.join(filter(None, told))}."
            )
    return lines


def _against(baseline: str, ours: Sequence[Standing]) -> str:
    found = [
        f"{s.condition.work} {notation.ratio(v.geomean)}"
        for s in ours
        if (v := s.against(baseline)) is not None
    ]
    return f"{baseline}: {', '.join(found)}" if found else ""


def losses(standings: Sequence[Standing], profiles: Sequence[str]) -> list[Loss]:
    """What speaks against ours, baseline by baseline (ours with the work declared is none: it knows more); where none of ours was run, against each in comparison with the first baseline."""
    ours = [profile for profile in profiles if is_ours(profile)]
    most = None if ours else 1
    found = [
        Loss(
            profile=p, points=tuple(point for s in standings if s.profile == p for point in _points(s, most))
        )
        for p in ours or profiles
    ]
    return [loss for loss in found if loss.points]


def is_ours(profile: str) -> bool:
    """`saga` and `saga-blind`, whatever is declared to them; not the paper's, and not ours with something taken away."""
    named = variant(profile)
    return named.profile in (LEARNED, BLIND) and not named.changes


def _points(standing: Standing, most: int | None) -> Iterator[str]:
    """most: so many baselines; None: all."""
    where = condition_words(standing.condition)
    if standing.finished < standing.workflows:
        missing = standing.workflows - standing.finished
        yield f"{where}: {missing} of {notation.plural(standing.workflows, 'workflow')} did not finish"
    others = [found for found in standing.versus if not is_ours(found.baseline)]
    for found in others[:most]:
        worse = [words for words, ratio, bound in _ratios(found) if ratio is not None and ratio < bound]
        if worse:
            yield f"{where}, against {found.baseline}: {', '.join(worse)}"


def _ratios(found: Versus) -> Iterator[tuple[str, float | None, float]]:
    yield f"geomean {versus_words(found)}", found.geomean, LOSS
    yield f"mean {notation.ratio(found.mean)}", found.mean, LOSS
    yield f"p95 {notation.ratio(found.p95)}", found.p95, LOSS_P95
    yield f"throughput {notation.ratio(found.throughput)}", found.throughput, LOSS


def versus_words(found: Versus) -> str:
    """`1.23 (1.15 to 1.31)`."""
    if found.low is None or found.high is None:
        return notation.ratio(found.geomean)
    return f"{notation.ratio(found.geomean)} ({notation.ratio(found.low)} to {notation.ratio(found.high)})"
