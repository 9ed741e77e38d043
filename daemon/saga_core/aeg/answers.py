"""What to expect, from what is remembered. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from saga_core.aeg import hints as hinted
from saga_core.aeg import paper, pauses, work
from saga_core.aeg.hints import Trust
from saga_core.aeg.live import START, Live, Session
from saga_core.aeg.memory import Memory
from saga_core.aeg.words import UNKNOWN, Estimate

STRANGER = Trust()
GUESS_GROWTH = Estimate(1000.0, 100.0, 4000.0, "nothing known: half the reserve of the study", 0, 700.0)
GUESS_OUTPUT = Estimate(300.0, 40.0, 900.0, "nothing known: what coding agents write", 0, 160.0)
PROGRAM = "tool of the program"


def whole_work(memory: Memory, live: Live) -> work.Spot:
    """Where the whole work is expected: as declared, if that has not proved worse, else from the history."""
    own = work.whole(memory.shelf.levels, live.keys, live.work_s)
    log_hint = log_work_hint(memory, live, own, live.work_s, live.steps) if live.hints is not None else None
    if log_hint is None:
        return own
    trust = memory.trusts.get(live.kind.tenant, STRANGER)
    low, middle, high = trust.band(log_hint)
    if trust.beaten or (live.work_s > 0.0 and log(live.work_s) > middle):
        return own
    return low, middle, high, max(1, len(trust.ratios.ordered)), work.DECLARED


def log_work_hint(memory: Memory, live: Live, own: work.Spot, work_s: float, steps: int) -> float | None:
    """The client's word in GPU-seconds: as said, or its steps at the price of those so far or of its class."""
    said = hinted.declared_log_work(live.hints)
    if said is not None or live.steps_hint is None:
        return said
    if steps and work_s > 0.0:
        return log(work_s / steps * max(live.steps_hint, steps))
    if own[3] == 0:
        return None
    usual = work.whole(memory.shelf.levels, live.keys, 0.0, steps=True)
    return own[1] - usual[1] + log(live.steps_hint)


def remaining_steps(memory: Memory, live: Live) -> Estimate:
    spot = work.whole(memory.shelf.levels, live.keys, live.steps, steps=True)
    return work.rest(work.estimate(spot, live.steps), live.steps)


def next_tool(memory: Memory, live: Live, session: str) -> tuple[str, float]:
    if live.graph:
        declared = hinted.likeliest(live.graph, live.node)
        if declared is not None:
            return declared
    state = live.sessions.get(session)
    past = state.past if state is not None else (START,)
    found = memory.program(live).sequel.next(past)
    return found if found[1] else memory.programs.pool.sequel.next(past)


def return_in(memory: Memory, workflow: int, session: str, elapsed_s: float) -> Estimate:
    known = memory.session(workflow, session)
    if known is None:
        return pauses.estimate(pauses.lindy(elapsed_s), "Lindy", 0)
    live, state = known
    tool = memory.program(live).tools.get(state.tool)
    if tool is not None and tool.pauses.trusted:
        surprising = tool.pauses.beaten and elapsed_s >= pauses.LINDY_S
        source = "Lindy: the tool surprises" if surprising else PROGRAM
        return pauses.estimate(tool.pauses.left(elapsed_s), source, len(tool.pauses.ring.ordered))
    shared = memory.programs.pool.tools.get(state.tool)
    if shared is not None and shared.pauses.trusted:
        left = shared.pauses.left(elapsed_s)
        return pauses.estimate(left, "tool of all programs", len(shared.pauses.ring.ordered))
    return pauses.estimate(pauses.lindy(elapsed_s), "Lindy", 0)


def latencies_s(memory: Memory, workflow: int, session: str) -> Sequence[float]:
    """The latest return times of the tool that the session waits for, ascending: of its program, else of all."""
    known = memory.session(workflow, session)
    if known is None:
        return ()
    live, state = known
    tool = memory.program(live).tools.get(state.tool)
    if tool is None or not tool.pauses.ring.ordered:
        tool = memory.programs.pool.tools.get(state.tool)
    return tool.pauses.ring.ordered if tool is not None else ()


def return_probability(memory: Memory, workflow: int, session: str, elapsed_s: float) -> float:
    known = memory.session(workflow, session)
    if known is None or known[0].is_first(session):
        return 1.0
    program, tool = memory.program(known[0]), known[1].tool
    stops = program.stop_probability(tool)
    learned = program.tools.get(tool)
    goes_on = (1.0 - stops) * (learned.pauses.survive(elapsed_s) if learned is not None else 1.0)
    return goes_on / (stops + goes_on) if goes_on > 0.0 else 0.0


def reuse(memory: Memory, workflow: int, session: str, cached_tokens: float) -> float:
    """P_reuse of the SAGA paper for a session between two steps; 0 of an agent type that is not known yet.

    On the declared graph as long as the workflow keeps to it, else on the inferred one (`aeg.paper`).
    """
    known = memory.session(workflow, session)
    if known is None:
        return 0.0
    live, state = known
    new_tokens = growth(memory, workflow, session).mean
    if live.graph and live.node >= 0:
        goes_on = sum(share for _, share in live.graph[live.node].next)
    else:
        goes_on = _inferred(memory, live, state)
    return paper.reuse_probability([(goes_on, new_tokens)], cached_tokens)


def _inferred(memory: Memory, live: Live, state: Session) -> float:
    level = memory.shelf.levels.get(live.class_key[0])
    if level is None or level.learned < paper.COLD_START_WORKFLOWS:
        return 0.0
    program = memory.program(live)
    fork = program.sequel.forks.get((state.tool,))
    end = program.end_probability(state.tool)
    return paper.continuation(fork.counts if fork else {}, end, remaining_steps(memory, live).median)


def steps_until(memory: Memory, workflow: int, session: str) -> float:
    """Steps of the workflow until the session's next one, which is 1 where it is the very next; inf: never.

    On a declared graph that names sessions, along its shortest way. Else by how many steps of others came between
    two of a session in such programs: the median of those that are not excluded yet, and as many again beyond.
    """
    known = memory.session(workflow, session)
    if known is None:
        return 1.0
    live, state = known
    if live.graph and live.node >= 0:
        return hinted.steps_until(live.graph, live.node, session)
    if len(live.sessions) == 1:
        return 1.0
    past = live.steps - state.at_step
    ordered = memory.program(live).distances.ordered
    first = memory.program(live).distances.above(past)
    left = ordered[first + (len(ordered) - first) // 2] - past if first < len(ordered) else past
    return max(1.0, left)


def growth(memory: Memory, workflow: int, session: str) -> Estimate:
    known = memory.session(workflow, session)
    tool = memory.program(known[0]).tools.get(known[1].tool) if known is not None else None
    if tool is None or not tool.growth.samples:
        return GUESS_GROWTH
    return tool.growth.estimate(PROGRAM)


def output(memory: Memory, live: Live, session: str) -> Estimate:
    state = live.sessions.get(session)
    tool = memory.program(live).tools.get(state.tool if state is not None else START)
    if tool is None or not tool.output.samples:
        return GUESS_OUTPUT
    return tool.output.estimate(PROGRAM)


def end_probability(memory: Memory, workflow: int, session: str, elapsed_s: float) -> float:
    known = memory.session(workflow, session)
    if known is None:
        return 0.0
    program, name = memory.program(known[0]), known[1].tool
    last = program.end_probability(name if name != START else UNKNOWN)
    tool = program.tools.get(name)
    if tool is None or not elapsed_s > 0.0 or last <= 0.0:
        return last
    return last / (last + (1.0 - last) * tool.pauses.survive(elapsed_s))
