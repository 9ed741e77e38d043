"""Streams against the real token ids of a live replay: the same prefixes, block by block."""

from random import Random

import pytest
from trace_makers import TRACES, needs_traces, step, workflow

from saga_sim.prompts import Prompts
from saga_sim.streams import Contexts, Groups, Stream
from saga_sim.trace import load_trace
from saga_sim.trace.scale import fit_context
from saga_sim.trace.synth import synthesise

BLOCK = 16


def blocks_of(stream: Stream, tokens: int) -> list[tuple[Stream, int]]:
    """The names of the full blocks of a prompt."""
    return [(s, b) for s, low, high in stream.pieces(tokens // BLOCK) for b in range(low, high)]


def same_sharing(workflows):
    """Two prompts begin with the same full blocks exactly where their token ids do."""
    groups = Groups()
    made = []
    for item in workflows:
        contexts = Contexts(item, groups, BLOCK)
        # A small vocabulary would share tokens by chance, where a stream says that rows part.
        prompts = Prompts(item, seed=1, vocab=(0, 1 << 31))
        for s in item.steps:
            ours, real = contexts.build(s), prompts.build(s)
            output = [
                Random(f"{item.workflow_id}/{s.id}/{i}").getrandbits(31) for i in range(s.output_tokens)
            ]
            prompts.finished(s, output)
            assert ours.tokens == len(real.tokens)
            assert ours.computed_before == real.computed_before, (item.workflow_id, s.id)
            made.append((blocks_of(ours.stream, ours.tokens), real.tokens.tolist()))
    random = Random(0)
    pairs = [(random.randrange(len(made)), random.randrange(len(made))) for _ in range(2000)]
    pairs += [(i, i + 1) for i in range(len(made) - 1)]
    for a, b in pairs:
        ours = shared(made[a][0], made[b][0])
        tokens = shared(made[a][1], made[b][1])
        assert ours == tokens // BLOCK, (a, b)


def shared(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_a_chain_a_branch_and_a_cut_output():
    chain = workflow(
        step(0, 40, output=20),
        step(1, 100, 60, output=30),  # appends, with the whole output
        step(2, 110, 10, output=50, ctx=1),  # appends less than was generated
        step(3, 90, 70, ctx=0, parents=(1,)),  # leaves the first prompt half-way
        step(4, 120, 80, ctx=0, parents=(1,)),  # a branch beside the chain
    )
    same_sharing([chain])


@pytest.mark.parametrize("preset", ["demo", "swe-bench-like", "webarena-like"])
def test_made_workloads_share_as_their_tokens_do(preset):
    same_sharing([fit_context(w, 8000) for w in synthesise(preset, 6, 3)])


@needs_traces
@pytest.mark.parametrize("name", ["iso-bench-trae", "entire-cli", "kv-cache-tester", "agentic-swarm-bench"])
def test_recorded_workloads_share_as_their_tokens_do(name):
    chosen = load_trace(TRACES / f"{name}.jsonl.gz")[:12:4]
    same_sharing([fit_context(w, 6000) for w in chosen if len(w.steps) < 200])
