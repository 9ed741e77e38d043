"""Rows of the gateway benchmark, and what they say together: medians, spread, ratios of the same round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import msgspec

Figures = dict[str, float]


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate in one scenario of one round. Figures say their unit in their name."""

    candidate: str
    scenario: str
    round: int
    figures: dict[str, float]
    load: float
    """The machine's load average at that moment."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one candidate over all rounds."""

    scenario: str
    figure: str
    candidate: str
    median: float
    min: float
    max: float
    rounds: int
    ratio_to: dict[str, float]
    """This candidate's figure divided by the other's of the same round: the median over rounds."""


def summarise(rows: Sequence[GatewayRow]) -> list[Summary]:
    """One summary per scenario, figure and candidate, in the order of the rows."""
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in with_added(rows):
        for figure, value in row.figures.items():
            values[row.scenario, figure][row.candidate][row.round] = value
    return [
        _summary(scenario, figure, candidate, by_candidate)
        for (scenario, figure), by_candidate in values.items()
        for candidate in by_candidate
    ]


def with_added(rows: Sequence[GatewayRow]) -> list[GatewayRow]:
    """The rows, with `added_p50_us`: latency beyond that of a direct call in the same round."""
    direct = {
        (row.scenario, row.round): row.figures["latency_p50_us"]
        for row in rows
        if row.candidate == "direct" and "latency_p50_us" in row.figures
    }
    return [_with_added(row, direct.get((row.scenario, row.round))) for row in rows]


def _with_added(row: GatewayRow, direct_us: float | None) -> GatewayRow:
    if direct_us is None or row.candidate == "direct" or "latency_p50_us" not in row.figures:
        return row
    added = round(row.figures["latency_p50_us"] - direct_us, 1)
    return msgspec.structs.replace(row, figures=row.figures | {"added_p50_us": added})


def _summary(
    scenario: str, figure: str, candidate: str, by_candidate: dict[str, dict[int, float]]
) -> Summary:
    mine = by_candidate[candidate]
    ratios: Figures = {}
    for other, theirs in by_candidate.items():
        pairs = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
        if other != candidate and pairs:
            ratios[other] = round(median(pairs), 3)
    values = list(mine.values())
    return Summary(
        scenario=scenario,
        figure=figure,
        candidate=candidate,
        median=round(median(values), 2),
        min=round(min(values), 2),
        max=round(max(values), 2),
        rounds=len(values),
        ratio_to=ratios,
    )
