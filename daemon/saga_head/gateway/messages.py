"""Streams of Anthropic's Messages API: what is said in them."""

from typing import Any

import msgspec

from saga_head.gateway.reply import read_usage
from saga_head.gateway.resuming import payload
from saga_head.gateway.spoken import CHARACTER_BYTES, UNKNOWN_EVENT


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    citation: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str
    content_block: _Block | None = None
    delta: _Delta | None = None


_event = msgspec.json.Decoder(_Event)


class MessagesSaid:
    """What one stream says (`spoken.Said`): a message of blocks, each opened, filled and closed by events."""

    __slots__ = (
        "_words", "blocks", "ended", "finished", "held_bytes", "open", "opened", "prompt_tokens", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.held_bytes = 0
        self.opened = False
        """`message_start` is there."""
        self.prompt_tokens = 0
        """As that says."""
        self.blocks = 0
        """That have been opened, all of them texts."""
        self.open = False
        """The last one is not closed."""
        self.finished = False
        """Why it ended has been said, and the usage."""
        self.ended = False
        """Nothing is missing."""
        self._words: list[str] = []
        self.tokens = 0
        """That the text stands for, as far as events tell."""

    @property
    def text(self) -> str:
        """What was said, all blocks together."""
        self._words = ["".join(self._words)]
        return self._words[0]

    def note(self, event: bytes) -> str:
        """Read one event."""
        try:
            said = _event.decode(payload(event))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return UNKNOWN_EVENT
        match said.type:
            case "content_block_delta" if said.delta is not None and said.delta.type == "text_delta":
                self._take(said.delta.text)
                self.tokens += 1
            case "content_block_start" if said.content_block is not None:
                return self._begin(said.content_block)
            case "content_block_stop":
                self.open = False
            case "message_start":
                self.opened = True
                usage = read_usage(event)
                self.prompt_tokens = 0 if usage is None else usage.prompt_tokens
            case "message_delta":
                self.finished = True
            case "message_stop":
                self.ended = True
            case "ping":
                pass
            case _:
                return UNKNOWN_EVENT
        return ""

    def _begin(self, block: _Block) -> str:
        if block.type != "text":
            return f"its answer has a part that cannot be gone on with: {block.type}"
        self.blocks += 1
        self.open = True
        self._take(block.text)
        return ""

    def _take(self, text: str) -> None:
        if text:
            self._words.append(text)
            self.held_bytes += CHARACTER_BYTES * len(text)

    def drop(self) -> None:
        """Forget the words."""
        self._words = []
