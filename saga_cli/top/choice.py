"""Which workflows are shown, and in what order: pure functions of what a person chose."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from saga_cli.tables import standing
from saga_cli.top.columns import WORKFLOWS, Column, Moment
from saga_core.errors import UserError, choose
from saga_core.states import ENDED
from saga_core.views import ClusterView, WorkflowView

FIELDS: Final[Mapping[str, Callable[[WorkflowView], str]]] = {
    "agent": lambda w: w.agent_type,
    "home": lambda w: w.home or "",
    "id": lambda w: str(w.id),
    "name": lambda w: w.name,
    "state": lambda w: standing(w).plain,
    "tenant": lambda w: w.tenant,
}
RECENT_S: Final = 60.0
"""Over which shares and rates are told: long enough for a step of any length to end."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose to see. The default: live ones by number, then the ended, the latest first."""

    words: str = ""
    """Each must be found; `tenant:x` is looked for in that field only."""
    sort: str = ""
    """Title of a column."""
    backwards: bool = False
    ended: bool = True

    def check(self) -> None:
        """Raise UserError for words that ask for a field that there is none of."""
        for word in self.words.split():
            name, colon, _ = word.partition(":")
            if colon and name not in FIELDS:
                raise choose("field", name, list(FIELDS), "the filter")

    def of(self, workflows: Sequence[WorkflowView], moment: Moment) -> list[WorkflowView]:
        """Those it means, in its order."""
        found = [w for w in workflows if (self.ended or w.state not in ENDED) and self._means(w)]
        return self._ordered(found, moment)

    def _means(self, w: WorkflowView) -> bool:
        return all(_found(word.casefold(), w) for word in self.words.split())

    def _ordered(self, found: list[WorkflowView], moment: Moment) -> list[WorkflowView]:
        column = column_of(self.sort)
        if column is None:
            return sorted(found, key=_usual, reverse=self.backwards)
        found.sort(key=lambda w: w.id)
        key = column.key
        found.sort(key=lambda w: key(w, moment), reverse=column.falls != self.backwards)
        return found


def column_of(title: str) -> Column[WorkflowView] | None:
    return next((column for column in WORKFLOWS if column.title == title), None)


def _found(word: str, w: WorkflowView) -> bool:
    name, colon, text = word.partition(":")
    if colon and name in FIELDS:
        value = FIELDS[name](w).casefold()
        return value == text if name == "id" else text in value
    return any(word in value(w).casefold() for value in FIELDS.values())


def _usual(w: WorkflowView) -> tuple[bool, float, int]:
    """Live ones by id, then the ended ones, the latest first."""
    over = w.state in ENDED
    return (over, -(w.ended_at or 0.0), -w.id) if over else (over, 0.0, w.id)


class Recent:
    """What the last minute's snapshots say: rates, and shares of tenants."""

    def __init__(self) -> None:
        self._seen: deque[ClusterView] = deque()

    def add(self, cluster: ClusterView) -> None:
        if self._seen and (
            cluster.at < self._seen[-1].at or cluster.totals.steps_done < self._seen[-1].totals.steps_done
        ):
            self._seen.clear()  # another head, or a replay that went back
        self._seen.append(cluster)
        while len(self._seen) > 2 and self._seen[0].at < cluster.at - RECENT_S:
            self._seen.popleft()

    def shares(self) -> dict[str, float]:
        """Of each tenant in the latest work; empty where there was none."""
        if len(self._seen) < 2:
            return {}
        before = {t.id: t.attained_s for t in self._seen[0].tenants}
        had = {t.id: t.attained_s - before.get(t.id, 0.0) for t in self._seen[-1].tenants}
        whole = sum(had.values())
        return {name: max(0.0, part / whole) for name, part in had.items()} if whole > 0 else {}

    def rate(self, value: Callable[[ClusterView], int]) -> float | None:
        """Per second; None before there are two snapshots."""
        if len(self._seen) < 2 or self._seen[-1].at <= self._seen[0].at:
            return None
        first, last = self._seen[0], self._seen[-1]
        return max(0.0, (value(last) - value(first)) / (last.at - first.at))


def wrong(words: str) -> str:
    """Why `words` are no filter; empty where they are one."""
    try:
        Choice(words=words).check()
    except UserError as error:
        return str(error)
    return ""
