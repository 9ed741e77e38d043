"""Workflows under way, as far as predictions need them."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.aeg.levels import PROGRAM, Keys
from saga_core.aeg.sequel import Past
from saga_core.aeg.words import UNKNOWN, Declared, Hints, Kind
from saga_core.aeg.work import Spot

SESSIONS = 64
"""Sessions watched per workflow; beyond, the oldest is forgotten."""
START = "^"
"""Stands before the first tool of a session."""
MOST_TOKENS = 1 << 31
"""Beyond any true count: a client's nonsense."""


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
    at_step: int = 0
    """Steps of its workflow when its own latest one had finished."""


@dataclass(slots=True, eq=False)
class Live:
    """A workflow under way."""

    kind: Kind
    keys: Keys
    hints: Hints | None = None
    steps_hint: float | None = None
    graph: tuple[Declared, ...] = ()
    """As declared, if it is sound."""
    node: int = -1
    """Where it is in its declared graph (-1: before it, -2: off course)."""
    work_s: float = 0.0
    steps: int = 0
    first_prompt_tokens: int = 0
    last_tool: str = UNKNOWN
    first_session: str | None = None
    last_session: str = ""
    """Whose the first step was, and the latest."""
    sessions: dict[str, Session] = field(default_factory=dict)
    guesses: list[tuple[float, Spot, float]] = field(default_factory=list)
    """At steps 0, 1, 2, 4, 8, …: work attained, what was expected then, what the class's median said."""
    mark: int = 0
    """Grows with each workflow that begins: its place among them (`Row` keeps it)."""

    @property
    def class_key(self) -> Keys:
        """The key of its program, whose median is the simple rule to beat."""
        return ((PROGRAM, self.kind.tenant, self.kind.agent_type, ""),)

    def is_first(self, session: str) -> bool:
        return session == self.first_session

    def session(self, name: str) -> Session:
        """The session of that name, opened if need be."""
        known = self.sessions.get(name)
        if self.first_session is None:
            self.first_session = name
        if known is None:
            known = self.sessions[name] = Session()
            if len(self.sessions) > SESSIONS:
                del self.sessions[next(iter(self.sessions))]
        return known


def bounded(tokens: int) -> int:
    """A count of tokens, whatever a client says."""
    return min(max(tokens, 0), MOST_TOKENS)
