"""Which conversation a prompt continues, where nobody says so: the last rule of the identity table.

Rules of this file
  1. A prompt continues the conversation whose latest prompt it begins with, if a message of the model's follows
     there. The longest such beginning counts.
  2. Two equal first prompts are two conversations. Of twins, either may be continued: nothing tells them apart.
  3. A prompt that begins anew (a compaction, a sliding window) continues a conversation if it repeats two or more
     messages that came up in the course of that one and of no other, one of them the model's.
  4. Nothing opens before there is evidence of a conversation: tools on offer, an answer in the prompt, or a second
     prompt. A single question stays what it is.
  5. Everything is per tenant and bounded; what is forgotten is told, so that nothing outlives it elsewhere.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from saga_core.identity import MAIN
from saga_head.prompts import Chain

CONVERSATIONS: Final = 4096
"""Kept per tenant; some 5 KB each with all its marks."""
MARKS: Final = 32
"""Latest messages of a conversation by which a compaction is recognised."""
REPEATED: Final = 2
"""Messages that a compacted prompt must repeat."""
SURE_OF_REPEATS: Final = 0.9
"""Most that is believed of rule 3, and of a prompt that is the latest one again."""


@dataclass(slots=True, eq=False)
class Conversation:
    """One growing prompt."""

    scope: int
    """The workflow it is part of by token; 0: it is one by itself."""
    tip: int
    """Link of its latest prompt."""
    number: int
    name: str = ""
    """Of its session (within a scope) or of its workflow."""
    marks: OrderedDict[int, bool] = field(default_factory=OrderedDict)
    """Messages that came up in its course; whether the model's."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What was found."""

    name: str
    """Empty: nothing to speak of yet."""
    confidence: float = 1.0


NOTHING: Final = Continuation("")
NOBODY: Final = (None, 0, 1.0)


class Continuations:
    """The conversations of one tenant."""

    def __init__(self, limit: int = CONVERSATIONS) -> None:
        self.limit = limit
        self.forgotten: list[str] = []
        """Names of workflows of which nothing is known any more, until somebody takes them."""
        self._run = secrets.token_hex(4)
        """In all names: those of an earlier head are others."""
        self._count = 0
        self._all: OrderedDict[int, Conversation] = OrderedDict()
        self._seeds: dict[tuple[int, int], int] = {}
        """First prompts without evidence of a conversation, and how many there were of each; the oldest first."""
        self._tips: dict[tuple[int, int], list[Conversation]] = {}
        self._owners: dict[tuple[int, int], list[Conversation]] = {}
        self._mains: dict[int, Conversation] = {}

    def __len__(self) -> int:
        return len(self._all)

    def take(self, chain: Chain, scope: int = 0) -> Continuation:
        """Find or begin the conversation of a prompt that has just come."""
        found, known, confidence = self._find(chain, scope)
        if found is None:
            if not chain.tools and True not in chain.answers:
                self._sow((scope, chain.links[-1]))
                return NOTHING
            found = self._begin(scope)
        if known:
            self._remember(found, chain, known)
        self._move(found, chain.links[-1])
        self._all.move_to_end(found.number)
        self._shrink()
        return Continuation(found.name, confidence)

    def _find(self, chain: Chain, scope: int) -> tuple[Conversation | None, int, float]:
        """The conversation, how many of the prompt's messages it knows, and how sure that is.

        None where it has not opened; then it is one of so many equal questions, if any of its messages is known.
        """
        links, answers = chain.links, chain.answers
        if True not in answers:
            return NOBODY
        for known in range(len(links) - 1, 0, -1):
            if not answers[known]:
                continue
            key = (scope, links[known - 1])
            if at := self._tips.get(key):
                return at[0], known, 1.0 / len(at)
            if seeds := self._seeds.get(key):
                return None, known, 1.0 / self._reap(key, seeds)
        same = self._tips.get((scope, links[-1]))
        if same:
            return same[0], len(links), SURE_OF_REPEATS / len(same)
        return self._compacted(chain, scope)

    def _sow(self, key: tuple[int, int]) -> None:
        """A single question, so far."""
        self._seeds[key] = self._seeds.pop(key, 0) + 1
        if len(self._seeds) > self.limit:
            del self._seeds[next(iter(self._seeds))]

    def _reap(self, key: tuple[int, int], seeds: int) -> int:
        """One of equal questions is continued; how many there were."""
        if seeds == 1:
            del self._seeds[key]
        else:
            self._seeds[key] = seeds - 1
        return seeds

    def _compacted(self, chain: Chain, scope: int) -> tuple[Conversation | None, int, float]:
        hits: list[Conversation] = []
        answered, known = False, 0
        for at, mark in enumerate(chain.marks):
            owners = self._owners.get((scope, mark), ()) if mark else ()
            if len(owners) == 1:
                hits.append(owners[0])
                answered, known = answered or owners[0].marks[mark], at + 1
        if len(hits) < REPEATED or not answered or any(hit is not hits[0] for hit in hits):
            return NOBODY
        share = len(hits) / sum(map(bool, chain.marks))
        return hits[0], known, SURE_OF_REPEATS * share

    def _begin(self, scope: int) -> Conversation:
        self._count += 1
        found = self._all[self._count] = Conversation(scope, 0, self._count)
        main = scope and self._mains.setdefault(scope, found) is found
        found.name = MAIN if main else f"content-{self._run}-{found.number}"
        return found

    def _move(self, conversation: Conversation, tip: int) -> None:
        self._leave_tip(conversation)
        conversation.tip = tip
        self._tips.setdefault((conversation.scope, tip), []).append(conversation)

    def _leave_tip(self, conversation: Conversation) -> None:
        _drop(self._tips, (conversation.scope, conversation.tip), conversation)

    def _remember(self, conversation: Conversation, chain: Chain, known: int) -> None:
        """Messages that came up since the prompt before."""
        scope, marks = conversation.scope, conversation.marks
        for mark, answer in zip(chain.marks[known:], chain.answers[known:], strict=True):
            if mark and mark not in marks:
                marks[mark] = answer
                self._owners.setdefault((scope, mark), []).append(conversation)
        while len(marks) > MARKS:
            mark, _ = marks.popitem(last=False)
            _drop(self._owners, (scope, mark), conversation)

    def _shrink(self) -> None:
        while len(self._all) > self.limit:
            _, oldest = self._all.popitem(last=False)
            self._leave_tip(oldest)
            for mark in oldest.marks:
                _drop(self._owners, (oldest.scope, mark), oldest)
            if self._mains.get(oldest.scope) is oldest:
                del self._mains[oldest.scope]
            if not oldest.scope:
                self.forgotten.append(oldest.name)

    def check(self) -> None:
        """Raise AssertionError where the indices and the conversations differ."""
        every = {id(c) for c in self._all.values()}
        assert {id(c) for at in self._tips.values() for c in at} == every, "tips"
        assert sum(map(len, self._tips.values())) == len(every), "a conversation has two tips"
        assert {id(c) for at in self._owners.values() for c in at} <= every, "marks outlive a conversation"
        assert len(self._seeds) <= self.limit
        assert all(n > 0 for n in self._seeds.values()), "no question"
        assert all(len(c.marks) <= MARKS for c in self._all.values()), "too many marks"
        assert {id(c) for c in self._mains.values()} <= every, "mains"


def _drop(
    index: dict[tuple[int, int], list[Conversation]], key: tuple[int, int], conversation: Conversation
) -> None:
    at = index.get(key)
    if at is not None and conversation in at:
        at.remove(conversation)
        if not at:
            del index[key]
