"""python -m saga_sim.oracle TRACE: rules against oracles on a trace with fixed timing, as one JSON value."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import msgspec

from saga_core.errors import UserError
from saga_sim.costs import PRESETS, Preset, preset
from saga_sim.oracle.accesses import Recording
from saga_sim.oracle.belady import ORACLES, RULES, Comparison, compare
from saga_sim.oracle.bound import least_seconds
from saga_sim.oracle.reference import Timing, accesses_of
from saga_sim.pacing import Pace
from saga_sim.trace import load_trace, parse_source
from saga_sim.trace.scale import Scaling, rescale


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios are to the best oracle; None where the oracle computes nothing again."""

    ratio_s: float | None
    ratio_tokens: float | None
    missed_tokens: int
    missed_s: float
    hit_share: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    preset: str
    pool_tokens: int
    block_tokens: int
    pressure: float
    seed: int | None
    accesses: int
    looked_up_tokens: int
    compulsory_tokens: int
    uncached_share: float
    """Of the blocks that running steps held, what did not fit: 0 unless a step is larger than the pool."""
    least_s: float | None
    """No cache that keeps prefixes misses less, in seconds; only with --bound."""
    rules: dict[str, Figures]


def main(words: Sequence[str]) -> int:
    try:
        asked = _parser().parse_args(words)
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report(asked)), indent=2) + b"\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def report(asked: Namespace) -> Report:
    """Everything from the words of the command line. Raises UserError."""
    chosen = preset(asked.preset)
    recording = _recording(asked, chosen)
    pool_tokens = asked.pool_tokens or chosen.shape.capacity_tokens
    rules = asked.rules.split(",") if asked.rules else None
    compared = compare(recording, pool_tokens // asked.block, chosen.costs, rules)
    first = next(iter(compared.outcomes.values()))
    return Report(
        trace=asked.trace,
        preset=chosen.name,
        pool_tokens=pool_tokens,
        block_tokens=asked.block,
        pressure=asked.pressure,
        seed=asked.seed,
        accesses=len(recording.accesses),
        looked_up_tokens=first.looked_up_tokens,
        compulsory_tokens=first.compulsory_tokens,
        uncached_share=first.uncached_blocks / max(1, sum(access.blocks for access in recording.accesses)),
        least_s=_least_s(recording, compared, chosen, asked.bound),
        rules={name: _figures(compared, name) for name in compared.outcomes},
    )


def _recording(asked: Namespace, chosen: Preset) -> Recording:
    path, select = parse_source(asked.trace)
    scaling = Scaling(take=asked.take, max_context=asked.max_context or chosen.shape.max_model_len_tokens)
    workflows = rescale(load_trace(path, select), scaling)
    pool_tokens = asked.pool_tokens or chosen.shape.capacity_tokens
    timing = Timing(
        working_set_tokens=asked.pressure * pool_tokens,
        pool_blocks=pool_tokens // asked.block,
        batch=asked.batch,
        oldest_first=not asked.fcfs,
        max_user_gap_s=asked.max_user_gap,
        seed=asked.seed,
    )
    pace = Pace(max_gap_s=asked.max_gap, seed=asked.seed or 0)
    return accesses_of(workflows, pace, chosen.costs, block_tokens=asked.block, timing=timing)


def _least_s(recording: Recording, compared: Comparison, chosen: Preset, rounds: int) -> float | None:
    if rounds < 1:
        return None
    return round(least_seconds(recording, compared.blocks, chosen.costs, compared.best_s, rounds), 3)


def _figures(compared: Comparison, name: str) -> Figures:
    outcome = compared.outcomes[name]
    return Figures(
        ratio_s=_rounded(compared.ratio_s(name)),
        ratio_tokens=_rounded(compared.ratio_tokens(name)),
        missed_tokens=outcome.missed_tokens,
        missed_s=round(outcome.missed_s, 3),
        hit_share=round(outcome.hit_tokens / max(1, outcome.looked_up_tokens), 4),
    )


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 4)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m saga_sim.oracle", description=__doc__)
    parser.add_argument("trace", help="FILE.jsonl[.gz][:ID]")
    parser.add_argument("--preset", default="llama3-70b-a100", help=f"costs, pool: {', '.join(PRESETS)}")
    parser.add_argument("--pool-tokens", type=int, help="default: the preset's")
    parser.add_argument("--block", type=int, default=16, help="tokens per block (default 16)")
    parser.add_argument(
        "--pressure",
        type=float,
        default=1.3,
        help="mean context that lives at once, over the pool (default 1.3)",
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences that decode together (default 8)")
    parser.add_argument(
        "--fcfs", action="store_true", help="steps wait in order of arrival, not of their workflow"
    )
    parser.add_argument("--take", type=int, help="only the first workflows of the file")
    parser.add_argument("--max-context", type=int, help="scale workflows down to it; default: the preset's")
    parser.add_argument(
        "--max-gap", type=float, default=600.0, help="no gap longer, in seconds (default 600)"
    )
    parser.add_argument(
        "--max-user-gap", type=float, default=60.0, help="no person away for longer, in seconds (default 60)"
    )
    parser.add_argument("--seed", type=int, help="shuffles the workflows; default: in order of the file")
    parser.add_argument("--bound", type=int, default=0, help="rounds of looking for a lower bound in seconds")
    parser.add_argument("--rules", help=f"some of {','.join([*RULES, *ORACLES])} (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
