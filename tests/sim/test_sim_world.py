"""The whole simulated world: the live machines in virtual time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from engine_twins import Call
from engine_twins import simulate as simulate_engine
from trace_makers import step, workflow

from saga_core.errors import ClusterError
from saga_core.policy.profiles import PROFILES
from saga_sim.costs import AGENT_CPU, LLAMA_70B_A100
from saga_sim.experiment import Arrivals, TraceHash, fitted, quiet_config, repeated, simulate
from saga_sim.pacing import Pace
from saga_sim.pairing import compared
from saga_sim.runs import RunState
from saga_sim.streams import Stream
from saga_sim.trace.records import Tool
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec, World

BLOCK = AGENT_CPU.shape.block_tokens
SPEC = ClusterSpec(preset=AGENT_CPU, workers=3, per_node=2)


def demo(count=8, seed=0):
    return fitted(synthesise("demo", count, seed), SPEC)


@pytest.mark.parametrize("profile", PROFILES)
def test_same_seed_same_facts_at_the_same_times(profile):
    arrivals = Arrivals(per_s=0.5)
    first, _ = simulate(profile, demo(), SPEC, arrivals, seed=7)
    again, _ = simulate(profile, demo(), SPEC, arrivals, seed=7)
    other, _ = simulate(profile, demo(), SPEC, arrivals, seed=8)
    assert first.trace_hash == again.trace_hash
    assert first.trace_hash != other.trace_hash
    assert first.summary == again.summary


def test_another_process_with_other_hashes_sees_the_same_facts():
    script = (
        "from saga_sim.costs import AGENT_CPU\n"
        "from saga_sim.experiment import Arrivals, fitted, simulate\n"
        "from saga_sim.trace.synth import synthesise\n"
        "from saga_sim.world import ClusterSpec\n"
        "spec = ClusterSpec(preset=AGENT_CPU, workers=3, per_node=2)\n"
        "work = fitted(synthesise('demo', 8, 0), spec)\n"
        "print(simulate('saga-paper', work, spec, Arrivals(per_s=0.5), seed=7)[0].trace_hash)"
    )
    here, _ = simulate("saga-paper", demo(), SPEC, Arrivals(per_s=0.5), seed=7)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here.trace_hash


@pytest.mark.parametrize("profile", PROFILES)
def test_head_nodes_and_engines_are_sound_after_every_event(profile):
    def check():
        world.check()

    world = World(SPEC, quiet_config(profile), on_event=check)
    result = world.run(demo(6), Pace(arrivals_per_s=2.0))
    assert [run.state for run in result.runs] == [RunState.FINISHED] * 6
    assert world.ignored == 0
    assert not world.head.book.live


def test_residency_reaches_the_head_only_by_reports():
    """What the head holds is what the nodes have told, or the usage of a step that it saw finish."""
    told = []
    world = World(SPEC, quiet_config("sticky"))
    say = world.say
    world.say = lambda message: (told.append(message), say(message))
    tools = [Tool(kind="tool", name="x", latency_s=5.0)]
    plan = workflow(
        step(0, 2000, output=20, tool=tools[0]),
        step(1, 3000, 1000, output=10, gap_s=5.0, tool=tools[0]),
        step(2, 4000, 1000, output=10, gap_s=5.0),
    )
    seen = []

    def look():
        seen.extend(dict(worker.resident) for worker in world.head.fleet.workers.values())

    world._on_event = look
    result = world.run([plan], Pace())
    facts = {(f.session, f.tokens) for m in told for f in getattr(m, "resident", ())}
    held = {(session, tokens) for resident in seen for session, tokens in resident.items()}
    usage = {("1.main.0", s.prompt_tokens + s.output_tokens) for s in plan.steps}
    assert held <= facts | usage
    # Whole blocks: the whole first prompt and output but its last token, which was never an input.
    assert ("1.main.0", (2000 + 19) // BLOCK * BLOCK) in held
    assert [s.cached_tokens for s in result.runs[0].steps] == [
        0,
        2019 // BLOCK * BLOCK,
        3009 // BLOCK * BLOCK,
    ]


def test_a_node_that_only_goes_on_decoding_says_so_once():
    """Without faults a report that would say the same again is not made; the facts are those of nodes that repeat."""
    said = {}
    for quiet in (True, False):
        digest = TraceHash()
        world = World(SPEC, quiet_config("saga-paper"), on_fact=digest.add)
        for node in world.nodes.values():
            node._quiet = quiet
        reports = []
        world.say = lambda message, w=world, r=reports: (r.append(message), World.say(w, message))
        world.run([workflow(step(0, 1000, output=8000), step(1, 9500, 1000, output=10, gap_s=2.0))], Pace())
        assert world.clock.now > 20
        said[quiet] = (len(reports), digest.text)
    assert said[True][0] <= 12 < 20 < said[False][0]
    assert said[True][1] == said[False][1]


def test_a_step_that_does_not_fit_fails_its_workflow_with_the_reason():
    big = workflow(step(0, 20_000, output=5))
    result = World(SPEC, quiet_config("sticky")).run([big], Pace())
    assert result.runs[0].state is RunState.FAILED
    assert "20000 + 5 tokens do not fit" in result.runs[0].why


def test_times_of_a_lone_workflow_are_those_of_the_cost_table():
    costs, link = AGENT_CPU.costs, SPEC.link
    plan = workflow(step(0, 1000, output=3), step(1, 1500, 500, output=1, gap_s=2.0))
    run = World(SPEC, quiet_config("sticky")).run([plan], Pace()).runs[0]
    way = 2 * (link.client_s + link.worker_s)
    decode = 2 * (costs.step_s + costs.decode_s) + costs.context_token_s * (1000 + 1001)
    first = costs.intake_s(1000) + costs.step_s + costs.chunk_s(0, 1000)
    assert run.steps[0].ttft_s == pytest.approx(way + first)
    assert run.steps[0].duration_s == pytest.approx(way + first + decode)
    cached = 1002 // BLOCK * BLOCK
    second = costs.intake_s(1500) + costs.step_s + costs.chunk_s(cached, 1500 - cached)
    assert run.steps[1].cached_tokens == cached
    assert run.completion_s == pytest.approx(2 * way + first + decode + 2.0 + second)


def test_a_stretch_that_an_arrival_cuts_short_is_not_ended_twice():
    """One engine in the world ends its calls when the same engine, driven by hand, does."""
    spec = ClusterSpec(preset=AGENT_CPU, workers=1, per_node=1)
    plans = [
        workflow(step(0, 500, output=400), id="a", arrival_s=0.0),
        workflow(step(0, 600, output=50), id="b", arrival_s=0.7),
        workflow(step(0, 700, output=300), id="c", arrival_s=1.1),
    ]
    runs = World(spec, quiet_config("sticky")).run(plans, Pace()).runs
    way = spec.link.client_s + spec.link.worker_s
    calls = [
        Call(p.arrival_s + way, Stream(), p.steps[0].prompt_tokens, p.steps[0].output_tokens) for p in plans
    ]
    told, _ = simulate_engine(AGENT_CPU.shape, calls, costs=AGENT_CPU.costs)
    for run, alone in zip(runs, told, strict=True):
        assert run.ended_s == pytest.approx(alone.done_at + way)


def test_affinity_beats_round_robin_where_contexts_grow():
    work = fitted(
        synthesise("swe-bench-like", 40, 1), ClusterSpec(preset=LLAMA_70B_A100, workers=4, per_node=2)
    )
    spec = ClusterSpec(preset=LLAMA_70B_A100, workers=4, per_node=2)
    arrivals = Arrivals(pressure=0.3)
    turns, by_turn = simulate("round-robin", work, spec, arrivals)
    sticky, at_home = simulate("sticky", work, spec, arrivals)
    assert compared("sticky", "round-robin", [at_home], [by_turn]).geomean > 1.2
    assert sticky.summary.cached_share > turns.summary.cached_share + 0.1
    assert sticky.again_share < turns.again_share


def test_closed_loop_keeps_so_many_alive():
    alive = []
    world = World(SPEC, quiet_config("least-loaded"))
    world._on_event = lambda: alive.append(world.head.book.live)
    world.run(demo(7), Pace(time_scale=0), max_live=2)
    assert max(alive) == 2


def test_a_world_that_cannot_start_says_so():
    spec = ClusterSpec(preset=AGENT_CPU, workers=1, per_node=1)
    world = World(spec, quiet_config("sticky"))
    world.nodes.clear()
    with pytest.raises(ClusterError, match="0 of 1 simulated workers became ready"):
        world.run(demo(1), Pace())


def test_repeated_traces_keep_names_apart():
    names = [w.workflow_id for w in repeated(demo(2), 5)]
    assert names == ["demo/0/0000", "demo/0/0001", "demo/0/0000~2", "demo/0/0001~2", "demo/0/0000~3"]


def test_the_hash_tells_times_apart():
    from saga_core.events import ProfileChanged

    a, b = TraceHash(), TraceHash()
    a.add(1.0, ProfileChanged(profile="x"))
    b.add(2.0, ProfileChanged(profile="x"))
    assert a.text != b.text


def test_hashed_placement_depends_on_names_and_numbers_as_live():
    """A workflow of that number goes where the live ring of those workers puts it."""
    from saga_core.fleet import Pool, Worker
    from saga_core.ids import NodeId, WorkerId
    from saga_core.states import WorkerState

    spec = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2, names=("local",), workflows_before=41)
    placed = []
    world = World(
        spec, quiet_config("sticky"), on_fact=lambda _, f: placed.append(getattr(f, "worker", None))
    )
    world.run([workflow(step(0, 100), id=f"w{i}") for i in range(6)], Pace())
    pool = Pool()
    for name in ("local/0", "local/1"):
        pool.add(Worker(WorkerId(name), NodeId("local"), "m", state=WorkerState.READY))
    due = [pool.hashed(f"workflow {number}").id for number in range(42, 48)]
    assert len(set(due)) == 2
    assert world.head.book.last_workflow == 47
    assert [world.head.book.workflows[n].home for n in range(42, 48)] == due
