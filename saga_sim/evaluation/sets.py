"""The sets of workflows that an evaluation runs on: made ones and recordings, each with the worker it suits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random

from msgspec.structs import replace

from saga_core.errors import UserError, choose
from saga_sim.evaluation.plan import MIX, Half
from saga_sim.experiment import repeated
from saga_sim.trace.format import load_trace
from saga_sim.trace.profiles import TEN_TENANTS
from saga_sim.trace.records import Step, Workflow
from saga_sim.trace.synth import synthesise

# What the policy study made of recordings (its section 1), so that its figures can be compared with ours.
MOST_STEPS = 150
MOST_OUTPUT_TOKENS = 4096
USER_GAP_S = 60.0
"""People's pauses last hours: none is longer than this; tools' gaps are cut by the arrivals, at 600 s."""


AGAIN = "swe-again"
OWN = "web-own"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSet:
    """Workflows of one kind: a made preset or a trace file, and the worker that they run on."""

    name: str
    what: str
    preset: str
    synth: str | None = None
    file: str | None = None


SETS = {
    made.name: made
    for made in (
        WorkSet(name="swe", what="SWE-bench-like (made)", preset="llama3-70b-a100", synth="swe-bench-like"),
        WorkSet(
            name=AGAIN, what="SWE-bench-like (made), items run again", preset="llama3-70b-a100", synth="swe-bench-like-again"
        ),
        WorkSet(name="web", what="WebArena-like (made)", preset="llama3-70b-a100", synth="webarena-like"),
        WorkSet(
            name=OWN, what="WebArena-like (made), nothing shared", preset="llama3-70b-a100", synth="webarena-like-own"
        ),
        WorkSet(name="iso", what="iso-bench-trae", preset="llama3-70b-a100", file="iso-bench-trae.jsonl.gz"),
        WorkSet(name="entire", what="entire-cli", preset="llama3-8b-h100", file="entire-cli.jsonl.gz"),
        WorkSet(name="kvct", what="kv-cache-tester", preset="llama3-8b-h100", file="kv-cache-tester.jsonl.gz"),
        WorkSet(
            name="chat", what="chat with tools (tau-bench-airline)", preset="llama3-8b-h100",
            file="tau-bench-airline.jsonl.gz",
        ),
        WorkSet(name=MIX, what="ten tenants (made)", preset="llama3-70b-a100", synth=TEN_TENANTS),
    )
}  # fmt: skip


def work_set(name: str) -> WorkSet:
    """The set of that name. Raises UserError with the valid ones."""
    if name not in SETS:
        raise choose("set", name, list(SETS))
    return SETS[name]


def absent(traces: Path | None) -> dict[str, str]:
    """The sets that cannot be run here, and why."""
    wanted = {made.name: made.file for made in SETS.values() if made.file is not None}
    if traces is None:
        return {
            name: f"{file} is not here: give --traces DIR or SAGA_TRACES" for name, file in wanted.items()
        }
    return {
        name: f"{traces / file} is not there"
        for name, file in wanted.items()
        if not (traces / file).is_file()
    }


def draw(made: WorkSet, traces: Path | None, count: int, seed: int, half: Half = Half.ALL) -> list[Workflow]:
    """`count` workflows of the set: made with that seed, or drawn from the recording, all before any comes twice."""
    if made.synth is not None:
        return synthesise(made.synth, count, _made_seed(seed, half))
    if traces is None or made.file is None:
        raise UserError(f"the set {made.name!r} needs the trace file {made.file}")
    whole = list(_recording(traces / made.file, half))
    Random(f"{made.name}/{seed}").shuffle(whole)  # noqa: S311 - a workload
    return repeated(whole, count)


def _made_seed(seed: int, half: Half) -> int:
    """Made workflows have no halves: those to tune on come from other seeds."""
    return seed + 1000 if half is Half.TUNE else seed


@lru_cache(maxsize=4)
def _recording(path: Path, half: Half) -> Sequence[Workflow]:
    found = [shaped(workflow) for workflow in load_trace(path) if in_half(workflow, half)]
    if not found:
        raise UserError(f"{path}: no workflow lies in the half {half.value!r}")
    return found


def in_half(workflow: Workflow, half: Half) -> bool:
    """Runs of the same benchmark item lie in the same half."""
    if half is Half.ALL:
        return True
    odd = blake2b((workflow.instance or workflow.workflow_id).encode(), digest_size=1).digest()[0] & 1
    return bool(odd) is (half is Half.REPORT)


def shaped(workflow: Workflow) -> Workflow:
    """Cut to the study's bounds: its first steps, no outsize output, no gap that a person slept through."""
    steps = workflow.steps[:MOST_STEPS]
    after_user = {step.id for step in steps if step.tool is not None and step.tool.kind == "user"}
    return replace(workflow, steps=tuple(_bounded(step, after_user) for step in steps))


def _bounded(step: Step, after_user: set[int]) -> Step:
    tool, gap_s = step.tool, step.gap_s
    if tool is not None and tool.kind == "user" and tool.latency_s is not None:
        tool = replace(tool, latency_s=min(tool.latency_s, USER_GAP_S))
    if gap_s is not None and after_user.intersection(step.parents):
        gap_s = min(gap_s, USER_GAP_S)
    return replace(step, tool=tool, gap_s=gap_s, output_tokens=min(step.output_tokens, MOST_OUTPUT_TOKENS))


def digest(made: WorkSet, traces: Path | None) -> str:
    """Of the recording's bytes; empty for a made set, which the code decides."""
    return "" if made.file is None or traces is None else _digest(traces / made.file)


@lru_cache(maxsize=16)
def _digest(path: Path) -> str:
    try:
        return blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
