"""Builders of report data with known times."""

from __future__ import annotations

from saga_sim.report.data import MemorySample, Metrics, Outcome, ReportData, Run, Sample, SetUp, TraceSource


def outcome(completion_s, *, agent_type="coder", tenant="a", alone_s=None):
    return Outcome(
        agent_type=agent_type, tenant=tenant, arrived_s=0.0, ended_s=completion_s or 1.0, completion_s=completion_s,
        slowdown=completion_s / alone_s if completion_s and alone_s else None,
    )  # fmt: skip


def run(profile, times, *, seed=0, outcomes=None, **more):
    made = outcomes or tuple(map(outcome, times))
    return Run(profile=profile, seed=seed, metrics=more.pop("metrics", Metrics()), outcomes=made, **more)


def report(*runs, **told):
    set_up = SetUp(
        sources=(TraceSource(name="team.jsonl.gz", workflows=3, steps=40, prompt_tokens=90_000, output_tokens=1200),),
        workflows=3, preset="llama3-70b-a100", preset_what="Llama-3-70B", preset_source="a study", workers=2,
        per_node=2, gpus=8, arrivals="as recorded", slo=2.5, versions=(("saga", "1"),), command="saga sim run --gpus 8",
    )  # fmt: skip
    return ReportData(**({"title": "saga sim", "set_up": set_up, "runs": tuple(runs)} | told))


def metrics(**known):
    return Metrics(
        **({"tct_mean_s": 10.0, "ttft_p95_s": 1.0, "prompt_tokens": 1000, "cached_tokens": 500} | known)
    )


def full():
    """Two profiles, two seeds, all series."""
    series = {
        "live_workflows": (Sample(0.0, 1.0), Sample(5.0, 3.0), Sample(10.0, 0.5)),
        "steps_in_service": (Sample(0.0, 1.0), Sample(5.0, 2.0)),
        "ttfts_s": (0.1, 0.2, 0.9, 3.0),
        "busy_workers": (Sample(0.0, 1.0), Sample(5.0, 2.0)),
        "memory": (
            MemorySample(at_s=0.0, running=0.1, kept=0.0, leftover=0.0),
            MemorySample(at_s=5.0, running=0.3, kept=0.4, leftover=0.2),
        ),
    }
    kinds = [("coder", "a"), ("browser", "b"), ("coder", "b")]

    def of(profile, seed, times, **known):
        made = tuple(
            outcome(t, agent_type=k, tenant=n, alone_s=8.0) for t, (k, n) in zip(times, kinds, strict=True)
        )
        return run(profile, (), seed=seed, outcomes=made, metrics=metrics(**known), **series)

    return report(
        of("sticky", 0, (10.0, 20.0, 40.0)),
        of("sticky", 1, (11.0, 21.0, 44.0)),
        of("saga-paper", 0, (5.0, 10.0, 20.0), tct_mean_s=5.0, ttft_p95_s=1.5),
        of("saga-paper", 1, (5.4, 10.6, 21.5), tct_mean_s=5.2, ttft_p95_s=1.7),
    )
