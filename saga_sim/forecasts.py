"""How well the learned graph predicts recorded workflows: streams a trace through `Learner` as it would have come.

    python -m saga_sim.forecasts ../shared/traces/iso-bench-trae.jsonl.gz synth:swe-bench-like:400

Each workflow arrives once, in the order of its file, `--live` of them at a time on average; its steps follow one another
as recorded, each taking as long as it would alone. Every prediction is asked before its outcome is told. `--half` says
whose predictions are counted (constants were chosen on `even`, the published figures are of `odd`); all are learned.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import log
from pathlib import Path

from saga_core.errors import UserError
from saga_sim.costs import preset
from saga_sim.hindsight import MARKS, Forecast, Sums, Trial, load, stream

COLD = (1, 10, 30, 100, 1_000_000)
"""Numbers of finished workflows between which the errors at arrival are told apart."""
LEAST_REST = 0.02
"""Of the total: a rest below it counts as this much, so that the last step's error stays finite."""


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks with ties shared."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            out[place] = (start + end) / 2
        start = end + 1
    return out


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; 0 where one side is constant."""
    x, y = ranks(a), ranks(b)
    n = len(x)
    mean = (n - 1) / 2
    over = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    under = (sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y)) ** 0.5
    return over / under if under else 0.0


def report(name: str, sums: Sums) -> Iterator[str]:
    yield f"{name}"
    if sums.tools:
        yield f"  next tool        right {sums.tools_right / sums.tools:.3f} of {sums.tools}"
    if sums.pauses:
        yield (
            f"  return time      within band {sums.pauses_within / sums.pauses:.3f}, error "
            f"{sums.pause_error / sums.pauses:.3f} (Lindy {sums.lindy_error / sums.pauses:.3f}) of {sums.pauses}"
        )
    if sums.growths:
        yield (
            f"  growth, output   within band {sums.growths_within / sums.growths:.3f}, "
            f"{sums.outputs_within / sums.outputs:.3f}"
        )
    yield (
        f"  last step        Brier {sums.brier / sums.steps:.4f} (constant {sums.brier_rule / sums.steps:.4f}), "
        f"expected {sums.ends_expected:.1f} of {sums.ends}"
    )
    for mark in MARKS:
        yield from _mark_line(mark, [f for f in sums.forecasts if f.mark == mark])
    yield "  cold start       " + ", ".join(_cold([f for f in sums.forecasts if f.mark == 0.0]))


def _mark_line(mark: float, known: list[Forecast]) -> Iterator[str]:
    if len(known) < 3:
        return
    n = len(known)
    truths = [f.truth for f in known]
    rest = [max(f.truth - f.attained, LEAST_REST * f.truth) for f in known]
    mine = [max(f.median - f.attained, LEAST_REST * f.median) for f in known]
    rule = [max(f.class_median - f.attained, LEAST_REST * f.class_median) for f in known]
    yield (
        f"  work at {mark:4.0%}     total error {_error([f.median for f in known], truths):.3f} "
        f"(class {_error([max(f.class_median, f.attained) for f in known], truths):.3f}) "
        f"rank {spearman([f.median for f in known], truths):+.2f} (attained {spearman([f.attained for f in known], truths):+.2f})"
        f" | rest error {_error(mine, rest):.3f} (class {_error(rule, rest):.3f}) rank {spearman(mine, rest):+.2f}"
        f" | band {sum(f.low <= f.truth <= f.high for f in known) / n:.2f} of {n}"
    )


def _cold(arrivals: list[Forecast]) -> Iterator[str]:
    """Error at arrival after so many finished workflows, beside the class's."""
    for low, high in pairwise(COLD):
        known = [f for f in arrivals if low <= f.finished < high]
        if known:
            truths = [f.truth for f in known]
            mine, rule = (
                _error([f.median for f in known], truths),
                _error([f.class_median for f in known], truths),
            )
            yield f"after {low}: {mine:.3f} (class {rule:.3f}, {len(known)})"


def _error(guesses: Iterable[float], truths: Iterable[float]) -> float:
    errors = [abs(log(guess / truth)) for guess, truth in zip(guesses, truths, strict=True)]
    return sum(errors) / len(errors)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="FILE|synth:PRESET[:COUNT]")
    parser.add_argument("--live", type=float, default=8.0, help="workflows under way at once")
    parser.add_argument("--half", choices=("even", "odd", "all"), default="odd")
    parser.add_argument("--preset", default="llama3-8b-h100")
    parser.add_argument("--blind", action="store_true", help="no instance and no prefix")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        for source in options.sources:
            workflows = load(source)
            engine = preset(options.preset)
            trial = Trial(workflows, engine, options.half, blind=options.blind)
            for told in stream(workflows, engine, options.live, options.seed):
                trial.tell(told)
            name = "+".join(Path(part).name for part in source.split("+"))
            for line in report(f"{name}, {len(workflows)} workflows, half {options.half}", trial.sums):
                sys.stdout.write(line + "\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
