"""Which tool an answer asks for, read from its bytes while they pass.

Rules of this file
  1. Only answers to requests that offer tools are looked at, and those only until a name is found.
  2. A quote inside a JSON string is escaped, so generated text cannot pretend to ask for a tool.
  3. A name that two reads tear apart in mid-answer is not seen: it is then unknown, never wrong.
"""

import re
from dataclasses import dataclass

from saga_core.aeg import ANSWER, UNKNOWN

_NAME = rb"\"name\"\s*:\s*\"([^\"\\]{1,128})\""


@dataclass(frozen=True, slots=True)
class Words:
    """How one API says it."""

    mark: bytes
    """Stands in every chunk that names a tool."""
    named: re.Pattern[bytes]


_CHAT = Words(b'"tool_calls"', re.compile(rb"\"tool_calls\"\s*:\s*\[\s*\{[^\[\]]{0,400}?" + _NAME))
_MESSAGES = Words(b'"tool_use"', re.compile(rb"\"type\"\s*:\s*\"tool_use\"[^\[\]]{0,200}?" + _NAME))
_RESPONSES = Words(
    b'"function_call"', re.compile(rb"\"type\"\s*:\s*\"function_call\"[^\[\]]{0,4000}?" + _NAME)
)
APIS = {"/v1/chat/completions": _CHAT, "/v1/messages": _MESSAGES, "/v1/responses": _RESPONSES}
_OVER = re.compile(rb"\"(?:finish_reason|stop_reason)\"\s*:\s*\"(?:stop|end_turn)\"")


class Asked:
    """What the answer to one request asks for."""

    __slots__ = ("_words", "mark", "tool")

    def __init__(self, words: Words) -> None:
        self._words, self.mark = words, words.mark
        self.tool = UNKNOWN

    def read(self, data: bytes) -> bool:
        """Look through the next bytes; whether a tool has been found."""
        at = data.find(self._words.mark)
        if at < 0:
            return False
        found = self._words.named.search(data, max(0, at - 32))
        if found is None:
            return False
        self.tool = found[1].decode("utf-8", "replace")
        return True

    def close(self, tail: bytes | bytearray) -> str:
        """The answer is whole and ends with `tail`: what it asked for, or that its turn is over."""
        if not self.tool and not self.read(bytes(tail)) and _OVER.search(tail):
            return ANSWER
        return self.tool


def asked_of(api: str, *, offered: bool) -> Asked | None:
    """A reader for the answer to a call of `api`; None where no tool can be asked for."""
    words = APIS.get(api) if offered else None
    return None if words is None else Asked(words)
