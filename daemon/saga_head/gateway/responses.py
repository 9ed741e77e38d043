"""Streams of OpenAI's Responses API: what is said in them."""

from enum import IntEnum
from typing import Any

import msgspec

from saga_head.gateway.resuming import Json, payload
from saga_head.gateway.spoken import CHARACTER_BYTES, UNKNOWN_EVENT

TEXT = "output_text"


class Stage(IntEnum):
    """How far the item is that is being said."""

    NONE = 0
    ITEM = 1
    PART = 2
    TEXT_DONE = 3
    PART_DONE = 4


class _Kind(msgspec.Struct, gc=False):
    type: str = ""
    id: str = ""


class _Response(msgspec.Struct, gc=False):
    id: str
    created_at: float | int = 0
    max_output_tokens: int | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    sequence_number: int = -1
    delta: str = ""
    logprobs: Any = None
    part: _Kind | None = None
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event)
_kind = msgspec.json.Decoder(_Kind)
_response = msgspec.json.Decoder(_Response)


class ResponsesSaid:
    """What one stream says (`spoken.Said`): a response of items, each of which is opened, filled and closed."""

    __slots__ = (
        "_earlier", "_words", "began", "finished", "held_bytes", "item_id", "items", "opened", "sequence", "stage", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.held_bytes = 0
        self.began: Json = {}
        """Of `response.created`: what names this response and no other."""
        self.opened = 0
        """How many of `response.created` and `response.in_progress` are there."""
        self.items: list[bytes] = []
        """Those that are closed, as JSON; all of them texts."""
        self.stage = Stage.NONE
        self.item_id = ""
        """Of the one that is not."""
        self.sequence = 0
        """The next event's number."""
        self.finished = False
        """Nothing is missing."""
        self._earlier = ""  # the text of the closed ones
        self._words: list[str] = []
        self.tokens = 0
        """That the text stands for, as far as events tell."""

    @property
    def text(self) -> str:
        """What was said, all items together."""
        return self._earlier + self.item_text

    @property
    def item_text(self) -> str:
        """What was said of the item that is not closed."""
        self._words = ["".join(self._words)]
        return self._words[0]

    def note(self, event: bytes) -> str:
        """Read one event."""
        try:
            said = _event.decode(payload(event))
            self.sequence = said.sequence_number + 1
            return self._read(said)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return UNKNOWN_EVENT

    def _read(self, said: _Event) -> str:
        match said.type.removeprefix("response."):
            case "output_text.delta":
                return self._take(said)
            case "created" | "in_progress":
                began = _response.decode(said.response)
                self.began = msgspec.to_builtins(began)
                self.opened += 1
            case "output_item.added":
                return self._begin(_kind.decode(said.item))
            case "content_part.added" if said.part is not None and said.part.type == TEXT:
                self.stage = Stage.PART
            case "output_text.done":
                self.stage = Stage.TEXT_DONE
            case "content_part.done" if self.stage is Stage.TEXT_DONE:
                self.stage = Stage.PART_DONE
            case "output_item.done":
                self._close(bytes(said.item))
            case "completed" | "incomplete" | "failed":
                self.finished = True
            case _:
                return UNKNOWN_EVENT
        return ""

    def _take(self, said: _Event) -> str:
        if said.logprobs:
            return "its answer has a part that cannot be gone on with: logprobs"
        self.tokens += 1
        self._words.append(said.delta)
        self.held_bytes += CHARACTER_BYTES * len(said.delta)
        return ""

    def _begin(self, item: _Kind) -> str:
        if item.type != "message":
            return f"its answer has a part that cannot be gone on with: {item.type}"
        self.stage, self.item_id = Stage.ITEM, item.id
        return ""

    def _close(self, item: bytes) -> None:
        self._earlier, self._words = self.text, []
        self.items.append(item)
        self.held_bytes += len(item)
        self.stage = Stage.NONE

    def drop(self) -> None:
        """Forget the words."""
        self._earlier, self._words, self.items = "", [], []
