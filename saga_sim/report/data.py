"""What a report is made of. Times in seconds of virtual time, shares from 0 to 1, sizes in tokens."""

from __future__ import annotations

import msgspec


class TraceSource(msgspec.Struct, frozen=True, kw_only=True):
    """One source of workflows as it was simulated: a trace file's name or a made workload's."""

    name: str
    workflows: int
    steps: int
    prompt_tokens: int
    output_tokens: int


class SetUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was simulated, enough to do it again.

    slo: the slowdown that meets the objective. arrivals, faults: in words. versions: name and version of what took part. command: the command line.
    """

    sources: tuple[TraceSource, ...]
    workflows: int
    preset: str
    preset_what: str
    preset_source: str
    workers: int
    per_node: int
    gpus: int
    arrivals: str
    slo: float | None = None
    faults: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    command: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow of one run. completion_s: arrival to its last token; slowdown: that over its time alone on a worker
    without a cache. None if it did not finish.
    """

    agent_type: str
    tenant: str
    arrived_s: float
    ended_s: float
    completion_s: float | None
    slowdown: float | None = None


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run; None where nothing can be said.

    regenerated_tokens: prompt tokens prefilled again although computed before. retries: steps tried again. again_share: the same as a share
    of the engines' busy time. useful_share: of the cached tokens, those of unfinished workflows. belady_ratio:
    seconds of computing again over those of an oracle on the same accesses. slo_share: workflows within their
    objective, slo_least: of the worst-served tenant's. fairness: Jain's index of slowdowns over tenants and over
    workflows.
    """

    tct_mean_s: float | None = None
    tct_geomean_s: float | None = None
    tct_p50_s: float | None = None
    tct_p95_s: float | None = None
    tct_p99_s: float | None = None
    ttft_mean_s: float | None = None
    ttft_p95_s: float | None = None
    workflows_per_min: float | None = None
    pressure: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    regenerated_tokens: int | None = None
    again_share: float | None = None
    useful_share: float | None = None
    busy_share: float | None = None
    preemptions: int | None = None
    retries: int | None = None
    belady_ratio: float | None = None
    slowdown_mean: float | None = None
    slowdown_p95: float | None = None
    slowdown_max: float | None = None
    slo_share: float | None = None
    slo_least: float | None = None
    fairness_tenants: float | None = None
    fairness_workflows: float | None = None


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A mean over a stretch of time that begins at `at_s`."""

    at_s: float
    value: float


class MemorySample(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of all workers' KV memory at a moment; the rest holds nothing.

    running: held by steps in service. kept: cached for workflows that go on. leftover: cached of ended ones.
    """

    at_s: float
    running: float
    kept: float
    leftover: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One profile with one seed. Outcomes stand in the same order in every run; empty series: not recorded.

    ttfts_s: quantiles of the steps' times to first token, evenly spaced from the least to the most.
    """

    profile: str
    seed: int
    metrics: Metrics
    outcomes: tuple[Outcome, ...]
    ttfts_s: tuple[float, ...] = ()
    live_workflows: tuple[Sample, ...] = ()
    steps_in_service: tuple[Sample, ...] = ()
    busy_workers: tuple[Sample, ...] = ()
    memory: tuple[MemorySample, ...] = ()


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """A whole experiment. `runs`: profile by profile, seeds in the same order; the first profile is the baseline."""

    title: str
    set_up: SetUp
    runs: tuple[Run, ...]

    @property
    def profiles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.profile for run in self.runs))

    @property
    def baseline(self) -> str:
        return self.runs[0].profile

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.of(self.baseline))

    def of(self, profile: str) -> tuple[Run, ...]:
        """The runs of one profile, seed by seed."""
        return tuple(run for run in self.runs if run.profile == profile)
