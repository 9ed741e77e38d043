"""The demo: the same workflows under two profiles, on the same workers, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from saga_cli.control import Control
from saga_cli.local.private import ends_at_term, private_cluster
from saga_cli.progress import Progress
from saga_cli.replaying import Report, Workload, run
from saga_core.config import Config

CONTEXT_TOKENS: Final = 8192
"""The demo workload stays below 8,000."""
FAKE_SPEED: Final = 10
"""With the engine double, engine and tools run ten times as fast: a look, not a measurement."""
SEED_STEP: Final = 1_000_003
"""Between the prompts of two runs: nothing of one is in a cache for the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the person chose."""

    engine: str
    workers: int
    workflows: int
    seed: int
    more: bool
    keep: bool

    @property
    def fast(self) -> bool:
        return self.engine == "fake"

    @property
    def profiles(self) -> list[str]:
        return [Config().profile, "sticky", *(["round-robin"] if self.more else [])]


def demonstrate(plan: Plan, show: Progress) -> list[Report]:
    """A report per profile. The cluster is gone afterwards, whatever happened."""
    with ends_at_term(), private_cluster("demo", _settings(plan), show, keep=plan.keep) as folder:
        return _runs(plan, Control.of(folder), show)


def _settings(plan: Plan) -> dict[str, object]:
    return {
        "workers.engine": plan.engine,
        "workers.count": plan.workers,
        "workers.max_model_len": CONTEXT_TOKENS,
        "workers.extra_args": ("--speed", str(FAKE_SPEED)) if plan.fast else (),
    }


def _runs(plan: Plan, control: Control, show: Progress) -> list[Report]:
    workflows = Workload(
        synth="demo", workflows=plan.workflows, seed=plan.seed, max_context=CONTEXT_TOKENS
    ).load()
    reports: list[Report] = []
    for turn, profile in enumerate(plan.profiles):
        control.use_profile(profile)
        pace = Workload(seed=plan.seed + turn * SEED_STEP, scale_time=1 / FAKE_SPEED if plan.fast else 1.0)
        reports.append(run(control, pace, workflows, show=show))
        if reports[-1].summary.interrupted:
            raise KeyboardInterrupt
    return reports
