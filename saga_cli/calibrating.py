"""Measuring the running workers, and validating the simulator against them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.progress import Progress
from saga_cli.replaying import Workload
from saga_cli.replaying import run as replay
from saga_cli.units import UNKNOWN, count, duration
from saga_core.errors import ClusterError
from saga_core.views import FinishRequest, SubmitRequest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_sim.calibration import Calibration
    from saga_sim.costs import Preset
    from saga_sim.runs import Summary
    from saga_sim.trace import Workflow

PROFILE: Final = "sticky"
"""While probing: each workflow stays where its name is hashed to."""
START_S: Final = 300.0
STOP_S: Final = 30.0
BLOCK_TOKENS: Final = 32
STEP_TOKENS: Final = 2048
MAX_SEQS: Final = 32
CONTEXT_TOKENS: Final = 8192
KV_TOKENS: Final = 32768
SEED_STEP: Final = 1_000_003
"""Between the prompts of two live runs: nothing of one is in a cache for the next."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga calibrate` says: the preset, the fit behind it, and where it was written."""

    preset: Any
    way_s: float
    mean_error: float
    residuals: list[Any]
    file: str = ""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One workload under one profile, live and simulated. Errors are relative to live."""

    profile: str
    pressure: float
    live: Any
    simulated: Any
    tct_error: float | None
    ttft_error: float | None
    cached_error: float | None


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `saga sim validate`. mean_*: mean absolute errors over the runs."""

    workers: int
    workflows: int
    preset: Any
    calibration_error: float
    runs: list[Compared]
    mean_tct_error: float | None
    mean_cached_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the person asked to validate."""

    profiles: Sequence[str]
    pressures: Sequence[float]
    workers: int
    workload: Workload
    engine: str
    seed: int


# -- calibrating ---------------------------------------------------------------------------


def calibrate(control: Control, settings: dict[str, Any], show: Progress) -> Measured:
    """Fit a preset from the workers of a running cluster. Its profile is changed meanwhile, and then set back."""
    from saga_sim.calibration import fit

    cluster = control.cluster()
    ready = [worker for worker in cluster.workers if worker.state == "ready"]
    if not ready:
        raise ClusterError("no worker is ready to be measured (`saga status` says why)")
    longest = int(settings["workers.max_model_len"])
    show.phase(f"measuring {len(ready)} workers with calls of up to {longest} tokens")
    control.use_profile(PROFILE)
    try:
        probes = asyncio.run(_probe(control, cluster.models[0], len(ready), longest))
    finally:
        control.use_profile(cluster.profile)
    fitted = fit(probes, STEP_TOKENS)
    return Measured(
        preset=_preset(fitted, settings, ready[0].capacity_tokens),
        way_s=fitted.way_s,
        mean_error=fitted.mean_error,
        residuals=list(fitted.residuals),
    )


async def _probe(control: Control, model: str, workers: int, longest: int) -> Any:
    from saga_sim.probing import Opened, probe
    from saga_sim.runs import Endpoint

    opened: list[int] = []

    async def open_workflow() -> Opened:
        request = SubmitRequest(name="calibration", agent_type="calibration", kind="replay")
        accepted = await asyncio.to_thread(control.submit, request)
        opened.append(accepted.id)

        async def home() -> str:
            return (await asyncio.to_thread(control.workflow, accepted.id)).home or ""

        return Opened(endpoint=Endpoint(base_url=accepted.base_url, api_key=accepted.api_key), home=home)

    try:
        return await probe(open_workflow, model=model, workers=workers, max_model_len=longest)
    finally:
        for number in opened:
            await asyncio.to_thread(control.finish, number, FinishRequest())


def _preset(fitted: Calibration, settings: dict[str, Any], capacity_tokens: int) -> Preset:
    from saga_sim.costs import Preset, Shape

    block = int(settings["workers.block_size"]) or BLOCK_TOKENS
    model = Path(str(settings["workers.model"])).name
    return Preset(
        name=f"calibrated-{model}",
        what=f"{model} on {settings['workers.engine']}",
        source=f"saga calibrate: {len(fitted.residuals)} measurements, mean error {fitted.mean_error:.1%}",
        gpus=0,
        shape=Shape(
            block_tokens=block,
            blocks=capacity_tokens // block,
            max_model_len_tokens=int(settings["workers.max_model_len"]),
            max_num_seqs=int(settings["workers.max_seqs"]) or MAX_SEQS,
            step_tokens=STEP_TOKENS,
        ),
        costs=fitted.costs,
        way_s=fitted.way_s,
    )


# -- validating ----------------------------------------------------------------------------


def validate(plan: Plan, show: Progress) -> Validation:
    """Start a cluster in a folder of its own, measure it, and run everything live and simulated."""
    from saga_cli.config import resolve
    from saga_cli.local.down import take_down
    from saga_cli.local.up import bring_up

    with tempfile.TemporaryDirectory(prefix="saga-validate-") as path:
        folder = ClusterFolder(Path(path))
        try:
            bring_up(folder, resolve(_settings(plan), environment={}), show=show, timeout_s=START_S)
            control = Control.of(folder)
            measured = calibrate(control, folder.settings() or {}, show)
            runs = [
                _compare(plan, control, measured.preset, profile, pressure, turn, show)
                for turn, (pressure, profile) in enumerate(
                    (q, p) for q in plan.pressures for p in plan.profiles
                )
            ]
        finally:
            show.phase("taking the cluster down")
            take_down(folder, timeout_s=STOP_S)
    return Validation(
        workers=plan.workers,
        workflows=runs[0].live.workflows,
        preset=measured.preset,
        calibration_error=measured.mean_error,
        runs=runs,
        mean_tct_error=_mean_error([run.tct_error for run in runs]),
        mean_cached_error=_mean_error([run.cached_error for run in runs]),
    )


def _settings(plan: Plan) -> dict[str, object]:
    """What the simulator has to know of the engine is said, not left to the engine's defaults."""
    return {
        "name": "validate",
        "workers.engine": plan.engine,
        "workers.count": plan.workers,
        "workers.max_model_len": CONTEXT_TOKENS,
        "workers.kv_tokens": KV_TOKENS,
        "workers.block_size": BLOCK_TOKENS,
        "workers.max_seqs": MAX_SEQS,
        "workers.extra_args": ("--max-num-batched-tokens", str(STEP_TOKENS)) if plan.engine == "vllm" else (),
    }


def _compare(
    plan: Plan, control: Control, preset: Preset, profile: str, pressure: float, turn: int, show: Progress
) -> Compared:
    from saga_cli.local.processes import LOCAL_NODE
    from saga_sim.cluster import Link
    from saga_sim.experiment import Arrivals, fitted, simulate
    from saga_sim.world import ClusterSpec

    spec = ClusterSpec(preset=preset, workers=plan.workers, per_node=plan.workers, link=Link.of(preset.way_s))
    workflows = _arriving(fitted(plan.workload.load(), spec), spec, pressure, plan.seed)
    control.use_profile(profile)
    before = max((workflow.id for workflow in control.workflows()), default=0)
    spec = replace(spec, names=(LOCAL_NODE,), workflows_before=before)
    live = replay(control, Workload(seed=plan.seed + turn * SEED_STEP), workflows, show=show).summary
    if live.interrupted:
        raise KeyboardInterrupt
    ours = simulate(profile, workflows, spec, Arrivals(max_gap_s=None), seed=plan.seed)[0].summary
    return Compared(
        profile=profile,
        pressure=pressure,
        live=live,
        simulated=ours,
        tct_error=_error(ours.tct_mean_s, live.tct_mean_s),
        ttft_error=_error(ours.ttft_mean_s, live.ttft_mean_s),
        cached_error=_error(ours.cached_tokens, live.cached_tokens),
    )


def _arriving(workflows: Sequence[Workflow], spec: Any, pressure: float, seed: int) -> list[Workflow]:
    """The workflows with arrivals of that pressure written into them: live and simulated ones read the same."""
    from msgspec.structs import replace as changed

    from saga_sim.experiment import Arrivals

    due = Arrivals(pressure=pressure, max_gap_s=None).pace(spec, workflows, seed).arrivals(workflows)
    return [changed(w, arrival_s=round(at, 6)) for w, at in zip(workflows, due, strict=True)]


def _error(ours: float | None, live: float | None) -> float | None:
    return ours / live - 1.0 if ours is not None and live else None


def _mean_error(errors: Sequence[float | None]) -> float | None:
    known = [abs(error) for error in errors if error is not None]
    return sum(known) / len(known) if known else None


# -- showing -------------------------------------------------------------------------------


def measured_table(measured: Measured) -> RenderableType:
    """The fitted coefficients, and each measurement beside what they say of it."""
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid
    from saga_cli.tables import pairs

    costs = measured.preset.costs
    facts = {
        "step": f"{1e3 * costs.step_s:.3f} ms",
        "prefill": f"{1e6 * costs.prefill_token_s:.2f} µs/token",
        "attention": f"{1e9 * costs.attention_token2_s:.3f} ns/token²",
        "decode": f"{1e3 * costs.decode_s:.3f} ms/sequence",
        "context": f"{1e9 * costs.context_token_s:.1f} ns/token",
        "way": f"{1e3 * measured.way_s:.2f} ms there and back, no part of the table",
        "mean error": f"{measured.mean_error:.1%} of {len(measured.residuals)} measurements",
    }
    rows = [
        (r.what, str(r.prompt_tokens), str(r.cached_tokens), str(r.batch),
         f"{1e3 * r.measured_s:.1f}", f"{1e3 * r.fitted_s:.1f}", f"{r.error:+.1%}")
        for r in measured.residuals
    ]  # fmt: skip
    head = ("*WHAT", ">PROMPT", ">CACHED", ">BATCH", ">MEASURED ms", ">FITTED ms", ">ERROR")
    return Group(pairs(facts), Text(), Grid(*head, rows=rows, empty="nothing was measured"))


def validation_table(validation: Validation) -> RenderableType:
    """Live beside simulated, run by run."""
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid

    rows = [
        (f"{r.pressure:g}", r.profile, *_pair(r.live, r.simulated), _signed(r.tct_error), _signed(r.ttft_error),
         *(count(s.cached_tokens) for s in (r.live, r.simulated)), _signed(r.cached_error))
        for r in validation.runs
    ]  # fmt: skip
    head = (">PRESS", "*PROFILE", ">TCT LIVE", ">SIM", ">ERROR", ">TTFT", ">CACHED LIVE", ">SIM", ">ERROR")
    whole = (
        f"mean absolute error: mean TCT {_unsigned(validation.mean_tct_error)}, cached tokens "
        f"{_unsigned(validation.mean_cached_error)} (calibration {validation.calibration_error:.1%}; "
        f"{validation.workers} workers, {validation.workflows} workflows a run)"
    )
    return Group(Grid(*head, rows=rows, empty="nothing was run"), Text(), Text(whole))


def _pair(live: Summary, simulated: Summary) -> tuple[str, str]:
    return duration(live.tct_mean_s), duration(simulated.tct_mean_s)


def _signed(error: float | None) -> str:
    return UNKNOWN if error is None else f"{error:+.1%}"


def _unsigned(error: float | None) -> str:
    return UNKNOWN if error is None else f"{error:.1%}"
