"""What the synthetic workloads are made of: each figure with its source.

Sources: [P] the SAGA paper (arXiv 2605.00528), [R] the workload generators of the repository under its
first author's handle, [T] published recordings we measured (kv-cache-tester, entire-cli, ISO-Bench,
OpenHands, SWE-agent), [B] published browser-agent runs (open-operator-evals), [C] our choice, said why.
"""

from dataclasses import dataclass, replace
from typing import Literal

from saga_sim.trace.quantiles import CODE_S, DATABASE_S, FILE_S, WEB_S

# [P] Percentiles of a tool call in seconds, by type.
TOOL_PERCENTILES_S = {"code": CODE_S, "file": FILE_S, "web": WEB_S, "db": DATABASE_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A uniform range of whole numbers, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """A log-normal spread by its median and the sigma of its logarithm."""

    median: float
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reruns:
    """Each item is run `runs` times, with the same first prompt and numbers of steps that correlate (Gaussian copula)."""

    runs: int
    correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One class of synthetic workflows. `context`: does each prompt append to the last, or replace the page?

    growth_tokens: what a prompt grows by, the output before it included; instead of an observation behind that
    output. Such a context stops growing at its limit and is not compacted. gap_s: every tool's, instead of the
    published latencies by type. reruns: items that several workflows work on; None: each works on its own.
    shares_system: whether all workflows begin with the same system prompt; otherwise each has its own.
    """

    name: str
    workload: Literal["swe-agent", "web-agent"]
    context: Literal["append", "replace"]
    mean_steps: float
    steps_shape: float
    min_steps: int
    max_steps: int
    tools: dict[str, float]
    system_tokens: int
    first_tokens: Span
    output_tokens: Span
    observation_mean_tokens: float
    observation_sigma: float
    max_observation_tokens: int
    max_context_tokens: int
    arrivals_per_s: float
    max_gap_s: float
    tenant: str | None = None
    growth_tokens: Span | None = None
    gap_s: LogNormal | None = None
    reruns: Reruns | None = None
    shares_system: bool = True


SWE_BENCH_LIKE = Profile(
    name="swe-bench-like",
    workload="swe-agent",
    context="append",
    mean_steps=37,  # [P] SWE-bench Verified: mean 37, at most 150
    steps_shape=2.0,  # [R] Gamma(2)
    min_steps=2,  # [C] one step is no agent
    max_steps=150,  # [P]
    tools={"code": 0.45, "file": 0.40, "web": 0.10, "db": 0.05},  # [R]
    system_tokens=1800,  # [T] between SWE-agent's 351 and OpenHands' 3,020 tokens of system prompt + tools
    first_tokens=Span(low=2000, high=4000),  # [P, one digest] 2-4K prompt tokens
    output_tokens=Span(low=100, high=500),  # [P, one digest]; mean 300
    observation_mean_tokens=350,  # [R]; with 300 of output 37 steps grow the prompt to some 27k
    observation_sigma=1.0,  # [T] OpenHands new prompt p50/p90 214/1,565: a wide log-normal
    max_observation_tokens=8000,  # [T] harnesses cut tool output at about this size
    max_context_tokens=32768,  # [P] 32K context; beyond it the agent compacts
    arrivals_per_s=8 / 60,  # [P] about 8 workflows a minute
    max_gap_s=300.0,  # [P] the longest retention
)

# The same, where each item is run again. [T] Intraclass correlation of the logarithm of a run's engine seconds: 0.51 over the
# 25 items of iso-bench-trae that one model ran again (52 runs; 0.15 of its steps; -0.09 over 56 items and all models), 0.67
# over the 29 items of tau-bench-airline with four runs each. Four runs as there.
AGAIN = replace(SWE_BENCH_LIKE, reruns=Reruns(runs=4, correlation=0.51))

WEBARENA_LIKE = Profile(
    name="webarena-like",
    workload="web-agent",
    context="replace",  # [B] the page state is replaced: prompts stay nearly flat
    mean_steps=18,  # [P] WebArena: mean 18
    steps_shape=2.0,  # [R]
    min_steps=2,
    max_steps=75,  # [C] four times the mean, as 150 is for 37; browser-use p90 17, proxy-lite cap 20 [B]
    tools={"web": 0.75, "file": 0.15, "code": 0.05, "db": 0.05},  # [R]
    system_tokens=1600,  # [C] what a step shares of a 6k prompt, so that reuse is about 25 %
    first_tokens=Span(low=4000, high=8000),  # [P, one digest] 4-8K; Notte p50/p90 6,333/10,355 [B]
    output_tokens=Span(low=50, high=200),  # [P, one digest]; browser-use p50 79, proxy-lite 144 [B]
    observation_mean_tokens=800,  # [R]; only for agents that append: here a page replaces the last one
    observation_sigma=0.5,
    max_observation_tokens=4000,
    max_context_tokens=32768,
    arrivals_per_s=8 / 60,  # [P]
    max_gap_s=300.0,
)

# The same, where what a step finds of the one before it is the workflow's own (its task, its plan) and lies in memory once for
# each of them. [C] The policy study does not say whose its "25 % reuse" was; its figures come out with this (docs/evaluation.md).
WEBARENA_OWN = replace(WEBARENA_LIKE, shares_system=False)

# The demo: the same two shapes, small enough that two CPU workers with the 3 M parameter model
# (cold prefill of 4k tokens 0.33 s, 8k 1.1-1.6 s, decode 110-215 tokens/s per worker) replay a dozen
# workflows in about a minute. All of it [C]: fewer steps, an 8k context, gaps cut at a few seconds.
DEMO_CONTEXT_TOKENS = 8000
DEMO_CODING = replace(
    SWE_BENCH_LIKE,
    name="demo-coding",
    mean_steps=18,
    steps_shape=8.0,  # narrower: with a dozen workflows one outlier would be the whole run
    min_steps=6,
    max_steps=26,
    system_tokens=600,
    first_tokens=Span(low=1000, high=2000),
    output_tokens=Span(low=40, high=120),
    observation_mean_tokens=350,
    observation_sigma=0.7,
    max_observation_tokens=1500,
    max_context_tokens=DEMO_CONTEXT_TOKENS,
    arrivals_per_s=0.5,
    max_gap_s=4.0,
)
DEMO_BROWSING = replace(
    WEBARENA_LIKE,
    name="demo-browsing",
    mean_steps=11,
    steps_shape=8.0,
    min_steps=4,
    max_steps=16,
    system_tokens=750,
    first_tokens=Span(low=2000, high=4000),
    output_tokens=Span(low=30, high=80),
    max_context_tokens=DEMO_CONTEXT_TOKENS,
    arrivals_per_s=0.5,
    max_gap_s=4.0,
)

# The policy study's live check (its section 13) and its generator's figures: 48 of these over 20 s on two CPU workers
# with pools of 32,768 tokens want several times their memory; 20 of them over 20 s fit.
LIVE_GATE = "live-gate"
_LIVE_GATE = replace(
    SWE_BENCH_LIKE,
    name=LIVE_GATE,
    mean_steps=12,  # gamma(2, 6), cut to 3..30
    min_steps=3,
    max_steps=30,
    system_tokens=0,  # nothing is shared between workflows
    first_tokens=Span(low=1500, high=3500),
    output_tokens=Span(low=24, high=48),
    max_context_tokens=14_500,
    arrivals_per_s=48 / 20,
    max_gap_s=20.0,
    growth_tokens=Span(low=250, high=700),
    gap_s=LogNormal(median=0.6, sigma=1.0),
)

# The same work from three agent programs, so that a program's name says something of how long it runs; together
# their steps are spread as those of the one: mean 12, from 3 to 30. [C]
LIVE_KINDS = "live-kinds"
_LIVE_KINDS = (("fix", 5), ("feature", 11), ("refactor", 20))


def _live_kind(name: str, mean_steps: float) -> Profile:
    return replace(_LIVE_GATE, name=f"live-{name}", mean_steps=mean_steps, steps_shape=8.0)


# Ten tenants [P]: three heavy ones with agents of 100 steps, four medium of 30, three light of 10; they send
# 16, 8 and 4 workflows a minute each [P, one digest]. The steps are SWE-bench-like in all else.
TEN_TENANTS = "ten-tenants"
_TENANT_CLASSES = (("heavy", 3, 100, 4), ("medium", 4, 30, 2), ("light", 3, 10, 1))


def _ten_tenants() -> tuple[tuple[Profile, int], ...]:
    """Each tenant as often as it sends, spread over the round as evenly as its numbers allow."""
    turns = [
        ((turn + 0.5) / sends, f"{name}-{number + 1}", mean)
        for name, tenants, mean, sends in _TENANT_CLASSES
        for number in range(tenants)
        for turn in range(sends)
    ]
    return tuple((_tenant(tenant, mean), 1) for _, tenant, mean in sorted(turns))


def _tenant(tenant: str, mean_steps: float) -> Profile:
    return replace(
        SWE_BENCH_LIKE,
        name=f"{tenant.partition('-')[0]}-agent",
        tenant=tenant,
        mean_steps=mean_steps,
        steps_shape=8.0,  # [C] the classes are told apart by their length: their lengths hardly overlap
    )


# A preset mixes profiles by weight; workflows are dealt in this proportion, not drawn.
PRESETS: dict[str, tuple[tuple[Profile, int], ...]] = {
    "swe-bench-like": ((SWE_BENCH_LIKE, 1),),
    "swe-bench-like-again": ((AGAIN, 1),),
    "webarena-like": ((WEBARENA_LIKE, 1),),
    "webarena-like-own": ((WEBARENA_OWN, 1),),
    "demo": ((DEMO_CODING, 2), (DEMO_BROWSING, 1)),
    TEN_TENANTS: _ten_tenants(),
    LIVE_GATE: ((_LIVE_GATE, 1),),
    LIVE_KINDS: tuple((_live_kind(name, mean), 1) for name, mean in _LIVE_KINDS),
}
DEMO_WORKFLOWS = 10
