"""The demo: the same workflows under two profiles, on the same workers, one after the other."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saga_cli.config import resolve
from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.local.down import take_down
from saga_cli.local.up import bring_up
from saga_cli.progress import Progress
from saga_cli.replaying import Report, Workload, run
from saga_core.config import Config

CONTEXT_TOKENS: Final = 8192
"""The demo workload stays below 8,000."""
START_S: Final = 300.0
STOP_S: Final = 30.0
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
    with _ends_at_term(), _cluster_folder(plan, show) as folder:
        try:
            bring_up(folder, resolve(_settings(plan), environment={}), show=show, timeout_s=START_S)
            return _runs(plan, Control.of(folder), show)
        finally:
            show.phase("taking the cluster down")
            take_down(folder, timeout_s=STOP_S)


def _settings(plan: Plan) -> dict[str, object]:
    return {
        "name": "demo",
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


@contextmanager
def _cluster_folder(plan: Plan, show: Progress) -> Iterator[ClusterFolder]:
    path = Path(tempfile.mkdtemp(prefix="saga-demo-"))
    try:
        yield ClusterFolder(path)
    finally:
        if plan.keep:
            show.say(f"kept: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _ends_at_term() -> Iterator[None]:
    """TERM and HUP end the demo as Ctrl-C does: the cluster is taken down."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
