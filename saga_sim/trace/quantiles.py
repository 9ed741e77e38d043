"""Distributions given by a few published percentiles, sampled by inverse CDF. No randomness of its own."""

from bisect import bisect_right
from itertools import pairwise
from math import exp, log
from typing import Self

import msgspec

# Table of the paper (section 1.6 of our notes): P50, P95, P99 of a tool call, seconds.
CODE_S = (0.180, 2.400, 28.0)
FILE_S = (0.045, 0.320, 1.200)
WEB_S = (0.850, 4.500, 45.0)
DATABASE_S = (0.120, 0.890, 3.500)

# Below the median nothing is published. Real shell and file tools go down to a tenth of their
# median (entire-cli: Bash p10 0.14 against p50 2.9 s, Edit 0.02 against 0.15 s).
FLOOR_SHARE = 0.1
# Above P99 the last piece goes on as a Pareto tail; the paper's longest retention ends it.
LONGEST_S = 300.0


class Quantiles(msgspec.Struct, frozen=True):
    """A distribution as rising pairs (probability, value in seconds); linear between them."""

    grid: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, probability: float) -> float:
        """The value that a share `probability` of all samples stays below."""
        index = min(max(bisect_right(self.grid, probability), 1), len(self.grid) - 1)
        (p0, p1), (v0, v1) = self.grid[index - 1 : index + 1], self.values[index - 1 : index + 1]
        return v1 if p1 <= p0 else v0 + (v1 - v0) * min(max((probability - p0) / (p1 - p0), 0.0), 1.0)


def tool_latency(percentiles: tuple[float, float, float], probability: float) -> float:
    """Inverse CDF through P50, P95, P99 in seconds: log value linear in -log(1 - p) between them.

    A log-normal through P50 and P95 misses the published P99 by a factor of 2 to 5 (our notes,
    section 1.6); pieces through all three hit them, with a Pareto tail above.
    """
    p50_s, p95_s, p99_s = percentiles
    knots = [(0.0, p50_s * FLOOR_SHARE), (_depth(0.5), p50_s), (_depth(0.95), p95_s), (_depth(0.99), p99_s)]
    depth = _depth(min(probability, 1 - 1e-12))
    pieces = list(pairwise(knots))
    (x0, v0), (x1, v1) = next((piece for piece in pieces if depth < piece[1][0]), pieces[-1])
    value_s = exp(log(v0) + (log(v1) - log(v0)) * (depth - x0) / (x1 - x0))
    return min(value_s, LONGEST_S)


def _depth(probability: float) -> float:
    return -log(1.0 - probability)


def _from_percentiles(percentiles: tuple[float, float, float]) -> Quantiles:
    grid = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
    return Quantiles(grid, tuple(tool_latency(percentiles, p) for p in grid))


class LatencyTable(msgspec.Struct, frozen=True):
    """Quantiles by `kind:name`; `kind:*` answers for names that are not listed."""

    entries: dict[str, Quantiles]

    def draw(self, kind: str, name: str | None, probability: float) -> float:
        """Seconds of a tool call of that kind and name at this probability; 0 for a kind nobody measured."""
        for key in (f"{kind}:{name or '-'}", f"{kind}:*", f"{kind}:-", "tool:*"):
            if key in self.entries:
                return self.entries[key].at(probability)
        return 0.0

    @classmethod
    def published(cls) -> Self:
        """Where nothing better is given. Tools: the paper's code execution row. A simulated user is one
        remote call (web row). People: kv-cache-tester p10/50/90/99; sub-agent remainders: entire-cli.
        """
        return cls(
            {
                "tool:*": _from_percentiles(CODE_S),
                "user:user_simulator": _from_percentiles(WEB_S),
                "user:*": Quantiles(
                    (0.0, 0.1, 0.5, 0.9, 0.99, 1.0), (1.0, 15.0, 118.0, 1516.0, 6631.0, 6631.0)
                ),
                "subagent:*": Quantiles(
                    (0.0, 0.1, 0.5, 0.9, 0.99, 1.0), (5.9, 7.0, 15.7, 38.3, 792.5, 792.5)
                ),
            }
        )
