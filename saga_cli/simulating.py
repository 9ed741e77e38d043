"""Simulated runs for a person: what to run, with progress, and the figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from saga_cli.progress import Progress
from saga_cli.replaying import Workload
from saga_cli.units import plural
from saga_core.errors import UserError, choose
from saga_core.policy.modes import BALANCED, MODES

if TYPE_CHECKING:
    from saga_sim.experiment import Arrivals, Figures
    from saga_sim.faults import Faults
    from saga_sim.pairing import Ratio
    from saga_sim.report import Watch
    from saga_sim.runs import ReplayResult
    from saga_sim.trace import Workflow
    from saga_sim.world import ClusterSpec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga sim run` says: every run, and each profile against the first."""

    preset: str
    workers: int
    gpus: int
    workflows: int
    seeds: list[int]
    runs: list[Figures]
    ratios: list[Ratio]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A whole experiment, checked."""

    spec: ClusterSpec
    profiles: Sequence[str]
    workload: Workload
    arrivals: Arrivals
    seeds: int
    slo: float
    """Slowdown that meets the objective."""
    belady: bool
    """Whether each run's caches are held against the oracle."""
    fair: bool
    """Whether every workflow's waits are held against the fairness bound."""
    workflows: int | None
    """How many; None: as many as the trace has."""
    faults: Faults | None
    mode: str = BALANCED
    """What for: the mode of the profiles that have one."""
    faults_given: Sequence[str] = ()
    """As the command line wrote them."""


def cluster(
    preset_name: str,
    gpus: int | None,
    workers: int | None,
    per_node: int | None,
    host: float = 0.0,
    moves: float = 0.0,
) -> ClusterSpec:
    """A cluster of that many GPUs or workers; eight GPUs to a node unless said otherwise.

    host: host memory for KV, in multiples of each worker's pool. moves: how fast KV moves between workers, in tokens
    per second; 0: it does not.
    """
    from saga_sim.cluster import Link
    from saga_sim.costs import preset
    from saga_sim.world import ClusterSpec

    kind = preset(preset_name).with_host(host)
    if (gpus is None) == (workers is None):
        raise UserError("say how large the cluster is: --gpus N or --workers N (one of them)")
    if workers is None:
        assert gpus is not None
        if not kind.gpus:
            raise UserError(f"{kind.name} runs on CPUs: give --workers instead of --gpus")
        workers = gpus // kind.gpus
        if workers < 1 or gpus % kind.gpus:
            raise UserError(f"{gpus} GPUs cannot be shared out to workers of {kind.gpus} (valid: a multiple)")
    if not 0.0 <= moves < inf:
        raise UserError(f"--moves {moves:g} is not valid (valid: tokens per second, 0 or more)")
    if workers < 1:
        raise UserError(f"cannot simulate {workers} workers (valid: 1 or more)")
    return ClusterSpec(
        preset=kind,
        workers=workers,
        per_node=per_node or max(1, 8 // max(1, kind.gpus)),
        link=replace(Link.of(kind.way_s), kv_tokens_per_s=moves),
    )


def mode(name: str) -> str:
    """`name` if it is a mode. Raises UserError with the valid ones."""
    if name not in MODES:
        raise choose("mode", name, list(MODES))
    return name


def profiles(names: str) -> list[str]:
    """The profiles of a comma-separated list. Raises UserError for one that there is none of."""
    from saga_core.policy.profiles import PROFILES

    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in PROFILES:
            raise choose("profile", name, list(PROFILES))
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"--profile {names!r}: name each profile once (have: {', '.join(PROFILES)})")
    return chosen


def faults(spec: ClusterSpec, written: Sequence[str], lose: float) -> Faults | None:
    """What is to go wrong; None: nothing. Raises UserError for a fault that this cluster cannot have."""
    from saga_sim.faults import Faults, parse

    if not written and not lose:
        return None
    nodes = -(-spec.workers // spec.per_node)

    def workers_of(node: int) -> int:
        return min(spec.per_node, spec.workers - node * spec.per_node)

    return Faults(plan=[parse(text, nodes, workers_of) for text in written], lose=lose)


def objective(slo: float) -> float:
    """The slowdown that meets the objective. Raises UserError for one that no workflow can have."""
    from saga_sim.slowdown import check_slo

    check_slo(slo)
    return slo


def numbers(option: str, text: str) -> list[float]:
    """The numbers above 0 of a comma-separated list. Raises UserError for anything else."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise UserError(f"{option} {text!r} is not valid (valid: numbers above 0, comma-separated)")
    return found


@dataclass(slots=True)
class Kept:
    """What the HTML report needs beside the answer."""

    runs: list[tuple[Figures, ReplayResult, Watch | None]] = field(default_factory=list)
    workflows: list[Workflow] = field(default_factory=list)


def page(setup: Setup, kept: Kept) -> str:
    """The runs as one HTML file."""
    import platform
    import sys
    from importlib.metadata import version
    from shlex import join

    from saga_sim.report import render, report_data, trace_sources

    names = [Path(name).name for name in setup.workload.files] + [setup.workload.synth or ""]
    return render(
        report_data(
            kept.runs,
            workflows=kept.workflows,
            sources=trace_sources([name for name in names if name], kept.workflows),
            spec=setup.spec,
            arrivals=setup.arrivals,
            faults=setup.faults_given,
            versions=[("saga", version("saga-llm")), ("Python", platform.python_version())],
            command=join(["saga", *sys.argv[1:]]),
        )
    )


def run(setup: Setup, show: Progress, kept: Kept | None = None) -> Answer:
    """All profiles over all seeds, the same arrivals for each; `kept` is filled for the HTML report."""
    from saga_sim.experiment import fitted, repeated, simulate
    from saga_sim.oracle import Witness
    from saga_sim.pairing import compared
    from saga_sim.report import Watch

    results: dict[str, list[ReplayResult]] = {}
    runs: list[Figures] = []
    workflows: list[Workflow] = fitted(setup.workload.load(), setup.spec)
    workflows = repeated(workflows, setup.workflows or len(workflows))
    for profile in setup.profiles:
        for seed in range(setup.seeds):
            show.phase(f"{profile}, seed {seed}: {plural(len(workflows), 'workflow')}", len(workflows))
            done = _Count(show)
            watch = None if kept is None else Watch()
            figures, result = simulate(
                profile,
                workflows,
                setup.spec,
                setup.arrivals,
                seed=seed,
                faults=setup.faults,
                watch=watch,
                witness=Witness() if setup.belady else None,
                fair=setup.fair,
                slo=setup.slo,
                mode=setup.mode,
                on_ended=done.one,
            )
            runs.append(figures)
            if kept is not None:
                kept.runs.append((figures, result, watch))
                kept.workflows = workflows
            results.setdefault(profile, []).append(result)
    first = setup.profiles[0]
    ratios = [compared(p, first, results[p], results[first]) for p in setup.profiles[1:]]
    return Answer(
        preset=setup.spec.preset.name,
        workers=setup.spec.workers,
        gpus=setup.spec.workers * setup.spec.preset.gpus,
        workflows=len(workflows),
        seeds=list(range(setup.seeds)),
        runs=runs,
        ratios=ratios,
    )


@dataclass(slots=True)
class _Count:
    show: Progress
    done: int = 0

    def one(self) -> None:
        self.done += 1
        self.show.tick(self.done)


def failures(answer: Answer) -> int:
    """Workflows that did not finish, over all runs."""
    return sum(f.summary.workflows - f.summary.finished for f in answer.runs)
