"""Builders shared by the trace and replay tests."""

# ruff: noqa: A002 - `id` is the format's own word

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from saga_sim.trace.records import Blocks, Step, Tool, Workflow

TRACES = Path(os.environ.get("SAGA_TRACES", Path(__file__).parents[2] / "../shared/traces")).resolve()
TRACE_FILES = sorted(TRACES.glob("*.jsonl.gz"))
needs_traces = pytest.mark.skipif(
    not TRACE_FILES, reason="the public trace files are not beside this checkout"
)


def step(id, prompt, new=None, output=5, *, ctx="chain", parents=None, agent="main", **more):
    """A step; by default the next one of a chain that shares all but `new` of the last prompt."""
    if ctx == "chain":
        ctx = id - 1 if id else None
    if parents is None:
        parents = () if ctx is None else (ctx,)
    new = prompt if new is None or ctx is None else new
    return Step(
        id=id, ctx_parent=ctx, parents=tuple(parents), agent=agent,
        prompt_tokens=prompt, new_prompt_tokens=new, output_tokens=output, **more,
    )  # fmt: skip


def workflow(*steps, id="w/1", **more):
    told = {
        "version": 1, "workflow_id": id, "source": "test", "workload": "swe-agent", "harness": "tester",
        "tenant": None, "arrival_s": None, "block_size": None, "hash_scope": None, "tokens": "estimated",
        "timing": "none", "steps": tuple(steps),
    }  # fmt: skip
    return Workflow(**(told | more))


def chain(id="w/1", steps=3, *, first=100, grow=30, output=10, gap_s=None, **more):
    """An agent loop that appends to its prompt."""
    return workflow(
        *(
            step(i, first + i * grow, None if i == 0 else grow, output, gap_s=gap_s if i else None)
            for i in range(steps)
        ),
        id=id,
        **more,
    )


SECONDS = st.floats(0, 5000, allow_nan=False).map(lambda s: round(s, 3))
TOOLS = st.none() | st.builds(
    lambda kind, latency, n: Tool(kind=kind, name="t", latency_s=latency, n=n),
    st.sampled_from(["tool", "user", "subagent"]), st.none() | SECONDS, st.none() | st.just(2),
)  # fmt: skip


def times(draw, steps, parents, timed):
    """When the step behind `parents` ran, if that was measured, and how long it was waited for."""
    if not timed:
        return {"gap_s": draw(st.none() | SECONDS)} if parents else {}
    ended = max((steps[p].ts_s + steps[p].llm_s for p in parents), default=0.0)
    gap_s = draw(SECONDS)
    return {"ts_s": ended + gap_s, "llm_s": draw(SECONDS), "gap_s": gap_s if parents else 0.0}


@st.composite
def workflows(draw, max_steps=8, max_tokens=3000):
    """Valid workflows of any shape: chains, new contexts, forks and joins, cut prefixes, times, blocks, tools."""
    block = draw(st.sampled_from([None, 16]))
    timed = draw(st.booleans())
    steps = []
    for i in range(draw(st.integers(1, max_steps))):
        parents = sorted(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else []
        ctx = draw(st.sampled_from([None, *parents]))
        whole = steps[ctx].prompt_tokens if ctx is not None else 0
        shared = draw(st.one_of(st.just(whole), st.integers(0, whole)))
        new = draw(st.integers(1, max_tokens))
        blocks = None
        if block:
            keep = shared // block
            shared = keep * block
            blocks = Blocks(keep=keep, add=((1000 * i, max(1, (shared + new) // block - keep)),))
        when = times(draw, steps, parents, timed)
        prompt = shared + new
        steps.append(
            Step(
                id=i, ctx_parent=ctx, parents=tuple(parents), agent=draw(st.sampled_from(["main", "sub"])),
                prompt_tokens=prompt, new_prompt_tokens=prompt if ctx is None else new,
                output_tokens=draw(st.integers(1, 500)),
                cached_tokens=draw(st.none() | st.integers(0, prompt)),
                shared_prefix_group=draw(st.none() | st.just("g")),
                shared_prefix_tokens=draw(st.none() | st.integers(0, prompt)),
                tool=draw(TOOLS), blocks=blocks, **when,
            )
        )  # fmt: skip
    return workflow(
        *steps,
        block_size=block,
        hash_scope="task" if block else None,
        arrival_s=draw(st.none() | SECONDS),
        timing="measured" if timed else "none",
    )
