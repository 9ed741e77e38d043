"""Streams of chat completions and of completions: what is said in them."""

from typing import Any

import msgspec

from saga_head.gateway.spoken import CHARACTER_BYTES, UNKNOWN_EVENT

TOKEN_BYTES = 36  # an int and its place in a list
DONE = b"data: [DONE]"
DATA = b"data: "


class _Counts(msgspec.Struct):
    completion_tokens: int = 0


class _Delta(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None
    # What cannot be gone on with, once it is there.
    tool_calls: Any = None
    function_call: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None


_NO_DELTA = _Delta()


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta = _NO_DELTA
    text: str = ""
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct, gc=False):
    id: str
    choices: list[_Choice]
    created: int = 0
    usage: _Counts | None = None


_event = msgspec.json.Decoder(_Event)


class ChoicesSaid:
    """What one stream says (`spoken.Said`)."""

    __slots__ = (
        "_later", "_words", "created", "ended", "finished", "held_bytes", "id", "ids", "opened", "tokens", "used",
    )  # fmt: skip

    def __init__(self) -> None:
        self.held_bytes = 0
        self.id, self.created = "", 0
        self.opened = False
        """The event that names the role is there."""
        self.finished = False
        self.used = False
        """The event that ends it with its usage is there."""
        self.ended = False
        """Nothing is missing."""
        self._words: list[str] = []
        self.ids: list[int] | None = None
        """Of the tokens, where the client asked for them."""
        self.tokens = 0
        """That the text stands for, as far as events tell."""
        self._later = 0  # tokens whose text has not come yet

    @property
    def text(self) -> str:
        """What was said."""
        self._words = ["".join(self._words)]
        return self._words[0]

    def note(self, event: bytes) -> str:
        """Read one event."""
        if event == DONE:
            self.ended = True
            return ""
        if not event.startswith(b"data: {"):
            return UNKNOWN_EVENT
        try:
            said = _event.decode(memoryview(event)[len(DATA) :])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return UNKNOWN_EVENT
        if not self.id:
            self.id, self.created = said.id, said.created
        self.used = self.used or (said.usage is not None and not said.choices)
        for choice in said.choices:
            if odd := _odd(choice):
                return f"its answer has a part that cannot be gone on with: {odd}"
            self._take(choice, said.usage)
        return ""

    def _take(self, choice: _Choice, usage: _Counts | None) -> None:
        delta = choice.delta
        text = delta.content or choice.text
        opens = delta.role is not None
        self.opened = self.opened or opens
        self.finished = self.finished or choice.finish_reason is not None
        ids = choice.token_ids
        if ids is not None:
            self.ids = ids if self.ids is None else self.ids + ids
            self.held_bytes += TOKEN_BYTES * len(ids)
        if text:
            self._words.append(text)
            self.held_bytes += CHARACTER_BYTES * len(text)
            self.tokens = usage.completion_tokens if usage is not None else self.tokens + self._later + 1
            self._later = 0
        elif not opens:
            self._later += 1

    def drop(self) -> None:
        """Forget the words."""
        self._words, self.ids = [], None


def _odd(choice: _Choice) -> str:
    """What of it cannot be gone on with; empty: nothing."""
    delta = choice.delta
    if choice.index:
        return "a second choice"
    if delta.tool_calls or delta.function_call:
        return "tool_calls"
    if delta.reasoning or delta.reasoning_content:
        return "reasoning"
    return "refusal" if delta.refusal else ""
