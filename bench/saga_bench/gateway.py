"""`saga bench gateway`: the whole head as a gateway, beside a direct call and beside `vllm-router`.

One backend and one load generator in C for all candidates. The candidate has a core to itself,
backend and load share another, so every figure is per core. Each round starts every candidate anew,
in an order that alternates; ratios are formed within a round, where both sides had the same company
on the machine. CPU per request (schedstat of all threads) is the figure that noise disturbs least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from saga_bench import scenarios
from saga_bench.candidates import (
    CANDIDATES,
    Running,
    backend,
    choose_cores,
    default_candidates,
    find_router,
    running,
)
from saga_bench.native import built
from saga_bench.procfs import total_load
from saga_bench.scenarios import Bench, Figures
from saga_bench.summary import GatewayRow, Summary, summarise
from saga_core.errors import SagaError, UserError, choose

KIB = 1024
RATES = {KIB: 300.0, 200 * KIB: 100.0}
"""Requests per second at which latency is taken: below a quarter of what any candidate can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What is measured, and for how long."""

    candidates: tuple[str, ...] = ()
    """Empty: all there is on this machine."""
    vllm_router: Path | None = None
    rounds: int = 3
    seconds: float = 1.5
    """Of each request scenario."""
    sizes: tuple[int, ...] = (KIB, 200 * KIB)
    clients: tuple[int, ...] = (1, 64, 512)
    streams: int = 512
    stream_s: float = 3.0
    open_streams: int = 1000
    silence_ms: int = 3000
    leaves: int = 3
    stall_s: float = 8.0

    def quick(self) -> GatewayOptions:
        """The same figures, less sure, in under a minute."""
        return replace(
            self,
            rounds=1,
            seconds=0.4,
            open_streams=500,
            clients=(1, 64),
            stream_s=1.0,
            silence_ms=500,
            leaves=1,
            stall_s=2.0,
        )


def run_gateway(
    options: GatewayOptions,
    on_row: Callable[[GatewayRow], None] = lambda _: None,
    on_start: Callable[[str, int], None] = lambda _name, _round: None,
) -> list[GatewayRow]:
    """Measure all candidates; `on_row` is told each row, `on_start` each candidate and round as it begins.

    Raises `UserError` (no compiler, no such candidate) or `ClusterError` (a candidate that does not answer).
    """
    router = find_router(options.vllm_router)
    names = options.candidates or default_candidates(router)
    _check(names, router)
    built("load")
    cores = choose_cores()
    rows: list[GatewayRow] = []
    with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder, backend(cores.rest) as port:
        bench = Bench(port, Path(folder), cores.rest)
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                on_start(name, number)
                home = bench.folder / f"{name}-{number}"
                with running(name, port, home, cores.gateway, router) as candidate:
                    for scenario, figures in _measure(options, bench, candidate):
                        rows.append(_row(candidate, scenario, number, figures))
                        on_row(rows[-1])
    return rows


def _check(names: tuple[str, ...], router: Path | None) -> None:
    for name in names:
        if name not in CANDIDATES:
            raise choose("candidate", name, list(CANDIDATES))
    if "vllm-router" in names and router is None:
        raise UserError("no vllm-router found on PATH; say where one is with --vllm-router")


def _row(candidate: Running, scenario: str, number: int, figures: Figures) -> GatewayRow:
    return GatewayRow(
        candidate=candidate.name, scenario=scenario, round=number, figures=figures, load=total_load()
    )


def _measure(options: GatewayOptions, bench: Bench, candidate: Running) -> Iterator[tuple[str, Figures]]:
    """All scenarios of one candidate. Those of memory come first, while the process is fresh."""
    ours = candidate.pid is not None
    if ours:
        seconds = 1.0 + options.open_streams / 333
        yield (
            f"{options.open_streams} open streams",
            scenarios.memory(bench, candidate, count=options.open_streams, seconds=seconds),
        )
    for size in options.sizes:
        for clients in options.clients:
            yield (
                f"{size // KIB} KB x {clients}",
                scenarios.requests(
                    bench,
                    candidate,
                    size_bytes=size,
                    clients=clients,
                    rate=RATES.get(size, 100.0),
                    seconds=options.seconds,
                ),
            )
    yield (
        f"{options.streams} streams x 20/s",
        scenarios.streams(bench, candidate, clients=options.streams, seconds=options.stream_s),
    )
    yield "stream start", scenarios.first_bytes(bench, candidate, seconds=options.stream_s)
    if ours:
        yield (
            "client leaves silent worker",
            scenarios.leaving(bench, candidate, silence_ms=options.silence_ms, times=options.leaves),
        )
        yield "4 stalled readers", scenarios.stalled(candidate, seconds=options.stall_s)


def _print(value: GatewayRow | Summary) -> None:
    print(msgspec.json.encode(value).decode(), flush=True)


def main() -> int:
    """Print JSON lines: rows as they come, then one summary per figure."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="JSON lines (the only form; tables: saga bench)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--candidates", help=f"comma-separated, of {', '.join(CANDIDATES)}")
    parser.add_argument("--vllm-router", type=Path, help="path of a vllm-router to measure beside")
    given = parser.parse_args()
    names = tuple(given.candidates.split(",")) if given.candidates else ()
    options = GatewayOptions(candidates=names, vllm_router=given.vllm_router, rounds=given.rounds or 3)
    if given.quick:
        options = options.quick()
    try:
        rows = run_gateway(options, _print)
    except SagaError as error:
        print(f"saga_bench.gateway: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    for summary in summarise(rows):
        _print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
