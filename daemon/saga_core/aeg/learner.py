"""Learns what workflows do from the stream of their steps and tool calls, and says what to expect.

Rules of this file
  1. Times come from the caller. Events may come late, twice, or about the unknown: what makes no sense is ignored.
  2. Every prediction is scored, before the outcome is learned, as it would have been given just before.
  3. A workflow that was cancelled teaches its pauses and tools, never how much such workflows take.
  4. All memory is bounded: live workflows, their sessions, levels, programs, tools, contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

from saga_core.aeg import answers, work
from saga_core.aeg import hints as hinted
from saga_core.aeg import scores as scored
from saga_core.aeg.levels import keys
from saga_core.aeg.live import Live, Session, bounded
from saga_core.aeg.memory import Memory
from saga_core.aeg.program import Program, Programs
from saga_core.aeg.sequel import next_past
from saga_core.aeg.words import UNKNOWN, Estimate, Hints, Kind

COMPACTED = 0.7
"""A prompt shorter than this share of the one before was summarised: no growth."""
MOST_S = 1e9
"""Beyond any true duration: a client's nonsense, or a clock that was set."""
NAME_CHARS = 128
"""Of a tool's name; the rest says nothing."""
EACH = 3
"""Growth and output are scored at every fourth step, the end in every fourth workflow (masks)."""


class Learner:
    """One per cluster."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()

    def began(
        self,
        workflow: int,
        kind: Kind,
        hints: Hints | None = None,
        *,
        prompt_tokens: int = 0,
    ) -> None:
        """A workflow is known, and if its first step has arrived about how long that prompt is (0: not yet).

        A second time: its kind and hints are renewed, what it did stays. The length may be a guess from bytes, as
        long as it is always guessed alike.
        """
        live = self.memory.live.get(workflow)
        opening = bounded(prompt_tokens)
        if live is None:
            live = Live(kind, keys(kind, opening), first_prompt_tokens=opening)
            self.memory.watch(workflow, live)
        elif live.kind != kind or (opening and not live.first_prompt_tokens):
            live.first_prompt_tokens = live.first_prompt_tokens or opening
            live.kind, live.keys = kind, keys(kind, live.first_prompt_tokens)
        self.memory.programs.at(kind.tenant, kind.agent_type)
        if hints is not None:
            live.hints, live.steps_hint = hints, hinted.declared_steps(hints)
            live.graph = hints.graph if hinted.sound(hints.graph) else ()
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
        """A step finished and asked for `tool`. `work_s` is its cost in GPU-seconds, not its duration."""
        live = self.memory.live.get(workflow)
        if live is None:
            return
        prompt, output, tool = bounded(prompt_tokens), bounded(output_tokens), tool[:NAME_CHARS]
        live.steps += 1
        if 0.0 < work_s < MOST_S:
            live.work_s += work_s
        if not live.first_prompt_tokens:
            live.first_prompt_tokens = prompt
            live.keys = keys(live.kind, prompt)
        state = live.session(session)
        program = self.memory.program(live)
        program.steps += 1
        if live.steps > 1 and workflow & EACH == 0:
            program.score_end(live.last_tool, last=False)
        self._sizes(program, live, state, prompt, output)
        if tool:
            self._next(program, live, state, tool)
        program.tool(tool).ends.ask()
        program.ends.ask()
        if not live.is_first(session):
            program.tool(tool).stops.ask()
            program.stops.ask()
        live.last_tool = state.tool = tool
        live.last_session = session
        state.ended_at = at
        state.prompt_tokens, state.output_tokens = prompt, output
        if state.steps and len(live.sessions) > 1:
            program.distances.add(float(live.steps - state.at_step))
        state.steps += 1
        state.at_step = live.steps
        if live.steps & (live.steps - 1) == 0:
            self._guess(live)

    def _sizes(self, program: Program, live: Live, state: Session, prompt: int, output: int) -> None:
        """Learn how much the prompt grew and how much was written, after the tool before."""
        before = program.tool(state.tool)
        sample = live.steps & EACH == 0
        if sample and before.output.samples:
            program.score(scored.OUTPUT, *before.output.errors(output))
        before.output.add(output)
        if state.steps and prompt >= COMPACTED * state.prompt_tokens:
            grown = max(prompt - state.prompt_tokens - state.output_tokens, 0)
            if sample and before.growth.samples:
                program.score(scored.GROWTH, *before.growth.errors(grown))
            before.growth.add(grown)

    def _next(self, program: Program, live: Live, state: Session, tool: str) -> None:
        """Learn which tool came after the tools before."""
        past = state.past
        guess, commonest = program.sequel.next(past)[0], program.sequel.next(())[0]
        program.score(scored.NEXT_TOOL, guess != tool, commonest != tool, guess == tool)
        program.sequel.add(past, tool)
        if program.steps <= Programs.YOUNG_STEPS:
            self.memory.programs.pool.sequel.add(past, tool)
        state.past = next_past(past, tool)
        if live.graph:
            live.node = hinted.follow(live.graph, live.node, tool)

    def returned(self, workflow: int, session: str, *, at: float, tool: str = UNKNOWN) -> None:
        """The session's next step arrived: its tool call is over. `tool`: which it was, where only now somebody says."""
        found = self.memory.session(workflow, session)
        if found is None or found[1].ended_at is None:
            return
        live, state = found
        if tool and state.tool == UNKNOWN:
            self._name(live, session, state, tool[:NAME_CHARS])
        pause_s = at - found[1].ended_at
        state.ended_at = None
        if not 0.0 <= pause_s < MOST_S:
            return
        program = self.memory.program(live)
        known = program.tool(state.tool).pauses
        if known.ring.ordered:
            program.score(scored.RETURN, *known.judge(pause_s))
        known.ring.add(pause_s)
        if program.steps <= Programs.YOUNG_STEPS:
            self.memory.programs.pool.tool(state.tool).pauses.ring.add(pause_s)

    def _name(self, live: Live, session: str, state: Session, tool: str) -> None:
        """The session's latest step asked for `tool`, as is known now that it is back."""
        program = self.memory.program(live)
        self._next(program, live, state, tool)
        program.tool(UNKNOWN).ends.unask()
        program.tool(tool).ends.ask()
        if not live.is_first(session):
            program.tool(UNKNOWN).stops.unask()
            program.tool(tool).stops.ask()
        if live.last_tool == UNKNOWN:
            live.last_tool = tool
        state.tool = tool

    def ended(self, workflow: int, *, complete: bool) -> None:
        """A workflow is over. Only a complete one says how much such workflows take."""
        live = self.memory.forget(workflow)
        if live is None or not live.steps:
            return
        program = self.memory.program(live)
        if not complete:
            program.unask(live.last_tool)
            return
        if workflow & EACH == 0:
            program.score_end(live.last_tool, last=True)
        program.end(live.last_tool)
        for name, state in live.sessions.items():
            if state.ended_at is not None and name != live.last_session and not live.is_first(name):
                program.stop(state.tool)
        if live.work_s > 0.0:
            self._score_work(program, live)
            self._judge_hints(program, live)
            self.memory.finished(live)

    def total_work(self, workflow: int) -> Estimate:
        """GPU-seconds of the whole workflow, given all seen of it. Samples 0: a guess without any history."""
        live = self.memory.live.get(workflow)
        if live is None:
            return work.NOTHING
        return work.estimate(answers.whole_work(self.memory, live), live.work_s)

    def remaining_work(self, workflow: int) -> Estimate:
        """GPU-seconds still to come."""
        live = self.memory.live.get(workflow)
        return work.rest(self.total_work(workflow), live.work_s if live is not None else 0.0)

    def remaining_steps(self, workflow: int) -> Estimate:
        """Steps still to come."""
        live = self.memory.live.get(workflow)
        return answers.remaining_steps(self.memory, live) if live is not None else work.NOTHING

    def next_tool(self, workflow: int, session: str) -> tuple[str, float]:
        """The tool that the session's next step will ask for, and its probability; ("", 0): no idea."""
        live = self.memory.live.get(workflow)
        return answers.next_tool(self.memory, live, session) if live is not None else (UNKNOWN, 0.0)

    def return_in(self, workflow: int, session: str, elapsed_s: float) -> Estimate:
        """Seconds until the session's next step arrives, given that it has been away for `elapsed_s`."""
        elapsed_s = elapsed_s if 0.0 <= elapsed_s < MOST_S else 0.0
        return answers.return_in(self.memory, workflow, session, elapsed_s)

    def return_probability(self, workflow: int, session: str, elapsed_s: float) -> float:
        """That the session steps again, given that it has been away for `elapsed_s` and its workflow goes on."""
        return answers.return_probability(self.memory, workflow, session, elapsed_s)

    def latencies_s(self, workflow: int, session: str) -> Sequence[float]:
        """The latest return times of the tool that the session waits for, ascending."""
        return answers.latencies_s(self.memory, workflow, session)

    def reuse(self, workflow: int, session: str, cached_tokens: float) -> float:
        """That the session's KV serves its next step: P_reuse of the SAGA paper, Eqs. 4 and 5."""
        return answers.reuse(self.memory, workflow, session, cached_tokens)

    def steps_until(self, workflow: int, session: str) -> float:
        """Steps of the workflow until the session's next one; 1: the very next, inf: never."""
        return answers.steps_until(self.memory, workflow, session)

    def growth(self, workflow: int, session: str) -> Estimate:
        """Tokens that the next prompt adds to the latest prompt and output of the session."""
        return answers.growth(self.memory, workflow, session)

    def output(self, workflow: int, session: str) -> Estimate:
        """Tokens that the session's next (or running) step writes."""
        live = self.memory.live.get(workflow)
        return answers.output(self.memory, live, session) if live is not None else answers.GUESS_OUTPUT

    def end_probability(self, workflow: int, session: str, elapsed_s: float = 0.0) -> float:
        """That the session's latest step was the workflow's last, given that nothing came for `elapsed_s`."""
        return answers.end_probability(self.memory, workflow, session, elapsed_s)

    def scores(self) -> scored.Scores:
        """How good the predictions have been of late."""
        return scored.scores(
            {name: program.tallies for name, program in self.memory.programs.by_name.items()}
        )

    def _guess(self, live: Live) -> None:
        """Note what is expected now, to be scored when it is over."""
        median = work.whole(self.memory.shelf.levels, live.class_key, 0.0)
        if median[3]:
            live.guesses.append((live.work_s, answers.whole_work(self.memory, live), median[1]))

    def _score_work(self, program: Program, live: Live) -> None:
        log_work = log(live.work_s)
        for mark, what in zip(scored.MARKS, scored.WORK, strict=True):
            known = [guess for guess in live.guesses if guess[0] <= mark * live.work_s]
            if not known:
                continue
            attained, (low, middle, high, _, _), median = known[-1]
            floor = log(attained) if attained > 0.0 else -inf
            error, rule = abs(max(middle, floor) - log_work), abs(max(median, floor) - log_work)
            program.score(what, error, rule, low <= log_work <= high)

    def _judge_hints(self, program: Program, live: Live) -> None:
        if live.hints is None:
            return
        own = work.whole(self.memory.shelf.levels, live.keys, 0.0)
        log_hint = answers.log_work_hint(self.memory, live, own, 0.0, 0)
        if log_hint is None:
            return
        log_work, log_own = log(live.work_s), own[1] if own[3] else None
        trust = self.memory.trust(live.kind.tenant)
        low, middle, high = trust.band(log_hint)
        error = abs(middle - log_work)
        rule = error if log_own is None else abs(log_own - log_work)
        program.score(scored.HINT, error, rule, low <= log_work <= high)
        trust.learn(log_work, log_hint, log_own)
