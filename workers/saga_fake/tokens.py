"""Text to token ids without a vocabulary file: short pieces of text, each hashed to an id.

The same text always gives the same ids, in every process. A conversation is tokenised message by message between
marker tokens, so a longer conversation keeps the ids of the shorter one, and a reply that comes back as an assistant
message has exactly the ids that it was generated with. Both are what a prefix cache needs.
"""

import json
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

VOCAB_TOKENS = 4096
"""The vocabulary of the demo model `agent` that this engine stands in for."""

OPEN, CLOSE, NEWLINE, CALL_OPEN, CALL_ARGUMENTS, CALL_CLOSE = range(1, 7)
EOS = CLOSE
"""A message is closed by the token that ends its generation, as in ChatML."""
FIRST_TEXT_TOKEN = 16

# Six characters: English and code then cost about one token per 4 characters, as with a trained tokeniser.
_PIECE = re.compile(r" ?\w{1,6}|\s|[^\w\s]")


def pieces(text: str) -> list[str]:
    """The pieces of `text`, one per token; joined, they are the text again."""
    return _PIECE.findall(text)


def token(piece: str) -> int:
    """The id of one piece; different pieces may share an id, as hashes do."""
    span = VOCAB_TOKENS - FIRST_TEXT_TOKEN
    return FIRST_TEXT_TOKEN + zlib.crc32(piece.encode("utf-8", "surrogatepass")) % span


@lru_cache(maxsize=8192)
def tokenise(text: str) -> tuple[int, ...]:
    """Token ids of a text."""
    return tuple(token(piece) for piece in pieces(text))


def call_tokens(name: str, arguments: str) -> list[int]:
    """Token ids of one tool call, as generated and as read back from an assistant message."""
    return [CALL_OPEN, *tokenise(name), CALL_ARGUMENTS, *tokenise(arguments), CALL_CLOSE]


def content_text(content: Any) -> str:
    """The text of a message's content: a string, a list of text parts, or null."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def chat_tokens(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), *, goes_on: bool = False
) -> list[int]:
    """Token ids of a conversation up to and with the opening of the assistant's turn.

    `goes_on`: the last message is left open instead, as `continue_final_message` asks.
    """
    ids: list[int] = []
    if tools:
        ids += [OPEN, *tokenise("tools"), *tokenise(json.dumps(list(tools))), CLOSE, NEWLINE]
    for message in messages:
        ids += _message_tokens(message)
    return ids[:-2] if goes_on else [*ids, OPEN, *tokenise("assistant")]


def _message_tokens(message: dict[str, Any]) -> list[int]:
    ids = [OPEN, *tokenise(str(message.get("role"))), *tokenise(content_text(message.get("content")))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        ids += call_tokens(str(function.get("name")), str(function.get("arguments")))
    return [*ids, CLOSE, NEWLINE]
