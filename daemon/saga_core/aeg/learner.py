"""Learns what workflows of a kind do from the stream of their steps and tool calls, and says what to expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

from saga_core.aeg import work
from saga_core.aeg.levels import Level, Shelf
from saga_core.aeg.words import UNKNOWN, Estimate, Hints, Kind

LIVE = 1 << 17
"""Workflows watched at once; beyond, the oldest is forgotten as if cancelled."""
SESSIONS = 64
"""Sessions watched per workflow; beyond, the one that was silent for longest is forgotten."""


@dataclass(slots=True, eq=False)
class Session:
    """One growing context, as far as predictions need it."""

    ended_at: float | None = None
    """When its latest step finished; None while one runs."""
    tool: str = UNKNOWN
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0


@dataclass(slots=True, eq=False)
class Live:
    """A workflow under way."""

    kind: Kind
    began_at: float
    chain: tuple[Level, ...]
    hints: Hints | None = None
    work_s: float = 0.0
    steps: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)


class Learner:
    """One per cluster. Every method takes what happened in any order and repeats; the unknown is ignored."""

    def __init__(self) -> None:
        self._shelf = Shelf()
        self._live: dict[int, Live] = {}

    def began(self, workflow: int, kind: Kind, at: float, hints: Hints | None = None) -> None:
        """A workflow is known. A second time: what is known of it stays, its kind and hints are renewed."""
        known = self._live.get(workflow)
        if known is not None:
            known.kind, known.chain, known.hints = kind, self._shelf.chain(kind), hints or known.hints
            return
        self._live[workflow] = Live(kind, at, self._shelf.chain(kind), hints)
        if len(self._live) > LIVE:
            del self._live[next(iter(self._live))]

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
        live = self._live.get(workflow)
        if live is None:
            return
        live.steps += 1
        if work_s > 0.0:
            live.work_s += work_s
        state = self._session(live, session)
        state.ended_at, state.tool = at, tool
        state.prompt_tokens, state.output_tokens = prompt_tokens, output_tokens
        state.steps += 1

    def returned(self, workflow: int, session: str, *, at: float) -> None:  # noqa: ARG002
        """The session's next step arrived: its tool call is over."""
        live = self._live.get(workflow)
        state = live.sessions.get(session) if live is not None else None
        if state is None or state.ended_at is None:
            return
        state.ended_at = None

    def ended(self, workflow: int, *, at: float, complete: bool) -> None:  # noqa: ARG002
        """A workflow is over. Only a complete one says how much such workflows take."""
        live = self._live.pop(workflow, None)
        if live is None or not complete or not live.steps or live.work_s <= 0.0:
            return
        for level in self._shelf.chain(live.kind):
            level.learn(log(live.work_s), log(live.steps))

    def total_work(self, workflow: int) -> Estimate:
        """GPU-seconds of the whole workflow, given all seen of it. Samples 0: a guess without any history."""
        live = self._live.get(workflow)
        if live is None:
            return work.estimate(work.whole((), 0.0, "work"), 0.0)
        return work.estimate(work.whole(live.chain, live.work_s, "work"), live.work_s)

    @staticmethod
    def _session(live: Live, name: str) -> Session:
        state = live.sessions.get(name)
        if state is None:
            state = live.sessions[name] = Session()
            if len(live.sessions) > SESSIONS:
                del live.sessions[next(iter(live.sessions))]
        return state
