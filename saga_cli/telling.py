"""`saga sim explain` for a person: one workflow's life in 80 columns, and where its completion time went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_up
from typing import TYPE_CHECKING

import msgspec

from saga_cli.grid import Grid
from saga_cli.progress import Progress
from saga_cli.units import UNKNOWN, count, duration, plain, plural, share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.replaying import Workload
    from saga_sim.experiment import Arrivals
    from saga_sim.faults import Faults
    from saga_sim.story import Pause, StepStory, Story
    from saga_sim.world import ClusterSpec

WIDTH = 80
LEGEND = (
    "AT: after the workflow's arrival. WAIT: at the head, without a worker. AGAIN: of the prompt, computed before and "
    "not cached any more. TIME: the whole step. GAP: from its end to the next step (the tool). A star marks the "
    "longest way, whose times add up to the completion time."
)
PARTS = {
    "tools_s": "tools, and the agent itself",
    "gate_s": "waiting at the gate",
    "work_s": "engine: its own work",
    "again_s": "engine: computing again",
    "shared_s": "engine: waiting for others",
    "links_s": "links",
    "lost_s": "attempts that came to nothing",
}


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga sim explain` says: the run, and the story of one workflow."""

    profile: str
    preset: str
    workers: int
    seed: int
    workflows: int
    story: Story


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose life in which run. `workflows`: how many; None: as many as the trace has."""

    which: str
    spec: ClusterSpec
    profile: str
    workload: Workload
    arrivals: Arrivals
    workflows: int | None
    faults: Faults | None
    seed: int


def explain(asked: Asked, show: Progress) -> Explained:
    """Simulate once, and tell of the workflow that is meant. Raises UserError, before that, if there cannot be one."""
    from saga_sim import rank
    from saga_sim.experiment import fitted, repeated, simulate
    from saga_sim.story import Listener, slowest_first

    workflows = fitted(asked.workload.load(), asked.spec)
    workflows = repeated(workflows, asked.workflows or len(workflows))
    ids = [workflow.workflow_id for workflow in workflows]
    rank.check(asked.which, ids)
    show.phase(f"{asked.profile}, seed {asked.seed}: {plural(len(workflows), 'workflow')}", len(workflows))
    listener, ended = Listener(), count_up(1)
    _, result = simulate(
        asked.profile,
        workflows,
        asked.spec,
        asked.arrivals,
        seed=asked.seed,
        faults=asked.faults,
        on_ended=lambda: show.tick(next(ended)),
        on_fact=listener.fact,
    )
    index = rank.pick(asked.which, ids, slowest_first(result.runs))
    return Explained(
        profile=asked.profile,
        preset=asked.spec.preset.name,
        workers=asked.spec.workers,
        seed=asked.seed,
        workflows=len(workflows),
        story=listener.story(index, result, workflows[index], asked.spec),
    )


# -- as text ----------------------------------------------------------------------------------


def table(told: Explained) -> RenderableType:
    """Whose life it is, its steps with the reasons between them, the sums."""
    from textwrap import fill

    from rich.console import Group
    from rich.text import Text

    story = told.story
    lines = [Text(line) for line in (*_head(told), "", HEADER, *_life(story))]
    return Group(
        *lines,
        Text(),
        _sums(story),
        Text(),
        Text(fill(_tokens(story), WIDTH - 1)),
        Text(),
        Text(fill(LEGEND, WIDTH - 1)),
    )


def _head(told: Explained) -> Iterator[str]:
    story = told.story
    kind = f" ({plain(story.agent_type)})" if story.agent_type else ""
    yield from _wrapped(f"{plain(story.workflow_id)}{kind}, {story.state}", "")
    yield (
        f"number {story.rank} of {story.of} from the slowest: {duration(story.completion_s)}, "
        f"arrived at {duration(story.arrived_s)}"
    )
    yield f"{told.profile}, {plural(told.workers, 'worker')} ({told.preset}), seed {told.seed}; simulated"
    if story.why:
        yield from _wrapped(story.why, "failed: ")


HEADER = (
    f"{'STEP':>5} {'AT':>7} {'WAIT':>6}  {'WORKER':<10} {'PROMPT':>6} {'CACHED':>6} {'AGAIN':>6} "
    f"{'TTFT':>6} {'TIME':>6} {'GAP':>6}"
)


def _life(story: Story) -> Iterator[str]:
    """Steps in the order in which they began; a line of words wherever there is news: a session, a worker, a reason."""
    said: dict[str, tuple[str, str]] = {}
    pauses = sorted(story.pauses, key=lambda pause: pause.at_s)
    session = ""
    for step in story.steps:
        while pauses and pauses[0].at_s <= step.start_s:
            yield from _paused(pauses.pop(0))
        if step.session != session or said.get(step.session) != (step.worker, step.why) or step.attempts > 1:
            yield from _news(step)
        session, said[step.session] = step.session, (step.worker, step.why)
        yield _row(step)
    for pause in pauses:
        yield from _paused(pause)


def _news(step: StepStory) -> Iterator[str]:
    for turn in step.placements[:-1]:
        yield from _wrapped(
            f"{turn.worker}: {turn.why}; {turn.lost or 'tried again'}", f"  {plain(step.session)} -> "
        )
    came = f"{step.moved_from} -> " if step.moved_from else "-> "
    yield from _wrapped(f"{step.worker}: {step.why}", f"  {plain(step.session)} {came}")


def _paused(pause: Pause) -> Iterator[str]:
    return _wrapped(
        f"paused on {pause.worker} at {duration(pause.at_s)}: {pause.why}", f"  {plain(pause.session)} "
    )


def _wrapped(text: str, before: str) -> Iterator[str]:
    from textwrap import wrap

    yield from wrap(
        plain(before + text), WIDTH, initial_indent="", subsequent_indent="      ", drop_whitespace=False
    )


def _row(step: StepStory) -> str:
    worker = step.worker if len(step.worker) <= 10 else f"{step.worker[:9]}…"
    numbers = (step.prompt_tokens, step.cached_tokens, step.again_tokens)
    times = (duration(step.ttft_s), duration(step.duration_s), duration(step.gap_s))
    return (
        f"{step.step:>4}{'*' if step.on_way else ' '} {duration(step.start_s):>7} {_waited(step.wait_s):>6}  "
        f"{plain(worker):<10} {' '.join(f'{count(n):>6}' for n in numbers)} {' '.join(f'{t:>6}' for t in times)}"
    )


def _waited(seconds: float) -> str:
    return duration(seconds) if seconds else UNKNOWN


def _sums(story: Story) -> Grid:
    """The parts of the completion time, and of all steps where some ran beside the longest way."""
    beside = story.way != story.all_steps
    rows = [
        (
            words,
            duration(getattr(story.way, name)),
            share(getattr(story.way, name), story.completion_s),
            *([duration(getattr(story.all_steps, name))] if beside else []),
        )
        for name, words in PARTS.items()
    ]
    whole = ("completion time", duration(story.completion_s), share(1, 1), *([""] if beside else []))
    titles = ("WHERE THE TIME WENT", ">TIME", ">SHARE", *([">ALL STEPS"] if beside else []))
    return Grid(*titles, rows=[*rows, whole], empty="no step ended")


def _tokens(story: Story) -> str:
    prompt = sum(step.prompt_tokens for step in story.steps)
    cached, again = (sum(values) for values in _pairs(story.steps))
    return (
        f"{plural(len(story.steps), 'step')}: {count(prompt)} prompt tokens, {share(cached, prompt)} cached, "
        f"{share(again, prompt)} computed again; {plural(story.moves, 'move')} of a session to another worker; "
        f"{plural(len(story.pauses), 'pause')}"
    )


def _pairs(steps: Sequence[StepStory]) -> tuple[list[int], list[int]]:
    return [step.cached_tokens for step in steps], [step.again_tokens for step in steps]
