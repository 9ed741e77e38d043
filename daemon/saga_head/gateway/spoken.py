"""What a client has of a stream, kept so that another worker can go on where its worker was lost.

Rules of this file
  1. While nothing happens it costs the append of one list per read: events are looked into where a worker is lost, or
     where there is no more room for them as they are.
  2. Bounded per stream and for all of them (`Limits.resume_bytes`, `.resumes_bytes`); what does not fit is forgotten,
     and such a stream ends with an error event.
  3. Only whole events are kept, because only whole ones are passed on (`Relay.align`).
"""

from typing import Any

import msgspec

from saga_head.gateway.body import Body
from saga_head.gateway.intake import BodyLedger

STEP_BYTES = 64 * 1024
"""Room for events as they are is taken by so much: some 250 tokens of 250 bytes."""
RAW_BYTES = 1 << 20
"""Of what is beyond that, only the words are kept; reading them costs 2 µs an event, some 0.6 ms a step."""
CHARACTER_BYTES = 4  # the most that Python takes for one
TOKEN_BYTES = 36  # an int and its place in a list
APIS = frozenset({"/v1/chat/completions", "/v1/completions"})
_DATA = b"data: "


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


class Spoken:
    """One stream so far. `lost` says why it cannot be gone on with; empty: it can, as far as one sees here."""

    __slots__ = (
        "_bytes", "_held_bytes", "_later", "_ledger", "_limit", "_raw", "_room", "_words", "body", "created", "finished", "id",
        "ids", "lost", "opened", "tokens", "used",
    )  # fmt: skip

    def __init__(self, body: Body, ledger: BodyLedger, limit_bytes: int) -> None:
        """`body`: the request, which has to be sent again."""
        self._raw: list[bytes] = []
        self._bytes = 0
        self._room = STEP_BYTES
        self._ledger, self._limit, self._held_bytes = ledger, limit_bytes, 0
        self.body = body
        self.id, self.created = "", 0
        self.opened = False
        """The event that names the role is there."""
        self.finished = False
        self.used = False
        """The event that ends it with its usage is there."""
        self._words: list[str] = []
        self.ids: list[int] | None = None
        """Of the tokens, where the client asked for them."""
        self.tokens = 0
        """That the text stands for, as far as events tell."""
        self._later = 0  # tokens whose text has not come yet
        self.lost = ""
        self._hold(len(body) + STEP_BYTES)

    def feed(self, data: bytes) -> None:
        """Take whole chunks of whole events, as they are passed on."""
        self._raw.append(data)
        self._bytes += len(data)
        if self._bytes > self._room:
            self._grow()

    def _grow(self) -> None:
        """More room for events as they are, or their words in their place."""
        if self._bytes <= RAW_BYTES and self._fits(STEP_BYTES):
            self._hold(STEP_BYTES)
            self._room += STEP_BYTES
            return
        if self._room > STEP_BYTES:
            self._hold(-STEP_BYTES)
            self._room -= STEP_BYTES
        count = taken = 0
        while taken < STEP_BYTES:
            taken += len(self._raw[count])
            count += 1
        self._read(count)

    def fold(self) -> None:
        """Read all that has come."""
        self._read(len(self._raw))

    def _read(self, count: int) -> None:
        """Read the first `count` of what is kept as it came."""
        raw = b"".join(self._raw[:count])
        del self._raw[:count]
        self._bytes -= len(raw)
        data = unchunked(raw)
        if data is None:
            self.forget("its events and the chunks that they came in do not end together")
            return
        for event in data.split(b"\n\n"):
            self.note(event)

    @property
    def whole(self) -> bool:
        """Whether all that was passed on has been read, up to its end."""
        return not self.lost and not self._raw

    @property
    def text(self) -> str:
        """What was said."""
        self._words = ["".join(self._words)]
        return self._words[0]

    def note(self, event: bytes) -> None:
        """Read one event."""
        if self.lost:
            return
        if not event.startswith(b"data: {"):
            if event and not event.startswith((b":", b"data: [DONE]")):
                self.forget("it has events of a kind that is not known here")
            return
        try:
            said = _event.decode(memoryview(event)[len(_DATA) :])
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.forget("it has events of a kind that is not known here")
            return
        if not self.id:
            self.id, self.created = said.id, said.created
        self.used = self.used or (said.usage is not None and not said.choices)
        for choice in said.choices:
            self._take(choice, said.usage)

    def _take(self, choice: _Choice, usage: _Counts | None) -> None:
        delta = choice.delta
        text = delta.content or choice.text
        odd = _odd(choice)
        if odd:
            self.forget(f"its answer has a part that cannot be gone on with: {odd}")
            return
        opens = delta.role is not None
        self.opened = self.opened or opens
        self.finished = self.finished or choice.finish_reason is not None
        ids = choice.token_ids
        if ids is not None:
            self.ids = ids if self.ids is None else self.ids + ids
            self._hold(TOKEN_BYTES * len(ids))
        if text:
            self._words.append(text)
            self._hold(CHARACTER_BYTES * len(text))
            self.tokens = usage.completion_tokens if usage is not None else self.tokens + self._later + 1
            self._later = 0
        elif not opens:
            self._later += 1

    def _fits(self, more_bytes: int) -> bool:
        ledger = self._ledger
        return (
            self._held_bytes + more_bytes <= self._limit
            and ledger.held_bytes + more_bytes <= ledger.limit_bytes
        )

    def _hold(self, more_bytes: int) -> None:
        """Take room, or forget all."""
        if not self._fits(more_bytes):
            self.forget("it is longer than what is kept of streams")
            return
        self._ledger.held_bytes += more_bytes
        self._held_bytes += more_bytes

    def forget(self, why: str) -> None:
        """Keep nothing of it any more."""
        self.lost = self.lost or why
        self.release()

    def release(self) -> None:
        """Give its room back."""
        self._ledger.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self.body, self.ids = b"", None
        self._raw, self._words, self._bytes = [], [], 0


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


def unchunked(raw: bytes) -> bytes | None:
    """The payload of whole chunks; None where `raw` is not just that."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        try:
            size = int(raw[at:end].partition(b";")[0], 16) if end >= 0 else 0
        except ValueError:
            return None
        at = end + 2 + size + 2
        if size <= 0 or raw[at - 2 : at] != b"\r\n":
            return None
        parts.append(raw[end + 2 : at - 2])
    return b"".join(parts)
