"""Measuring the running workers: the cost table that says what they take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_cli.control import Control
from saga_cli.progress import Progress
from saga_core.errors import ClusterError
from saga_core.views import FinishRequest, SubmitRequest, WorkerView

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_sim.calibration import Calibration, Probe
    from saga_sim.costs import Preset

PROFILE: Final = "sticky"
"""While probing: each workflow stays where its name is hashed to."""
BLOCK_TOKENS: Final = 32
STEP_TOKENS: Final = 2048
MAX_SEQS: Final = 32


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga calibrate` says: the preset, the fit behind it, and where it was written."""

    preset: Any
    way_s: float
    mean_error: float
    residuals: list[Any]
    file: str = ""


# -- calibrating ---------------------------------------------------------------------------


def calibrate(control: Control, settings: dict[str, Any], show: Progress) -> Measured:
    """Fit a preset from the workers of a running cluster. Its profile is changed meanwhile, and then set back."""
    return fitted(control, settings, measure(control, settings, show))


def measure(control: Control, settings: dict[str, Any], show: Progress) -> list[Probe]:
    """What the ready workers of a running cluster take for calls of all kinds."""
    cluster = control.cluster()
    ready = len(_ready(control))
    longest = int(settings["workers.max_model_len"])
    show.phase(f"measuring {ready} workers with calls of up to {longest} tokens")
    control.use_profile(PROFILE)
    try:
        return asyncio.run(_probe(control, cluster.models[0], ready, longest))
    finally:
        control.use_profile(cluster.profile)


def fitted(control: Control, settings: dict[str, Any], probes: Sequence[Probe]) -> Measured:
    """The preset that says best what was measured."""
    from saga_sim.calibration import fit

    found = fit(probes, STEP_TOKENS)
    return Measured(
        preset=_preset(found, settings, _ready(control)[0].capacity_tokens),
        way_s=found.way_s,
        mean_error=found.mean_error,
        residuals=list(found.residuals),
    )


def _ready(control: Control) -> list[WorkerView]:
    ready = [worker for worker in control.cluster().workers if worker.state == "ready"]
    if not ready:
        raise ClusterError("no worker is ready to be measured (`saga status` says why)")
    return ready


async def _probe(control: Control, model: str, workers: int, longest: int) -> list[Probe]:
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
        "intake": f"{1e3 * costs.call_s:.2f} ms/call and {1e6 * costs.prompt_token_s:.2f} µs/prompt token, cached or not",
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
