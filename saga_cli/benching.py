"""`saga bench live`: the same workflows under several profiles, each run on workers of its own, in alternating rounds.

Rules of this file
  1. Each run has a cluster that starts for it and ends with it: no cache, no learned estimate, no counter is left from
     the run before. That costs some 25 s a run and needs nobody's word that a reset is complete.
  2. A warm arm runs another draw of the workload first, in the same head: what it learned stays, and since no prompt of
     the two draws has a token in common, nothing that is cached is of use.
  3. What `sticky` does with few workflows is luck: numbers are left out until hashing shares them out evenly, in each
     round another way (`saga_cli.numbering`).
  4. Prompts differ from round to round and are the same for all arms of a round; workflows and arrivals never differ,
     unless each round is asked to have a draw of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import msgspec

from saga_bench.live import Arm, LiveBench, LiveRun, left_s, rows, turns
from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.local.neighbours import others_cores
from saga_cli.local.private import ends_at_term, private_cluster
from saga_cli.numbering import number_evenly
from saga_cli.progress import Progress
from saga_cli.replaying import Report, Workload, failures
from saga_cli.replaying import run as replay
from saga_cli.units import duration
from saga_core.errors import UserError

if TYPE_CHECKING:
    from saga_sim.costs import Preset
    from saga_sim.trace import Workflow

SYNTH: Final = "live-gate"
OVER_S: Final = 20.0
"""The study's workflows arrive over this (its section 13)."""
MAX_GAP_S: Final = 20.0
FAKE_SPEED: Final = 10
"""With the engine double, engine and tools run ten times as fast: a look at the way, not a measurement."""
SILENCE_S: Final = 7200.0
"""A step may be held at the gate: for 5400 s at most, then it is let in by force (`Admission.force_s`)."""
SEED_STEP: Final = 1_000_003
"""Between the prompts of two rounds."""
WARM_SEED: Final = 7919
"""Between a workload and the draw that warms up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the person asked for."""

    arms: Sequence[Arm]
    workload: Workload
    """Files, or what to make; its number of workflows and its seed."""
    workflows: int
    over_s: float | None
    """In which they arrive, as a Poisson stream; None: as recorded."""
    rounds: int
    workers: int
    kv_tokens: int
    preset: Preset
    engine: str
    redraw: bool = False
    """Each round with workflows and arrivals of its own."""
    keep: bool = False
    out: Path | None = None
    """Where the answer is written after each run: a cut measurement is not a lost one."""

    @property
    def fast(self) -> float:
        return FAKE_SPEED if self.engine == "fake" else 1.0

    @property
    def named(self) -> str:
        return ", ".join([*([self.workload.synth] if self.workload.synth else []), *self.workload.files])


@dataclass(frozen=True, slots=True)
class Draw:
    """The workflows of a run with their arrivals, and those that warm up for it (none: nobody needs them)."""

    measured: list[Workflow]
    warming: list[Workflow]


# -- the workload --------------------------------------------------------------------------


def draw(plan: Plan, turn: int) -> Draw:
    """The workflows of round `turn` (from 1). Raises UserError where a trace is too short for what is asked."""
    seed = plan.workload.seed + (turn - 1 if plan.redraw else 0)
    warm = any(arm.warm for arm in plan.arms)
    if plan.workload.synth is not None:
        other = _loaded(plan, seed + WARM_SEED)[: plan.workflows] if warm else []
        return Draw(
            _arriving(plan, _loaded(plan, seed)[: plan.workflows], seed), _arriving(plan, other, seed)
        )
    found = _loaded(plan, seed)
    if plan.redraw:
        raise UserError("--redraw makes other workflows for each round: it goes with --synth only")
    measured, other = found[: plan.workflows], found[plan.workflows : 2 * plan.workflows]
    if warm and not other:
        raise UserError(
            f"+warm needs other workflows to learn from, and the trace has {len(found)} in all "
            f"(--workflows {max(1, len(found) // 2)} leaves as many)"
        )
    return Draw(_arriving(plan, measured, seed), _arriving(plan, other, seed) if warm else [])


def _loaded(plan: Plan, seed: int) -> list[Workflow]:
    longest = plan.preset.shape.max_model_len_tokens
    return replace(plan.workload, seed=seed, workflows=plan.workflows, max_context=longest).load()


def _arriving(plan: Plan, workflows: list[Workflow], seed: int) -> list[Workflow]:
    """With the arrivals asked for written into them: all arms read the same."""
    if plan.over_s is None or not workflows:
        return workflows
    from msgspec.structs import replace as changed

    from saga_sim.pacing import Pace

    due = Pace(arrivals_per_s=len(workflows) / plan.over_s, seed=seed).arrivals(workflows)
    return [changed(w, arrival_s=round(at, 6)) for w, at in zip(workflows, due, strict=True)]


def pressure(plan: Plan, workflows: Sequence[Workflow]) -> float:
    """The longest contexts of all workflows together, over all KV memory: below some 0.7 there is nothing to win."""
    wanted = sum(max(s.prompt_tokens + s.output_tokens for s in w.steps) for w in workflows)
    return wanted / (plan.workers * plan.kv_tokens)


# -- running -------------------------------------------------------------------------------


def bench(plan: Plan, show: Progress) -> LiveBench:
    """All rounds; interrupted after at least one run: what there is by then. Nothing is left running."""
    order, runs = turns(plan.arms, plan.rounds), list[LiveRun]()
    draws = {turn: draw(plan, turn) for turn in {turn for turn, _ in order}}
    with ends_at_term():
        try:
            for number, (turn, arm) in enumerate(order):
                show.say(_headline(plan, turn, arm, number, len(order), left_s(order, runs)))
                runs.append(_run(plan, turn, arm, draws[turn], show))
                _keep(plan, _answer(plan, draws[1], runs, interrupted=number + 1 < len(order)))
        except KeyboardInterrupt:
            if not runs:
                raise
            show.say("interrupted: these are the runs that were through")
    return _answer(plan, draws[1], runs, interrupted=len(runs) < len(order))


def _headline(plan: Plan, turn: int, arm: Arm, number: int, of: int, rest_s: float | None) -> str:
    rest = "" if rest_s is None else f"; some {duration(rest_s)} left"
    return f"round {turn} of {plan.rounds}, run {number + 1} of {of}: {arm.name}{rest}"


def _run(plan: Plan, turn: int, arm: Arm, drawn: Draw, show: Progress) -> LiveRun:
    at, began = time(), monotonic()
    with private_cluster("live", settings(plan, arm), show, keep=plan.keep) as folder:
        report, others, homes = _replayed(plan, turn, arm, drawn, folder, show)
    return LiveRun(
        arm=arm.name,
        round=turn,
        at=at,
        summary=report.summary,
        tct_s={w.workflow: w.tct_s for w in report.workflows if w.state == "finished"},
        others_cores=others,
        homes=homes,
        took_s=monotonic() - began,
        lost=failures(report),
    )


def settings(plan: Plan, arm: Arm) -> dict[str, object]:
    """Of the cluster that runs `arm`: the profile, the engine as the preset describes it, and what it costs."""
    shape, costs = plan.preset.shape, plan.preset.costs
    flags = ["--max-num-batched-tokens", str(shape.step_tokens)]
    return {
        "profile": arm.profile,
        "workers.engine": plan.engine,
        "workers.count": plan.workers,
        "workers.max_model_len": shape.max_model_len_tokens,
        "workers.kv_tokens": plan.kv_tokens,
        "workers.block_size": shape.block_tokens,
        "workers.max_seqs": shape.max_num_seqs,
        "workers.extra_args": (*flags, *(("--speed", str(FAKE_SPEED)) if plan.engine == "fake" else ())),
        **{f"costs.{field.name}": getattr(costs, field.name) for field in fields(costs)},
    }


def _replayed(
    plan: Plan, turn: int, arm: Arm, drawn: Draw, folder: ClusterFolder, show: Progress
) -> tuple[Report, float, dict[str, int]]:
    control, declared = Control.of(folder), _declared(plan) if arm.declared else None
    pace = Workload(
        seed=plan.workload.seed + turn * SEED_STEP,
        scale_time=1 / plan.fast,
        max_gap_s=MAX_GAP_S / plan.fast,
        silence_s=SILENCE_S,
    )
    if arm.warm:
        show.say("  first another draw of the workload, to learn from")
        _whole(
            replay(
                control,
                replace(pace, seed=pace.seed + WARM_SEED),
                drawn.warming,
                show=show,
                declared=declared,
            )
        )
    first = number_evenly(control, len(drawn.measured), turn)
    others = others_cores(folder)
    report = _whole(replay(control, pace, drawn.measured, show=show, declared=declared))
    return report, others(), _homes(control, first)


def _homes(control: Control, first: int) -> dict[str, int]:
    """Workflows from number `first` on, by the worker of their latest step."""
    return dict(
        sorted(Counter(w.home for w in control.workflows() if w.id >= first and w.home is not None).items())
    )


def _whole(report: Report) -> Report:
    if report.summary.interrupted:
        raise KeyboardInterrupt
    return report


def _declared(plan: Plan) -> Callable[[Workflow], float]:
    from saga_sim.work import told

    return told(plan.preset.costs)


# -- the answer ----------------------------------------------------------------------------


def _answer(plan: Plan, drawn: Draw, runs: Sequence[LiveRun], *, interrupted: bool) -> LiveBench:
    from importlib.metadata import version

    return LiveBench(
        engine=plan.engine,
        workload=plan.named,
        workflows=len(drawn.measured),
        over_s=plan.over_s,
        workers=plan.workers,
        kv_tokens=plan.kv_tokens,
        pressure=pressure(plan, drawn.measured),
        preset=plan.preset.name,
        seed=plan.workload.seed,
        rounds=plan.rounds,
        version=version("saga-llm"),
        cores=len(os.sched_getaffinity(0)),
        runs=list(runs),
        rows=rows(runs),
        interrupted=interrupted,
    )


def _keep(plan: Plan, answer: LiveBench) -> None:
    if plan.out is not None:
        plan.out.write_bytes(msgspec.json.format(msgspec.json.encode(answer)) + b"\n")
