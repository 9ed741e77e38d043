"""What the engine will say, token by token: invented from a seed, or read from a script."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec

from saga_core.errors import UserError
from saga_fake.tokens import CALL_ARGUMENTS, CALL_CLOSE, CALL_OPEN, pieces, token, tokenise

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]
DEFAULT_REPLY_TOKENS = 64
"""Length of an invented reply when the request sets no limit (a real model would stop by itself somewhere)."""


@dataclass(slots=True, frozen=True)
class CallDelta:
    """A piece of tool call number `index`: its name first, then pieces of its arguments."""

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True, frozen=True)
class Piece:
    """One token of a reply and what the client sees of it."""

    token: int
    text: str = ""
    call: CallDelta | None = None


class ScriptedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of a script line; `arguments` is JSON, as text or as an object."""

    name: str
    arguments: str | dict[str, object] = "{}"

    @property
    def arguments_text(self) -> str:
        return (
            self.arguments
            if isinstance(self.arguments, str)
            else msgspec.json.encode(self.arguments).decode()
        )


class ScriptLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a script: said when `match` is part of the last message (null: always), each line once."""

    match: str | None = None
    content: str | None = None
    tool_calls: list[ScriptedCall] = []

    def pieces(self) -> list[Piece]:
        """The reply, token by token."""
        said = [Piece(token(text), text) for text in pieces(self.content or "")]
        return said + [piece for i, call in enumerate(self.tool_calls) for piece in _call_pieces(i, call)]


def _call_pieces(index: int, call: ScriptedCall) -> list[Piece]:
    name = [Piece(part) for part in tokenise(call.name)]
    arguments = [
        Piece(token(text), call=CallDelta(index, arguments=text)) for text in pieces(call.arguments_text)
    ]
    head = Piece(CALL_ARGUMENTS, call=CallDelta(index, name=call.name))
    return [Piece(CALL_OPEN), *name, head, *arguments, Piece(CALL_CLOSE)]


class Script:
    """Scripted replies, used up in order: the first unused line that matches is said."""

    def __init__(self, lines: Sequence[ScriptLine] = ()) -> None:
        self._unused = list(lines)

    @classmethod
    def read(cls, path: Path) -> "Script":
        """A script from a JSON-lines file. UserError names the line that cannot be read."""
        lines = []
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                lines.append(msgspec.json.decode(line, type=ScriptLine))
            except msgspec.DecodeError as error:
                raise UserError(
                    f"{path}, line {number}: {error}; a line is "
                    '{"match": text or null, "content": text, "tool_calls": [{"name": …, "arguments": …}]}'
                ) from error
        return cls(lines)

    def next_reply(self, last_message: str) -> list[Piece] | None:
        """The reply to a conversation that ends with `last_message`, or None: nothing (left) for it."""
        for i, line in enumerate(self._unused):
            if line.match is None or line.match in last_message:
                del self._unused[i]
                return line.pieces()
        return None


def invented(seed: int, prompt: Sequence[int], *, opens: bool = True) -> Iterator[Piece]:
    """Endless words, the same ones for the same seed and prompt; one token each.

    Each follows from all tokens before it, as with a model: a prompt that ends with what was said is gone on with.
    `opens`: nothing stands before the first word.
    """
    key = zlib.crc32(array("H", prompt), zlib.crc32(repr(seed).encode()))
    while True:
        word = "".join(_SYLLABLES[(key >> shift) % len(_SYLLABLES)] for shift in (0, 8, 16)[: 2 + key % 2])
        text, opens = word if opens else f" {word}", False
        piece = Piece(token(text), text)
        yield piece
        key = zlib.crc32(array("H", [piece.token]), key)


def after(pieces: Sequence[Piece], said: Sequence[int]) -> list[Piece]:
    """What is left of a reply of which these tokens were said; all of it where it does not begin so."""
    begins = [piece.token for piece in pieces[: len(said)]] == list(said)
    return list(pieces[len(said) :] if begins else pieces)


def endless(reply: Sequence[Piece], seed: int, prompt: Sequence[int]) -> Iterator[Piece]:
    """A reply that goes on with invented words where `ignore_eos` or `min_tokens` want more than was written."""
    return chain(reply, invented(seed, prompt))


class StopWatch:
    """Finds stop strings in streamed text and holds back what may become one, as vLLM's detokeniser does."""

    def __init__(self, stops: Sequence[str], *, keep_stop: bool = False) -> None:
        self._stops = [stop for stop in stops if stop]
        self._keep = keep_stop
        self._held_back = 0 if keep_stop else max((len(stop) - 1 for stop in self._stops), default=0)
        self._text = ""
        self._sent = 0
        self._from = 0

    def read(self, text: str, *, may_stop: bool) -> str | None:
        """Take in text; the stop string that ended the reply, or None. Text is due until `release` is called."""
        before = len(self._text)
        self._text += text
        if not may_stop:
            self._from = len(self._text)
            return None
        found = [
            (at, s) for s in self._stops if (at := self._text.find(s, self._search_start(before, s))) >= 0
        ]
        if not found:
            return None
        at, stop = min(found, key=lambda hit: hit[0] + len(hit[1]))
        self._text = self._text[: at + len(stop) if self._keep else at]
        return stop

    def release(self, *, finished: bool) -> str:
        """Text that can be shown now."""
        end = len(self._text) if finished else max(self._sent, len(self._text) - self._held_back)
        shown, self._sent = self._text[self._sent : end], max(self._sent, end)
        return shown

    def _search_start(self, before: int, stop: str) -> int:
        return max(self._from, before - len(stop) + 1, 0)
