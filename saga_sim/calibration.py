"""A cost table from measured steps: least squares over relative errors, no coefficient below zero.

What is measured are single calls: the time to the first token is prefill, the time between tokens is decoding. What
the way through gateway and HTTP costs is a coefficient of its own and no part of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from saga_core.costs import CostTable
from saga_core.errors import ClusterError

NAMES = (
    "step_s",
    "prefill_token_s",
    "attention_token2_s",
    "decode_s",
    "context_token_s",
    "call_s",
    "prompt_token_s",
    "way_s",
)
"""The coefficients of the fit, in this order: those of the table, and the way there and back."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One measured call. `batch`: calls that decoded at once in its engine, itself included.

    visits: calls that came into the same engine, one after the other, while this one decoded.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float
    duration_s: float
    batch: int = 1
    visits: tuple[Probe, ...] = ()


class Residual(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured and what the fitted table says, in seconds.

    what: `prefill`; `decode`, per token; or `visited`, per token of a call that decoded while others came in.
    """

    what: str
    prompt_tokens: int
    cached_tokens: int
    batch: int
    measured_s: float
    fitted_s: float

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.fitted_s / self.measured_s - 1.0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted table, the way there and back, and how well both say what was measured."""

    costs: CostTable
    way_s: float
    residuals: tuple[Residual, ...]

    @property
    def mean_error(self) -> float:
        """Mean absolute relative error."""
        return sum(abs(r.error) for r in self.residuals) / len(self.residuals)


@dataclass(slots=True)
class _Row:
    what: str
    probe: Probe
    features: list[float]
    seconds: float


def fit(probes: Sequence[Probe], step_tokens: int) -> Calibration:
    """The table that says best what `probes` measured on an engine with chunks of `step_tokens`.

    Raises ClusterError when they do not tell enough: prefills of several lengths, cold and cached, and decoding at
    several contexts and batch sizes are needed.
    """
    rows = [_prefill(probe, step_tokens) for probe in probes if probe.batch == 1 and not probe.visits]
    rows += [_decode(probe) for probe in probes if probe.output_tokens > 1]
    rows = [row for row in rows if row.seconds > 0]
    found = _least_squares(rows)
    told = dict(zip(NAMES, found, strict=True))
    way_s = told.pop("way_s")
    residuals = tuple(
        Residual(
            what=row.what,
            prompt_tokens=row.probe.prompt_tokens,
            cached_tokens=row.probe.cached_tokens,
            batch=row.probe.batch,
            measured_s=row.seconds,
            fitted_s=sum(f * c for f, c in zip(row.features, found, strict=True)),
        )
        for row in rows
    )
    return Calibration(costs=CostTable(**told), way_s=way_s, residuals=residuals)


def _prefill(probe: Probe, step_tokens: int) -> _Row:
    """The time to the first token of a call to an idle engine."""
    chunks = -(-(probe.prompt_tokens - probe.cached_tokens) // step_tokens)
    taken = _taken_in(probe)
    return _Row("prefill", probe, _features(taken, step_s=chunks, way_s=1), probe.ttft_s)


def _decode(probe: Probe) -> _Row:
    """Seconds per token once the first one is there; the others of the batch are of the same size.

    What a visit takes, less the step in which it was prefilled: that one gave our call a token too.
    """
    tokens, context = probe.output_tokens - 1, probe.prompt_tokens + probe.output_tokens / 2
    row = _features({}, step_s=1, decode_s=probe.batch, context_token_s=probe.batch * context)
    for visit in probe.visits:
        later = visit.output_tokens - 1
        decoded = {"decode_s": later, "context_token_s": later * visit.prompt_tokens}
        for features in (_taken_in(visit), decoded):
            row = [a + b / tokens for a, b in zip(row, _features(features), strict=True)]
    what = "visited" if probe.visits else "decode"
    return _Row(what, probe, row, (probe.duration_s - probe.ttft_s) / tokens)


def _features(given: Mapping[str, float], **more: float) -> list[float]:
    whole = {**given, **more}
    return [float(whole.get(name, 0.0)) for name in NAMES]


def _taken_in(probe: Probe) -> dict[str, float]:
    """What a call costs an engine until its first token, beside the steps themselves."""
    fresh = probe.prompt_tokens - probe.cached_tokens
    return {
        "prefill_token_s": fresh,
        "attention_token2_s": fresh * (probe.cached_tokens + fresh / 2),
        "call_s": 1,
        "prompt_token_s": probe.prompt_tokens,
    }


def _least_squares(rows: Sequence[_Row]) -> list[float]:
    """Coefficients of at least zero; those that would fall below are left out one by one, the worst first."""
    used = list(range(len(NAMES)))
    while True:
        found = _solve(rows, used)
        worst = min(range(len(used)), key=lambda i: found[i] * _scale(rows, used[i]))
        if found[worst] >= 0:
            whole = dict(zip(used, found, strict=True))
            return [whole.get(index, 0.0) for index in range(len(NAMES))]
        del used[worst]


def _scale(rows: Sequence[_Row], index: int) -> float:
    """What the coefficient is worth: the largest share that one unit of it has in a row."""
    return max((abs(row.features[index]) / row.seconds for row in rows), default=0.0)


def _solve(rows: Sequence[_Row], used: Sequence[int]) -> list[float]:
    """The normal equations of relative errors over the coefficients `used`, each scaled to be of the order of one."""
    scales = [_scale(rows, index) for index in used]
    if not rows or not all(scales):
        raise ClusterError("these measurements do not tell all coefficients (valid: prefills and decoding)")
    lines = [
        [row.features[index] / row.seconds / scale for index, scale in zip(used, scales, strict=True)]
        for row in rows
    ]
    size = len(used)
    matrix = [[sum(line[i] * line[j] for line in lines) for j in range(size)] for i in range(size)]
    right = [sum(line[i] for line in lines) for i in range(size)]
    return [value / scale for value, scale in zip(_eliminate(matrix, right), scales, strict=True)]


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss with pivoting. Raises ClusterError where the equations do not determine the answer."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if abs(rows[pivot][column]) < 1e-12 * len(rows):
            raise ClusterError("these measurements are too much alike to tell the coefficients apart")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for below in range(column + 1, size):
            factor = rows[below][column] / rows[column][column]
            rows[below] = [a - factor * b for a, b in zip(rows[below], rows[column], strict=True)]
    answer = [0.0] * size
    for line in reversed(range(size)):
        known = sum(rows[line][i] * answer[i] for i in range(line + 1, size))
        answer[line] = (rows[line][size] - known) / rows[line][line]
    return answer
