"""How well the next tool can be told from the tools before: accuracy and bits left, by how far one looks back.

    python -m saga_sim.sequels ../shared/traces/iso-bench-trae.jsonl.gz

Streams each file once; every step is predicted before it is counted. A long context that is rare leans on the next
shorter one (interpolation after Witten and Bell). `at most` is Fano's bound for the bits left: no predictor that knows
as much as these bits say can be right more often.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import log2

from saga_core.aeg import ANSWER, UNKNOWN
from saga_core.errors import UserError
from saga_sim.hindsight import load
from saga_sim.tools import tools_of
from saga_sim.trace import session_names
from saga_sim.trace.records import Workflow

ORDERS = (0, 1, 2, 3, 4, 6)
NEW = 1e-3
"""Probability left for a tool never seen."""


def sequences(workflows: Sequence[Workflow]) -> Iterator[list[str]]:
    """The tools of each session, in order."""
    for workflow in workflows:
        by_session: dict[str, list[str]] = defaultdict(list)
        for name, tool in zip(session_names(workflow), tools_of(workflow), strict=True):
            by_session[name].append(tool)
        yield from by_session.values()


def measure(rows: Sequence[Sequence[str]], order: int) -> tuple[int, float, float]:
    """Tools predicted, share right, bits left per tool."""
    seen: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    right = count = 0
    bits = 0.0
    for row in rows:
        for index, tool in enumerate(row):
            past = tuple(row[max(0, index - order) : index])
            contexts = [past[start:] for start in range(len(past) + 1)]
            if tool != UNKNOWN:
                shares = _shares(seen, contexts)
                count += 1
                right += bool(shares) and max(shares, key=lambda name: (shares[name], name)) == tool
                bits -= log2((1 - NEW) * shares.get(tool, 0.0) + NEW)
                for context in contexts:
                    seen[context][tool] += 1
    return count, right / count if count else 0.0, bits / count if count else 0.0


def _shares(
    seen: dict[tuple[str, ...], Counter[str]], contexts: Sequence[tuple[str, ...]]
) -> dict[str, float]:
    """Probabilities of the next tool, the longest context first."""
    shares: dict[str, float] = defaultdict(float)
    left = 1.0
    for context in contexts:
        counts = seen.get(context)
        if not counts:
            continue
        total = counts.total()
        weight = left * total / (total + len(counts)) if context else left
        for tool, count in counts.items():
            shares[tool] += weight * count / total
        left -= weight
    return shares


def fano(bits: float, tools: int) -> float:
    """Most that can be right with so many bits left among so many tools."""
    low, high = 0.0, 1.0 - 1.0 / max(tools, 2)
    for _ in range(50):
        error = (low + high) / 2
        entropy = -error * log2(error) - (1 - error) * log2(1 - error) if 0 < error < 1 else 0.0
        if entropy + error * log2(max(tools - 1, 1)) < bits:
            low = error
        else:
            high = error
    return 1.0 - low


def main(sources: Sequence[str]) -> int:
    try:
        for source in sources:
            rows = list(sequences(load(source)))
            tools = {tool for row in rows for tool in row} - {UNKNOWN}
            sys.stdout.write(f"{source}: {len(tools)} tools, {ANSWER!r} is none\n")
            for order in ORDERS:
                count, right, bits = measure(rows, order)
                sys.stdout.write(
                    f"  last {order}: right {right:.3f}, {bits:.2f} bits left, at most {fano(bits, len(tools)):.2f}"
                    f" of {count}\n"
                )
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
