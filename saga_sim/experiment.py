"""Simulated runs side by side: the same workload under several profiles, seed by seed, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as seeded
from hashlib import blake2b
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from saga_core.aeg import Score
from saga_core.config import Config, HeadConfig, NodeConfig
from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_core.events import Fact
from saga_core.fairness import Fairness, FairnessFigures
from saga_core.policy.modes import BALANCED
from saga_sim.faults import Faults
from saga_sim.isolation import isolated_s
from saga_sim.oracle.witness import Belady, Witness, belady
from saga_sim.pacing import Pace
from saga_sim.pressure import arrival_rate, pressure_of
from saga_sim.runs import ReplayResult, RunState, Summary, summary
from saga_sim.slowdown import SLO, Slowdowns, slowdowns
from saga_sim.trace.records import Workflow
from saga_sim.trace.scale import Scaling, rescale
from saga_sim.trace.stats import percentile
from saga_sim.world import ClusterSpec, World

if TYPE_CHECKING:
    from saga_sim.report.watch import Watch

QUIET_S = 30 * 86400.0
"""Without faults nobody is silent: nodes that have nothing new to say need not say so every second."""
MINUTE_S = 60.0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one simulated run showed. Times in seconds, virtual unless said otherwise; shares from 0 to 1.

    again_share: of the engines' busy time, spent on prefilling what had been computed before.
    useful_share: of the cached tokens, those of unfinished workflows, over the run's samples. slowdowns: completion
    times against the workflows' times alone, and per tenant. belady: against the oracle, where asked for; fairness: against its bound, likewise.
    scores: of what the head predicted, beside simple rules; also of profiles that do not go by it.
    host_hit_tokens, host_loaded_tokens: of prompts, found in host memory at first admission; and all that were loaded
    from there, also after preemptions; None without host memory.
    events, wall_s, events_per_s: the simulator's own speed, in real time. trace_hash: of every fact and its time.
    """

    profile: str
    seed: int
    summary: Summary
    tct_p50_s: float | None
    tct_p99_s: float | None
    ttft_p50_s: float | None
    workflows_per_min: float | None
    pressure: float | None
    busy_share: float
    again_share: float
    useful_share: float | None
    preemptions: int
    slowdowns: Slowdowns
    events: int
    wall_s: float
    trace_hash: str = ""
    belady: Belady | None = None
    fairness: FairnessFigures | None = None
    host_hit_tokens: int | None = None
    host_loaded_tokens: int | None = None
    scores: tuple[Score, ...] = ()

    @property
    def events_per_s(self) -> float:
        return self.events / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When workflows come: at a pressure, at a rate, as recorded (scaled), or so many at a time."""

    pressure: float | None = None
    per_s: float | None = None
    scale_time: float = 1.0
    max_gap_s: float | None = 600.0
    """No gap longer than this: recordings hold nights and lunches."""
    max_live: int | None = None

    def __post_init__(self) -> None:
        given = [self.pressure is not None, self.per_s is not None, self.max_live is not None]
        if sum(given) > 1:
            raise UserError("pressure, arrival rate and concurrency exclude each other: give one")

    def pace(self, spec: ClusterSpec, workflows: Sequence[Workflow], seed: int) -> Pace:
        """The pace of the run with that seed."""
        pace = Pace(
            time_scale=self.scale_time, max_gap_s=self.max_gap_s, arrivals_per_s=self.per_s, seed=seed
        )
        if self.pressure is None:
            return pace
        rate = arrival_rate(spec.preset, spec.workers, pace, workflows, self.pressure)
        return Pace(time_scale=self.scale_time, max_gap_s=self.max_gap_s, arrivals_per_s=rate, seed=seed)

    def pressure_of(self, spec: ClusterSpec, workflows: Sequence[Workflow], pace: Pace) -> float | None:
        """The memory that they want, as a multiple of all there is; None where a number at a time decides."""
        if self.max_live:
            return None
        return pressure_of(spec.preset, spec.workers, pace, workflows, pace.arrivals(workflows))


def fitted(workflows: Sequence[Workflow], spec: ClusterSpec) -> list[Workflow]:
    """The workflows, each scaled down until its longest context fits the engine."""
    return rescale(workflows, Scaling(max_context=spec.preset.shape.max_model_len_tokens))


def repeated(workflows: Sequence[Workflow], count: int) -> list[Workflow]:
    """`count` workflows: a longer trace is cut, a shorter one begins anew under other names."""
    if count < 1:
        raise UserError(f"cannot run {count} workflows (valid: 1 or more)")
    rounds = (divmod(index, len(workflows)) for index in range(count))
    return [workflows[at] if not turn else _copy(workflows[at], turn + 1) for turn, at in rounds]


def _copy(workflow: Workflow, number: int) -> Workflow:
    """Under another name, and of another item: it is no second run of its own."""
    instance = f"{workflow.instance}~{number}" if workflow.instance else workflow.instance
    return replace(workflow, workflow_id=f"{workflow.workflow_id}~{number}", instance=instance)


def quiet_config(profile: str, costs: CostTable | None = None, mode: str = BALANCED) -> Config:
    """The live configuration but for the patience of head and nodes, which no fault tests here."""
    return Config(
        profile=profile,
        mode=mode,
        name="simulated",
        head=HeadConfig(node_timeout_s=QUIET_S, max_waiting=1_000_000),
        node=NodeConfig(head_timeout_s=QUIET_S, orphan_timeout_s=QUIET_S),
        costs=costs or CostTable(),
    )


class TraceHash:
    """A digest of every fact and its time."""

    def __init__(self) -> None:
        self._state = blake2b(digest_size=16)
        self._encoder = msgspec.msgpack.Encoder()

    def add(self, at: float, fact: Fact) -> None:
        self._state.update(self._encoder.encode((at, fact)))

    @property
    def text(self) -> str:
        return self._state.hexdigest()


def simulate(
    profile: str,
    workflows: Sequence[Workflow],
    spec: ClusterSpec,
    arrivals: Arrivals,
    *,
    seed: int = 0,
    faults: Faults | None = None,
    watch: Watch | None = None,
    witness: Witness | None = None,
    fair: bool = False,
    slo: float = SLO,
    declared: Callable[[Workflow], float] | None = None,
    instances: bool = False,
    mode: str = BALANCED,
    on_ended: Callable[[], None] = lambda: None,
    on_fact: Callable[[float, Fact], None] | None = None,
) -> tuple[Figures, ReplayResult]:
    """One run of `workflows` (they must fit the engine) under one profile. `faults` are spread by the same seed.

    slo: the slowdown that meets the objective. on_fact: told of every fact and its time; what it raises ends the run.
    declared: the engine seconds that a workflow says it will take; by default none says anything. instances: whether
    it names its item, where it has one. fair: follow every workflow's bound (docs/fairness.md). mode: what for.
    """
    if witness is not None and faults is not None:
        raise UserError("the oracle needs a run without faults: leave them out, or the Belady ratio")
    pace = arrivals.pace(spec, workflows, seed)
    digest = TraceHash()
    told = _both(digest.add, on_fact)
    told = told if watch is None else watch.beside(told)
    told = _both(told, None if witness is None else witness.fact)
    told = _both(told, (lambda at, fact: checker.saw(at, fact)) if fair else None)  # noqa: PLW0108 - made below
    config = _config(profile, spec, mode, quiet=faults is None)
    spoilt = faults and seeded(faults, seed=seed)
    world = World(spec, config, faults=spoilt, on_fact=told, declared=declared, instances=instances)
    checker = Fairness(world.head.accounts, world.config.admission.grace_s)
    for onlooker in (watch, witness):
        if onlooker is not None:
            onlooker.look_at(world)
    began_s = perf_counter()
    result = world.run(workflows, pace, max_live=arrivals.max_live, on_ended=lambda _: on_ended())
    wall_s = perf_counter() - began_s
    wanted = arrivals.pressure_of(spec, workflows, pace)
    slowed = slowdowns(result, workflows, isolated_s(spec.preset, spec.link, pace, workflows), slo)
    figures = _figures(profile, seed, world, result, wanted, slowed, wall_s, digest.text)
    if fair:
        figures = replace(figures, fairness=checker.figures())
    if witness is not None:
        figures = replace(figures, belady=_belady(witness, figures, spec))
    return figures, result


def _config(profile: str, spec: ClusterSpec, mode: str, *, quiet: bool) -> Config:
    if quiet:
        return quiet_config(profile, spec.preset.costs, mode)
    return Config(profile=profile, mode=mode, name="simulated", costs=spec.preset.costs)


def _belady(witness: Witness, figures: Figures, spec: ClusterSpec) -> Belady:
    shape = spec.preset.shape
    reference = f"this run: {figures.profile}, seed {figures.seed}, facts {figures.trace_hash}"
    return belady(witness.recordings(), shape.blocks, spec.preset.costs, reference, witness.pauses)


def _both(
    one: Callable[[float, Fact], None], other: Callable[[float, Fact], None] | None
) -> Callable[[float, Fact], None]:
    if other is None:
        return one

    def told(at: float, fact: Fact) -> None:
        one(at, fact)
        other(at, fact)

    return told


def _figures(
    profile: str,
    seed: int,
    world: World,
    result: ReplayResult,
    pressure: float | None,
    slowed: Slowdowns,
    wall_s: float,
    trace_hash: str,
) -> Figures:
    whole = summary(result)
    completions = sorted(run.completion_s for run in result.runs if run.state is RunState.FINISHED)
    waits = sorted(step.ttft_s for run in result.runs for step in run.steps)
    with_host = world.spec.preset.shape.host_tokens > 0
    totals = [worker.engine.totals for node in world.nodes.values() for worker in node.workers.values()]
    busy_s = sum(total.busy_s for total in totals)
    return Figures(
        profile=profile,
        seed=seed,
        summary=whole,
        tct_p50_s=percentile(completions, 0.5) if completions else None,
        tct_p99_s=percentile(completions, 0.99) if completions else None,
        ttft_p50_s=percentile(waits, 0.5) if waits else None,
        workflows_per_min=whole.finished / result.wall_s * MINUTE_S if result.wall_s else None,
        pressure=pressure,
        busy_share=busy_s / (world.spec.workers * result.wall_s) if result.wall_s else 0.0,
        again_share=sum(total.again_s for total in totals) / busy_s if busy_s else 0.0,
        useful_share=world.useful_share,
        preemptions=sum(total.preemptions for total in totals),
        host_hit_tokens=sum(total.host_hit_tokens for total in totals) if with_host else None,
        host_loaded_tokens=sum(total.loaded_tokens for total in totals) if with_host else None,
        slowdowns=slowed,
        scores=world.head.accounts.learner.scores().overall,
        events=world.clock.events,
        wall_s=wall_s,
        trace_hash=trace_hash,
    )
