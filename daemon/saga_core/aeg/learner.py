"""Learns what workflows do from the stream of their steps and tool calls, and says what to expect.

Rules of this file
  1. Times come from the caller. Events may come late, twice, or about the unknown: what makes no sense is ignored.
  2. Every prediction is scored, before the outcome is learned, as it would have been given just before.
  3. A workflow that was cancelled teaches its pauses and tools, never how much such workflows take.
  4. All memory is bounded: live workflows, their sessions, levels, programs, tools, contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import exp, inf, log

from saga_core.aeg import hints as hinted
from saga_core.aeg import pauses, work
from saga_core.aeg.hints import Trust
from saga_core.aeg.levels import Key, Shelf, keys
from saga_core.aeg.program import Program, Programs
from saga_core.aeg.scores import (
    HINT,
    MARKS,
    NEXT_TOOL,
    RETURN,
    WORK,
    ProgramScores,
    Scores,
    pooled,
    summary,
)
from saga_core.aeg.sequel import Past, next_past
from saga_core.aeg.words import UNKNOWN, Estimate, Hints, Kind

LIVE = 1 << 17
"""Workflows watched at once; beyond, the oldest is forgotten as if cancelled."""
WATCHED = 256
"""Of these, how many stand for all when a curve is drawn."""
SESSIONS = 64
"""Sessions watched per workflow; beyond, the oldest is forgotten."""
TENANTS = 512
"""Tenants whose hints are judged."""
START = "^"
"""Stands before the first tool of a session."""
COMPACTED = 0.7
"""A prompt shorter than this share of the one before was summarised: no growth."""
MOST_TOKENS = 1 << 31
MOST_S = 1e9
"""Beyond any true count or duration: a client's nonsense."""


@dataclass(slots=True, eq=False)
class Session:
    """One growing context, as far as predictions need it."""

    past: Past = (START,)
    tool: str = START
    """What its latest step asked for."""
    ended_at: float | None = None
    """When that step finished; None while one runs."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0


@dataclass(slots=True, eq=False)
class Live:
    """A workflow under way."""

    kind: Kind
    keys: tuple[Key, ...]
    hints: Hints | None = None
    steps_hint: float | None = None
    node: int = -1
    """Where it is in its declared graph (-1: before it, -2: off course)."""
    work_s: float = 0.0
    steps: int = 0
    last_tool: str = UNKNOWN
    sessions: dict[str, Session] = field(default_factory=dict)
    guesses: list[tuple[float, work.Spot, float]] = field(default_factory=list)
    """At steps 0, 1, 2, 4, 8, …: work attained, what was expected then, what the class's median said."""


class Learner:
    """One per cluster."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.programs = Programs()
        self.live: dict[int, Live] = {}
        self.trusts: dict[str, Trust] = {}

    def began(self, workflow: int, kind: Kind, at: float, hints: Hints | None = None) -> None:  # noqa: ARG002
        """A workflow is known. A second time: its kind and hints are renewed, what it did stays."""
        live = self.live.get(workflow)
        if live is None:
            live = self.live[workflow] = Live(kind, keys(kind))
            if len(self.live) > LIVE:
                del self.live[next(iter(self.live))]
        elif live.kind != kind:
            live.kind, live.keys = kind, keys(kind)
        if hints is not None:
            live.hints, live.steps_hint = hints, hinted.declared_steps(hints)
        if not live.guesses:
            self._guess(live)

    def stepped(
        self,
        workflow: int,
        session: str,
        *,
        at: float,
        work_s: float,
        prompt_tokens: int,
        output_tokens: int,
        tool: str = UNKNOWN,
    ) -> None:
        """A step finished and asked for `tool`."""
        live = self.live.get(workflow)
        if live is None:
            return
        prompt = _tokens(prompt_tokens)
        output = _tokens(output_tokens)
        live.steps += 1
        if 0.0 < work_s < MOST_S:
            live.work_s += work_s
        if live.steps == 1:
            live.keys = keys(live.kind, prompt)
        state = live.sessions.get(session) or _open(live, session)
        program = self._program(live)
        program.steps += 1
        before = program.tool(state.tool)
        if state.steps:
            grown = prompt - state.prompt_tokens - state.output_tokens
            if prompt >= COMPACTED * state.prompt_tokens:
                before.growth.add(max(0, grown))
        before.output.add(output)
        if tool:
            self._next(program, live, state, tool)
        asked = program.tool(tool)
        asked.ends.ask()
        program.ends.ask()
        live.last_tool = tool
        state.tool, state.ended_at = tool, at
        state.prompt_tokens, state.output_tokens = prompt, output
        state.steps += 1
        if live.steps & (live.steps - 1) == 0:
            self._guess(live)

    def _next(self, program: Program, live: Live, state: Session, tool: str) -> None:
        past = state.past
        guess = program.sequel.next(past)[0]
        commonest = program.sequel.next(())[0]
        program.score(NEXT_TOOL, guess != tool, commonest != tool, within=guess == tool)
        program.sequel.add(past, tool)
        if program.steps <= Programs.YOUNG_STEPS:
            self.programs.pool.sequel.add(past, tool)
        state.past = next_past(past, tool)
        if live.hints is not None and live.hints.graph:
            live.node = hinted.follow(live.hints.graph, live.node, tool)

    def returned(self, workflow: int, session: str, *, at: float) -> None:
        """The session's next step arrived: its tool call is over."""
        live = self.live.get(workflow)
        state = live.sessions.get(session) if live is not None else None
        if live is None or state is None or state.ended_at is None:
            return
        pause_s = at - state.ended_at
        state.ended_at = None
        if not 0.0 <= pause_s < MOST_S:
            return
        program = self._program(live)
        known = program.tool(state.tool).pauses
        if known.ring.ordered:
            low, middle, high, _ = known.left(0.0)
            known.score(pause_s)
            happened = log(1.0 + pause_s)
            program.score(
                RETURN,
                abs(log(1.0 + middle) - happened),
                abs(log(1.0 + pauses.LINDY_S) - happened),
                within=low <= pause_s <= high,
            )
        known.ring.add(pause_s)
        if program.steps <= Programs.YOUNG_STEPS:
            self.programs.pool.tool(state.tool).pauses.ring.add(pause_s)

    def ended(self, workflow: int, *, at: float, complete: bool) -> None:  # noqa: ARG002
        """A workflow is over. Only a complete one says how much such workflows take."""
        live = self.live.pop(workflow, None)
        if live is None or not live.steps:
            return
        if not complete:
            self._unasked(live)
            return
        program = self._program(live)
        program.ends.last += 1.0
        program.tool(live.last_tool).ends.last += 1.0
        if live.work_s <= 0.0:
            return
        log_work = log(live.work_s)
        self._score_work(program, live, log_work)
        self._judge_hints(live, log_work)
        due = [key for key in live.keys if self.shelf.learn(key, log_work, log(live.steps))]
        if due:
            self._draw(due)

    def _draw(self, due: Sequence[Key]) -> None:
        """Draw the curves of these levels, with what is under way (a sample of it, where that is much)."""
        stride = 1 + len(self.live) // WATCHED
        under_way: dict[Key, list[tuple[float, float]]] = {key: [] for key in due}
        for live in islice(self.live.values(), 0, None, stride):
            if live.work_s <= 0.0:
                continue
            at = log(live.work_s), log(live.steps)
            for key in live.keys:
                if key in under_way:
                    under_way[key].append(at)
        for key, known in under_way.items():
            self.shelf.draw(key, known, float(stride))

    def total_work(self, workflow: int) -> Estimate:
        """GPU-seconds of the whole workflow, given all seen of it. Samples 0: a guess without any history."""
        live = self.live.get(workflow)
        if live is None:
            return work.estimate(work.whole({}, (), 0.0), 0.0)
        return work.estimate(self._spot(live), live.work_s)

    def remaining_work(self, workflow: int) -> Estimate:
        """GPU-seconds still to come."""
        live = self.live.get(workflow)
        return work.rest(self.total_work(workflow), live.work_s if live is not None else 0.0)

    def remaining_steps(self, workflow: int) -> Estimate:
        """Steps still to come."""
        live = self.live.get(workflow)
        if live is None:
            return work.estimate(work.whole({}, (), 0.0), 0.0)
        spot = work.whole(self.shelf.levels, live.keys, live.steps, steps=True)
        return work.rest(work.estimate(spot, live.steps), live.steps)

    def next_tool(self, workflow: int, session: str) -> tuple[str, float]:
        """The tool that the session's next step will ask for, and its probability; ("", 0): no idea."""
        live = self.live.get(workflow)
        if live is None:
            return UNKNOWN, 0.0
        if live.hints is not None and live.hints.graph:
            declared = hinted.likeliest(live.hints.graph, live.node)
            if declared is not None:
                return declared
        state = live.sessions.get(session)
        past = state.past if state is not None else (START,)
        found = self._program(live).sequel.next(past)
        return found if found[1] else self.programs.pool.sequel.next(past)

    def return_in(self, workflow: int, session: str, elapsed_s: float) -> Estimate:
        """Seconds until the session's next step arrives, given that it has been away for `elapsed_s`."""
        elapsed_s = elapsed_s if 0.0 <= elapsed_s < MOST_S else 0.0
        live = self.live.get(workflow)
        state = live.sessions.get(session) if live is not None else None
        if live is None or state is None:
            return pauses.estimate(pauses.lindy(elapsed_s), "Lindy", 0)
        known = self._program(live).tools.get(state.tool)
        if known is not None and known.pauses.trusted:
            source = "Lindy: the tool surprises" if known.pauses.beaten else "tool of the program"
            return pauses.estimate(known.pauses.left(elapsed_s), source, len(known.pauses.ring.ordered))
        shared = self.programs.pool.tools.get(state.tool)
        if shared is not None and shared.pauses.trusted:
            return pauses.estimate(
                shared.pauses.left(elapsed_s), "tool of all programs", len(shared.pauses.ring.ordered)
            )
        return pauses.estimate(pauses.lindy(elapsed_s), "Lindy", 0)

    def growth(self, workflow: int, session: str) -> Estimate:
        """Tokens that the next prompt adds to the latest prompt and output of the session."""
        live = self.live.get(workflow)
        state = live.sessions.get(session) if live is not None else None
        if live is None or state is None:
            return GUESS_GROWTH
        known = self._program(live).tools.get(state.tool)
        if known is None or not known.growth.samples:
            return GUESS_GROWTH
        return known.growth.estimate("tool of the program")

    def output(self, workflow: int, session: str) -> Estimate:
        """Tokens that the session's next (or running) step writes."""
        live = self.live.get(workflow)
        if live is None:
            return GUESS_OUTPUT
        state = live.sessions.get(session)
        known = self._program(live).tools.get(state.tool if state is not None else START)
        if known is None or not known.output.samples:
            return GUESS_OUTPUT
        return known.output.estimate("tool of the program")

    def end_probability(self, workflow: int, session: str, elapsed_s: float = 0.0) -> float:
        """That the session's latest step was the workflow's last, given that nothing came for `elapsed_s`."""
        live = self.live.get(workflow)
        state = live.sessions.get(session) if live is not None else None
        if live is None or state is None:
            return 0.0
        program = self._program(live)
        last = program.end_probability(state.tool)
        known = program.tools.get(state.tool)
        if known is None or not elapsed_s > 0.0:
            return last
        still = known.pauses.survive(elapsed_s)
        return last / (last + (1.0 - last) * still) if last > 0.0 else 0.0

    def scores(self) -> Scores:
        """How good the predictions have been of late."""
        programs = self.programs.by_name
        return Scores(
            overall=summary(pooled(program.tallies for program in programs.values())),
            programs=tuple(
                ProgramScores(tenant=tenant, agent_type=agent_type, scores=summary(program.tallies))
                for (tenant, agent_type), program in programs.items()
                if program.tallies
            ),
        )

    def _program(self, live: Live) -> Program:
        kind = live.kind
        program = self.programs.by_name.get((kind.tenant, kind.agent_type))
        return program if program is not None else self.programs.at(kind.tenant, kind.agent_type)

    def _unasked(self, live: Live) -> None:
        """The last step of a cancelled workflow neither ended it nor went on: it is taken out of the count."""
        program = self._program(live)
        for ends in (program.ends, program.tool(live.last_tool).ends):
            ends.asked = max(ends.asked - 1.0, ends.last)

    def _spot(self, live: Live) -> work.Spot:
        """Where the whole work is expected: as declared, if that has proved better, else from the history."""
        own = work.whole(self.shelf.levels, live.keys, live.work_s)
        log_hint = self._log_hint(live, own)
        if log_hint is None:
            return own
        trust = self.trusts.get(live.kind.tenant) or Trust()
        low, middle, high = trust.band(log_hint)
        if trust.beaten or (live.work_s > 0.0 and log(live.work_s) > middle):
            return own
        return low, middle, high, max(1, len(trust.ratios.ordered)), work.DECLARED

    def _log_hint(self, live: Live, own: work.Spot) -> float | None:
        said = hinted.declared_log_work(live.hints)
        if said is not None or live.steps_hint is None:
            return said
        if live.steps and live.work_s > 0.0:
            return log(live.work_s / live.steps * max(live.steps_hint, live.steps))
        if own[3] == 0:
            return None
        steps = work.whole(self.shelf.levels, live.keys, 0.0, steps=True)
        return own[1] - steps[1] + log(live.steps_hint)

    def _guess(self, live: Live) -> None:
        """Note what is expected now, to be scored when it is over."""
        program_key = live.keys[-3] if live.kind.agent_type else live.keys[-2]
        median = work.whole(self.shelf.levels, (program_key,), 0.0)
        if median[3]:
            live.guesses.append((live.work_s, self._spot(live), median[1]))

    def _score_work(self, program: Program, live: Live, log_work: float) -> None:
        for mark, what in zip(MARKS, WORK, strict=True):
            known = [guess for guess in live.guesses if guess[0] <= mark * live.work_s]
            if not known:
                continue
            attained, (low, middle, high, _, _), median = known[-1]
            floor = log(attained) if attained > 0.0 else -inf
            program.score(
                what,
                abs(max(middle, floor) - log_work),
                abs(max(median, floor) - log_work),
                within=low <= log_work <= high,
            )

    def _judge_hints(self, live: Live, log_work: float) -> None:
        own = work.whole(self.shelf.levels, live.keys, 0.0)
        live.work_s, steps, live.steps = 0.0, live.steps, 0
        log_hint = self._log_hint(live, own)
        live.steps, live.work_s = steps, exp(log_work)
        if log_hint is None:
            return
        tenant = live.kind.tenant
        trust = self.trusts.pop(tenant, None) or Trust()
        self.trusts[tenant] = trust
        if len(self.trusts) > TENANTS:
            del self.trusts[next(iter(self.trusts))]
        error = abs(log_hint + trust.bias - log_work)
        self._program(live).score(HINT, error, abs(own[1] - log_work) if own[3] else error, within=True)
        trust.learn(log_work, log_hint, own[1] if own[3] else None)


GUESS_GROWTH = Estimate(1000.0, 100.0, 4000.0, "nothing known: half the reserve of the study", 0, 700.0)
GUESS_OUTPUT = Estimate(300.0, 40.0, 900.0, "nothing known: what coding agents write", 0, 160.0)


def _tokens(count: int) -> int:
    return count if 0 <= count <= MOST_TOKENS else 0 if count < 0 else MOST_TOKENS


def _open(live: Live, name: str) -> Session:
    state = live.sessions[name] = Session()
    if len(live.sessions) > SESSIONS:
        del live.sessions[next(iter(live.sessions))]
    return state
